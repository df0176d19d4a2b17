//! The header lines that a caller's sidecar adds to a call to another app. Pure.
//!
//! All but the callee's are the same for every call of an app, so they are built once, as they go
//! on the wire. Nothing a client sent gets in here: the values come from control and from ids that
//! control vouched for.

#![forbid(unsafe_code)]

use snapshot::{App, policy::TRUST_DOMAIN_DEFAULT};
use std::net::IpAddr;

/// Tells the callee how the caller named it, namespace included. Between sidecars only; an app
/// never sees it.
pub const DESTINATION: &str = "Destination-App-Id";

/// See [`trust_domain_line`].
const TRUST_DOMAIN: &str = "Ringcar-Trust-Domain";

/// Whom a call comes from: `X-Forwarded-For`, `X-Forwarded-Host`, `Forwarded`,
/// `Dapr-Caller-Namespace`, `Dapr-Caller-App-Id`. They come after lines of these names that the
/// client sent, but for the last two, which a client has no say in.
#[derive(Clone, Debug)]
pub struct CallerLines {
    lines: Box<[u8]>,
}

impl CallerLines {
    pub fn new(app: &App) -> Self {
        let mut lines = Vec::new();
        let host_ip = app.origin.host_ip.as_deref().filter(|text| is_value(text));
        let host_name = app.origin.host_name.as_deref().filter(|text| is_value(text));
        if let Some(ip) = host_ip {
            push_line("X-Forwarded-For", &[ip], &mut lines);
        }
        if let Some(name) = host_name {
            push_line("X-Forwarded-Host", &[name], &mut lines);
        }
        push_forwarded(host_ip, host_name, &mut lines);
        push_line("Dapr-Caller-Namespace", &[app.namespace.as_str()], &mut lines);
        push_line("Dapr-Caller-App-Id", &[app.id.as_str()], &mut lines);
        Self { lines: lines.into() }
    }

    /// Whole lines, each with its CRLF.
    pub fn as_bytes(&self) -> &[u8] {
        &self.lines
    }
}

/// What a caller's sidecar says to another one alone: the trust domain of its app, where that is
/// not the usual one. A certificate would say so, if there were any.
pub fn trust_domain_line(app: &App) -> Box<[u8]> {
    let mut lines = Vec::new();
    let domain = app.guards.access.as_ref().map(|access| access.trust_domain.as_str());
    if let Some(domain) = domain.filter(|text| *text != TRUST_DOMAIN_DEFAULT && is_value(text)) {
        push_line(TRUST_DOMAIN, &[domain], &mut lines);
    }
    lines.into()
}

/// Appends the line that names the callee for its app.
pub fn write_callee(id: &str, out: &mut Vec<u8>) {
    push_line("Dapr-Callee-App-Id", &[id], out);
}

/// Appends the line that names the callee for its sidecar: `target`, as the caller wrote it. A
/// target that led to an app is its id, or its id and namespace, and so fit for a header line.
pub fn write_destination(target: &[u8], out: &mut Vec<u8>) {
    debug_assert!(target.iter().all(|byte| !byte.is_ascii_control()), "ids have no such bytes");
    out.extend_from_slice(DESTINATION.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(target);
    out.extend_from_slice(b"\r\n");
}

/// RFC 7239, with the parts that are known. daprd sends an empty line where nothing is; that says
/// nothing, so there is none here.
fn push_forwarded(host_ip: Option<&str>, host_name: Option<&str>, out: &mut Vec<u8>) {
    // RFC 7239 §6: the brackets and colons of an IPv6 address need quotes. One that maps IPv4
    // counts as IPv4 to Go.
    let is_v6 = host_ip.is_some_and(
        |ip| matches!(ip.parse(), Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none()),
    );
    let (open, close) = if is_v6 { ("\"[", "]\"") } else { ("", "") };
    match (host_ip, host_name) {
        (Some(ip), Some(name)) => {
            let parts = ["for=", open, ip, close, ";by=", open, ip, close, ";host=", name];
            push_line("Forwarded", &parts, out);
        }
        (Some(ip), None) => {
            push_line("Forwarded", &["for=", open, ip, close, ";by=", open, ip, close], out);
        }
        (None, Some(name)) => push_line("Forwarded", &["host=", name], out),
        (None, None) => {}
    }
}

/// Text that can neither end a line nor be lost at its ends.
fn is_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn push_line(name: &str, value: &[&str], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for part in value {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{AppHealth, AppId, Balance, Namespace, Origin};

    fn lines(host_ip: Option<&str>, host_name: Option<&str>) -> String {
        let origin =
            Origin { host_ip: host_ip.map(Into::into), host_name: host_name.map(Into::into) };
        let lines = CallerLines::new(&App {
            number: 0,
            id: AppId::new("a").unwrap(),
            namespace: Namespace::new("prod").unwrap(),
            guards: Default::default(),
            channel: None,
            origin,
            telemetry: std::sync::Arc::default(),
            balance: Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: AppHealth::default(),
            outbound: Default::default(),
            metadata_json: "".into(),
        });
        String::from_utf8(lines.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn introduces_the_caller_as_daprd_1_18() {
        const CALLER: &str = "Dapr-Caller-Namespace: prod\r\nDapr-Caller-App-Id: a\r\n";
        for (case, host_ip, host_name, want) in [
            ("nothing known", None, None, ""),
            ("empty texts", Some(""), Some(""), ""),
            ("texts that would end the line", Some("10.0.0.1\r\nX: y"), Some("h\n"), ""),
            (
                "both",
                Some("10.0.0.1"),
                Some("h1"),
                "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: h1\r\n\
                 Forwarded: for=10.0.0.1;by=10.0.0.1;host=h1\r\n",
            ),
            (
                "address alone",
                Some("10.0.0.1"),
                None,
                "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1;by=10.0.0.1\r\n",
            ),
            ("name alone", None, Some("h1"), "X-Forwarded-Host: h1\r\nForwarded: host=h1\r\n"),
            (
                "IPv6 is quoted in Forwarded alone",
                Some("2001:db8::1"),
                Some("h1"),
                "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Host: h1\r\n\
                 Forwarded: for=\"[2001:db8::1]\";by=\"[2001:db8::1]\";host=h1\r\n",
            ),
            (
                "mapped IPv4 is not",
                Some("::ffff:10.0.0.1"),
                None,
                "X-Forwarded-For: ::ffff:10.0.0.1\r\n\
                 Forwarded: for=::ffff:10.0.0.1;by=::ffff:10.0.0.1\r\n",
            ),
        ] {
            assert_eq!(lines(host_ip, host_name), format!("{want}{CALLER}"), "{case}");
        }
    }

    #[test]
    fn names_the_callee_twice() {
        let mut out = Vec::new();
        write_callee("b", &mut out);
        write_destination(b"b.prod", &mut out);
        assert_eq!(out, b"Dapr-Callee-App-Id: b\r\nDestination-App-Id: b.prod\r\n");
    }
}

//! Targets outside of Dapr: `http://host[:port][/path]` in place of an app id, or behind the name of
//! an HTTPEndpoint resource. Pure.
//!
//! daprd appends the method to such a URL and gives the whole to Go's `url.Parse`. What two parsers
//! could take for two different servers is refused here, since it comes from a client.

#![forbid(unsafe_code)]

use super::escape::{self, EscapeError};
use std::{fmt, net::IpAddr};

/// A base URL taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BaseUrl<'a> {
    /// Host and port as they were written, for the `Host` line.
    pub authority: &'a str,
    pub host: Host<'a>,
    pub port: u16,
    /// Empty, or beginning with a slash.
    pub path: &'a [u8],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Host<'a> {
    Address(IpAddr),
    Name(&'a str),
}

/// Why nobody can be called by a URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UrlError {
    Host,
    NoHost,
    Port,
    /// A query or a fragment in front of the method.
    Query,
    /// `https`.
    Tls,
    /// `user:password@`.
    UserInformation,
}

/// A name that did not lead to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LookupError {
    /// Too many names are looked up at a time.
    Busy,
    NoSuchHost,
    Temporary,
    Timeout,
}

impl<'a> BaseUrl<'a> {
    /// # Errors
    /// It names no server that can be called.
    pub fn parse(url: &'a [u8]) -> Result<Self, UrlError> {
        if url.starts_with(b"https://") {
            return Err(UrlError::Tls);
        }
        let rest = url.strip_prefix(b"http://").ok_or(UrlError::NoHost)?;
        let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
        let (authority, path) = rest.split_at(rest.iter().position(is_end).unwrap_or(rest.len()));
        let is_no_path = |byte: &u8| matches!(byte, b'?' | b'#') || byte.is_ascii_control();
        if path.iter().any(is_no_path) {
            return Err(UrlError::Query);
        }
        if authority.contains(&b'@') {
            return Err(UrlError::UserInformation);
        }
        let authority = str::from_utf8(authority).map_err(|_| UrlError::Host)?;
        let (host, port) = split_port(authority)?;
        let host = read_host(host)?;
        let authority = authority.strip_suffix(':').unwrap_or(authority);
        Ok(Self { authority, host, port, path })
    }

    /// Empty for an address.
    pub fn host_name(&self) -> &'a str {
        match self.host {
            Host::Name(name) => name,
            Host::Address(_) => "",
        }
    }

    /// Appends path and method as they go on the request line. `scratch` is left empty.
    ///
    /// # Errors
    /// A `%` that is no escape; what was to become the path is appended.
    pub fn write_path(
        &self,
        method: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), EscapeError> {
        scratch.clear();
        scratch.extend_from_slice(self.path);
        let needs_slash = !method.is_empty() || self.path.is_empty();
        if needs_slash && !method.starts_with(b"/") {
            scratch.push(b'/');
        }
        scratch.extend_from_slice(method);
        let written = escape::escaped_path(scratch, out);
        if written.is_err() {
            out.extend_from_slice(scratch);
        }
        scratch.clear();
        written
    }
}

/// `http` without a port is 80, and Go takes an empty one for none.
fn split_port(authority: &str) -> Result<(&str, u16), UrlError> {
    let host_end = if authority.starts_with('[') {
        authority.find(']').ok_or(UrlError::Host)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(host_end);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => return Ok((host, HTTP_PORT)),
        Some("") => return Ok((host, HTTP_PORT)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits,
        _ => return Err(UrlError::Port),
    };
    port.parse().map(|port| (host, port)).map_err(|_| UrlError::Port)
}

fn read_host(host: &str) -> Result<Host<'_>, UrlError> {
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = inner.parse().map_err(|_| UrlError::Host)?;
        return Ok(Host::Address(IpAddr::V6(address)));
    }
    if let Ok(address) = host.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.len() > HOST_BYTES_MAX || !host.bytes().all(is_name) {
        return Err(UrlError::Host);
    }
    Ok(Host::Name(host))
}

const HTTP_PORT: u16 = 80;

/// As long as a name in DNS can be.
const HOST_BYTES_MAX: usize = 253;

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "invalid character in host name",
            Self::NoHost => "no Host in request URL",
            Self::Port => "invalid port after host",
            Self::Query => "a query, a fragment or a control character in front of the method",
            Self::Tls => "https needs TLS, which this sidecar does not speak; use http",
            Self::UserInformation => {
                "user information in front of the host; send an Authorization header instead"
            }
        })
    }
}

impl fmt::Display for LookupError {
    /// As Go's resolver says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "too many names are looked up at a time",
            Self::NoSuchHost => "no such host",
            Self::Temporary => "server misbehaving",
            Self::Timeout => "i/o timeout",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_names_no_server() {
        for (case, url, want) in [
            ("TLS", "https://h", UrlError::Tls),
            ("TLS without host", "https://", UrlError::Tls),
            ("other scheme", "ftp://h", UrlError::NoHost),
            ("no host", "http://", UrlError::NoHost),
            ("no host, a path", "http:///x", UrlError::NoHost),
            ("no host, a port", "http://:80", UrlError::NoHost),
            ("port of letters", "http://h:x", UrlError::Port),
            ("port with a sign", "http://h:+80", UrlError::Port),
            ("port too large", "http://h:65536", UrlError::Port),
            ("two ports", "http://h:80:81", UrlError::Port),
            ("behind the bracket", "http://[::1]x", UrlError::Port),
            ("user", "http://u@h", UrlError::UserInformation),
            ("user and password", "http://u:p@h:80", UrlError::UserInformation),
            ("query", "http://h?x=1", UrlError::Query),
            ("fragment", "http://h/a#b", UrlError::Query),
            ("line end in the path", "http://h/a\r\nX: y", UrlError::Query),
            ("line end in the host", "http://h\r\nX", UrlError::Host),
            ("space", "http://h h", UrlError::Host),
            ("escape", "http://h%41", UrlError::Host),
            ("open bracket", "http://[::1", UrlError::Host),
            ("no address", "http://[h]", UrlError::Host),
            ("zone", "http://[fe80::1%25eth0]", UrlError::Host),
            ("backslash", "http://h\\@evil", UrlError::UserInformation),
            ("backslash alone", "http://h\\evil", UrlError::Host),
        ] {
            assert_eq!(BaseUrl::parse(url.as_bytes()), Err(want), "{case}");
        }
        assert_eq!(BaseUrl::parse(b"http://\xff"), Err(UrlError::Host));
        let long = format!("http://{}", "a".repeat(254));
        assert_eq!(BaseUrl::parse(long.as_bytes()), Err(UrlError::Host));
    }

    #[test]
    fn takes_apart_host_port_and_path() {
        let v4 = |text: &str| Host::Address(text.parse().unwrap());
        for (url, authority, host, port, path) in [
            ("http://h", "h", Host::Name("h"), 80, ""),
            ("http://h:", "h", Host::Name("h"), 80, ""),
            ("http://a-b.c_d.:8080/x/y", "a-b.c_d.:8080", Host::Name("a-b.c_d."), 8080, "/x/y"),
            ("http://127.0.0.1:81/", "127.0.0.1:81", v4("127.0.0.1"), 81, "/"),
            ("http://[::1]:81", "[::1]:81", v4("::1"), 81, ""),
            ("http://[::1]", "[::1]", v4("::1"), 80, ""),
            ("http://999.1.1.1", "999.1.1.1", Host::Name("999.1.1.1"), 80, ""),
        ] {
            let want = BaseUrl { authority, host, port, path: path.as_bytes() };
            assert_eq!(BaseUrl::parse(url.as_bytes()), Ok(want), "{url}");
        }
    }

    #[test]
    fn appends_the_method_as_daprd_does() {
        for (url, method, want) in [
            ("http://h", "", "/"),
            ("http://h", "a/b", "/a/b"),
            ("http://h", "/a", "/a"),
            ("http://h/base", "a", "/base/a"),
            ("http://h/base", "", "/base"),
            ("http://h/base", "/a", "/base/a"),
            ("http://h/base/", "a", "/base//a"),
            ("http://h/b c", "d e", "/b%20c/d%20e"),
            ("http://h/b%20c", "d", "/b%20c/d"),
        ] {
            let base = BaseUrl::parse(url.as_bytes()).unwrap();
            let (mut scratch, mut path) = (b"left".to_vec(), Vec::new());
            base.write_path(method.as_bytes(), &mut scratch, &mut path).unwrap();
            assert_eq!(String::from_utf8(path).unwrap(), want, "{url} {method}");
            assert!(scratch.is_empty());
        }
        let base = BaseUrl::parse(b"http://h").unwrap();
        let mut path = Vec::new();
        base.write_path(b"a%st", &mut Vec::new(), &mut path).unwrap_err();
        assert_eq!(path, b"/a%st", "for the message to show");
    }
}

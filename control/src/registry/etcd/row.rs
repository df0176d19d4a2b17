//! A sidecar's row in etcd: a key that names it, and a JSON value that says how to call it.
//!
//! Whoever may write under the prefix is believed about apps, but a row must say the same in key
//! and value, and must name an address that can be called; everything else under the prefix is
//! rubbish and is only counted.

#![forbid(unsafe_code)]

use crate::{
    config::zone::{self, Zone, ZoneError},
    registry::{Entry, Revision, Row},
};
use serde::{Deserialize, Serialize};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::net::SocketAddr;

#[derive(Debug, Deserialize, Serialize)]
struct Value {
    format: u32,
    id: AppId,
    namespace: Namespace,
    instance: InstanceId,
    /// Where the sidecar's data plane takes calls from other machines.
    address: SocketAddr,
    /// A reader that does not know it takes the row for one that says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RowError {
    #[error("{0} bytes long; a row has at most {VALUE_BYTES_MAX}")]
    TooLong(usize),
    #[error("{0}")]
    Syntax(String),
    #[error("format {0}; this version reads {FORMAT}")]
    Format(u32),
    #[error("the key does not name the app and instance of the value")]
    Key,
    #[error("zone: {0}")]
    Zone(#[from] ZoneError),
    #[error("nobody can be called at {0}")]
    Address(SocketAddr),
}

/// `{prefix}{namespace}/{id}/{instance}`. Names contain no slash, so no two rows meet.
pub(super) fn key(prefix: &str, entry: &Entry) -> Vec<u8> {
    key_of(prefix, &entry.namespace, &entry.id, &entry.instance).into_bytes()
}

fn key_of(prefix: &str, namespace: &Namespace, id: &AppId, instance: &InstanceId) -> String {
    format!("{prefix}{namespace}/{id}/{}", instance.0)
}

/// Nothing while the sidecar has no address that other machines can call.
pub(super) fn emit(entry: &Entry) -> Option<Vec<u8>> {
    let value = Value {
        format: FORMAT,
        id: entry.id.clone(),
        namespace: entry.namespace.clone(),
        instance: entry.instance.clone(),
        address: entry.remote_peer?,
        zone: entry.zone.clone(),
    };
    serde_json::to_vec(&value).ok()
}

/// # Errors
/// When this is no row.
pub(super) fn parse(prefix: &str, key: &[u8], value: &[u8]) -> Result<Row, RowError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(RowError::TooLong(value.len()));
    }
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let syntax = |e: serde_json::Error| RowError::Syntax(e.to_string());
    let head: Head = serde_json::from_slice(value).map_err(syntax)?;
    if head.format != FORMAT {
        return Err(RowError::Format(head.format));
    }
    let Value { format: _, id, namespace, instance, address, zone } =
        serde_json::from_slice(value).map_err(syntax)?;
    if instance.0.contains('/') || key_of(prefix, &namespace, &id, &instance).as_bytes() != key {
        return Err(RowError::Key);
    }
    let ip = address.ip();
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(RowError::Address(address));
    }
    let zone = zone.as_deref().map(zone::parse).transpose()?;
    let (address, revision) = (Address::Tcp(address), Revision::None);
    Ok(Row { id, namespace, instance, address, revision, zone })
}

/// The shape of the value. A reader that does not know it leaves the row out.
const FORMAT: u32 = 1;

/// A row with the longest names is a tenth of this.
const VALUE_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_rubbish() {
        let value = |id: &str, address: &str| {
            format!(
                r#"{{"format":1,"id":"{id}","namespace":"default","instance":"7","address":"{address}"}}"#
            )
        };
        let long = " ".repeat(VALUE_BYTES_MAX + 1);
        let good = value("a", "10.0.0.1:1");
        for (case, key, value, want) in [
            ("empty", "/p/default/a/7", "", "EOF while parsing"),
            ("no JSON", "/p/default/a/7", "\u{1}\u{2}", "expected value"),
            ("no object", "/p/default/a/7", "7", "invalid type"),
            ("too long", "/p/default/a/7", &long, "8193 bytes long"),
            ("another format", "/p/default/a/7", r#"{"format":2}"#, "format 2"),
            (
                "an id with a dot",
                "/p/default/a.b/7",
                &value("a.b", "10.0.0.1:1"),
                "parameter app-id cannot contain dots",
            ),
            ("another app's key", "/p/default/b/7", &good, "the key does not name"),
            ("another instance's key", "/p/default/a/8", &good, "the key does not name"),
            ("another prefix", "/q/default/a/7", &good, "the key does not name"),
            (
                "everywhere",
                "/p/default/a/7",
                &value("a", "0.0.0.0:1"),
                "nobody can be called at 0.0.0.0:1",
            ),
            (
                "port 0",
                "/p/default/a/7",
                &value("a", "10.0.0.1:0"),
                "nobody can be called at 10.0.0.1:0",
            ),
            ("a name", "/p/default/a/7", &value("a", "host:1"), "invalid socket address"),
            (
                "a zone of two lines",
                "/p/default/a/7",
                &good.replace('}', r#","zone":"a\nb"}"#),
                "zone: it contains the character '\\n'",
            ),
            ("a path", "/p/default/a/7", &value("a", "/run/x"), "invalid socket address"),
        ] {
            let text = parse("/p/", key.as_bytes(), value.as_bytes()).expect_err(case).to_string();
            assert!(text.contains(want), "{case}: {text}");
        }
        assert!(parse("/p/", b"/p/default/a/7", good.as_bytes()).is_ok());
        for cut in 0..good.len() {
            assert!(parse("/p/", b"/p/default/a/7", &good.as_bytes()[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let mut entry = Entry::sample("orders", "7-1");
        assert_eq!(emit(&entry), None, "a Unix socket is no address for other machines");
        entry.remote_peer = Some(([10, 0, 0, 1], 47300).into());
        let row = parse("/p/", &key("/p/", &entry), &emit(&entry).unwrap()).unwrap();
        assert_eq!(row.id, entry.id);
        assert_eq!(row.instance, entry.instance);
        assert_eq!((row.address.to_string().as_str(), row.zone), ("10.0.0.1:47300", None));
        entry.zone = Some("berlin".into());
        let row = parse("/p/", &key("/p/", &entry), &emit(&entry).unwrap()).unwrap();
        assert_eq!(row.zone, entry.zone);
    }
}

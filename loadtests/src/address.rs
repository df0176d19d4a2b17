//! Addresses as they are written on a command line: `127.0.0.1:8080` or `unix:/run/x.sock`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use snapshot::Address;
use std::net::ToSocketAddrs;

/// # Errors
/// When `text` is neither `unix:/path` nor a host and port that resolve.
pub fn parse(text: &str) -> Result<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            bail!("`unix:` lacks a path");
        }
        return Ok(Address::Unix(path.into()));
    }
    let mut found = text
        .to_socket_addrs()
        .with_context(|| format!("`{text}` is no address: write 127.0.0.1:8080 or unix:/path"))?;
    found.next().map(Address::Tcp).with_context(|| format!("`{text}` resolves to no address"))
}

/// The inverse of [`parse`].
pub fn spell(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_user_writes() {
        for (text, want) in [
            ("", None),
            ("unix:", None),
            ("127.0.0.1", None),
            ("127.0.0.1:99999", None),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("unix:/tmp/a b", Some("unix:/tmp/a b")),
        ] {
            let got = parse(text).ok().map(|address| spell(&address));
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }
}

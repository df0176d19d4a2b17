//! The method of a call: cleaned and checked at both ends, carried between sidecars without loss,
//! and put on the app's request line.
//!
//! What access control judges, what travels to the peer and what the app sees are the same bytes:
//! each step here is a bijection on cleaned methods, but for the last, which is Go's.

#![forbid(unsafe_code)]

use super::{
    escape::{self, EscapeError},
    path,
};
use std::fmt;

/// A method that no app may see. Shown with the method it was found in: `Quoted` in
/// [`crate::error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MethodError {
    /// `#`, `?` or NUL.
    Forbidden,
    Control {
        position: usize,
    },
}

/// daprd 1.18's `NormalizeMethod`: refuses what would end or split a URL, then resolves `.`, `..`
/// and doubled slashes. A leading slash stays. Idempotent.
///
/// # Errors
/// `method` is left as it was, for the message to show.
pub fn normalise(method: &mut Vec<u8>) -> Result<(), MethodError> {
    check(method)?;
    path::clean(method);
    // Only at the front of a relative path does cleaning leave any.
    let ups = method.chunks(3).take_while(|part| *part == b"../").count();
    method.drain(..ups * 3);
    if method == b".." || method == b"." {
        method.clear();
    }
    Ok(())
}

fn check(method: &[u8]) -> Result<(), MethodError> {
    if memchr::memchr3(b'#', b'?', 0, method).is_some() {
        return Err(MethodError::Forbidden);
    }
    match method.iter().position(u8::is_ascii_control) {
        Some(position) => Err(MethodError::Control { position }),
        None => Ok(()),
    }
}

/// Appends the request path under which a normalised method goes to another sidecar. A usual method
/// passes unchanged, behind a slash; a slash in front of the method is encoded, so that no doubled
/// one arises.
pub fn encode_for_peer(method: &[u8], out: &mut Vec<u8>) {
    debug_assert!(is_normal(method), "only what was normalised travels");
    out.push(b'/');
    let rest = match method.split_first() {
        Some((b'/', rest)) => {
            escape::push_triplet(b'/', out);
            rest
        }
        _ => method,
    };
    for byte in rest {
        if is_plain_for_peer(*byte) {
            out.push(*byte);
        } else {
            escape::push_triplet(*byte, out);
        }
    }
}

/// RFC 3986's pchar without `%`, and `/`.
const fn is_plain_for_peer(byte: u8) -> bool {
    escape::is_unreserved(byte)
        || escape::is_sub_delimiter(byte)
        || matches!(byte, b':' | b'@' | b'/')
}

/// A request path that no sidecar's [`encode_for_peer`] wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerPathError {
    #[error("{0}")]
    Escape(#[from] EscapeError),
    #[error("the path does not begin with a slash")]
    NoSlash,
    #[error("the path is not in the form in which sidecars write it")]
    NotNormal,
}

/// Appends the method that [`encode_for_peer`] made `path` of; it is normalised. Any other path is
/// refused, so that two peers cannot mean two methods by one path, nor reach one method by two.
///
/// # Errors
/// The path is not such a one; what `out` has gained then means nothing.
pub fn decode_from_peer(path: &[u8], out: &mut Vec<u8>) -> Result<(), PeerPathError> {
    let rest = path.strip_prefix(b"/").ok_or(PeerPathError::NoSlash)?;
    let start = out.len();
    escape::decode_path(rest, out)?;
    let method = &out[start..];
    if !is_normal(method) || !is_encoding_of(rest, method) {
        return Err(PeerPathError::NotNormal);
    }
    Ok(())
}

/// Would [`encode_for_peer`] write `path` for `method`? Walks both, since there is nowhere to write
/// to.
fn is_encoding_of(path: &[u8], method: &[u8]) -> bool {
    let mut rest = path;
    for (index, byte) in method.iter().enumerate() {
        let is_plain = is_plain_for_peer(*byte) && !(index == 0 && *byte == b'/');
        let taken = if is_plain { 1 } else { 3 };
        let is_upper_case = !rest.iter().take(taken).any(u8::is_ascii_lowercase);
        if (rest.first() == Some(&b'%')) == is_plain || (!is_plain && !is_upper_case) {
            return false;
        }
        rest = &rest[taken..];
    }
    rest.is_empty()
}

/// Would [`normalise`] leave it as it is?
pub fn is_normal(method: &[u8]) -> bool {
    let relative = method.strip_prefix(b"/").unwrap_or(method);
    let has_real_parts =
        || relative.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."));
    check(method).is_ok() && (relative.is_empty() || has_real_parts())
}

/// Appends the path that goes on the app's request line: a normalised method behind a slash,
/// encoded as Go's `url.Parse` and `URL.EscapedPath` do. (daprd cleans it once more; that changes
/// nothing in a normalised method.)
///
/// # Errors
/// A `%` that is no escape; Go refuses it when it parses the URL. Nothing is appended.
pub fn app_path(method: &[u8], out: &mut Vec<u8>) -> Result<(), EscapeError> {
    debug_assert!(is_normal(method), "access control judged the normalised method");
    escape::check(method)?;
    if method.first() != Some(&b'/') {
        out.push(b'/');
    }
    escape::escaped_path(method, out)
}

/// The verb with which an app is called.
///
/// daprd 1.18 upper-cases what came, and calls the app with POST where it does not know the result.
/// `None` for CONNECT, which it does not carry, and for `NONE`, which its enumeration happens to
/// know.
pub fn verb(method: &[u8]) -> Option<&'static str> {
    const VERBS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"];
    if let Some(verb) = VERBS.iter().find(|verb| method.eq_ignore_ascii_case(verb.as_bytes())) {
        return Some(verb);
    }
    let is_refused = ["CONNECT", "NONE"].iter().any(|v| method.eq_ignore_ascii_case(v.as_bytes()));
    (!is_refused).then_some("POST")
}

impl fmt::Display for MethodError {
    /// daprd's words, without the method that follows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => f.write_str("method contains forbidden character"),
            Self::Control { position } => {
                write!(f, "method contains control character at position {position}")
            }
        }
    }
}

impl std::error::Error for MethodError {}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(method: &str) -> Result<String, MethodError> {
        let mut text = method.as_bytes().to_vec();
        match normalise(&mut text) {
            Ok(()) => Ok(String::from_utf8(text).unwrap()),
            Err(error) => {
                assert_eq!(text, method.as_bytes(), "left as it was");
                Err(error)
            }
        }
    }

    #[test]
    fn refuses_what_daprd_1_18_refuses() {
        let control = |position| Err(MethodError::Control { position });
        for (case, method, want) in [
            ("hash", "a#b", Err(MethodError::Forbidden)),
            ("mark", "a?b", Err(MethodError::Forbidden)),
            ("NUL", "a\0b", Err(MethodError::Forbidden)),
            ("hash behind a control character", "\r#", Err(MethodError::Forbidden)),
            ("hash that cleaning would remove", "a#/../b", Err(MethodError::Forbidden)),
            ("CR", "test\rstream", control(4)),
            ("newline", "\n", control(0)),
            ("0x1f", "ü\x1f", control(2)),
            ("delete", "ab\x7f", control(2)),
        ] {
            assert_eq!(normal(method), want, "{case}");
        }
    }

    #[test]
    fn normalises_as_daprd_1_18() {
        for (case, method, want) in [
            ("empty", "", ""),
            ("dot", ".", ""),
            ("dots", "..", ""),
            ("more dots", "../..", ""),
            ("many", "../../../", ""),
            ("root", "/", "/"),
            ("above the root", "/../..", "/"),
            ("plain", "a/b", "a/b"),
            ("leading slash", "/public", "/public"),
            ("leading slashes", "///public", "/public"),
            ("slash at the end", "a/", "a"),
            ("doubled", "a//b", "a/b"),
            ("up", "a/../b", "b"),
            ("up above", "../../x/../y", "y"),
            ("names of dots", ".../..a/b..", ".../..a/b.."),
            ("not decoded again", "admin%2F..%2Fpublic", "admin%2F..%2Fpublic"),
            ("others pass", "a\\b*\";%ü |", "a\\b*\";%ü |"),
        ] {
            assert_eq!(normal(method).as_deref(), Ok(want), "{case}");
        }
    }

    #[test]
    fn peers_read_back_what_was_meant() {
        for (case, method, want) in [
            ("empty", "", "/"),
            ("root", "/", "/%2F"),
            ("plain", "orders/7", "/orders/7"),
            ("leading slash", "/orders/7", "/%2Forders/7"),
            ("looks like an encoded leading slash", "%2Forders", "/%252Forders"),
            ("pchar", "a-._~!$&'()*+,;=:@b", "/a-._~!$&'()*+,;=:@b"),
            ("percent", "100%", "/100%25"),
            ("space and others", "a b\"<>\\^`{|}[]", "/a%20b%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
            ("unicode", "ü", "/%C3%BC"),
            ("names of dots", ".../.a/..b", "/.../.a/..b"),
        ] {
            let (mut path, mut back) = (Vec::new(), b"kept".to_vec());
            encode_for_peer(method.as_bytes(), &mut path);
            assert_eq!(str::from_utf8(&path).unwrap(), want, "{case}");
            assert_eq!(decode_from_peer(&path, &mut back), Ok(()), "{case}");
            assert_eq!(back, format!("kept{method}").as_bytes(), "{case}");
        }
    }

    #[test]
    fn refuses_paths_that_no_peer_writes() {
        let escape = |text: &[u8]| Err(PeerPathError::Escape(escape::check(text).unwrap_err()));
        for (case, path, want) in [
            ("empty", "", Err(PeerPathError::NoSlash)),
            ("no slash", "a", Err(PeerPathError::NoSlash)),
            ("bad escape", "/%zz", escape(b"%zz")),
            ("short escape", "/a%2", escape(b"%2")),
            ("doubled slash", "/a//b", Err(PeerPathError::NotNormal)),
            ("leading slash in the clear", "//a", Err(PeerPathError::NotNormal)),
            ("slash at the end", "/a/", Err(PeerPathError::NotNormal)),
            ("dots", "/a/../b", Err(PeerPathError::NotNormal)),
            ("encoded dots", "/a/%2E%2E/b", Err(PeerPathError::NotNormal)),
            ("dot", "/.", Err(PeerPathError::NotNormal)),
            ("encoded slash inside", "/a%2Fb", Err(PeerPathError::NotNormal)),
            ("two leading slashes", "/%2F/a", Err(PeerPathError::NotNormal)),
            ("encoded plain character", "/%41", Err(PeerPathError::NotNormal)),
            ("lower-case escape", "/%c3%bc", Err(PeerPathError::NotNormal)),
            ("half lower-case escape", "/%5c", Err(PeerPathError::NotNormal)),
            ("space in the clear", "/a b", Err(PeerPathError::NotNormal)),
            ("unicode in the clear", "/ü", Err(PeerPathError::NotNormal)),
            ("hash", "/a%23b", Err(PeerPathError::NotNormal)),
            ("mark", "/a%3Fb", Err(PeerPathError::NotNormal)),
            ("newline", "/a%0Ab", Err(PeerPathError::NotNormal)),
        ] {
            assert_eq!(decode_from_peer(path.as_bytes(), &mut Vec::new()), want, "{case}");
        }
    }

    #[test]
    fn every_byte_travels() {
        for byte in (0x20..=u8::MAX).filter(|byte| !matches!(byte, b'#' | b'?' | 0x7f)) {
            for method in [[byte, b'a'], [b'a', byte]] {
                let mut normal = method.to_vec();
                normalise(&mut normal).unwrap();
                let (mut path, mut back) = (Vec::new(), Vec::new());
                encode_for_peer(&normal, &mut path);
                assert_eq!(decode_from_peer(&path, &mut back), Ok(()), "{byte:#x}");
                assert_eq!(back, normal, "{byte:#x}");
            }
        }
    }

    #[test]
    fn app_paths_are_gos() {
        for (case, method, want) in [
            ("bad escape", "te%st", Err("invalid URL escape \"%st\"")),
            ("escape cut short", "te%4", Err("invalid URL escape \"%4\"")),
            ("empty", "", Ok("/")),
            ("root", "/", Ok("/")),
            ("plain", "orders/7", Ok("/orders/7")),
            ("leading slash", "/orders/7", Ok("/orders/7")),
            ("escape stays", "%41", Ok("/%41")),
            ("space", "a b", Ok("/a%20b")),
            ("unicode", "ü", Ok("/%C3%BC")),
        ] {
            let mut out = b"kept".to_vec();
            let got = app_path(method.as_bytes(), &mut out).map_err(|error| error.to_string());
            let path = String::from_utf8(out.split_off(4)).unwrap();
            assert_eq!(got.map(|()| path).as_deref().map_err(String::as_str), want, "{case}");
            assert_eq!(out, b"kept", "{case}");
        }
    }

    #[test]
    fn maps_verbs_as_daprd_1_18() {
        for (method, want) in [
            ("CONNECT", None),
            ("connect", None),
            ("NONE", None),
            ("GET", Some("GET")),
            ("get", Some("GET")),
            ("Post", Some("POST")),
            ("PUT", Some("PUT")),
            ("DELETE", Some("DELETE")),
            ("PATCH", Some("PATCH")),
            ("HEAD", Some("HEAD")),
            ("OPTIONS", Some("OPTIONS")),
            ("TRACE", Some("TRACE")),
            ("PROPFIND", Some("POST")),
            ("QUERY", Some("POST")),
        ] {
            assert_eq!(verb(method.as_bytes()), want, "{method}");
        }
    }
}

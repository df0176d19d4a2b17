//! Percent-encoding exactly as Go's `net/url` does it for paths and query components; pure.
//!
//! daprd reads and writes its URLs with that package, so which bytes it decodes, and which it
//! leaves as they came, is what an app gets to see. Decoding happens once per layer: a caller of
//! these functions knows which layer it is at.

#![forbid(unsafe_code)]

use std::fmt;

/// A `%` that two hexadecimal digits do not follow. Shown as Go shows it: `invalid URL escape
/// "%st"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EscapeError {
    bytes: [u8; 3],
    count: u8,
}

impl EscapeError {
    fn at(rest: &[u8]) -> Self {
        let mut bytes = [0; 3];
        let mut count = 0;
        for (slot, byte) in bytes.iter_mut().zip(rest) {
            *slot = *byte;
            count += 1;
        }
        Self { bytes, count }
    }

    /// The `%` and up to two bytes after it, as they came.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..usize::from(self.count)]
    }
}

impl fmt::Display for EscapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid URL escape \"{}\"", self.text().escape_ascii())
    }
}

impl std::error::Error for EscapeError {}

/// Appends `text` decoded; a `+` stays a `+` (Go's `encodePath`).
pub fn decode_path(text: &[u8], out: &mut Vec<u8>) -> Result<(), EscapeError> {
    decode(text, out, |byte| byte)
}

/// Appends `text` decoded; a `+` becomes a space (Go's `QueryUnescape`).
pub fn decode_query(text: &[u8], out: &mut Vec<u8>) -> Result<(), EscapeError> {
    decode(text, out, |byte| if byte == b'+' { b' ' } else { byte })
}

fn decode(text: &[u8], out: &mut Vec<u8>, plain: impl Fn(u8) -> u8) -> Result<(), EscapeError> {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend(rest[..at].iter().map(|byte| plain(*byte)));
        rest = &rest[at..];
        out.push(triplet(rest).ok_or_else(|| EscapeError::at(rest))?);
        rest = &rest[3..];
    }
    out.extend(rest.iter().map(|byte| plain(*byte)));
    Ok(())
}

/// Appends the path part of a URL as Go's `URL.EscapedPath` writes it: `raw` itself where it is a
/// valid encoding, else its decoded bytes encoded anew. Go decodes an encoded slash or dot on that
/// second way, so that `x y%2F..%2Fz` would reach the app as `/x%20y/../z`, past any rule about
/// `x`. Those two stay encoded here.
pub fn escaped_path(raw: &[u8], out: &mut Vec<u8>) -> Result<(), EscapeError> {
    check(raw)?;
    if is_valid(raw) {
        out.extend_from_slice(raw);
        return Ok(());
    }
    let mut rest = raw;
    while let Some(&byte) = rest.first() {
        match triplet(rest) {
            Some(b'/' | b'.') => out.extend_from_slice(&rest[..3]),
            Some(decoded) => push_escaped(decoded, out),
            None => push_escaped(byte, out),
        }
        rest = &rest[if byte == b'%' { 3 } else { 1 }..];
    }
    Ok(())
}

/// Appends the path by which Go's router finds its way: `raw` itself where it is a valid encoding,
/// else `decoded`, which is `raw` decoded, encoded anew. An encoded slash parts the path only then.
pub fn routed_path(raw: &[u8], decoded: &[u8], out: &mut Vec<u8>) {
    if is_valid(raw) {
        out.extend_from_slice(raw);
    } else {
        encode_path(decoded, out);
    }
}

/// Appends a decoded path as Go's `escape` writes one.
pub fn encode_path(decoded: &[u8], out: &mut Vec<u8>) {
    decoded.iter().for_each(|&byte| push_escaped(byte, out));
}

/// Appends `text` as Go's `QueryEscape` writes it: a space becomes a `+`.
pub fn encode_query(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b' ' => out.push(b'+'),
            byte if is_unreserved(byte) => out.push(byte),
            byte => push_triplet(byte, out),
        }
    }
}

/// Does [`routed_path`] decode nothing in it?
pub fn is_routed_as_it_is(raw: &[u8]) -> bool {
    memchr::memchr(b'%', raw).is_none() || is_valid(raw)
}

/// Is every `%` followed by two hexadecimal digits?
pub fn check(text: &[u8]) -> Result<(), EscapeError> {
    for at in memchr::memchr_iter(b'%', text) {
        let rest = &text[at..];
        triplet(rest).ok_or_else(|| EscapeError::at(rest))?;
    }
    Ok(())
}

/// Appends one byte as `%XX`.
pub fn push_triplet(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// The byte that a leading `%XX` stands for.
pub fn triplet(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

/// RFC 3986 §2.3.
pub const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §2.2.
pub const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

fn is_valid(path: &[u8]) -> bool {
    path.iter().all(|&byte| is_valid_in_path(byte))
}

/// Go's `validEncoded`: RFC 3986's pchar, `/`, and brackets, "left alone by modern browsers".
const fn is_valid_in_path(byte: u8) -> bool {
    is_unreserved(byte)
        || is_sub_delimiter(byte)
        || matches!(byte, b'%' | b'/' | b':' | b'@' | b'[' | b']')
}

/// What Go's `escape` leaves as it is in a path, fewer than [`is_valid_in_path`] accepts.
const fn is_plain_in_path(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@')
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    if is_plain_in_path(byte) {
        out.push(byte);
    } else {
        push_triplet(byte, out);
    }
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_go_refuses() {
        for (text, want) in [
            ("/a%st", "invalid URL escape \"%st\""),
            ("/a%", "invalid URL escape \"%\""),
            ("/%4", "invalid URL escape \"%4\""),
            ("/%zzz", "invalid URL escape \"%zz\""),
            ("/%41%4", "invalid URL escape \"%4\""),
            ("/x y%g0", "invalid URL escape \"%g0\""),
        ] {
            let mut out = Vec::new();
            let path = escaped_path(text.as_bytes(), &mut out).unwrap_err();
            assert_eq!(path.to_string(), want, "{text}");
            assert_eq!(decode_path(text.as_bytes(), &mut out), Err(path), "{text}");
            assert_eq!(decode_query(text.as_bytes(), &mut out), Err(path), "{text}");
            assert_eq!(check(text.as_bytes()), Err(path), "{text}");
        }
    }

    #[test]
    fn decodes_paths_and_query_components() {
        for (text, path, query) in [
            ("", "", ""),
            ("a+b", "a+b", "a b"),
            ("a%2Bb", "a+b", "a+b"),
            ("%41%2f%25", "A/%", "A/%"),
            ("a%252Fb", "a%2Fb", "a%2Fb"),
            ("%C3%BC", "ü", "ü"),
        ] {
            let mut out = Vec::new();
            decode_path(text.as_bytes(), &mut out).unwrap();
            assert_eq!(out, path.as_bytes(), "{text}");
            out.clear();
            decode_query(text.as_bytes(), &mut out).unwrap();
            assert_eq!(out, query.as_bytes(), "{text}");
        }
    }

    /// The right column was printed by `url.Parse(base + text)` and `URL.RequestURI` of Go 1.26,
    /// but for the rows that say so.
    #[test]
    fn escapes_a_path_as_go_does() {
        for (case, text, want) in [
            ("plain", "/a/b.c", "/a/b.c"),
            ("space", "/a b", "/a%20b"),
            ("valid triplet stays", "/%41", "/%41"),
            ("lower case triplet stays", "/%c3%bc", "/%c3%bc"),
            ("encoded slash stays in a valid path", "/a%2Fb", "/a%2Fb"),
            ("quote", "/a\"b", "/a%22b"),
            ("brackets stay", "/[x]", "/[x]"),
            ("unicode", "/ü", "/%C3%BC"),
            ("sub-delims stay", "/x!*'()", "/x!*'()"),
            ("decoded and encoded anew", "/a^b%41", "/a%5EbA"),
            ("sub-delims of an invalid path", "/a b!*'()", "/a%20b%21%2A%27%28%29"),
            ("backslash", "/a\\b", "/a%5Cb"),
            ("percent of an invalid path", "/a b%25", "/a%20b%25"),
            ("not as Go: an encoded slash stays one", "/a%2Fb c", "/a%2Fb%20c"),
            ("not as Go: encoded dots stay", "/%2e%2E/a b", "/%2e%2E/a%20b"),
        ] {
            let mut out = Vec::new();
            escaped_path(text.as_bytes(), &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), want, "{case}");
        }
    }

    #[test]
    fn triplets_are_read_back() {
        for byte in 0..=u8::MAX {
            let mut out = Vec::new();
            push_triplet(byte, &mut out);
            assert_eq!(triplet(&out), Some(byte));
        }
    }
}

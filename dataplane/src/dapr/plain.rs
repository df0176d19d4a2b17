//! The usual invocation, told in one pass over its target: `/v1.0/invoke/<id>/method/<method>`,
//! with nothing in it that anybody would decode, clean or refuse.
//!
//! Whatever is not certainly that goes the long way, which has the same result for these too.

#![forbid(unsafe_code)]

use super::escape::{is_sub_delimiter, is_unreserved};

/// The parts of such a target, each as the long way would find it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PlainCall<'a> {
    pub(super) id: &'a [u8],
    /// Clean and normal, and its own encoding.
    pub(super) method: &'a [u8],
    /// Without `?`.
    pub(super) query: &'a [u8],
}

/// `None`: it is another target, or one that takes a closer look.
pub(super) fn find(target: &[u8]) -> Option<PlainCall<'_>> {
    let rest = target.strip_prefix(b"/v1.0/invoke/")?;
    let id_bytes = rest.iter().position(|byte| !has_class(*byte, IN_ID))?;
    let (id, rest) = rest.split_at(id_bytes);
    if matches!(id, [] | [b'.', ..]) {
        return None;
    }
    let rest = rest.strip_prefix(b"/method/")?;
    let mut before = b'/';
    for (at, byte) in rest.iter().enumerate() {
        if !has_class(*byte, IN_PATH) {
            let query = &rest[at + 1..];
            let is_whole = before != b'/' && *byte == b'?';
            let is_plain = is_whole && query.iter().all(|byte| has_class(*byte, IN_QUERY));
            return is_plain.then_some(PlainCall { id, method: &rest[..at], query });
        }
        // A doubled slash is for cleaning, and so may be what begins with a dot.
        if before == b'/' && matches!(byte, b'/' | b'.') {
            return None;
        }
        before = *byte;
    }
    (before != b'/').then_some(PlainCall { id, method: rest, query: b"" })
}

const fn has_class(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

const IN_ID: u8 = 1;
/// RFC 3986's pchar without `%`, and `/`.
const IN_PATH: u8 = 2;
const IN_QUERY: u8 = 4;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        let is_in_path =
            is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b':' | b'@' | b'/');
        let is_in_query = byte.is_ascii_graphic() && byte != b'#';
        classes[byte as usize] = if is_unreserved(byte) { IN_ID } else { 0 }
            | if is_in_path { IN_PATH } else { 0 }
            | if is_in_query { IN_QUERY } else { 0 };
        byte += 1;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_nothing_that_needs_a_closer_look() {
        for target in [
            "",
            "*",
            "/",
            "/v1.0/invoke/",
            "/v1.0/invoke/a",
            "/v1.0/invoke//method/x",
            "/v1.0/invoke/a/method",
            "/v1.0/invoke/a/method/",
            "/v1.0/invoke/a/method/?q",
            "/v1.0/invoke/a/method//x",
            "/v1.0/invoke/a/method/x/",
            "/v1.0/invoke/a/method/x/?q",
            "/v1.0/invoke/a/method/x//y",
            "/v1.0/invoke/a/method/../x",
            "/v1.0/invoke/a/method/x/./y",
            "/v1.0/invoke/a/method/.x",
            "/v1.0/invoke/a/method/x%20y",
            "/v1.0/invoke/a/method/x[0]",
            "/v1.0/invoke/a/method/x\u{e4}",
            "/v1.0/invoke/a/method/x y",
            "/v1.0/invoke/a/method/x\0",
            "/v1.0/invoke/a/method/x?a b",
            "/v1.0/invoke/a/method/x?a#b",
            "/v1.0/invoke/a/method/x#b",
            "/v1.0/invoke/a/b/method/x",
            "/v1.0/invoke/a+b/method/x",
            "/v1.0/invoke/a%41/method/x",
            "/v1.0/invoke/../method/x",
            "/v1.0/invoke/.a/method/x",
            "/v1.0/invoke/http://h/method/x",
            "//v1.0/invoke/a/method/x",
            "/v1.1/invoke/a/method/x",
            "http://h/v1.0/invoke/a/method/x",
        ] {
            assert_eq!(find(target.as_bytes()), None, "{target}");
        }
    }

    #[test]
    fn finds_the_parts() {
        for (target, id, method, query) in [
            ("/v1.0/invoke/a/method/x", "a", "x", ""),
            ("/v1.0/invoke/a.ns/method/x/y.z", "a.ns", "x/y.z", ""),
            ("/v1.0/invoke/a/method/x?", "a", "x", ""),
            ("/v1.0/invoke/a/method/x?a=/../b?%zz", "a", "x", "a=/../b?%zz"),
            ("/v1.0/invoke/a/method/method/x", "a", "method/x", ""),
            ("/v1.0/invoke/method/method/x:y@z", "method", "x:y@z", ""),
        ] {
            let (id, method, query) = (id.as_bytes(), method.as_bytes(), query.as_bytes());
            assert_eq!(find(target.as_bytes()), Some(PlainCall { id, method, query }), "{target}");
        }
    }
}

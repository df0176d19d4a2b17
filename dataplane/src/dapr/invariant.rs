//! What must hold for whatever a caller sends, for the fuzzer and for tests: every path from bytes
//! to the wire, with its checks.
//!
//! Panics where one fails; nothing on the way of a request calls this.

#![forbid(unsafe_code)]

use super::{Asked, CallNotes, Request, escape, interpret, interpret_public, method};

/// Reads `bytes` as method, target, `dapr-app-id` and `Authorization`, a line each, and follows the
/// call to the peer and to the app.
///
/// # Panics
/// A check fails.
pub fn check_invoke_path(bytes: &[u8], notes: &mut CallNotes) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let verb = lines.next().unwrap_or_default();
    let target = lines.next().unwrap_or_default();
    let (app_id_header, authorization) = (lines.next(), lines.next());
    let request = Request { method: verb, target, app_id_header, authorization };
    interpret_public(&request, notes);
    if let Asked::Invoke { .. } = interpret(&request, notes) {
        assert!(!notes.target.is_empty(), "an invocation has a target");
        check_method(&mut notes.method);
    }
}

fn check_method(text: &mut Vec<u8>) {
    let before = text.clone();
    if method::normalise(text).is_err() {
        assert_eq!(*text, before, "what is refused is left as it was");
        return;
    }
    let mut twice = text.clone();
    assert_eq!(method::normalise(&mut twice), Ok(()), "what is normal is not refused");
    assert_eq!(twice, *text, "what is normal stays as it is");

    let mut path = Vec::new();
    method::encode_for_peer(text, &mut path);
    check_wire_path(&path);
    let mut back = Vec::new();
    assert_eq!(method::decode_from_peer(&path, &mut back), Ok(()), "a peer can read it");
    assert_eq!(back, *text, "a peer reads what was meant");

    path.clear();
    let for_app = method::app_path(text, &mut path);
    assert_eq!(for_app, escape::check(text), "only a bad escape is refused");
    if for_app.is_ok() {
        check_wire_path(&path);
    }
}

/// A path that ends no request line, and whose next reader resolves nothing in it.
fn check_wire_path(path: &[u8]) {
    assert_eq!(path.first(), Some(&b'/'), "a path begins with a slash");
    assert!(path.iter().all(u8::is_ascii_graphic), "no control characters, spaces or bytes above");
    assert!(!path.iter().any(|byte| matches!(byte, b'?' | b'#')), "nothing ends the path");
    assert_eq!(escape::check(path), Ok(()), "every escape is whole");
    let mut parts = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        assert!(part != b"." && part != b"..", "no dot segments");
        assert!(!part.is_empty() || parts.peek().is_none(), "no doubled slashes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator with a fixed start, so that a failure comes back.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            // Numbers as in Knuth's MMIX; the high bits are the good ones.
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            usize::try_from(self.0 >> 33).unwrap() % bound
        }

        fn pick<'a>(&mut self, words: &[&'a [u8]]) -> &'a [u8] {
            words[self.below(words.len())]
        }
    }

    const WORDS: &[&[u8]] = &[
        b"/",
        b"//",
        b".",
        b"..",
        b"/../",
        b"%2F",
        b"%2f",
        b"%2E",
        b"%2e%2E",
        b"%25",
        b"%252F",
        b"%41",
        b"%zz",
        b"%",
        b"%4",
        b"%23",
        b"%3F",
        b"%00",
        b"%0D%0A",
        b"%7F",
        b"%C3%BC",
        b"%ff",
        b"\xff",
        b"\xc3\xbc",
        b"a",
        b"b.c",
        b"v1.0",
        b"invoke",
        b"/v1.0/invoke/a/method/",
        b"method",
        b"metadata",
        b"healthz",
        b"?",
        b"#",
        b"*",
        b"\\",
        b"\"",
        b"+",
        b":",
        b"@",
        b"[",
        b"]",
        b"^",
        b"~",
        b"http://h",
        b"\r",
        b"\t",
        b" ",
        b";",
        b"=",
    ];

    #[test]
    fn holds_for_targets_put_together_at_random() {
        let mut random = Random(1);
        let mut notes = CallNotes::default();
        let mut invocations = 0;
        for _ in 0..200_000 {
            let mut bytes = random.pick(&[b"GET\n", b"PUT\n", b"CONNECT\n", b"\n"]).to_vec();
            bytes.extend_from_slice(random.pick(&[b"/v1.0/invoke/a/method/", b"/", b""]));
            for _ in 0..random.below(12) {
                bytes.extend_from_slice(random.pick(WORDS));
            }
            bytes.extend_from_slice(random.pick(&[
                b"",
                b"\nid",
                b"\n\nBasic ZGFwci1hcHAtaWQ6YXBw",
            ]));
            check_invoke_path(&bytes, &mut notes);
            invocations += usize::from(!notes.target.is_empty());
        }
        assert!(invocations > 50_000, "only {invocations} came as far as the checks");
    }

    #[test]
    #[should_panic(expected = "no dot segments")]
    fn sees_dot_segments() {
        check_wire_path(b"/a/../b");
    }

    #[test]
    #[should_panic(expected = "no doubled slashes")]
    fn sees_doubled_slashes() {
        check_wire_path(b"/a//b");
    }

    #[test]
    #[should_panic(expected = "no control characters")]
    fn sees_what_ends_a_line() {
        check_wire_path(b"/a\r\nb");
    }
}

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

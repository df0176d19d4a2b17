//! daprd's error body, `{"errorCode":…,"message":…}`: opened, filled and closed in place. Pure.
//!
//! The order of the keys, the missing newline at the end and the content type are part of what
//! callers compare.

#![forbid(unsafe_code)]

use super::json::JsonText;

pub const CONTENT_TYPE_JSON: &str = "application/json";
/// What Go's `http.Error` sets.
pub const CONTENT_TYPE_TEXT: &str = "text/plain; charset=utf-8";

/// Code of everything that goes wrong with an invocation.
pub const DIRECT_INVOKE: &str = "ERR_DIRECT_INVOKE";

/// Appends an error body whose message `fill` writes.
pub fn write_error(out: &mut Vec<u8>, code: &str, fill: impl FnOnce(&mut JsonText<'_>)) {
    write_error_with_details(out, code, fill, |_| ());
}

/// The same with the member `details` behind it, complete with its leading comma.
pub fn write_error_with_details(
    out: &mut Vec<u8>,
    code: &str,
    fill: impl FnOnce(&mut JsonText<'_>),
    details: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(b"{\"errorCode\":\"");
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(b"\",\"message\":\"");
    fill(&mut JsonText::new(out));
    out.push(b'"');
    details(out);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_compact_json_in_daprds_order() {
        let mut out = b"before".to_vec();
        write_error(&mut out, "ERR_X", |message| message.text("a \"b\""));
        assert_eq!(out, br#"before{"errorCode":"ERR_X","message":"a \"b\""}"#);
    }
}

//! Answers of our own: the sidecar's API, and errors.
//!
//! Always with a length, so that no client has to guess where they end.

#![forbid(unsafe_code)]

use super::head::Version;

#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
    /// Does the connection stay?
    pub keep_alive: bool,
    /// The request's version. We answer as 1.1 in any case (RFC 9110 §6.2), but a 1.0 client has to
    /// be told that the connection stays.
    pub version: Version,
    /// The answer to a HEAD: says how long the body is, and leaves it out.
    pub head_only: bool,
    /// For the `Date` line; [`super::date::DateCache`] has it.
    pub date: &'a [u8],
    /// Whole lines with their CRLF.
    pub lines: &'a [&'a [u8]],
}

impl Reply<'_> {
    /// Emits head and body piece by piece.
    pub fn emit(&self, put: &mut dyn FnMut(&[u8])) {
        let mut digits = [0; 20];
        put(b"HTTP/1.1 ");
        put(decimal(u64::from(self.status), &mut digits));
        put(b" ");
        put(reason(self.status).as_bytes());
        put(b"\r\n");
        if let Some(content_type) = self.content_type {
            for part in ["Content-Type: ", content_type, "\r\n"] {
                put(part.as_bytes());
            }
        }
        for part in [b"Date: ", self.date, b"\r\n"] {
            put(part);
        }
        let may_have_body = !matches!(self.status, 100..=199 | 204 | 304);
        if may_have_body {
            put(b"Content-Length: ");
            put(decimal(self.body.len() as u64, &mut digits));
            put(b"\r\n");
        }
        for line in self.lines {
            put(line);
        }
        put(match (self.keep_alive, self.version) {
            (false, _) => b"Connection: close\r\n\r\n",
            (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
            (true, Version::Http11) => b"\r\n",
        });
        if may_have_body && !self.head_only {
            put(self.body);
        }
    }
}

/// `number` in decimal digits, at the end of `digits`.
pub fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The reason phrase, in the words of Go's `http.StatusText`, which daprd's clients see. Empty for
/// a status without one.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn emit(reply: &Reply<'_>) -> String {
        let mut out = Vec::new();
        reply.emit(&mut |bytes| out.extend_from_slice(bytes));
        String::from_utf8(out).unwrap()
    }

    fn not_found() -> Reply<'static> {
        Reply {
            status: 404,
            content_type: Some("application/json"),
            body: b"{}",
            keep_alive: true,
            version: Version::Http11,
            head_only: false,
            date: DATE,
            lines: &[],
        }
    }

    #[test]
    fn replies_say_how_long_they_are_and_whether_the_connection_stays() {
        const HEAD: &str = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\
                            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 2\r\n";
        let old = Version::Http10;
        for (case, reply, lines, body) in [
            ("stays", not_found(), "", "{}"),
            ("closes", Reply { keep_alive: false, ..not_found() }, "Connection: close\r\n", "{}"),
            (
                "1.0 stays",
                Reply { version: old, ..not_found() },
                "Connection: keep-alive\r\n",
                "{}",
            ),
            (
                "1.0 closes",
                Reply { version: old, keep_alive: false, ..not_found() },
                "Connection: close\r\n",
                "{}",
            ),
            ("answers HEAD", Reply { head_only: true, ..not_found() }, "", ""),
            (
                "more lines",
                Reply { lines: &[b"A: b\r\n", b"C: d\r\n"], ..not_found() },
                "A: b\r\nC: d\r\n",
                "{}",
            ),
        ] {
            assert_eq!(emit(&reply), format!("{HEAD}{lines}\r\n{body}"), "{case}");
        }
    }

    #[test]
    fn a_204_has_no_length() {
        let reply = Reply { status: 204, content_type: None, body: b"", ..not_found() };
        let text = "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(emit(&reply), text);
    }

    #[test]
    fn an_empty_body_has_length_zero_and_an_unknown_status_no_reason() {
        let reply = Reply { status: 599, content_type: None, body: b"", ..not_found() };
        let text =
            "HTTP/1.1 599 \r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(emit(&reply), text);
    }

    #[test]
    fn numbers_are_decimal() {
        for (number, text) in [
            (0, "0"),
            (9, "9"),
            (10, "10"),
            (1_048_576, "1048576"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(decimal(number, &mut [0; 20]), text.as_bytes());
        }
    }
}

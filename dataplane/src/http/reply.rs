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
    /// The request's version. We answer as 1.1 in any case (RFC 9110 §6.2), but a 1.0 client has to be told that the
    /// connection stays.
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

/// The reason phrase, in the words of Go's `http.StatusText`, which daprd's clients see. Empty for a status without one.
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

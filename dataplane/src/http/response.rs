//! Response heads: parsed in place, as strictly as requests, because an app's answer decides where
//! the next one begins.
//!
//! An error here means: this connection to the app is of no use any more, and the client gets our
//! own answer.

#![forbid(unsafe_code)]

use super::{
    field::Field,
    framing::{self, Framing, FramingError},
    head::{HeadError, Lines, Parsed, Version, judge_partial, window},
    method::Method,
    options::Options,
    span::{Span, offset},
    usual,
};
use crate::limits::HEADER_LINES_MAX;
use std::mem::MaybeUninit;

/// A response head. Kept by its owner and filled again for each response, so that its 2 KiB are
/// never moved.
#[derive(Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// May be empty, may have bytes above 127.
    pub reason: Span,
    pub version: Version,
    pub lines: Lines,
    /// All of the head, with the empty line that ends it.
    pub bytes: u32,
    pub framing: Framing,
    /// May the connection be used again once this response is complete?
    pub keep_alive: bool,
    /// Of a 101 that says so: the protocol that is spoken from here on.
    pub upgrade: Option<Span>,
}

impl ResponseHead {
    pub fn new() -> Self {
        Self {
            status: 0,
            reason: Span::default(),
            version: Version::Http11,
            lines: Lines::default(),
            bytes: 0,
            framing: Framing::Empty,
            keep_alive: false,
            upgrade: None,
        }
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ResponseError {
    #[error("the status is below 100")]
    BadStatus,
    #[error(transparent)]
    Framing(#[from] FramingError),
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// Parses the head at the start of `bytes`, of which it may take `bytes_max`. What was asked
/// decides with RFC 9112 §6.3 whether there is a body; `request_method` is never CONNECT, which
/// [`super::parse_request`] refuses.
///
/// # Errors When the bytes are no response that we forward; nothing that follows on the connection
/// can be trusted then.
pub fn parse_response(
    bytes: &[u8],
    bytes_max: usize,
    request_method: Method,
    head: &mut ResponseHead,
) -> Result<Parsed, ResponseError> {
    debug_assert_ne!(request_method, Method::Connect);
    head.lines.clear();
    let window = window(bytes, bytes_max);
    match usual::read_response(window, head) {
        Some(length) => head.check(&window[..length], request_method).map(|()| Parsed::Complete),
        None => parse_by_httparse(window, bytes_max, request_method, head),
    }
}

/// All but the usual.
#[inline(never)]
pub(super) fn parse_by_httparse(
    window: &[u8],
    bytes_max: usize,
    request_method: Method,
    head: &mut ResponseHead,
) -> Result<Parsed, ResponseError> {
    head.lines.clear();
    if matches!(window, [b'\r' | b'\n', ..]) {
        // httparse would skip it; here it would be a byte of another response.
        return Err(HeadError::BadStartLine.into());
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, window, &mut headers) {
        Ok(httparse::Status::Complete(length)) => {
            let window = &window[..length];
            head.take(&response, window)?;
            head.check(window, request_method)?;
            Ok(Parsed::Complete)
        }
        Ok(httparse::Status::Partial) => Ok(judge_partial(window, bytes_max)?),
        Err(error) => Err(HeadError::from_httparse(error).into()),
    }
}

impl ResponseHead {
    /// Takes over what httparse found in `head`, all of which it parsed.
    fn take(
        &mut self,
        response: &httparse::Response<'_, '_>,
        head: &[u8],
    ) -> Result<(), HeadError> {
        self.status = response.code.unwrap_or_default();
        self.version = Version::from_minor(response.version);
        self.bytes = offset(head.len());
        self.lines.fill(response.headers, head)?;
        // httparse hides a reason with bytes above 127. The line is `HTTP/1.x sss`, then perhaps a
        // blank and a reason.
        let lines_start =
            self.lines.as_slice().first().map_or(head.len() - 2, |line| line.name.start as usize);
        let end = lines_start - 2;
        self.reason = Span::new(REASON_START.min(end), end);
        Ok(())
    }

    pub(super) fn check(
        &mut self,
        head: &[u8],
        request_method: Method,
    ) -> Result<(), ResponseError> {
        if self.status < 100 {
            return Err(ResponseError::BadStatus);
        }
        self.framing =
            framing::of_response(&self.lines, head, self.version, self.status, request_method)?;
        let options = Options::read(&mut self.lines, head)?;
        self.keep_alive = options.keeps_alive(self.version) && self.framing != Framing::UntilClose;
        self.upgrade = self.find_upgrade(options);
        Ok(())
    }

    /// RFC 9110 §15.2.2: a 101 names the one protocol it changes to, in a field that `Connection`
    /// names.
    fn find_upgrade(&self, options: Options) -> Option<Span> {
        let is_switch = self.status == 101
            && self.version == Version::Http11
            && options.upgrade
            && !self.lines.is_repeated(Field::Upgrade);
        let value = self.lines.find(Field::Upgrade)?.value;
        (is_switch && !value.is_empty()).then_some(value)
    }
}

pub(super) const REASON_START: usize = "HTTP/1.1 200 ".len();

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    type Verdict = Result<Parsed, ResponseError>;

    fn parse(bytes: &[u8], method: Method) -> (Verdict, ResponseHead) {
        let mut head = ResponseHead::new();
        (parse_response(bytes, MAX, method, &mut head), head)
    }

    /// A reader that gets one more byte at a time comes to the same verdict.
    fn assert_split_invariant(case: &str, bytes: &[u8]) {
        let whole = parse(bytes, Method::Get);
        let pieces = (0..bytes.len())
            .map(|count| parse(&bytes[..count], Method::Get))
            .find(|(verdict, _)| *verdict != Ok(Parsed::Partial))
            .unwrap_or_else(|| parse(bytes, Method::Get));
        match (&whole.0, &pieces.0) {
            (Err(_), Err(_)) => {}
            _ => assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "{case}"),
        }
    }

    fn refusal(error: impl Into<ResponseError>) -> ResponseError {
        error.into()
    }

    #[test]
    fn refuses_what_does_not_say_where_it_ends() {
        use FramingError::*;
        use HeadError::*;
        for (case, text, error) in [
            ("no http", "ICY 200 OK\r\n\r\n", refusal(BadStartLine)),
            ("http/2", "HTTP/2.0 200 OK\r\n\r\n", refusal(BadStartLine)),
            ("version 1.2", "HTTP/1.2 200 OK\r\n\r\n", refusal(BadStartLine)),
            ("empty line in front", "\r\nHTTP/1.1 200 OK\r\n\r\n", refusal(BadStartLine)),
            ("status below 100", "HTTP/1.1 099 OK\r\n\r\n", ResponseError::BadStatus),
            ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n", refusal(BadStartLine)),
            ("status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", refusal(BadStartLine)),
            ("status with sign", "HTTP/1.1 +20 OK\r\n\r\n", refusal(BadStartLine)),
            ("two blanks before the status", "HTTP/1.1  200 OK\r\n\r\n", refusal(BadStartLine)),
            (
                "control character in the reason",
                "HTTP/1.1 200 O\x01K\r\n\r\n",
                refusal(BadStartLine),
            ),
            ("bare CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", refusal(BadStartLine)),
            ("bare LF after the status line", "HTTP/1.1 200 OK\nA: b\r\n\r\n", refusal(BadLineEnd)),
            ("bare LF without reason", "HTTP/1.1 200\nA: b\r\n\r\n", refusal(BadLineEnd)),
            ("bare LF after a line", "HTTP/1.1 200 OK\r\nA: b\n\r\n", refusal(BadLineEnd)),
            ("bare LF at the end", "HTTP/1.1 200 OK\r\nA: b\r\n\n", refusal(BadLineEnd)),
            ("space before colon", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", refusal(BadName)),
            ("obs-fold", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", refusal(BadName)),
            ("NUL in a value", "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", refusal(BadValue)),
            ("bad length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", refusal(BadLength)),
            (
                "bad length without body",
                "HTTP/1.1 204 No\r\nContent-Length: x\r\n\r\n",
                refusal(BadLength),
            ),
            (
                "length as a list",
                "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
                refusal(BadLength),
            ),
            (
                "two lengths",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                refusal(RepeatedLength),
            ),
            (
                "length and chunked",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                refusal(Ambiguous),
            ),
            (
                "chunked twice",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                refusal(RepeatedCoding),
            ),
            (
                "gzip, chunked",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                refusal(UnsupportedCoding),
            ),
            (
                "chunked is not last",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
                refusal(BadCoding),
            ),
            (
                "chunked in 1.0",
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                refusal(CodingInHttp10),
            ),
        ] {
            assert_eq!(parse(text.as_bytes(), Method::Get).0, Err(error), "{case}");
            assert_split_invariant(case, text.as_bytes());
        }
    }

    #[test]
    fn refuses_heads_beyond_their_bounds() {
        let lines = "X: 1\r\n".repeat(HEADER_LINES_MAX + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        let large = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX));
        for (case, text, error) in
            [("lines", many, HeadError::TooManyLines), ("bytes", large, HeadError::TooLarge)]
        {
            assert_eq!(parse(text.as_bytes(), Method::Get).0, Err(error.into()), "{case}");
        }
    }

    #[test]
    fn framing_follows_rfc_9112_6_3() {
        use Framing::*;
        const LENGTH: &str = "Content-Length: 5";
        const CHUNKED: &str = "Transfer-Encoding: chunked";
        for (case, method, status, lines, framing) in [
            ("neither", Method::Get, 200, "X: 1", UntilClose),
            ("length", Method::Get, 200, LENGTH, Length(5)),
            ("chunked", Method::Get, 200, CHUNKED, Chunked),
            ("HEAD", Method::Head, 200, LENGTH, Empty),
            ("HEAD, chunked", Method::Head, 200, CHUNKED, Empty),
            ("HEAD, neither", Method::Head, 200, "X: 1", Empty),
            ("100", Method::Post, 100, "X: 1", Empty),
            ("103 with length", Method::Get, 103, LENGTH, Empty),
            ("204", Method::Get, 204, "X: 1", Empty),
            ("204 with length", Method::Get, 204, LENGTH, Empty),
            ("204, chunked", Method::Get, 204, CHUNKED, Empty),
            ("304 with length", Method::Get, 304, LENGTH, Empty),
            ("205 has a body", Method::Get, 205, LENGTH, Length(5)),
            ("999", Method::Get, 999, LENGTH, Length(5)),
        ] {
            let text = format!("HTTP/1.1 {status} R\r\n{lines}\r\n\r\nhello");
            let (verdict, head) = parse(text.as_bytes(), method);
            assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
            assert_eq!((head.status, head.framing), (status, framing), "{case}");
            assert_eq!(head.bytes as usize, text.len() - 5, "{case}");
            assert_split_invariant(case, text.as_bytes());
        }
    }

    #[test]
    fn a_connection_stays_when_both_framing_and_options_allow_it() {
        for (case, version, lines, keep_alive) in [
            ("until close", "1.1", "X: 1", false),
            ("until close, against its word", "1.1", "Connection: keep-alive", false),
            ("length", "1.1", "Content-Length: 0", true),
            ("chunked", "1.1", "Transfer-Encoding: chunked", true),
            ("close", "1.1", "Content-Length: 0\r\nConnection: close", false),
            ("1.0", "1.0", "Content-Length: 0", false),
            ("1.0 keep-alive", "1.0", "Content-Length: 0\r\nConnection: Keep-Alive", true),
        ] {
            let text = format!("HTTP/{version} 200 OK\r\n{lines}\r\n\r\n");
            let (verdict, head) = parse(text.as_bytes(), Method::Get);
            assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
            assert_eq!(head.keep_alive, keep_alive, "{case}");
        }
    }

    #[test]
    fn reads_the_reason_as_it_is() {
        for (line, reason) in [
            ("HTTP/1.1 200", ""),
            ("HTTP/1.1 200 ", ""),
            ("HTTP/1.1 404 Not Found", "Not Found"),
            ("HTTP/1.0 418 \tich bin  eine Teekanne \u{fc}", "\tich bin  eine Teekanne \u{fc}"),
        ] {
            for lines in ["", "Content-Length: 0\r\n"] {
                let text = format!("{line}\r\n{lines}\r\n");
                let (verdict, head) = parse(text.as_bytes(), Method::Get);
                assert_eq!(verdict, Ok(Parsed::Complete), "{line}");
                assert_eq!(head.reason.of(text.as_bytes()), reason.as_bytes(), "{line}");
                assert_split_invariant(line, text.as_bytes());
            }
        }
    }

    #[test]
    fn only_a_101_that_names_its_protocol_is_an_upgrade() {
        for (case, line, lines, upgrade) in [
            ("200", "1.1 200", "Connection: upgrade\r\nUpgrade: websocket", None),
            ("1.0", "1.0 101", "Connection: upgrade\r\nUpgrade: websocket", None),
            ("not named", "1.1 101", "Upgrade: websocket", None),
            ("no protocol", "1.1 101", "Connection: upgrade", None),
            ("empty protocol", "1.1 101", "Connection: upgrade\r\nUpgrade:", None),
            ("two", "1.1 101", "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b", None),
            ("101", "1.1 101", "Connection: Upgrade\r\nUpgrade: websocket", Some("websocket")),
        ] {
            let text = format!("HTTP/{line} R\r\n{lines}\r\n\r\n");
            let (verdict, head) = parse(text.as_bytes(), Method::Get);
            assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
            let found = head.upgrade.map(|span| span.of(text.as_bytes()));
            assert_eq!(found, upgrade.map(str::as_bytes), "{case}");
        }
    }
}

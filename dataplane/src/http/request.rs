//! Request heads: parsed in place, checked once, then only read.
//!
//! What is accepted here is forwarded, so everything that RFC 9112 §3 and §6 leave to the
//! recipient's mercy is refused. Spans are offsets into exactly the bytes that were parsed.

#![forbid(unsafe_code)]

use super::{
    authority::is_authority,
    field::Field,
    framing::{self, Framing, FramingError},
    head::{HeadError, Lines, Parsed, Version, judge_partial, trim, window},
    method::Method,
    options::Options,
    span::{Span, offset},
    usual,
};
use crate::limits::HEADER_LINES_MAX;
use memchr::{memchr, memchr2};
use std::mem::MaybeUninit;

/// A request head. Kept by its owner and filled again for each request, so that its 2 KiB are never
/// moved.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub method_name: Span,
    pub target: Span,
    pub version: Version,
    pub lines: Lines,
    /// All of the head: an empty line that may precede it, up to and with the one that ends it.
    pub bytes: u32,
    pub framing: Framing,
    /// Does the client want the connection to stay, as far as version and `Connection` say?
    pub keep_alive: bool,
    /// The client waits for a 100 before it sends the body, which there is.
    pub expect_continue: bool,
    /// The protocols that the client would like to change to, other than h2c.
    pub upgrade: Option<Span>,
}

impl RequestHead {
    pub fn new() -> Self {
        Self {
            method: Method::Other,
            method_name: Span::default(),
            target: Span::default(),
            version: Version::Http11,
            lines: Lines::default(),
            bytes: 0,
            framing: Framing::Empty,
            keep_alive: false,
            expect_continue: false,
            upgrade: None,
        }
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    #[error("Host is not a host name or address, with or without a port")]
    BadHost,
    #[error("the request target is malformed")]
    BadTarget,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("only `Expect: 100-continue` can be met")]
    Expectation,
    #[error(transparent)]
    Framing(#[from] FramingError),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("Host is missing")]
    MissingHost,
    #[error("Host is given more than once")]
    RepeatedHost,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("only HTTP/1.0 and HTTP/1.1 are understood")]
    Version,
}

impl RequestError {
    /// The status of our answer, after which the connection is closed.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadHost | Self::BadTarget | Self::MissingHost | Self::RepeatedHost => 400,
            Self::Connect => 501,
            Self::Expectation => 417,
            Self::Framing(FramingError::UnsupportedCoding) => 501,
            Self::Framing(_) => 400,
            Self::Head(
                HeadError::TooLarge | HeadError::TooManyLines | HeadError::TooManyOptions,
            ) => 431,
            Self::Head(_) => 400,
            Self::TargetTooLong => 414,
            Self::Version => 505,
        }
    }
}

/// Parses the head at the start of `bytes`, of which it may take `bytes_max`.
///
/// # Errors When the bytes are no request that we forward; nothing that follows on the connection
/// can be trusted then.
pub fn parse_request(
    bytes: &[u8],
    bytes_max: usize,
    head: &mut RequestHead,
) -> Result<Parsed, RequestError> {
    head.lines.clear();
    let window = window(bytes, bytes_max);
    match usual::read_request(window, head) {
        Some(length) => head.check(&window[..length]).map(|()| Parsed::Complete),
        None => parse_by_httparse(window, bytes_max, head),
    }
}

/// All but the usual.
#[inline(never)]
pub(super) fn parse_by_httparse(
    window: &[u8],
    bytes_max: usize,
    head: &mut RequestHead,
) -> Result<Parsed, RequestError> {
    head.lines.clear();
    let Some(skipped) = skip_empty_line(window)? else { return Ok(Parsed::Partial) };
    let mut headers = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&window[skipped..], &mut headers) {
        Ok(httparse::Status::Complete(length)) => {
            let window = &window[..skipped + length];
            head.take(&request, window)?;
            head.check_target(window)?;
            head.check(window)?;
            Ok(Parsed::Complete)
        }
        Ok(httparse::Status::Partial) => judge_partial(window, bytes_max).map_err(|error| {
            if is_target_too_long(error, window) {
                RequestError::TargetTooLong
            } else {
                error.into()
            }
        }),
        Err(httparse::Error::Version) => Err(judge_version(window)),
        Err(error) => Err(HeadError::from_httparse(error).into()),
    }
}

impl RequestHead {
    /// Takes over what httparse found in `head`, all of which it parsed.
    fn take(&mut self, request: &httparse::Request<'_, '_>, head: &[u8]) -> Result<(), HeadError> {
        let method = request.method.unwrap_or_default().as_bytes();
        let target = request.path.unwrap_or_default().as_bytes();
        self.method = Method::from_bytes(method);
        self.method_name = Span::locate(method, head);
        self.target = Span::locate(target, head);
        self.version = Version::from_minor(request.version);
        self.bytes = offset(head.len());
        self.lines.fill(request.headers, head)
    }

    fn check_target(&self, head: &[u8]) -> Result<(), RequestError> {
        // With a path it is daprd's to refuse, in its words.
        if self.method == Method::Connect && !self.target.of(head).starts_with(b"/") {
            return Err(RequestError::Connect);
        }
        if !is_target(self.target.of(head), self.method) {
            return Err(RequestError::BadTarget);
        }
        Ok(())
    }

    /// Everything else that needs more than the syntax of one line.
    pub(super) fn check(&mut self, head: &[u8]) -> Result<(), RequestError> {
        self.check_host(head)?;
        self.framing = framing::of_request(&self.lines, head, self.version)?;
        let options = Options::read(&mut self.lines, head)?;
        self.keep_alive = options.keeps_alive(self.version);
        self.expect_continue = self.parse_expect(head)?;
        self.upgrade = self.find_upgrade(options, head);
        Ok(())
    }

    /// RFC 9112 §3.2: one valid Host, which only a 1.0 request may lack.
    fn check_host(&self, head: &[u8]) -> Result<(), RequestError> {
        match self.lines.find(Field::Host) {
            None if self.version == Version::Http10 => Ok(()),
            None => Err(RequestError::MissingHost),
            Some(_) if self.lines.is_repeated(Field::Host) => Err(RequestError::RepeatedHost),
            Some(host) if is_authority(host.value.of(head)) => Ok(()),
            Some(_) => Err(RequestError::BadHost),
        }
    }

    /// RFC 9110 §10.1.1: nothing else can be expected, a 1.0 client cannot wait, and without a body
    /// there is nothing to wait with.
    fn parse_expect(&self, head: &[u8]) -> Result<bool, RequestError> {
        if !self.lines.has(Field::Expect) {
            return Ok(false);
        }
        let is_continue = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        let mut expectations = self.lines.iter().filter(|line| line.field == Field::Expect);
        if !expectations.all(|line| is_continue(line.value.of(head))) {
            return Err(RequestError::Expectation);
        }
        Ok(self.version == Version::Http11 && self.has_body())
    }

    /// RFC 9110 §7.8. A request with a body is never a tunnel's beginning: where the body ends, the
    /// app decides what follows. h2c is not offered to an app: what it would answer, nobody here
    /// reads.
    fn find_upgrade(&self, options: Options, head: &[u8]) -> Option<Span> {
        if !options.upgrade
            || self.version == Version::Http10
            || self.has_body()
            || self.lines.is_repeated(Field::Upgrade)
        {
            return None;
        }
        let value = self.lines.find(Field::Upgrade)?.value;
        let is_h2c = |protocol: &[u8]| trim(protocol).eq_ignore_ascii_case(b"h2c");
        let mut protocols = value.of(head).split(|byte| *byte == b',');
        (!value.is_empty() && !protocols.any(is_h2c)).then_some(value)
    }

    fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Empty | Framing::Length(0))
    }
}

/// How many bytes precede the request line. RFC 9112 §2.2 asks to ignore an empty line there, which
/// old clients send after a body; one is enough. `None`: that is not known yet.
fn skip_empty_line(window: &[u8]) -> Result<Option<usize>, HeadError> {
    match window {
        [] | [b'\r'] | [b'\r', b'\n'] => Ok(None),
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(HeadError::BadStartLine),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\r' | b'\n', ..] => Err(HeadError::BadLineEnd),
        _ => Ok(Some(0)),
    }
}

/// RFC 9112 §3.2, without the form of CONNECT. httparse has refused blanks and control characters.
fn is_target(target: &[u8], method: Method) -> bool {
    if memchr(b'#', target).is_some() {
        return false;
    }
    match target {
        [b'/', ..] => true,
        [b'*'] => method == Method::Options,
        _ => is_absolute(target),
    }
}

/// `http://authority…`: a proxy's client sends it, and a server has to take it (RFC 9112 §3.2.2).
fn is_absolute(target: &[u8]) -> bool {
    let Some(rest) = SCHEMES.iter().find_map(|scheme| strip_scheme(target, scheme)) else {
        return false;
    };
    let end = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let authority = &rest[..end];
    !authority.is_empty() && authority[0] != b':' && is_authority(authority)
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A head that is too large without even its first line being complete is so because of its target.
fn is_target_too_long(error: HeadError, window: &[u8]) -> bool {
    error == HeadError::TooLarge && memchr(b'\n', window.get(2..).unwrap_or(&[])).is_none()
}

/// Another version of HTTP, or no HTTP at all? What follows the second blank of the first line
/// tells.
fn judge_version(window: &[u8]) -> RequestError {
    let window = window.strip_prefix(b"\r\n").unwrap_or(window);
    let version = window.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    if version.starts_with(b"HTTP/") {
        RequestError::Version
    } else {
        HeadError::BadStartLine.into()
    }
}

const SCHEMES: [&[u8]; 2] = [b"http://", b"https://"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scan::HeadScan;

    const MAX: usize = 4096;

    type Verdict = Result<Parsed, RequestError>;

    fn parse(bytes: &[u8]) -> (Verdict, RequestHead) {
        let mut head = RequestHead::new();
        (parse_request(bytes, MAX, &mut head), head)
    }

    /// The verdict of a reader that gets one more byte at a time and parses each time.
    fn parse_byte_by_byte(bytes: &[u8]) -> (Verdict, RequestHead) {
        let verdict = |count: &usize| parse(&bytes[..*count]);
        (0..bytes.len())
            .map(|count| verdict(&count))
            .find(|(verdict, _)| *verdict != Ok(Parsed::Partial))
            .unwrap_or_else(|| parse(bytes))
    }

    /// The verdict of a reader that parses only when the scan says that it is worth it.
    fn parse_when_scanned(bytes: &[u8], first_bytes: usize) -> (Verdict, RequestHead) {
        let mut scan = HeadScan::new(MAX);
        for count in first_bytes..bytes.len() {
            if scan.is_complete(&bytes[..count]) {
                let (verdict, head) = parse(&bytes[..count]);
                assert_ne!(verdict, Ok(Parsed::Partial), "a scanned head has a verdict");
                return (verdict, head);
            }
            assert_ne!(parse(&bytes[..count]).0, Ok(Parsed::Complete), "a whole head was missed");
        }
        parse(bytes)
    }

    fn assert_same(case: &str, one: &(Verdict, RequestHead), other: &(Verdict, RequestHead)) {
        match (&one.0, &other.0) {
            // Which of two mistakes is found first may depend on what has arrived.
            (Err(_), Err(_)) => {}
            (Ok(_), Ok(_)) => assert_eq!(format!("{one:?}"), format!("{other:?}"), "{case}"),
            (one, other) => panic!("{case}: {one:?} and {other:?}"),
        }
    }

    fn assert_split_invariant(case: &str, bytes: &[u8]) {
        let whole = parse(bytes);
        assert_same(case, &whole, &parse_byte_by_byte(bytes));
        for first_bytes in 0..bytes.len() {
            assert_same(case, &whole, &parse_when_scanned(bytes, first_bytes));
        }
    }

    fn head_with(line: &str) -> Vec<u8> {
        format!("POST /m HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").into_bytes()
    }

    fn refusal(error: impl Into<RequestError>) -> RequestError {
        error.into()
    }

    #[test]
    fn refuses_lines_that_two_parsers_could_read_differently() {
        use FramingError::*;
        use HeadError::*;
        for (case, line, error, status) in [
            ("space before colon", "X : 1", refusal(BadName), 400),
            ("tab before colon", "X\t: 1", refusal(BadName), 400),
            ("length with space before colon", "Content-Length : 3", refusal(BadName), 400),
            ("no colon", "X", refusal(BadName), 400),
            ("empty name", ": 1", refusal(BadName), 400),
            ("obs-fold", "X: 1\r\n 2", refusal(BadName), 400),
            ("obs-fold with tab", "X: 1\r\n\t2", refusal(BadName), 400),
            ("space inside the name", "X Y: 1", refusal(BadName), 400),
            ("backslash in the name", "X\\Y: 1", refusal(BadName), 400),
            ("NUL in the name", "X\0: 1", refusal(BadName), 400),
            ("byte above 127 in the name", "X\u{85}: 1", refusal(BadName), 400),
            ("bom before the name", "\u{feff}X: 1", refusal(BadName), 400),
            ("quote in the name", "\"X\": 1", refusal(BadName), 400),
            ("NUL in the value", "X: a\0b", refusal(BadValue), 400),
            ("escape in the value", "X: a\x1bb", refusal(BadValue), 400),
            ("delete in the value", "X: a\x7fb", refusal(BadValue), 400),
            ("vertical tab in the value", "X: a\x0bb", refusal(BadValue), 400),
            (
                "form feed before the value",
                "Transfer-Encoding: \x0cchunked",
                refusal(BadValue),
                400,
            ),
            ("bare CR in the value", "X: a\rb", refusal(BadValue), 400),
            ("bare CR before a line", "X: a\r\n\rY: b", refusal(BadLineEnd), 400),
            ("CR CR LF", "X: a\r\r\nY: b", refusal(BadValue), 400),
            ("bare LF", "X: a\nY: b", refusal(BadLineEnd), 400),
            ("bare LF twice", "X: a\n\nGET /x HTTP/1.1", refusal(BadLineEnd), 400),
            (
                "length and chunked",
                "Content-Length: 3\r\nTransfer-Encoding: chunked",
                refusal(Ambiguous),
                400,
            ),
            (
                "chunked and length",
                "Transfer-Encoding: chunked\r\nContent-Length: 3",
                refusal(Ambiguous),
                400,
            ),
            ("two lengths", "Content-Length: 3\r\nContent-Length: 4", refusal(RepeatedLength), 400),
            (
                "two equal lengths",
                "Content-Length: 3\r\nContent-Length: 3",
                refusal(RepeatedLength),
                400,
            ),
            ("length as a list", "Content-Length: 3, 3", refusal(BadLength), 400),
            ("length with comma", "Content-Length: 3,", refusal(BadLength), 400),
            ("length with plus", "Content-Length: +3", refusal(BadLength), 400),
            ("length with minus", "Content-Length: -0", refusal(BadLength), 400),
            ("empty length", "Content-Length:", refusal(BadLength), 400),
            ("blank length", "Content-Length:  ", refusal(BadLength), 400),
            ("hexadecimal length", "Content-Length: 0x5", refusal(BadLength), 400),
            ("octal length", "Content-Length: 0o5", refusal(BadLength), 400),
            ("length with underscore", "Content-Length: 5_0", refusal(BadLength), 400),
            ("length with exponent", "Content-Length: 5e0", refusal(BadLength), 400),
            ("length with fraction", "Content-Length: 5.0", refusal(BadLength), 400),
            ("quoted length", "Content-Length: \"5\"", refusal(BadLength), 400),
            ("length in other digits", "Content-Length: \u{0663}", refusal(BadLength), 400),
            ("length with a space inside", "Content-Length: 1 2", refusal(BadLength), 400),
            ("length of 19 digits", "Content-Length: 1000000000000000000", refusal(BadLength), 400),
            (
                "length beyond 64 bits",
                "Content-Length: 18446744073709551619",
                refusal(BadLength),
                400,
            ),
            (
                "chunked twice",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                refusal(RepeatedCoding),
                400,
            ),
            (
                "identity and chunked",
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
                refusal(RepeatedCoding),
                400,
            ),
            (
                "chunked twice in one line",
                "Transfer-Encoding: chunked, chunked",
                refusal(BadCoding),
                400,
            ),
            ("chunked is not last", "Transfer-Encoding: chunked, gzip", refusal(BadCoding), 400),
            ("identity", "Transfer-Encoding: identity", refusal(BadCoding), 400),
            ("gzip alone", "Transfer-Encoding: gzip", refusal(BadCoding), 400),
            ("empty coding", "Transfer-Encoding:", refusal(BadCoding), 400),
            ("empty list member", "Transfer-Encoding: ,chunked", refusal(BadCoding), 400),
            ("comma after chunked", "Transfer-Encoding: chunked,", refusal(BadCoding), 400),
            ("parameter of chunked", "Transfer-Encoding: chunked;q=1", refusal(BadCoding), 400),
            ("quoted chunked", "Transfer-Encoding: \"chunked\"", refusal(BadCoding), 400),
            ("prefixed chunked", "Transfer-Encoding: xchunked", refusal(BadCoding), 400),
            ("chunked behind nbsp", "Transfer-Encoding: \u{a0}chunked", refusal(BadCoding), 400),
            ("chunked behind a word", "Transfer-Encoding: x chunked", refusal(BadCoding), 400),
            ("gzip, chunked", "Transfer-Encoding: gzip, chunked", refusal(UnsupportedCoding), 501),
            ("second Host", "Host: a", RequestError::RepeatedHost, 400),
            ("expectation", "Expect: 200-ok", RequestError::Expectation, 417),
            ("empty expectation", "Expect:", RequestError::Expectation, 417),
            (
                "second expectation",
                "Expect: 100-continue\r\nExpect: x",
                RequestError::Expectation,
                417,
            ),
        ] {
            let head = head_with(line);
            let (verdict, _) = parse(&head);
            assert_eq!(verdict, Err(error), "{case}");
            assert_eq!(error.status(), status, "{case}");
            assert_split_invariant(case, &head);
        }
    }

    #[test]
    fn refuses_malformed_request_lines() {
        use HeadError::*;
        for (case, line, error, status) in [
            ("http/2 preface", "PRI * HTTP/2.0", RequestError::Version, 505),
            ("version 2.0", "GET / HTTP/2.0", RequestError::Version, 505),
            ("version 1.2", "GET / HTTP/1.2", RequestError::Version, 505),
            ("version 01.1", "GET / HTTP/01.1", RequestError::Version, 505),
            ("version 1.10", "GET / HTTP/1.10", refusal(BadLineEnd), 400),
            (
                "version after 32-bit overflow",
                "GET / HTTP/4294967297.1",
                RequestError::Version,
                505,
            ),
            ("lower-case name of the protocol", "GET / http/1.1", refusal(BadStartLine), 400),
            ("another protocol", "GET / ICAP/1.0", refusal(BadStartLine), 400),
            ("no version", "GET /", refusal(BadStartLine), 400),
            ("no target", "GET HTTP/1.1", refusal(BadStartLine), 400),
            ("two blanks before the target", "GET  / HTTP/1.1", refusal(BadStartLine), 400),
            ("two blanks before the version", "GET /  HTTP/1.1", refusal(BadStartLine), 400),
            ("blank in the target", "GET /a b HTTP/1.1", refusal(BadStartLine), 400),
            ("blank after the version", "GET / HTTP/1.1 ", refusal(BadLineEnd), 400),
            ("blank before the method", " GET / HTTP/1.1", refusal(BadStartLine), 400),
            ("tab for a blank", "GET\t/\tHTTP/1.1", refusal(BadStartLine), 400),
            ("control character in the target", "GET /\x01 HTTP/1.1", refusal(BadStartLine), 400),
            ("NUL in the target", "GET /\0 HTTP/1.1", refusal(BadStartLine), 400),
            ("delete in the target", "GET /\x7f HTTP/1.1", refusal(BadStartLine), 400),
            ("bare CR in the target", "GET /\ra HTTP/1.1", refusal(BadStartLine), 400),
            ("CR after the version", "GET / HTTP/1.1\r", refusal(BadLineEnd), 400),
            ("no token as a method", "G<T / HTTP/1.1", refusal(BadStartLine), 400),
            ("fragment", "GET /a#b HTTP/1.1", RequestError::BadTarget, 400),
            ("star with GET", "GET * HTTP/1.1", RequestError::BadTarget, 400),
            ("relative target", "GET a/b HTTP/1.1", RequestError::BadTarget, 400),
            ("query alone", "GET ?a HTTP/1.1", RequestError::BadTarget, 400),
            ("authority alone", "GET host:80 HTTP/1.1", RequestError::BadTarget, 400),
            ("another scheme", "GET ftp://host/ HTTP/1.1", RequestError::BadTarget, 400),
            ("no authority", "GET http:///a HTTP/1.1", RequestError::BadTarget, 400),
            ("port alone", "GET http://:80/a HTTP/1.1", RequestError::BadTarget, 400),
            ("user in the authority", "GET http://u@host/ HTTP/1.1", RequestError::BadTarget, 400),
            (
                "backslash in the authority",
                "GET http://host\\a/ HTTP/1.1",
                RequestError::BadTarget,
                400,
            ),
            ("CONNECT", "CONNECT host:80 HTTP/1.1", RequestError::Connect, 501),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n").into_bytes();
            let (verdict, _) = parse(&head);
            assert_eq!(verdict, Err(error), "{case}");
            assert_eq!(error.status(), status, "{case}");
            assert_split_invariant(case, &head);
        }
    }

    #[test]
    fn refuses_whole_heads() {
        use HeadError::*;
        for (case, head, error) in [
            ("no Host", "GET / HTTP/1.1\r\n\r\n", RequestError::MissingHost),
            (
                "two Hosts in 1.0",
                "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
                RequestError::RepeatedHost,
            ),
            ("path in Host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", RequestError::BadHost),
            ("user in Host", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", RequestError::BadHost),
            ("list in Host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", RequestError::BadHost),
            ("bad Host in 1.0", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", RequestError::BadHost),
            (
                "chunked in 1.0",
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                refusal(FramingError::CodingInHttp10),
            ),
            (
                "bare LF after the request line",
                "GET / HTTP/1.1\nHost: a\r\n\r\n",
                refusal(BadLineEnd),
            ),
            ("bare LF everywhere", "GET / HTTP/1.1\nHost: a\n\n", refusal(BadLineEnd)),
            ("bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", refusal(BadLineEnd)),
            ("no lines, bare LF at the end", "GET / HTTP/1.0\r\n\n", refusal(BadLineEnd)),
            ("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", refusal(BadName)),
            (
                "two empty lines in front",
                "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                refusal(BadStartLine),
            ),
            ("LF in front", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", refusal(BadLineEnd)),
            (
                "CRLF and LF in front",
                "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                refusal(BadStartLine),
            ),
            ("CR in front", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", refusal(BadLineEnd)),
        ] {
            assert_eq!(parse(head.as_bytes()).0, Err(error), "{case}");
            assert_split_invariant(case, head.as_bytes());
        }
    }

    #[test]
    fn refuses_what_can_never_become_a_head_before_it_ends() {
        for (case, bytes) in [
            ("TLS client hello", &b"\x16\x03\x01\x02\x00\x01\x00"[..]),
            ("binary", b"\x00\x01\x02"),
            ("control character in the method", b"GE\x01"),
            ("another version", b"GET / HTTP/2"),
            ("bare LF", b"GET / HTTP/1.1\nH"),
            ("bare LF at the end of a line", b"GET / HTTP/1.1\r\nHost: a\nX"),
            ("bare CR", b"GET / HTTP/1.1\r\nHost: a\rX"),
            ("control character in a value", b"GET / HTTP/1.1\r\nHost: \x02"),
        ] {
            assert!(parse(bytes).0.is_err(), "{case}");
            assert!(parse_when_scanned(bytes, 0).0.is_err(), "{case}");
            assert!(HeadScan::new(MAX).is_complete(bytes) || case == "another version", "{case}");
        }
    }

    #[test]
    fn refuses_heads_beyond_their_bounds() {
        let many = |count: usize| {
            let lines = "X: 1\r\n".repeat(count - 1);
            format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
        };
        let padded = |bytes: usize| {
            let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
            head.replace("X: ", &format!("X: {}", "x".repeat(bytes - head.len())))
        };
        let options = |count: usize| {
            let options = vec!["x"; count].join(",");
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {options}\r\n\r\n")
        };
        let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX));
        let open_target = format!("\r\nGET /{}", "x".repeat(MAX - 7));
        let error = |error: HeadError| Err(RequestError::Head(error));
        for (case, head, want) in [
            ("a line too many", many(HEADER_LINES_MAX + 1), error(HeadError::TooManyLines)),
            ("as many lines as may be", many(HEADER_LINES_MAX), Ok(Parsed::Complete)),
            ("a byte too many", padded(MAX + 1), error(HeadError::TooLarge)),
            ("as many bytes as may be", padded(MAX), Ok(Parsed::Complete)),
            ("an option too many", options(33), error(HeadError::TooManyOptions)),
            ("as many options as may be", options(32), Ok(Parsed::Complete)),
            ("long target", target, Err(RequestError::TargetTooLong)),
            ("long target so far", open_target, Err(RequestError::TargetTooLong)),
        ] {
            let (verdict, _) = parse(head.as_bytes());
            assert_eq!(verdict, want, "{case}");
            assert_same(case, &parse(head.as_bytes()), &parse_when_scanned(head.as_bytes(), 0));
            if let Err(error) = verdict {
                let status = if error == RequestError::TargetTooLong { 414 } else { 431 };
                assert_eq!(error.status(), status, "{case}");
            }
        }
    }

    #[test]
    fn a_head_is_never_larger_than_the_limit_of_all_heads() {
        let bytes = vec![b'x'; crate::limits::HEAD_BYTES_MAX + 1];
        let mut head = RequestHead::new();
        let verdict = parse_request(&bytes, usize::MAX, &mut head);
        assert_eq!(verdict, Err(RequestError::TargetTooLong));
    }

    #[test]
    fn reads_framing_and_persistence() {
        use Framing::*;
        for (case, version, line, framing, keep_alive) in [
            ("nothing said", "1.1", "X: 1", Empty, true),
            ("nothing said in 1.0", "1.0", "X: 1", Empty, false),
            ("close", "1.1", "Connection: close", Empty, false),
            ("close in another case", "1.1", "connection: CLOSE", Empty, false),
            ("close in a list", "1.1", "Connection: x,\tclose ,y", Empty, false),
            ("close in a second line", "1.1", "Connection: x\r\nConnection: close", Empty, false),
            ("close and keep-alive", "1.1", "Connection: keep-alive, close", Empty, false),
            ("close as part of a word", "1.1", "Connection: closed", Empty, true),
            ("keep-alive in 1.0", "1.0", "Connection: Keep-Alive", Empty, true),
            ("keep-alive and close in 1.0", "1.0", "Connection: keep-alive, close", Empty, false),
            ("length", "1.1", "Content-Length: 3", Length(3), true),
            ("length with blanks", "1.1", "Content-Length:\t 3 \t", Length(3), true),
            ("length zero", "1.1", "Content-Length: 0", Length(0), true),
            ("length with zeros in front", "1.1", "Content-Length: 007", Length(7), true),
            (
                "longest length",
                "1.1",
                "Content-Length: 999999999999999999",
                Length(999_999_999_999_999_999),
                true,
            ),
            ("length in 1.0", "1.0", "Content-Length: 3", Length(3), false),
            (
                "length, nominated",
                "1.1",
                "Connection: content-length\r\nContent-Length: 3",
                Length(3),
                true,
            ),
            ("chunked", "1.1", "Transfer-Encoding: chunked", Chunked, true),
            ("chunked in another case", "1.1", "TRANSFER-encoding: \tChunKed ", Chunked, true),
            ("other names", "1.1", "Content_Length: 3\r\nTransfer_Encoding: chunked", Empty, true),
        ] {
            let text = format!("POST /m HTTP/{version}\r\nHost: a\r\n{line}\r\n\r\nbody");
            let (verdict, head) = parse(text.as_bytes());
            assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
            assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{case}");
            assert_eq!(head.bytes as usize, text.len() - 4, "{case}");
            assert_split_invariant(case, text.as_bytes());
        }
    }

    #[test]
    fn reads_the_request_line() {
        for (case, line, method, name, target) in [
            ("GET", "GET /", Method::Get, "GET", "/"),
            (
                "query",
                "POST /v1.0/invoke/b/method/m?x=1%202",
                Method::Post,
                "POST",
                "/v1.0/invoke/b/method/m?x=1%202",
            ),
            ("slashes and dots", "PUT //a/../b", Method::Put, "PUT", "//a/../b"),
            ("another method", "M-SEARCH /a", Method::Other, "M-SEARCH", "/a"),
            ("lower case", "get /a", Method::Other, "get", "/a"),
            ("star", "OPTIONS *", Method::Options, "OPTIONS", "*"),
            ("absolute", "GET http://host:80/a", Method::Get, "GET", "http://host:80/a"),
            ("absolute without path", "GET HTTPS://host?a", Method::Get, "GET", "HTTPS://host?a"),
            ("absolute IPv6", "GET http://[::1]:80", Method::Get, "GET", "http://[::1]:80"),
            ("bytes above 127", "GET /\u{e4}", Method::Get, "GET", "/\u{e4}"),
            ("quotes and braces", "GET /\"<{|}>\"", Method::Get, "GET", "/\"<{|}>\""),
        ] {
            for front in ["", "\r\n"] {
                let text = format!("{front}{line} HTTP/1.1\r\nHost: a\r\n\r\n");
                let bytes = text.as_bytes();
                let (verdict, head) = parse(bytes);
                assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
                assert_eq!(head.method, method, "{case}");
                assert_eq!(head.method_name.of(bytes), name.as_bytes(), "{case}");
                assert_eq!(head.target.of(bytes), target.as_bytes(), "{case}");
                assert_eq!(head.bytes as usize, bytes.len(), "{case}");
                assert_split_invariant(case, bytes);
            }
        }
    }

    #[test]
    fn reads_expectation_and_upgrade() {
        const BODY: &str = "Content-Length: 3";
        const ASKS: &str = "Connection: Upgrade";
        for (case, version, lines, expects, upgrade) in [
            ("nothing", "1.1", vec![BODY], false, None),
            ("expects", "1.1", vec![BODY, "Expect: 100-Continue"], true, None),
            (
                "expects twice",
                "1.1",
                vec![BODY, "Expect: 100-continue", "Expect: 100-continue"],
                true,
                None,
            ),
            ("expects in 1.0", "1.0", vec![BODY, "Expect: 100-continue"], false, None),
            ("expects without body", "1.1", vec!["Expect: 100-continue"], false, None),
            ("upgrade", "1.1", vec![ASKS, "Upgrade: websocket"], false, Some("websocket")),
            (
                "upgrade in a list",
                "1.1",
                vec!["Connection: keep-alive, upgrade", "Upgrade: a, b"],
                false,
                Some("a, b"),
            ),
            (
                "upgrade with length zero",
                "1.1",
                vec![ASKS, "Upgrade: a", "Content-Length: 0"],
                false,
                Some("a"),
            ),
            ("upgrade with body", "1.1", vec![ASKS, "Upgrade: websocket", BODY], false, None),
            ("upgrade not named", "1.1", vec!["Upgrade: websocket"], false, None),
            ("upgrade named, not there", "1.1", vec![ASKS], false, None),
            ("empty upgrade", "1.1", vec![ASKS, "Upgrade:"], false, None),
            ("two upgrades", "1.1", vec![ASKS, "Upgrade: a", "Upgrade: b"], false, None),
            ("upgrade in 1.0", "1.0", vec![ASKS, "Upgrade: websocket"], false, None),
            ("h2c", "1.1", vec![ASKS, "Upgrade: h2c"], false, None),
            ("h2c in a list", "1.1", vec![ASKS, "Upgrade: websocket, H2C"], false, None),
        ] {
            let lines = lines.join("\r\n");
            let text = format!("GET /m HTTP/{version}\r\nHost: a\r\n{lines}\r\n\r\n");
            let (verdict, head) = parse(text.as_bytes());
            assert_eq!(verdict, Ok(Parsed::Complete), "{case}");
            assert_eq!(head.expect_continue, expects, "{case}");
            let found = head.upgrade.map(|span| span.of(text.as_bytes()));
            assert_eq!(found, upgrade.map(str::as_bytes), "{case}");
        }
    }

    #[test]
    fn reads_lines_in_order() {
        let text = "GET / HTTP/1.1\r\nhost:a\r\nX-One: \t 1 \t\r\nx-one:\r\nX-Two:   \r\nCookie: \u{e4}=\"b\"; c\r\n\r\n";
        let bytes = text.as_bytes();
        let (verdict, head) = parse(bytes);
        assert_eq!(verdict, Ok(Parsed::Complete));
        let lines: Vec<_> = head
            .lines
            .iter()
            .map(|line| (line.name.of(bytes), line.value.of(bytes), line.field))
            .collect();
        assert_eq!(
            lines,
            [
                (&b"host"[..], &b"a"[..], Field::Host),
                (b"X-One", b"1", Field::Other),
                (b"x-one", b"", Field::Other),
                (b"X-Two", b"", Field::Other),
                (b"Cookie", "\u{e4}=\"b\"; c".as_bytes(), Field::Other),
            ]
        );
        for (line, next) in head.lines.iter().zip(head.lines.iter().skip(1)) {
            assert_eq!(line.end, next.name.start);
        }
        assert_eq!(head.lines.as_slice()[4].end + 2, head.bytes);
    }

    #[test]
    fn nominates_what_connection_names_except_framing_and_host() {
        let text = "POST / HTTP/1.1\r\nHost: a\r\nX-Drop: 1\r\nX-Dro: 2\r\nContent-Length: 0\r\nauthorization: b\r\n\
                    Connection: host, x-drop ,content-length\r\nX-DROP: 3\r\nConnection: Authorization,,\u{80}, close\r\n\r\n";
        let bytes: Vec<u8> = text.chars().map(|char| char as u8).collect();
        let (verdict, head) = parse(&bytes);
        assert_eq!(verdict, Ok(Parsed::Complete));
        let nominated: Vec<_> = head
            .lines
            .iter()
            .filter(|line| line.nominated)
            .map(|line| line.name.of(&bytes))
            .collect();
        assert_eq!(nominated, [&b"X-Drop"[..], b"authorization", b"X-DROP"]);
        assert!(!head.keep_alive);
    }

    #[test]
    fn a_head_is_filled_anew_each_time() {
        let mut head = RequestHead::new();
        let first = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
        let second = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(parse_request(first, MAX, &mut head), Ok(Parsed::Complete));
        assert_eq!(parse_request(second, MAX, &mut head), Ok(Parsed::Complete));
        assert_eq!(format!("{head:?}"), format!("{:?}", parse(second).1));
        assert!(!head.lines.has(Field::Expect));
    }
}

//! Request heads: parsed in place, checked once, then only read.
//!
//! What is accepted here is forwarded, so everything that RFC 9112 §3 and §6 leave to the recipient's mercy is refused.
//! Spans are offsets into exactly the bytes that were parsed.

#![forbid(unsafe_code)]

use super::{
    authority::is_authority,
    field::Field,
    framing::{self, Framing, FramingError},
    head::{HeadError, Lines, Parsed, Version, judge_partial, trim, window},
    method::Method,
    options::Options,
    span::{Span, offset},
};
use crate::limits::HEADER_LINES_MAX;
use memchr::{memchr, memchr3, memrchr};
use std::mem::MaybeUninit;

/// A request head. Kept by its owner and filled again for each request, so that its 2 KiB are never moved.
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
/// # Errors
/// When the bytes are no request that we forward; nothing that follows on the connection can be trusted then.
pub fn parse_request(
    bytes: &[u8],
    bytes_max: usize,
    head: &mut RequestHead,
) -> Result<Parsed, RequestError> {
    head.lines.clear();
    let window = window(bytes, bytes_max);
    let Some(skipped) = skip_empty_line(window)? else { return Ok(Parsed::Partial) };
    let mut headers = [const { MaybeUninit::uninit() }; HEADER_LINES_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&window[skipped..], &mut headers) {
        Ok(httparse::Status::Complete(length)) => {
            let window = &window[..skipped + length];
            head.take(&request, window)?;
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

    /// Everything that needs more than the syntax of one line.
    fn check(&mut self, head: &[u8]) -> Result<(), RequestError> {
        if self.method == Method::Connect {
            return Err(RequestError::Connect);
        }
        if !is_target(self.target.of(head), self.method) {
            return Err(RequestError::BadTarget);
        }
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

    /// RFC 9110 §10.1.1: nothing else can be expected, a 1.0 client cannot wait, and without a body there is nothing to
    /// wait with.
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

    /// RFC 9110 §7.8. A request with a body is never a tunnel's beginning: where the body ends, the app decides what
    /// follows. h2c is not offered to an app: what it would answer, nobody here reads.
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

/// How many bytes precede the request line. RFC 9112 §2.2 asks to ignore an empty line there, which old clients send
/// after a body; one is enough. `None`: that is not known yet.
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
    let end = memchr3(b'/', b'?', b'\\', rest).unwrap_or(rest.len());
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

/// Another version of HTTP, or no HTTP at all? What follows the last blank of the first line tells.
fn judge_version(window: &[u8]) -> RequestError {
    let window = window.strip_prefix(b"\r\n").unwrap_or(window);
    let end = memchr::memchr2(b'\r', b'\n', window).unwrap_or(window.len());
    let line = &window[..end];
    let version = memrchr(b' ', line).map_or(line, |blank| &line[blank + 1..]);
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

    const MAX: usize = 16 * 1024;

    fn parse(bytes: &[u8]) -> Result<(Parsed, RequestHead), RequestError> {
        let mut head = RequestHead::new();
        parse_request(bytes, MAX, &mut head).map(|parsed| (parsed, head))
    }

    #[test]
    fn smoke() {
        let bytes = b"POST /v1.0/invoke/b/method/m?q=1 HTTP/1.1\r\nHost: localhost:3500\r\nContent-Length: 3\r\nConnection: keep-alive, X-Drop\r\nx-drop: 1\r\n\r\nabc";
        let (parsed, head) = parse(bytes).unwrap();
        assert_eq!(parsed, Parsed::Complete);
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(head.bytes as usize, bytes.len() - 3);
        assert!(head.lines.as_slice()[3].nominated);
    }
}

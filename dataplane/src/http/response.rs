//! Response heads: parsed in place, as strictly as requests, because an app's answer decides where the next one
//! begins.
//!
//! An error here means: this connection to the app is of no use any more, and the client gets our own answer.

#![forbid(unsafe_code)]

use super::{
    field::Field,
    framing::{self, Framing, FramingError},
    head::{HeadError, Lines, Parsed, Version, judge_partial, window},
    method::Method,
    options::Options,
    span::{Span, offset},
};
use crate::limits::HEADER_LINES_MAX;
use std::mem::MaybeUninit;

/// A response head. Kept by its owner and filled again for each response, so that its 2 KiB are never moved.
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

/// Parses the head at the start of `bytes`, of which it may take `bytes_max`. What was asked decides with RFC 9112
/// §6.3 whether there is a body; `request_method` is never CONNECT, which [`super::parse_request`] refuses.
///
/// # Errors
/// When the bytes are no response that we forward; nothing that follows on the connection can be trusted then.
pub fn parse_response(
    bytes: &[u8],
    bytes_max: usize,
    request_method: Method,
    head: &mut ResponseHead,
) -> Result<Parsed, ResponseError> {
    debug_assert_ne!(request_method, Method::Connect);
    head.lines.clear();
    let window = window(bytes, bytes_max);
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
        // httparse hides a reason with bytes above 127. The line is `HTTP/1.x sss`, then perhaps a blank and a reason.
        let lines_start =
            self.lines.as_slice().first().map_or(head.len() - 2, |line| line.name.start as usize);
        let end = lines_start - 2;
        self.reason = Span::new(REASON_START.min(end), end);
        Ok(())
    }

    fn check(&mut self, head: &[u8], request_method: Method) -> Result<(), ResponseError> {
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

    /// RFC 9110 §15.2.2: a 101 names the one protocol it changes to, in a field that `Connection` names.
    fn find_upgrade(&self, options: Options) -> Option<Span> {
        let is_switch = self.status == 101
            && self.version == Version::Http11
            && options.upgrade
            && !self.lines.is_repeated(Field::Upgrade);
        let value = self.lines.find(Field::Upgrade)?.value;
        (is_switch && !value.is_empty()).then_some(value)
    }
}

const REASON_START: usize = "HTTP/1.1 200 ".len();

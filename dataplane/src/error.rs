//! What went wrong with an exchange, and all that follows from it: status, text, whether to try
//! again, metric label. Nowhere else.
//!
//! Texts are daprd 1.18's where it has one, to the byte, since SDKs, tests and people's log filters
//! know them. They contain Go's and gRPC's own words, so those are here, too: one place that knows
//! how Go names an errno.

#![forbid(unsafe_code)]

use crate::dapr::{
    escape::EscapeError,
    json::{JsonText, QuotedText},
    message::{CONTENT_TYPE_JSON, CONTENT_TYPE_TEXT, DIRECT_INVOKE, write_error},
    method::MethodError,
    target::{self, TargetError},
};
use rustix::io::Errno;
use snapshot::Address;
use std::fmt;

/// Whose fault it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Downstream,
    Upstream,
}

/// How far the exchange had come, in its order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    ReadingRequest,
    Routing,
    Connecting,
    SendingRequest,
    AwaitingResponse,
    RelayingResponse,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The request is not HTTP as we accept it; the text says why.
    BadRequest(&'static str),
    /// What came from upstream is not HTTP as we accept it.
    BadResponse,
    BodyTooLarge,
    /// Upstream closed before a whole response head: Go's `EOF`.
    ClosedEarly,
    Connect(Errno),
    ConnectTimeout,
    /// Control did not answer, or is not there.
    ControlAway,
    /// The method cannot become a URL.
    Escape(EscapeError),
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// A URL in place of an app id.
    External,
    HeadTimeout,
    HeadTooLarge,
    InvalidId(TargetError),
    InvalidVerb,
    Method(MethodError),
    /// A peer called for an app that is not served here.
    Misdirected,
    /// The app makes calls and takes none.
    NoAppChannel,
    NoTarget,
    NotFound,
    Reset(Errno),
    /// The head of a response is larger than this many bytes.
    ResponseHeadTooLarge(u32),
    /// Upstream took or sent no byte for too long.
    Stalled,
    /// A transfer coding that we do not know.
    TransferCoding,
    Version,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}, {phase:?}", .cause.label())]
pub struct ExchangeError {
    pub side: Side,
    pub phase: Phase,
    pub cause: Cause,
}

/// Where the exchange was going when it failed. daprd words the same failure differently at each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hop {
    /// From a peer to our app. The text is what the caller's client gets to read.
    InboundFromPeer,
    /// From our app to itself, or to another app of this data plane.
    #[default]
    SelfCall,
    ToPeer,
}

/// What the texts name.
#[derive(Clone, Copy, Debug)]
pub struct ErrorContext<'a> {
    /// As the caller wrote it, namespace included.
    pub target: &'a [u8],
    /// As it was found; for [`Cause::Method`], which quotes it.
    pub method: &'a [u8],
    /// The verb for the app; see [`crate::dapr::method::verb`].
    pub verb: &'a [u8],
    /// Path and query as sent to the app, escaped. For [`Cause::Escape`] a slash, the method and
    /// the query as they are.
    pub url_path: &'a [u8],
    /// Whom we called, or wanted to.
    pub address: Option<&'a Address>,
    pub hop: Hop,
    /// Attempts after the first. daprd speaks of them only when it made any.
    pub retries: u32,
}

impl ExchangeError {
    pub const fn downstream(phase: Phase, cause: Cause) -> Self {
        Self { side: Side::Downstream, phase, cause }
    }

    pub const fn upstream(phase: Phase, cause: Cause) -> Self {
        Self { side: Side::Upstream, phase, cause }
    }

    /// daprd answers nearly everything with 500; our own refusals of bad HTTP have HTTP's codes.
    pub const fn status(&self) -> u16 {
        match self.cause {
            Cause::BadRequest(_) => 400,
            Cause::NoTarget => 404,
            Cause::HeadTimeout => 408,
            Cause::ExpectationFailed => 417,
            Cause::Misdirected => 421,
            Cause::HeadTooLarge => 431,
            Cause::TransferCoding => 501,
            Cause::ControlAway => 503,
            Cause::Version => 505,
            _ => 500,
        }
    }

    /// For metrics and logs.
    pub const fn label(&self) -> &'static str {
        self.cause.label()
    }

    /// The other side was never reached, so nothing can have happened there: daprd's built-in retry
    /// for another sidecar.
    pub const fn may_retry(&self) -> bool {
        matches!(self.cause, Cause::Connect(_) | Cause::ConnectTimeout)
    }

    /// The connection went away before any byte of a response. On a reused connection this is what
    /// an idle timeout at the other end looks like, so a request that is safe to repeat may be sent
    /// once more, on a fresh one.
    pub fn may_replay(&self) -> bool {
        self.side == Side::Upstream
            && matches!(self.phase, Phase::SendingRequest | Phase::AwaitingResponse)
            && matches!(self.cause, Cause::ClosedEarly | Cause::Reset(_))
    }

    /// Nothing that follows on the downstream connection could be told from the remains of this
    /// request.
    pub const fn must_close(&self) -> bool {
        self.is_bad_http()
    }

    /// Appends the body of the answer and says of what type it is.
    pub fn write_reply_body(&self, context: &ErrorContext<'_>, out: &mut Vec<u8>) -> &'static str {
        if self.is_bad_http() {
            out.extend_from_slice(self.cause.bad_http_words().as_bytes());
            out.push(b'\n');
            return CONTENT_TYPE_TEXT;
        }
        match self.cause {
            Cause::NoTarget => write_error(out, DIRECT_INVOKE, |message| {
                message.text(
                    "failed getting app id either from the URL path or the header dapr-app-id",
                );
            }),
            Cause::ControlAway => write_error(out, "ERR_INTERNAL", |message| {
                message.text("the control process of this sidecar does not answer; try again");
            }),
            _ => write_error(out, DIRECT_INVOKE, |message| {
                message.text("failed to invoke, id: ");
                message.bytes(context.target);
                message.text(", err: ");
                self.write_failure(context, message);
            }),
        }
        CONTENT_TYPE_JSON
    }

    const fn is_bad_http(&self) -> bool {
        matches!(
            self.cause,
            Cause::BadRequest(_)
                | Cause::ExpectationFailed
                | Cause::HeadTimeout
                | Cause::HeadTooLarge
                | Cause::TransferCoding
                | Cause::Version
        )
    }

    fn write_failure(&self, context: &ErrorContext<'_>, message: &mut JsonText<'_>) {
        match self.cause {
            Cause::InvalidId(TargetError::Empty) => message.text("app id is empty"),
            Cause::InvalidId(TargetError::Malformed) => {
                message.text("invalid app id ");
                message.bytes(context.target);
            }
            Cause::Method(error) => {
                message.format(format_args!(
                    "rpc error: code = InvalidArgument desc = invalid method: {error}: "
                ));
                message.quote(|quoted| quoted.bytes(context.method));
            }
            Cause::Misdirected | Cause::NotFound => {
                message.text("couldn't find service: ");
                message.bytes(target::id_of(context.target));
            }
            Cause::External => {
                message.text("cannot invoke http endpoint ");
                message.bytes(context.target);
                message.text(": URL targets are not supported by this version of Ringcar");
            }
            Cause::NoAppChannel => message.text(match context.hop {
                Hop::SelfCall => "cannot invoke local endpoint: app channel not initialized",
                Hop::InboundFromPeer | Hop::ToPeer => {
                    "rpc error: code = Internal desc = app channel is not initialized"
                }
            }),
            Cause::InvalidVerb | Cause::Escape(_) => self.write_app_failure(context, message),
            _ if context.hop == Hop::ToPeer => self.write_peer_failure(context, message),
            _ => self.write_app_failure(context, message),
        }
    }

    /// The call of an app failed, here or, as told to the caller's sidecar, there.
    fn write_app_failure(&self, context: &ErrorContext<'_>, message: &mut JsonText<'_>) {
        if context.hop != Hop::SelfCall {
            message.text("rpc error: code = Internal desc = error invoking app channel: ");
        }
        match self.cause {
            Cause::InvalidVerb => {
                message.text("rpc error: code = InvalidArgument desc = invalid HTTP verb");
            }
            Cause::Escape(error) => {
                message.text("parse ");
                message.quote(|quoted| write_url(context, quoted));
                message.text(": invalid URL escape ");
                message.quote(|quoted| quoted.bytes(error.text()));
            }
            _ => {
                write_operation(context.verb, message);
                message.quote(|quoted| write_url(context, quoted));
                message.format(format_args!(": {}", self.network_words(context)));
            }
        }
    }

    /// The call of another sidecar failed, in gRPC's words, since that is what daprd speaks there.
    fn write_peer_failure(&self, context: &ErrorContext<'_>, message: &mut JsonText<'_>) {
        let is_unavailable = matches!(
            self.cause,
            Cause::ClosedEarly
                | Cause::Connect(_)
                | Cause::ConnectTimeout
                | Cause::Reset(_)
                | Cause::Stalled
        );
        if !is_unavailable {
            return message.text(self.peer_words());
        }
        if context.retries > 0 {
            message.text("failed to invoke target ");
            message.bytes(target::id_of(context.target));
            message.format(format_args!(" after {} retries. Error: ", context.retries));
        }
        message.text("rpc error: code = Unavailable desc = ");
        let words = self.network_words(context);
        if self.may_retry() {
            message.text("connection error: desc = ");
            message.quote(|quoted| {
                quoted.format(format_args!("transport: Error while dialing: {words}"));
            });
        } else {
            message.format(format_args!("error reading from server: {words}"));
        }
    }

    const fn peer_words(&self) -> &'static str {
        match self.cause {
            Cause::BodyTooLarge => "stream too large",
            _ => "response does not contain the required fields in the leading chunk",
        }
    }

    const fn network_words<'a>(&self, context: &ErrorContext<'a>) -> NetworkWords<'a> {
        NetworkWords { cause: self.cause, phase: self.phase, address: context.address }
    }
}

impl Cause {
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::BadResponse => "bad_response",
            Self::BodyTooLarge => "body_too_large",
            Self::ClosedEarly => "closed_early",
            Self::Connect(_) => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::ControlAway => "control_away",
            Self::Escape(_) => "escape",
            Self::ExpectationFailed => "expectation_failed",
            Self::External => "external",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::InvalidId(_) => "invalid_id",
            Self::InvalidVerb => "invalid_verb",
            Self::Method(_) => "method",
            Self::Misdirected => "misdirected",
            Self::NoAppChannel => "no_app_channel",
            Self::NoTarget => "no_target",
            Self::NotFound => "not_found",
            Self::Reset(_) => "reset",
            Self::ResponseHeadTooLarge(_) => "response_head_too_large",
            Self::Stalled => "stalled",
            Self::TransferCoding => "transfer_coding",
            Self::Version => "version",
        }
    }

    const fn bad_http_words(self) -> &'static str {
        match self {
            Self::BadRequest(words) => words,
            Self::ExpectationFailed => "the only expectation that can be met is 100-continue",
            Self::HeadTimeout => "the request head did not arrive in time",
            Self::HeadTooLarge => "the request head is too large",
            Self::TransferCoding => "the only transfer coding that is known is chunked",
            _ => "the HTTP version is not supported; use HTTP/1.1",
        }
    }
}

/// Go's `url.Error` begins with the verb in this spelling.
fn write_operation(verb: &[u8], message: &mut JsonText<'_>) {
    let (first, rest) = verb.split_at(verb.len().min(1));
    message.bytes(first);
    for byte in rest {
        message.bytes(&[byte.to_ascii_lowercase()]);
    }
    message.text(" ");
}

/// The app's URL. An app behind a Unix socket, which daprd does not know, is called `localhost`, as
/// in its `Host` line.
fn write_url(context: &ErrorContext<'_>, quoted: &mut QuotedText<'_, '_>) {
    match context.address {
        Some(Address::Tcp(address)) => quoted.format(format_args!("http://{address}")),
        _ => quoted.bytes(b"http://localhost"),
    }
    // Of an empty method daprd makes a URL without any path.
    match context.url_path {
        [b'/'] => {}
        [b'/', rest @ ..] if rest.starts_with(b"?") => quoted.bytes(rest),
        path => quoted.bytes(path),
    }
}

/// What Go's net package says. Its errors on established connections name both ends; ours, as Go's
/// do where the near end is unknown, the far end alone.
struct NetworkWords<'a> {
    cause: Cause,
    phase: Phase,
    address: Option<&'a Address>,
}

impl NetworkWords<'_> {
    /// Go's `net.OpError`, up to its cause.
    fn operation(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        match self.address {
            Some(Address::Tcp(address)) => write!(f, "{name} tcp {address}: "),
            Some(Address::Unix(path)) => write!(f, "{name} unix {}: ", path.display()),
            None => write!(f, "{name}: "),
        }
    }

    const fn transfer(&self) -> &'static str {
        match self.phase {
            Phase::SendingRequest => "write",
            _ => "read",
        }
    }
}

impl fmt::Display for NetworkWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Connect(errno) => {
                self.operation(f, "dial")?;
                // Out of descriptors, Go does not come as far as connecting.
                let call =
                    if matches!(errno, Errno::MFILE | Errno::NFILE) { "socket" } else { "connect" };
                write!(f, "{call}: {}", GoErrno(errno))
            }
            Cause::ConnectTimeout => {
                self.operation(f, "dial")?;
                f.write_str("i/o timeout")
            }
            Cause::Reset(errno) => {
                self.operation(f, self.transfer())?;
                write!(f, "{}: {}", self.transfer(), GoErrno(errno))
            }
            Cause::Stalled => {
                self.operation(f, self.transfer())?;
                f.write_str("i/o timeout")
            }
            Cause::ClosedEarly => f.write_str("EOF"),
            Cause::BodyTooLarge => f.write_str("stream too large"),
            Cause::ResponseHeadTooLarge(limit) => {
                write!(f, "net/http: server response headers exceeded {limit} bytes; aborted")
            }
            _ => f.write_str(
                "net/http: HTTP/1.x transport connection broken: malformed HTTP response",
            ),
        }
    }
}

/// An errno in Go's words, which are the kernel's with a small first letter.
struct GoErrno(Errno);

impl fmt::Display for GoErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            Errno::ACCESS => "permission denied",
            Errno::ADDRNOTAVAIL => "cannot assign requested address",
            Errno::AFNOSUPPORT => "address family not supported by protocol",
            Errno::AGAIN => "resource temporarily unavailable",
            Errno::CANCELED => "operation canceled",
            Errno::CONNABORTED => "software caused connection abort",
            Errno::CONNREFUSED => "connection refused",
            Errno::CONNRESET => "connection reset by peer",
            Errno::HOSTDOWN => "host is down",
            Errno::HOSTUNREACH => "no route to host",
            Errno::INVAL => "invalid argument",
            Errno::IO => "input/output error",
            Errno::LOOP => "too many levels of symbolic links",
            Errno::MFILE => "too many open files",
            Errno::NAMETOOLONG => "file name too long",
            Errno::NETDOWN => "network is down",
            Errno::NETRESET => "network dropped connection on reset",
            Errno::NETUNREACH => "network is unreachable",
            Errno::NFILE => "too many open files in system",
            Errno::NOBUFS => "no buffer space available",
            Errno::NOENT => "no such file or directory",
            Errno::NOMEM => "cannot allocate memory",
            Errno::NOTCONN => "transport endpoint is not connected",
            Errno::NOTDIR => "not a directory",
            Errno::NOTSOCK => "socket operation on non-socket",
            Errno::PERM => "operation not permitted",
            Errno::PIPE => "broken pipe",
            Errno::PROTOTYPE => "protocol wrong type for socket",
            Errno::TIMEDOUT => "connection timed out",
            other => return write!(f, "errno {}", other.raw_os_error()),
        };
        f.write_str(words)
    }
}

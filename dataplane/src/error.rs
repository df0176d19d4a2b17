//! What went wrong with an exchange, and all that follows from it: status, text, whether to try
//! again, metric label. Nowhere else.
//!
//! Texts are daprd 1.18's where it has one, to the byte, since SDKs, tests and people's log filters
//! know them. They contain Go's and gRPC's own words, so those are here, too: one place that knows
//! how Go names an errno.

#![forbid(unsafe_code)]

use crate::dapr::{
    escape::EscapeError,
    external::{BaseUrl, LookupError, UrlError},
    json::{JsonText, QuotedText},
    message::{CONTENT_TYPE_JSON, CONTENT_TYPE_TEXT, DIRECT_INVOKE, write_error},
    method::MethodError,
    target::{self, TargetError},
};
use crate::{limits::GATE_WAITING_MAX, policy::pipeline::Refusal};
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
    /// The app's health checks fail.
    AppUnhealthy,
    /// The request is not HTTP as we accept it; the text says why.
    BadRequest(&'static str),
    /// What came from upstream is not HTTP as we accept it.
    BadResponse,
    /// The target is a URL that names no server.
    BadUrl(UrlError),
    BodyTooLarge,
    /// Its half-open circuit breaker has as many calls under way as it may.
    BreakerBusy,
    BreakerOpen,
    /// The client closed its side while its call waited for the app.
    Canceled,
    /// Upstream closed before a whole response head: Go's `EOF`.
    ClosedEarly,
    Connect(Errno),
    ConnectTimeout,
    /// Control did not answer, or is not there.
    ControlAway,
    /// An attempt took longer than its policy allows.
    DeadlineExceeded,
    /// The callee's access control does not let this caller call this method.
    Denied,
    /// The method cannot become a URL.
    Escape(EscapeError),
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    HeadTimeout,
    HeadTooLarge,
    InvalidId(TargetError),
    InvalidVerb,
    /// Too many calls wait for the app already.
    LineFull,
    /// The host of an external target has no address.
    Lookup(LookupError),
    Method(MethodError),
    /// A peer called for an app that is not served here.
    Misdirected,
    /// The app makes calls and takes none.
    NoAppChannel,
    /// An app that was asked for server-sent events answered with something else.
    NoEvents,
    NoTarget,
    NotFound,
    /// The app's pipeline does not let it through.
    Pipeline(Refusal),
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
    /// From our app to a server outside of Dapr.
    External,
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
    /// As it was found, for [`Cause::Method`], which quotes it; for [`Cause::Denied`] normalised.
    pub method: &'a [u8],
    /// The verb for the app; see [`crate::dapr::method::verb`].
    pub verb: &'a [u8],
    /// Path and query as sent to the app, escaped. For [`Cause::Escape`] a slash, the method and
    /// the query as they are; for [`Cause::Denied`] who called, as far as it is proven.
    pub url_path: &'a [u8],
    /// Whom we called, or wanted to.
    pub address: Option<&'a Address>,
    pub hop: Hop,
    /// Of an external target the URL in front of the method.
    pub base: Option<&'a [u8]>,
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
    ///
    /// `says_too_large`: the operator wants 413 for a body that is too large
    /// (`--strict-status=false`).
    pub const fn status(&self, says_too_large: bool) -> u16 {
        match self.cause {
            Cause::BodyTooLarge if says_too_large => 413,
            Cause::BadRequest(_) => 400,
            Cause::Denied => 403,
            Cause::NoTarget => 404,
            Cause::HeadTimeout => 408,
            Cause::ExpectationFailed => 417,
            Cause::Misdirected => 421,
            Cause::HeadTooLarge => 431,
            Cause::TransferCoding => 501,
            Cause::ControlAway => 503,
            Cause::Version => 505,
            Cause::Pipeline(refusal) => refusal.status(),
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
            Cause::Pipeline(refusal) => {
                out.extend_from_slice(refusal.text().as_bytes());
                return CONTENT_TYPE_TEXT;
            }
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
            Cause::Denied => {
                message.text(
                    "rpc error: code = PermissionDenied desc = access control policy has denied \
                     access to id: ",
                );
                message.bytes(context.url_path);
                message.text(" operation: ");
                message.bytes(context.method);
                message.text(" verb: ");
                message.bytes(context.verb);
            }
            Cause::Misdirected | Cause::NotFound => {
                message.text("couldn't find service: ");
                message.bytes(target::id_of(context.target));
            }
            Cause::BadUrl(error) => {
                message.text("parse ");
                message.quote(|quoted| quoted.bytes(context.base.unwrap_or(context.target)));
                message.format(format_args!(": {error}"));
            }
            Cause::BreakerBusy => message.text("too many requests"),
            Cause::BreakerOpen => message.text("circuit breaker is open"),
            Cause::DeadlineExceeded => {
                message.text("context deadline exceeded");
            }
            Cause::NoAppChannel => message.text(match context.hop {
                Hop::SelfCall => "cannot invoke local endpoint: app channel not initialized",
                Hop::External | Hop::InboundFromPeer | Hop::ToPeer => {
                    "rpc error: code = Internal desc = app channel is not initialized"
                }
            }),
            Cause::AppUnhealthy | Cause::InvalidVerb | Cause::Escape(_) | Cause::NoEvents => {
                self.write_app_failure(context, message);
            }
            Cause::Canceled => message.text("context canceled"),
            Cause::LineFull => {
                if context.hop != Hop::SelfCall {
                    message.text(APP_CHANNEL_FAILED);
                }
                message.format(format_args!(
                    "rpc error: code = ResourceExhausted desc = {GATE_WAITING_MAX} calls wait for the \
                     app already, which takes --app-max-concurrency at a time"
                ));
            }
            _ if context.hop == Hop::ToPeer => self.write_peer_failure(context, message),
            _ => self.write_app_failure(context, message),
        }
    }

    /// The call of an app failed, here or, as told to the caller's sidecar, there.
    fn write_app_failure(&self, context: &ErrorContext<'_>, message: &mut JsonText<'_>) {
        if !matches!(context.hop, Hop::External | Hop::SelfCall) {
            message.text(APP_CHANNEL_FAILED);
        }
        match self.cause {
            Cause::AppUnhealthy => {
                message.text("rpc error: code = Internal desc = app is not in a healthy state");
            }
            Cause::NoEvents => message.text("no response received from stream"),
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
        let Self { cause, phase, .. } = *self;
        NetworkWords { cause, phase, address: context.address, base: context.base }
    }
}

impl Cause {
    /// Whether the attempt failed for want of an answer, so that a policy may want another one.
    /// What the request itself is to blame for is the same each time, and what a breaker refuses is
    /// over, as with daprd.
    pub const fn is_no_answer(self) -> bool {
        matches!(
            self,
            Self::AppUnhealthy
                | Self::BadResponse
                | Self::ClosedEarly
                | Self::Connect(_)
                | Self::ConnectTimeout
                | Self::DeadlineExceeded
                | Self::Lookup(_)
                | Self::NoAppChannel
                | Self::NotFound
                | Self::Reset(_)
                | Self::ResponseHeadTooLarge(_)
                | Self::Stalled
        )
    }

    /// What is known of the callee keeps the call from leaving. It is the callee's sidecar who says
    /// so with daprd, behind the caller's policy: a breaker counts it.
    pub const fn is_callees(self) -> bool {
        matches!(self, Self::AppUnhealthy | Self::Denied | Self::NoAppChannel | Self::NotFound)
    }

    pub const fn label(self) -> &'static str {
        match self {
            Self::AppUnhealthy => "app_unhealthy",
            Self::BadRequest(_) => "bad_request",
            Self::BadResponse => "bad_response",
            Self::BadUrl(_) => "bad_url",
            Self::BodyTooLarge => "body_too_large",
            Self::BreakerBusy => "breaker_busy",
            Self::BreakerOpen => "breaker_open",
            Self::Canceled => "canceled",
            Self::ClosedEarly => "closed_early",
            Self::Connect(_) => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::ControlAway => "control_away",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Denied => "denied",
            Self::Escape(_) => "escape",
            Self::ExpectationFailed => "expectation_failed",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::InvalidId(_) => "invalid_id",
            Self::InvalidVerb => "invalid_verb",
            Self::LineFull => "line_full",
            Self::Lookup(_) => "lookup",
            Self::Method(_) => "method",
            Self::Misdirected => "misdirected",
            Self::NoAppChannel => "no_app_channel",
            Self::NoEvents => "no_events",
            Self::NoTarget => "no_target",
            Self::NotFound => "not_found",
            Self::Pipeline(_) => "pipeline",
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

/// In front of whatever another sidecar's app channel says.
const APP_CHANNEL_FAILED: &str = "rpc error: code = Internal desc = error invoking app channel: ";

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
        _ if context.base.is_some() => quoted.bytes(context.base.unwrap_or_default()),
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
    base: Option<&'a [u8]>,
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
            Cause::Lookup(error) => {
                let base = self.base.map(BaseUrl::parse).and_then(Result::ok);
                let name = base.map_or("", |base| base.host_name());
                write!(f, "dial tcp: lookup {name}: {error}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dapr::escape;

    const TCP: &str = "127.0.0.1:6002";

    fn tcp() -> Address {
        Address::Tcp(TCP.parse().unwrap())
    }

    fn unix() -> Address {
        Address::Unix("/run/b.sock".into())
    }

    fn context<'a>(hop: Hop, address: &'a Address) -> ErrorContext<'a> {
        ErrorContext {
            target: b"b.prod",
            method: b"x",
            verb: b"POST",
            url_path: b"/x?y=1",
            address: Some(address),
            hop,
            base: None,
            retries: 0,
        }
    }

    fn body(error: ExchangeError, context: &ErrorContext<'_>) -> (String, &'static str) {
        let mut out = Vec::new();
        let content_type = error.write_reply_body(context, &mut out);
        (String::from_utf8(out).unwrap(), content_type)
    }

    /// The message of a failed invocation, with JSON's quotes taken back.
    fn failure(error: ExchangeError, context: &ErrorContext<'_>) -> String {
        let (body, content_type) = body(error, context);
        assert_eq!(content_type, "application/json");
        let target = String::from_utf8_lossy(context.target);
        let start = format!(
            "{{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: {target}, \
             err: "
        );
        let rest = body.strip_prefix(&start).expect("begins as daprd's");
        rest.strip_suffix("\"}").expect("ends as daprd's").replace("\\\"", "\"")
    }

    fn of_phase(cause: Cause) -> ExchangeError {
        match cause {
            Cause::Connect(_) | Cause::ConnectTimeout => {
                ExchangeError::upstream(Phase::Connecting, cause)
            }
            Cause::Reset(Errno::PIPE) => ExchangeError::upstream(Phase::SendingRequest, cause),
            Cause::BodyTooLarge => ExchangeError::downstream(Phase::SendingRequest, cause),
            _ => ExchangeError::upstream(Phase::AwaitingResponse, cause),
        }
    }

    #[test]
    fn refuses_bad_http_in_plain_text_and_closes() {
        for (cause, status, words) in [
            (Cause::BadRequest("two Host lines"), 400, "two Host lines\n"),
            (Cause::HeadTimeout, 408, "the request head did not arrive in time\n"),
            (
                Cause::ExpectationFailed,
                417,
                "the only expectation that can be met is 100-continue\n",
            ),
            (Cause::HeadTooLarge, 431, "the request head is too large\n"),
            (Cause::TransferCoding, 501, "the only transfer coding that is known is chunked\n"),
            (Cause::Version, 505, "the HTTP version is not supported; use HTTP/1.1\n"),
        ] {
            let error = ExchangeError::downstream(Phase::ReadingRequest, cause);
            let address = tcp();
            let got = body(error, &context(Hop::SelfCall, &address));
            assert_eq!(got, (words.to_string(), "text/plain; charset=utf-8"), "{cause:?}");
            assert_eq!(error.status(false), status, "{cause:?}");
            assert!(error.must_close(), "{cause:?}");
        }
    }

    #[test]
    fn words_that_need_no_target() {
        let address = tcp();
        let context = context(Hop::SelfCall, &address);
        for (cause, status, want) in [
            (
                Cause::NoTarget,
                404,
                "{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed getting app id either \
                 from the URL path or the header dapr-app-id\"}",
            ),
            (
                Cause::ControlAway,
                503,
                "{\"errorCode\":\"ERR_INTERNAL\",\"message\":\"the control process of this sidecar \
                 does not answer; try again\"}",
            ),
        ] {
            let error = ExchangeError::downstream(Phase::Routing, cause);
            assert_eq!(body(error, &context), (want.to_string(), "application/json"), "{cause:?}");
            assert_eq!(error.status(false), status, "{cause:?}");
            assert!(!error.must_close(), "{cause:?}");
        }
    }

    #[test]
    fn words_before_anybody_is_called_as_daprd_1_18() {
        let address = tcp();
        for (case, target, method, cause, hop, want) in [
            (
                "no id",
                "",
                "x",
                Cause::InvalidId(TargetError::Empty),
                Hop::ToPeer,
                "app id is empty",
            ),
            (
                "denied; the identity takes the place of the path",
                "b",
                "a/<b>",
                Cause::Denied,
                Hop::InboundFromPeer,
                "rpc error: code = PermissionDenied desc = access control policy has denied \
                 access to id: /x?y=1 operation: a/\\u003cb\\u003e verb: POST",
            ),
            (
                "bad id",
                "a.b.c",
                "x",
                Cause::InvalidId(TargetError::Malformed),
                Hop::ToPeer,
                "invalid app id a.b.c",
            ),
            (
                "forbidden character",
                "b",
                "test#\\u00fc",
                Cause::Method(MethodError::Forbidden),
                Hop::ToPeer,
                "rpc error: code = InvalidArgument desc = invalid method: method contains \
                 forbidden character: \"test#\\\\\\\\u00fc\"",
            ),
            (
                "control character",
                "b",
                "test\rstream",
                Cause::Method(MethodError::Control { position: 4 }),
                Hop::ToPeer,
                "rpc error: code = InvalidArgument desc = invalid method: method contains control \
                 character at position 4: \"test\\\\rstream\"",
            ),
            (
                "unknown, named without its namespace",
                "b.prod",
                "x",
                Cause::NotFound,
                Hop::ToPeer,
                "couldn't find service: b",
            ),
            (
                "unknown at the peer",
                "b",
                "x",
                Cause::Misdirected,
                Hop::InboundFromPeer,
                "couldn't find service: b",
            ),
            (
                "URL that needs TLS",
                "https://h.i",
                "x",
                Cause::BadUrl(UrlError::Tls),
                Hop::External,
                "parse \"https://h.i\": https needs TLS, which this sidecar does not speak; use http",
            ),
            (
                "closed its side in the line",
                "b",
                "x",
                Cause::Canceled,
                Hop::SelfCall,
                "context canceled",
            ),
            (
                "too many in the line",
                "b",
                "x",
                Cause::LineFull,
                Hop::SelfCall,
                "rpc error: code = ResourceExhausted desc = 10000 calls wait for the app already, \
                 which takes --app-max-concurrency at a time",
            ),
            (
                "unhealthy, self",
                "b",
                "x",
                Cause::AppUnhealthy,
                Hop::SelfCall,
                "rpc error: code = Internal desc = app is not in a healthy state",
            ),
            (
                "unhealthy, at the peer",
                "b",
                "x",
                Cause::AppUnhealthy,
                Hop::InboundFromPeer,
                "rpc error: code = Internal desc = error invoking app channel: rpc error: code = \
                 Internal desc = app is not in a healthy state",
            ),
            (
                "no app port, self",
                "b",
                "x",
                Cause::NoAppChannel,
                Hop::SelfCall,
                "cannot invoke local endpoint: app channel not initialized",
            ),
            (
                "no app port",
                "b",
                "x",
                Cause::NoAppChannel,
                Hop::InboundFromPeer,
                "rpc error: code = Internal desc = app channel is not initialized",
            ),
            (
                "CONNECT, self",
                "b",
                "x",
                Cause::InvalidVerb,
                Hop::SelfCall,
                "rpc error: code = InvalidArgument desc = invalid HTTP verb",
            ),
            (
                "CONNECT",
                "b",
                "x",
                Cause::InvalidVerb,
                Hop::ToPeer,
                "rpc error: code = Internal desc = error invoking app channel: rpc error: code = \
                 InvalidArgument desc = invalid HTTP verb",
            ),
        ] {
            let context = ErrorContext {
                target: target.as_bytes(),
                method: method.as_bytes(),
                ..context(hop, &address)
            };
            let error = ExchangeError::downstream(Phase::Routing, cause);
            assert_eq!(failure(error, &context), want, "{case}");
            let status = match cause {
                Cause::Denied => 403,
                Cause::Misdirected => 421,
                _ => 500,
            };
            assert_eq!(error.status(false), status, "{case}");
        }
    }

    #[test]
    fn words_for_an_app_that_fails_as_daprd_1_18() {
        let (tcp, unix) = (tcp(), unix());
        let bad = escape::check(b"te%st").unwrap_err();
        for (case, cause, address, path, want) in [
            (
                "refused",
                Cause::Connect(Errno::CONNREFUSED),
                &tcp,
                "/x",
                "Post \"http://127.0.0.1:6002/x\": dial tcp 127.0.0.1:6002: connect: connection \
                 refused",
            ),
            (
                "refused, root",
                Cause::Connect(Errno::CONNREFUSED),
                &tcp,
                "/",
                "Post \"http://127.0.0.1:6002\": dial tcp 127.0.0.1:6002: connect: connection \
                 refused",
            ),
            (
                "refused, root and query",
                Cause::Connect(Errno::CONNREFUSED),
                &tcp,
                "/?y=1",
                "Post \"http://127.0.0.1:6002?y=1\": dial tcp 127.0.0.1:6002: connect: connection \
                 refused",
            ),
            (
                "no socket",
                Cause::Connect(Errno::NOENT),
                &unix,
                "/x",
                "Post \"http://localhost/x\": dial unix /run/b.sock: connect: no such file or \
                 directory",
            ),
            (
                "out of descriptors",
                Cause::Connect(Errno::MFILE),
                &tcp,
                "/x",
                "Post \"http://127.0.0.1:6002/x\": dial tcp 127.0.0.1:6002: socket: too many open \
                 files",
            ),
            (
                "connecting takes too long",
                Cause::ConnectTimeout,
                &tcp,
                "/x",
                r#"Post "http://127.0.0.1:6002/x": dial tcp 127.0.0.1:6002: i/o timeout"#,
            ),
            (
                "reset",
                Cause::Reset(Errno::CONNRESET),
                &tcp,
                "/x",
                "Post \"http://127.0.0.1:6002/x\": read tcp 127.0.0.1:6002: read: connection reset \
                 by peer",
            ),
            (
                "reset while sending",
                Cause::Reset(Errno::PIPE),
                &tcp,
                "/x",
                r#"Post "http://127.0.0.1:6002/x": write tcp 127.0.0.1:6002: write: broken pipe"#,
            ),
            ("closed", Cause::ClosedEarly, &tcp, "/x", r#"Post "http://127.0.0.1:6002/x": EOF"#),
            (
                "silent",
                Cause::Stalled,
                &tcp,
                "/x",
                r#"Post "http://127.0.0.1:6002/x": read tcp 127.0.0.1:6002: i/o timeout"#,
            ),
            (
                "not HTTP",
                Cause::BadResponse,
                &tcp,
                "/x",
                "Post \"http://127.0.0.1:6002/x\": net/http: HTTP/1.x transport connection broken: \
                 malformed HTTP response",
            ),
            (
                "large head",
                Cause::ResponseHeadTooLarge(4096),
                &tcp,
                "/x",
                "Post \"http://127.0.0.1:6002/x\": net/http: server response headers exceeded 4096 \
                 bytes; aborted",
            ),
            (
                "large body",
                Cause::BodyTooLarge,
                &tcp,
                "/x",
                r#"Post "http://127.0.0.1:6002/x": stream too large"#,
            ),
            (
                "bad escape",
                Cause::Escape(bad),
                &tcp,
                "/te%st \"?y",
                r#"parse "http://127.0.0.1:6002/te%st \\"?y": invalid URL escape "%st""#,
            ),
        ] {
            for (hop, prefix) in [
                (Hop::SelfCall, ""),
                (
                    Hop::InboundFromPeer,
                    "rpc error: code = Internal desc = error invoking app channel: ",
                ),
            ] {
                let context = ErrorContext { url_path: path.as_bytes(), ..context(hop, address) };
                let got = failure(of_phase(cause), &context);
                assert_eq!(got, format!("{prefix}{want}"), "{case}, {hop:?}");
                assert_eq!(of_phase(cause).status(false), 500, "{case}");
            }
        }
    }

    #[test]
    fn words_for_a_peer_that_fails_as_daprd_1_18() {
        let (tcp, unix) = (tcp(), unix());
        for (case, cause, address, retries, want) in [
            (
                "socket gone, after retries",
                Cause::Connect(Errno::CONNREFUSED),
                &unix,
                3,
                "failed to invoke target b after 3 retries. Error: rpc error: code = Unavailable \
                 desc = connection error: desc = \"transport: Error while dialing: dial unix \
                 /run/b.sock: connect: connection refused\"",
            ),
            (
                "refused, not retried",
                Cause::Connect(Errno::CONNREFUSED),
                &tcp,
                0,
                "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error \
                 while dialing: dial tcp 127.0.0.1:6002: connect: connection refused\"",
            ),
            (
                "connecting takes too long",
                Cause::ConnectTimeout,
                &tcp,
                1,
                "failed to invoke target b after 1 retries. Error: rpc error: code = Unavailable \
                 desc = connection error: desc = \"transport: Error while dialing: dial tcp \
                 127.0.0.1:6002: i/o timeout\"",
            ),
            (
                "closed",
                Cause::ClosedEarly,
                &unix,
                0,
                "rpc error: code = Unavailable desc = error reading from server: EOF",
            ),
            (
                "reset",
                Cause::Reset(Errno::CONNRESET),
                &tcp,
                0,
                "rpc error: code = Unavailable desc = error reading from server: read tcp \
                 127.0.0.1:6002: read: connection reset by peer",
            ),
            ("large body", Cause::BodyTooLarge, &unix, 0, "stream too large"),
            (
                "not HTTP",
                Cause::BadResponse,
                &unix,
                0,
                "response does not contain the required fields in the leading chunk",
            ),
        ] {
            let context = ErrorContext { retries, ..context(Hop::ToPeer, address) };
            assert_eq!(failure(of_phase(cause), &context), want, "{case}");
        }
    }

    #[test]
    fn targets_and_paths_cannot_break_out_of_the_json() {
        let address = Address::Unix("/run/\"<\n>.sock".into());
        let context = ErrorContext {
            target: b"\"}\xff<",
            verb: b"",
            url_path: b"/\"\\",
            ..context(Hop::SelfCall, &address)
        };
        let error = ExchangeError::upstream(Phase::Connecting, Cause::Connect(Errno::NOENT));
        let want = concat!(
            "{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: \
             \\\"}\\ufffd\\u003c, err: ",
            r#" \"http://localhost/\\\"\\\\\": dial unix /run/\"\u003c\n\u003e.sock: connect: "#,
            r#"no such file or directory"}"#
        );
        assert_eq!(body(error, &context).0, want);
    }

    #[test]
    fn only_what_never_arrived_is_retried_and_only_what_had_no_answer_is_replayed() {
        use Phase::{AwaitingResponse, Connecting, RelayingResponse, SendingRequest};
        let reset = Cause::Reset(Errno::CONNRESET);
        for (phase, cause, retry, replay) in [
            (Connecting, Cause::Connect(Errno::CONNREFUSED), true, false),
            (Connecting, Cause::ConnectTimeout, true, false),
            (SendingRequest, reset, false, true),
            (AwaitingResponse, reset, false, true),
            (AwaitingResponse, Cause::ClosedEarly, false, true),
            (RelayingResponse, reset, false, false),
            (RelayingResponse, Cause::ClosedEarly, false, false),
            (AwaitingResponse, Cause::Stalled, false, false),
            (AwaitingResponse, Cause::BadResponse, false, false),
        ] {
            let error = ExchangeError::upstream(phase, cause);
            assert_eq!(error.may_retry(), retry, "{error}");
            assert_eq!(error.may_replay(), replay, "{error}");
        }
        let gone = ExchangeError::downstream(SendingRequest, reset);
        assert!(!gone.may_replay(), "a caller that went away");
    }

    #[test]
    fn says_errno_as_go_does() {
        for (errno, want) in [
            (Errno::CONNREFUSED, "connection refused"),
            (Errno::TIMEDOUT, "connection timed out"),
            (Errno::HOSTUNREACH, "no route to host"),
            (Errno::from_raw_os_error(4000), "errno 4000"),
        ] {
            assert_eq!(GoErrno(errno).to_string(), want);
        }
    }
}

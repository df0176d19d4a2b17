//! What each exchange of a simulation is to be: every byte of it follows from its number, so that
//! whoever receives one knows whose it is.
//!
//! The book holds all exchanges, and what has become of them; clients and apps check against it and
//! complain to it.

#![forbid(unsafe_code)]

use super::random::Random;
use crate::clock::Instant;
use std::{collections::VecDeque, fmt::Write as _};

/// Events kept for the trace of a run that fails.
const TRACE_LINES: usize = 120;

pub(super) struct Book {
    /// Attempts after the first that a policy allows.
    pub(super) retries: usize,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) complaints: Vec<String>,
    pub(super) trace: VecDeque<String>,
    pub(super) is_traced: bool,
    pub(super) now: Instant,
    /// The sidecars were told to drain.
    pub(super) drained: bool,
    /// Apps take so many calls at a time: who closes its side may lose its place in the line.
    pub(super) has_limits: bool,
    /// Whoever can do something does it at once.
    pub(super) is_eager: bool,
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Callee {
    /// An app, by its number.
    App(usize),
    /// Control has to be asked.
    Control,
    Healthz,
    /// No HTTP; one of [`MALFORMED`].
    Malformed(usize),
    Metadata,
    /// An app id that nobody serves.
    Nobody,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Chunked,
    Empty,
    Length,
    /// Answers only.
    UntilClose,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Body {
    pub(super) shape: Shape,
    pub(super) bytes: usize,
    pub(super) has_trailers: bool,
}

/// What an app does beside answering.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mischief {
    /// Closes after so many bytes of its answer.
    Cut(usize),
    /// Sends something that is not HTTP.
    Garbage,
    None,
    /// Never answers.
    Silent,
    /// Resets after so many bytes of its answer.
    Reset(usize),
    /// Closes behind its answer without having said so.
    UnsaidClose,
    /// Sends more than it was asked for.
    Unsolicited,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Body,
    pub(super) interim: Vec<u16>,
    pub(super) noise_bytes: usize,
    /// Does not wait for the request's body.
    pub(super) is_early: bool,
    pub(super) says_close: bool,
    pub(super) mischief: Mischief,
}

/// Who ends a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ends {
    App,
    Client,
    /// Each when it has said all.
    Either,
}

/// Bytes that go through a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tunnel {
    pub(super) up_bytes: usize,
    pub(super) down_bytes: usize,
    /// The client does not wait for the 101.
    pub(super) is_hasty: bool,
    /// Who sends FIN before the other does.
    pub(super) ends_first: Ends,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) id: usize,
    /// Nobody on its way does anything wrong, so it must succeed.
    pub(super) is_calm: bool,
    pub(super) callee: Callee,
    /// As the request names it: a header instead of the path.
    pub(super) by_header: bool,
    pub(super) method: &'static str,
    pub(super) is_http10: bool,
    pub(super) keeps_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) request: Body,
    /// Of header lines that mean nothing, spelled so that the head cannot stay where it lies. 0:
    /// none.
    pub(super) noise_bytes: usize,
    pub(super) answer: Answer,
    pub(super) tunnel: Option<Tunnel>,
    /// Larger than the callee's sidecar lets through.
    pub(super) is_too_large: bool,
    /// What became of it.
    pub(super) sent_whole: bool,
    pub(super) seen: usize,
    pub(super) seen_whole: usize,
    pub(super) is_done: bool,
    pub(super) started: Option<Instant>,
}

/// Which of an exchange's bodies a byte belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Request,
    Answer,
}

impl Book {
    pub(super) fn new(is_traced: bool, retries: usize) -> Self {
        Self {
            retries,
            exchanges: Vec::new(),
            complaints: Vec::new(),
            trace: VecDeque::new(),
            is_traced,
            now: Instant::default(),
            drained: false,
            has_limits: false,
            is_eager: false,
        }
    }

    pub(super) fn complain(&mut self, complaint: String) {
        self.note(|| format!("COMPLAINT {complaint}"));
        self.complaints.push(complaint);
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if !self.is_traced {
            return;
        }
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        let micros = self.now.as_nanos() / 1000;
        self.trace.push_back(format!("{micros:>9} µs  {}", line()));
    }
}

impl Exchange {
    pub(super) fn path(&self) -> String {
        format!("/sim/{}?exchange={}", self.id, self.id)
    }

    pub(super) fn may_repeat(&self) -> bool {
        matches!(self.method, "DELETE" | "GET" | "HEAD" | "OPTIONS" | "PUT" | "TRACE")
    }

    /// The answer has no body whatever its head says.
    pub(super) fn is_bodiless(&self) -> bool {
        self.method == "HEAD" || matches!(self.answer.status, 204 | 304)
    }

    /// Head and body of the request; the length of the head.
    pub(super) fn encode_request(&self, app_ids: &[&str]) -> (Vec<u8>, usize) {
        if let Callee::Malformed(index) = self.callee {
            let bytes = MALFORMED[index].0.as_bytes().to_vec();
            let length = bytes.len();
            return (bytes, length);
        }
        let app_id = match self.callee {
            Callee::App(app) => app_ids[app],
            _ => "nobody",
        };
        let target = match self.callee {
            Callee::Control => format!("/v1.0/metadata/key{}", self.id),
            Callee::Healthz => "/v1.0/healthz".to_owned(),
            Callee::Metadata => "/v1.0/metadata".to_owned(),
            _ if self.by_header => self.path(),
            _ => format!("/v1.0/invoke/{app_id}/method{}", self.path()),
        };
        let version = if self.is_http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} {target} HTTP/{version}\r\nHost: sim\r\n", self.method);
        let mut line = |text: &str| {
            head.push_str(text);
            head.push_str("\r\n");
        };
        line(&format!("X-Sim: {}", self.id));
        if self.by_header {
            line(&format!("dapr-app-id: {app_id}"));
        }
        match (self.is_http10, self.keeps_alive) {
            _ if self.tunnel.is_some() => line("Connection: Upgrade\r\nUpgrade: sim"),
            (true, true) => line("Connection: keep-alive"),
            (false, false) => line("Connection: close"),
            _ => {}
        }
        if self.expects_continue {
            line("Expect: 100-continue");
        }
        push_noise(self.noise_bytes, &mut head);
        let mut bytes = Vec::new();
        self.push_message(head, Side::Request, self.request, true, &mut bytes);
        let head_bytes = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 4;
        (bytes, head_bytes)
    }

    /// All that the app sends for it, interim answers included.
    pub(super) fn encode_answer(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for status in &self.answer.interim {
            let text = format!("HTTP/1.1 {status} Interim\r\nX-Sim: {}\r\n\r\n", self.id);
            bytes.extend_from_slice(text.as_bytes());
        }
        if self.tunnel.is_some() && self.answer.status == 101 {
            let text = format!(
                "HTTP/1.1 101 Switching\r\nX-Sim: {}\r\nConnection: Upgrade\r\nUpgrade: sim\r\n\r\n",
                self.id
            );
            bytes.extend_from_slice(text.as_bytes());
            return bytes;
        }
        let mut head = format!("HTTP/1.1 {} Fine\r\nX-Sim: {}\r\n", self.answer.status, self.id);
        if self.answer.says_close {
            head.push_str("Connection: close\r\n");
        }
        push_noise(self.answer.noise_bytes, &mut head);
        let with_body = !self.is_bodiless();
        self.push_message(head, Side::Answer, self.answer.body, with_body, &mut bytes);
        bytes
    }

    fn push_message(
        &self,
        mut head: String,
        side: Side,
        body: Body,
        with_body: bool,
        out: &mut Vec<u8>,
    ) {
        match body.shape {
            Shape::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Shape::Length => {
                let written = write!(head, "Content-Length: {}\r\n", body.bytes);
                debug_assert!(written.is_ok());
            }
            Shape::Empty | Shape::UntilClose => {}
        }
        head.push_str("\r\n");
        out.extend_from_slice(head.as_bytes());
        if !with_body {
            return;
        }
        match body.shape {
            Shape::Empty => {}
            Shape::Length | Shape::UntilClose => {
                out.extend(pattern(self.id, side, 0, body.bytes));
            }
            Shape::Chunked => self.push_chunks(side, body, out),
        }
    }

    fn push_chunks(&self, side: Side, body: Body, out: &mut Vec<u8>) {
        let mut sizes = Random::new(self.id as u64);
        let mut at = 0;
        while at < body.bytes {
            let most = if body.bytes > 20_000 { 20_000 } else { 300 };
            let size = sizes.between(1, most).min(body.bytes - at);
            out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            out.extend(pattern(self.id, side, at, size));
            out.extend_from_slice(b"\r\n");
            at += size;
        }
        out.extend_from_slice(b"0\r\n");
        if body.has_trailers {
            out.extend_from_slice(format!("X-Sim-Trailer: {}\r\n", self.id).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn push_noise(bytes: usize, head: &mut String) {
    if bytes > 0 {
        head.push_str("X-Odd:\t spaced \r\nKeep-Alive: timeout=1\r\nX-Noise:");
        head.push_str(&"n".repeat(bytes));
        head.push_str("\r\n");
        if bytes.is_multiple_of(3) {
            // A line that is renamed on its way, so that the head is emitted anew.
            head.push_str("Grpc-Odd: 1\r\n");
        }
    }
}

/// Bytes `at..at + count` of a body.
pub(super) fn pattern(
    id: usize,
    side: Side,
    at: usize,
    count: usize,
) -> impl ExactSizeIterator<Item = u8> {
    let salt = id * 131
        + match side {
            Side::Request => 0,
            Side::Answer => 77,
        };
    (at..at + count).map(move |index| {
        let mixed = (index + salt) ^ (index >> 8) ^ (index >> 16);
        u8::try_from(mixed & 0xff).expect("eight bits")
    })
}

/// Compares received content with what it has to be.
pub(super) fn check_pattern(id: usize, side: Side, at: usize, data: &[u8]) -> Result<(), String> {
    if pattern(id, side, at, data.len()).eq(data.iter().copied()) {
        return Ok(());
    }
    let shown = &data[..data.len().min(60)];
    Err(format!("exchange {id}: foreign bytes at {at} of {side:?}: \"{}\"", shown.escape_ascii()))
}

pub(super) fn check_trailers(
    id: usize,
    body: Body,
    trailers: &[(String, String)],
) -> Result<(), String> {
    let want = if body.has_trailers && body.shape == Shape::Chunked {
        vec![("x-sim-trailer".to_owned(), id.to_string())]
    } else {
        Vec::new()
    };
    if trailers == want {
        return Ok(());
    }
    Err(format!("exchange {id}: trailers {trailers:?} instead of {want:?}"))
}

/// Requests that are refused, and with which status.
pub(super) const MALFORMED: [(&str, u16); 8] = [
    (
        "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        400,
    ),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    ("GET /a HTTP/1.1\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET /a HTTP/3.1\r\nHost: a\r\n\r\n", 505),
    ("\0\0\0\0\r\n\r\n", 400),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: more\r\n\r\n", 417),
];

/// An app, as clients must know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppFacts {
    pub(super) id: &'static str,
    /// All on the way to it is calm.
    pub(super) is_calm: bool,
}

/// What a plan is drawn from.
pub(super) struct Planner<'a> {
    pub(super) random: &'a mut Random,
    pub(super) apps: &'a [AppFacts],
    pub(super) has_large_bodies: bool,
    /// Larger requests are refused.
    pub(super) body_bytes_max: usize,
    pub(super) client_is_calm: bool,
}

impl Planner<'_> {
    pub(super) fn plan(&mut self, id: usize) -> Exchange {
        let callee = match self.random.below(20) {
            0 => Callee::Healthz,
            1 => Callee::Metadata,
            2 => Callee::Nobody,
            3 => Callee::Control,
            _ => Callee::App(self.random.below(self.apps.len())),
        };
        let app_is_calm = match callee {
            Callee::App(app) => self.apps[app].is_calm,
            _ => true,
        };
        let is_calm = self.client_is_calm && app_is_calm;
        let method = match callee {
            Callee::Healthz | Callee::Metadata => "GET",
            Callee::Control => "PUT",
            _ => self.random.pick(&["GET", "POST", "POST", "PUT", "HEAD", "DELETE", "PATCH"]),
        };
        let is_http10 = self.random.chance(12);
        let mut exchange = Exchange {
            id,
            is_calm,
            callee,
            by_header: self.random.chance(30),
            method,
            is_http10,
            keeps_alive: !self.random.chance(10) && (!is_http10 || self.random.chance(50)),
            expects_continue: false,
            request: self.request_body(method, is_http10),
            noise_bytes: self.noise_bytes(),
            answer: self.answer(app_is_calm),
            tunnel: None,
            is_too_large: false,
            sent_whole: false,
            seen: 0,
            seen_whole: 0,
            is_done: false,
            started: None,
        };
        if !matches!(callee, Callee::App(_)) {
            // What is dropped unread is bounded; behind that bound the connection would be closed.
            exchange.request.bytes = exchange.request.bytes.min(24_000);
        }
        let has_body = exchange.request.bytes > 0;
        exchange.expects_continue = !is_http10 && has_body && self.random.chance(15);
        exchange.is_too_large =
            matches!(callee, Callee::App(_)) && exchange.request.bytes > self.body_bytes_max;
        // An answer may then have begun when the limit is reached, and can only be cut.
        exchange.is_calm &= !(exchange.is_too_large && exchange.answer.is_early);
        if !is_http10 && method == "GET" && !has_body && self.random.chance(25) {
            self.make_tunnel(&mut exchange);
        }
        if exchange.expects_continue && self.random.chance(60) {
            exchange.answer.interim.push(100);
        }
        exchange
    }

    pub(super) fn plan_malformed(&mut self, id: usize) -> Exchange {
        let mut exchange = self.plan(id);
        exchange.callee = Callee::Malformed(self.random.below(MALFORMED.len()));
        exchange.is_calm = self.client_is_calm;
        exchange.tunnel = None;
        exchange.expects_continue = false;
        exchange.is_too_large = false;
        exchange.method = "GET";
        exchange
    }

    fn make_tunnel(&mut self, exchange: &mut Exchange) {
        exchange.request = Body { shape: Shape::Empty, bytes: 0, has_trailers: false };
        exchange.by_header = false;
        exchange.keeps_alive = true;
        exchange.tunnel = Some(Tunnel {
            up_bytes: self.body_bytes(),
            down_bytes: self.body_bytes(),
            is_hasty: false,
            ends_first: self.random.pick(&[Ends::App, Ends::Client, Ends::Either, Ends::Either]),
        });
        if matches!(exchange.callee, Callee::App(_)) && self.random.chance(75) {
            exchange.answer.status = 101;
            exchange.answer.is_early = false;
            if exchange.answer.mischief == Mischief::Unsolicited {
                // Behind a 101 everything is the tunnel's.
                exchange.answer.mischief = Mischief::None;
            }
            let hasty = exchange.is_calm && self.random.chance(30);
            if let Some(tunnel) = &mut exchange.tunnel {
                tunnel.is_hasty = hasty;
            }
        }
    }

    fn noise_bytes(&mut self) -> usize {
        match self.random.below(10) {
            0..6 => 0,
            6..9 => self.random.between(1, 60),
            _ => self.random.between(60, 3000),
        }
    }

    fn body_bytes(&mut self) -> usize {
        match self.random.below(10) {
            0 => 0,
            1..5 => self.random.between(1, 50),
            5..8 => self.random.between(50, 3000),
            _ if self.has_large_bodies => self.random.between(100_000, 700_000),
            _ => self.random.between(1000, 24_000),
        }
    }

    fn request_body(&mut self, method: &str, is_http10: bool) -> Body {
        let is_empty = matches!(method, "GET" | "HEAD" | "DELETE") && self.random.chance(80);
        let shape = match self.random.below(10) {
            _ if is_empty => Shape::Empty,
            0 => Shape::Empty,
            1..5 if !is_http10 => Shape::Chunked,
            _ => Shape::Length,
        };
        let bytes = if shape == Shape::Empty { 0 } else { self.body_bytes() };
        Body { shape, bytes, has_trailers: shape == Shape::Chunked && self.random.chance(30) }
    }

    fn answer(&mut self, is_calm: bool) -> Answer {
        let status = self.random.pick(&[200, 200, 200, 201, 204, 304, 400, 404, 500, 503]);
        let shape = match status {
            204 | 304 => Shape::Empty,
            _ => self.random.pick(&[
                Shape::Length,
                Shape::Length,
                Shape::Length,
                Shape::Chunked,
                Shape::Chunked,
                Shape::UntilClose,
            ]),
        };
        let bytes = if shape == Shape::Empty { 0 } else { self.body_bytes() };
        let has_trailers = shape == Shape::Chunked && self.random.chance(30);
        let interim_count = self.random.pick(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 3]);
        let interim = (0..interim_count).map(|_| self.random.pick(&[100, 102, 103]));
        Answer {
            status,
            body: Body { shape, bytes, has_trailers },
            interim: interim.collect(),
            noise_bytes: self.noise_bytes(),
            is_early: self.random.chance(10),
            says_close: shape == Shape::UntilClose || self.random.chance(10),
            mischief: if is_calm { Mischief::None } else { self.mischief(shape) },
        }
    }

    fn mischief(&mut self, shape: Shape) -> Mischief {
        match self.random.below(14) {
            // A body that lasts until the close cannot be cut by one, and takes in whatever follows
            // it.
            0 | 2 if shape == Shape::UntilClose => Mischief::Reset(self.random.below(200)),
            7 if shape == Shape::UntilClose => Mischief::None,
            0 => Mischief::Cut(self.random.below(200)),
            1 => Mischief::Reset(self.random.below(200)),
            2 => Mischief::Cut(0),
            3 => Mischief::Garbage,
            4 => Mischief::Silent,
            5 | 6 => Mischief::UnsaidClose,
            7 => Mischief::Unsolicited,
            _ => Mischief::None,
        }
    }
}

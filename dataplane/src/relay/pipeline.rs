//! Requests and answers of apps with pipelines: what the steps of [`crate::policy::pipeline`] see,
//! and what is done of what they want.
//!
//! The pipeline of the API is asked here, behind the token; the app's own in `plan`, where the path
//! is known that the app would see. Where an app has neither, each of these is one look at nothing.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{ConnectionKey, Exchange},
    dapr::{self, Asked, LocalCall, escape, local::Answer, path::split_target},
    engine::{Chunk, Engine},
    http::{BodyReader, ChunkError, Field, RequestHead},
    policy::pipeline::{Client, Outcome, RateLimits, Refusal, Subject, Surroundings},
};
use rustix::net::getpeername;
use snapshot::{ListenerKind, Tracing};
use std::{net::SocketAddr, os::fd::OwnedFd, rc::Rc, sync::Arc};

impl<E: Engine> Relay<E> {
    /// Limits are those of all workers.
    pub(crate) fn set_rate_limits(&mut self, limits: Arc<RateLimits>) {
        self.rate_limits = limits;
    }

    /// Puts a request to the API through its pipeline. `None`: it was refused, and the client told.
    pub(super) fn pass_pipeline(
        &mut self,
        key: ConnectionKey,
        chunk: &Chunk,
        asked: Asked,
    ) -> Option<Asked> {
        let view = Rc::clone(&self.view);
        let connection = self.connections.find_mut(key)?;
        let app = connection.app;
        let is_target = !matches!(asked, Asked::Local(LocalCall::BadTarget(_)));
        let pipeline = view.app(app).guards.api_pipeline.as_ref();
        let Some(pipeline) = pipeline.filter(|_| is_target) else { return Some(asked) };
        let (head, subject) = (&self.request_head, &mut self.subject);
        if !read_subject(head, chunk, subject) {
            debug_assert!(false, "the target was understood before");
            return Some(asked);
        }
        let address = connection.remote.as_ref().and_then(|remote| remote.address.as_deref());
        let client = client(head, chunk, address.map(str::as_bytes));
        let (limits, now) = (&*self.rate_limits, self.now);
        let around = Surroundings { app, client, limits, now };
        let exchange = &mut connection.exchange;
        let outcome = pipeline.pass(subject, &around, &mut exchange.answer_lines);
        if outcome.uppercases_request || outcome.uppercases_answer {
            let passed = exchange.passed.get_or_insert_default();
            passed.uppercases_request = outcome.uppercases_request;
            passed.uppercases_answer = outcome.uppercases_answer;
        }
        if let Some(refusal) = outcome.refusal {
            self.refuse_by_pipeline(key, chunk.clone(), refusal);
            return None;
        }
        // Which of Dapr's own endpoints it is for was decided by the path with which it came.
        let may_be_another = matches!(asked, Asked::Invoke { .. } | Asked::NoTarget);
        if !outcome.is_rewritten || !may_be_another {
            return Some(asked);
        }
        let request = dapr::Request::of(head, chunk);
        Some(dapr::interpret_rewritten(
            &request,
            &subject.path,
            &subject.query,
            &mut exchange.notes,
        ))
    }

    fn refuse_by_pipeline(&mut self, key: ConnectionKey, chunk: Chunk, refusal: Refusal) {
        self.counters.denied_by_pipeline.add(1);
        let (status, body) = (refusal.status(), refusal.text().as_bytes());
        let content_type = Some(dapr::message::CONTENT_TYPE_TEXT);
        let answer = Answer { status, content_type, lines: "", body, close: false };
        self.answer_without_body(key, chunk, &answer);
    }

    /// Whoever connected to an API whose requests are counted by where they come from, or whose
    /// spans tell it; as Go names it.
    pub(super) fn client_address(
        &self,
        socket: &OwnedFd,
        listener: ListenerKind,
        app: usize,
    ) -> Option<String> {
        let found = self.view.snapshot.apps.get(app).filter(|_| listener == ListenerKind::Api)?;
        let is_told = matches!(found.telemetry.tracing, Some(Tracing::Recording(_)));
        let pipeline = self.view.app(app).guards.api_pipeline.as_ref();
        let is_counted = pipeline.is_some_and(|pipeline| pipeline.counts_clients());
        (is_counted || is_told).then(|| {
            let address = getpeername(socket).ok().flatten();
            match address.map(SocketAddr::try_from) {
                Some(Ok(address)) => {
                    let ip = address.ip().to_canonical();
                    SocketAddr::new(ip, address.port()).to_string()
                }
                _ => UNIX_PEER.to_owned(),
            }
        })
    }
}

/// How Go names the other end of a Unix socket without a name.
const UNIX_PEER: &str = "@";

/// What a pipeline sees of a request: as it stands on its request line.
fn read_subject(head: &RequestHead, bytes: &[u8], subject: &mut Subject) -> bool {
    subject.clear();
    let whole = head.target.of(bytes);
    let Ok(target) = split_target(head.method_name.of(bytes), whole) else { return false };
    if escape::decode_path(target.path, &mut subject.path).is_err() {
        return false;
    }
    subject.query.extend_from_slice(target.query);
    escape::routed_path(target.path, &subject.path, &mut subject.uri);
    if subject.uri.is_empty() {
        subject.uri.push(b'/');
    }
    if !target.query.is_empty() || whole.ends_with(b"?") {
        subject.uri.push(b'?');
        subject.uri.extend_from_slice(target.query);
    }
    true
}

pub(super) fn client<'a>(
    head: &RequestHead,
    bytes: &'a [u8],
    address: Option<&'a [u8]>,
) -> Client<'a> {
    let line = |name: &str| {
        let is_it = |text: &[u8]| text.eq_ignore_ascii_case(name.as_bytes());
        let line = head.lines.iter().find(|line| is_it(line.name.of(bytes)));
        line.map(|line| line.value.of(bytes))
    };
    Client { forwarded_for: line("X-Forwarded-For"), real_ip: line("X-Real-IP"), address }
}

impl dapr::Request<'_> {
    pub(super) fn of<'a>(head: &RequestHead, bytes: &'a [u8]) -> dapr::Request<'a> {
        let line = |field| head.lines.find(field).map(|line| line.value.of(bytes));
        dapr::Request {
            method: head.method_name.of(bytes),
            target: head.target.of(bytes),
            app_id_header: line(Field::DaprAppId),
            authorization: line(Field::Authorization),
        }
    }
}

impl Exchange {
    /// What the app's own pipeline wants with a call that it lets pass.
    pub(super) fn note_app_pipeline(&mut self, outcome: &Outcome, lines: Vec<u8>) {
        if lines.is_empty() && !outcome.uppercases_request && !outcome.uppercases_answer {
            return;
        }
        let passed = self.passed.get_or_insert_default();
        passed.uppercases_request |= outcome.uppercases_request;
        passed.uppercases_app_answer = outcome.uppercases_answer;
        passed.app_lines = lines;
    }

    /// Takes the part of `chunk` behind its first `head_bytes` that is the request's body, in
    /// capitals where a pipeline wants it so.
    pub(super) fn take_request(
        &mut self,
        chunk: &mut Chunk,
        head_bytes: usize,
    ) -> Result<usize, ChunkError> {
        match &self.passed {
            Some(passed) if passed.uppercases_request => {
                take_uppercased(&mut self.request, chunk, head_bytes)
            }
            _ => self.request.take(&chunk[head_bytes..]),
        }
    }

    pub(super) fn take_response(
        &mut self,
        chunk: &mut Chunk,
        head_bytes: usize,
    ) -> Result<usize, ChunkError> {
        match self.uppercases_response() {
            true => take_uppercased(&mut self.response, chunk, head_bytes),
            false => self.response.take(&chunk[head_bytes..]),
        }
    }

    pub(super) fn uppercases_response(&self) -> bool {
        let passed = self.passed.as_ref();
        passed.is_some_and(|passed| passed.uppercases_answer || passed.uppercases_app_answer)
    }

    /// Lines that go with the app's answer alone.
    pub(super) fn app_lines(&self) -> &[u8] {
        self.passed.as_ref().map_or(b"", |passed| &passed.app_lines)
    }
}

/// As [`BodyReader::take`], with the content in capitals; framing and trailers stay as they are.
fn take_uppercased(
    reader: &mut BodyReader,
    chunk: &mut Chunk,
    head_bytes: usize,
) -> Result<usize, ChunkError> {
    let mut start = chunk.start() + head_bytes;
    if chunk.unique_mut().is_none() {
        // Somebody else has a part of this buffer.
        *chunk = Chunk::from_vec(chunk.to_vec(), 0);
        start = head_bytes;
    }
    let bytes = chunk.unique_mut().expect("a chunk of its own buffer has no other owner");
    let bytes = &mut bytes[start..];
    let mut count = 0;
    while count < bytes.len() && !reader.is_complete() {
        let piece = reader.next_data(&bytes[count..])?;
        let data = count + piece.framing;
        count = data + piece.data;
        bytes[data..count].make_ascii_uppercase();
    }
    Ok(count)
}

/// All of `chunk` in capitals.
pub(super) fn uppercase(chunk: &mut Chunk) {
    let taken = take_uppercased(&mut BodyReader::new(crate::http::Framing::UntilClose), chunk, 0);
    debug_assert!(taken.is_ok(), "there is no framing that could be broken");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Framing;

    #[test]
    fn content_is_put_in_capitals_and_framing_is_not() {
        let chunked = b"HEAD a\r\na;ext=b\r\n0123456abc\r\n1\r\nz\r\n0\r\nx-sums: x\r\n\r\nnext";
        let want = b"HEAD a\r\na;ext=b\r\n0123456ABC\r\n1\r\nZ\r\n0\r\nx-sums: x\r\n\r\nnext";
        for (case, framing, bytes, want, count) in [
            ("length", Framing::Length(3), &b"HEAD a\r\nabcd"[..], &b"HEAD a\r\nABCd"[..], 3),
            (
                "until close",
                Framing::UntilClose,
                b"HEAD a\r\nab\xc3\xa4",
                b"HEAD a\r\nAB\xc3\xa4",
                4,
            ),
            ("nothing", Framing::Empty, b"HEAD a\r\nabc", b"HEAD a\r\nabc", 0),
            ("chunks", Framing::Chunked, chunked, want, chunked.len() - 12),
        ] {
            for is_shared in [false, true] {
                let mut reader = BodyReader::new(framing);
                let mut chunk = Chunk::from_vec(bytes.to_vec(), 0);
                let other = is_shared.then(|| chunk.clone());
                assert_eq!(take_uppercased(&mut reader, &mut chunk, 8), Ok(count), "{case}");
                assert_eq!(&*chunk, want, "{case}");
                assert!(other.is_none_or(|other| &*other == bytes), "{case}: not ours to change");
            }
        }
        let mut chunk = Chunk::from_static(b"abc");
        uppercase(&mut chunk);
        assert_eq!(&*chunk, b"ABC");
    }

    #[test]
    fn a_body_in_pieces_is_put_in_capitals_whole() {
        let bytes = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        for split in 1..bytes.len() {
            let mut reader = BodyReader::new(Framing::Chunked);
            let mut out = Vec::new();
            for piece in [&bytes[..split], &bytes[split..]] {
                let mut chunk = Chunk::from_vec(piece.to_vec(), 0);
                assert_eq!(take_uppercased(&mut reader, &mut chunk, 0), Ok(piece.len()));
                out.extend_from_slice(&chunk);
            }
            assert_eq!(out, b"3\r\nABC\r\n2\r\nDE\r\n0\r\n\r\n", "split at {split}");
        }
    }
}

//! A scripted client: sends the requests of its plan in whatever rhythm and pieces, and takes
//! nothing for an answer that is not the one it is owed.

#![forbid(unsafe_code)]

use super::{
    net::{Connecting, End, Net, Place, Read},
    plan::{
        Book, Callee, Ends, Exchange, MALFORMED, Mischief, Shape, Side, Tunnel, check_pattern,
        check_trailers, pattern,
    },
    random::Random,
    reader::{BodyEnd, Head, Item, Reader},
    world::metadata_of,
};
use crate::{clock::Instant, limits::LINGER_BYTES_MAX};
use std::{collections::VecDeque, time::Duration};

/// A client that expects a 100 sends its body without one after this long.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// No calm exchange takes longer: no timer of ours is part of it, and what others wait for is
/// shorter.
const CALM_PATIENCE: Duration = Duration::from_secs(5);

const RESET: &str = "reset";

/// What a client does beside asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manners {
    /// Closes once it has all answers.
    Good,
    /// Sends FIN behind its last request.
    HalfCloses,
    /// Closes, or resets, after this many bytes sent.
    LeavesAfterSending { bytes: usize, resets: bool },
    /// Closes, or resets, after this many bytes received.
    LeavesAfterReceiving { bytes: usize, resets: bool },
    /// Keeps its connection when it is done.
    Stays,
    /// Reads no more after this many bytes, and gives up at the end of its patience.
    StopsReading { bytes: usize },
}

pub(super) struct Client {
    pub(super) name: usize,
    place: Place,
    is_calm: bool,
    app_ids: Vec<&'static str>,
    manners: Manners,
    /// Requests in flight at most.
    depth: usize,
    /// Bytes written, and read, at once at most.
    pace: usize,
    starts_at: Instant,
    gives_up_at: Option<Instant>,
    phase: Phase,
    end: Option<End>,
    to_ask: VecDeque<usize>,
    /// Asked, in this order; the first one's answer is next.
    awaiting: VecDeque<usize>,
    outbox: VecDeque<u8>,
    /// Where in all bytes sent each request ends.
    marks: VecDeque<(usize, usize)>,
    /// A body that waits for a 100.
    held: Option<(Vec<u8>, Instant)>,
    sent_bytes: usize,
    received_bytes: usize,
    reader: Reader,
    answer: Option<Answering>,
    tunnel: Option<Tunnelling>,
    /// When the last answer was complete.
    answered_at: Instant,
    /// A body was sent that nobody wanted, and longer than anybody reads for courtesy.
    is_tiresome: bool,
    /// An answer said that it is the last one.
    told_to_close: bool,
    has_shut: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Connecting,
    Done,
    Open,
    Waiting,
}

/// The answer that is coming in.
struct Answering {
    id: usize,
    /// The sidecar's own.
    is_own: bool,
    got: usize,
    closes: bool,
}

struct Tunnelling {
    id: usize,
    tunnel: Tunnel,
    got: usize,
    /// The other side has said all.
    has_ended: bool,
}

impl Client {
    pub(super) fn new(
        name: usize,
        place: Place,
        is_calm: bool,
        to_ask: Vec<usize>,
        app_ids: Vec<&'static str>,
        random: &mut Random,
    ) -> Self {
        let bytes = random.between(0, 600);
        let resets = random.chance(50);
        let manners = match random.below(10) {
            0..4 if !is_calm => match random.below(3) {
                0 => Manners::LeavesAfterSending { bytes, resets },
                1 => Manners::LeavesAfterReceiving { bytes, resets },
                _ => Manners::StopsReading { bytes },
            },
            4 => Manners::HalfCloses,
            5 => Manners::Stays,
            _ => Manners::Good,
        };
        let patience = Duration::from_secs(random.between(20, 400) as u64);
        let starts_at = Instant::default() + Duration::from_micros(random.below(20_000) as u64);
        Self {
            name,
            place,
            is_calm,
            app_ids,
            manners,
            depth: random.pick(&[1, 1, 1, 2, 8]),
            pace: random.pick(&[1 << 20, 1 << 20, 20_000, 900]),
            starts_at,
            gives_up_at: Some(starts_at + patience),
            phase: Phase::Waiting,
            end: None,
            to_ask: to_ask.into(),
            awaiting: VecDeque::new(),
            outbox: VecDeque::new(),
            marks: VecDeque::new(),
            held: None,
            sent_bytes: 0,
            received_bytes: 0,
            reader: Reader::new(),
            answer: None,
            tunnel: None,
            answered_at: starts_at,
            is_tiresome: false,
            told_to_close: false,
            has_shut: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// When it acts although nothing comes.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting => Some(self.starts_at),
            Phase::Done => None,
            Phase::Connecting | Phase::Open => {
                let held = self.held.as_ref().map(|(_, until)| *until);
                [held, self.gives_up_at].into_iter().flatten().min()
            }
        }
    }

    /// Nothing is wrong with the exchange whose turn it is, and still it takes its time.
    pub(super) fn is_overdue(&self, book: &Book) -> bool {
        let Some(exchange) = self.awaiting.front().map(|id| &book.exchanges[*id]) else {
            return false;
        };
        let since = exchange.started.unwrap_or_default().max(self.answered_at);
        self.phase == Phase::Open && exchange.is_calm && book.now.since(since) > CALM_PATIENCE
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "client {}: {:?}, {:?}, awaiting {:?}, to ask {:?}, {} bytes to send, {} received, closing {}",
            self.name,
            self.manners,
            self.phase,
            self.awaiting,
            self.to_ask,
            self.outbox.len(),
            self.received_bytes,
            self.told_to_close
        )
    }

    pub(super) fn step(&mut self, net: &mut Net, book: &mut Book, random: &mut Random) {
        match self.phase {
            Phase::Done => {}
            Phase::Waiting => {
                if book.now >= self.starts_at {
                    self.end = Some(net.connect(self.place, self.is_calm));
                    self.phase = Phase::Connecting;
                }
            }
            Phase::Connecting => self.poll_connect(net, book),
            Phase::Open => {
                self.receive(net, book, random);
                self.ask(book);
                self.transmit(net, book, random);
                self.leave_if_due(net, book);
            }
        }
    }

    fn poll_connect(&mut self, net: &mut Net, book: &mut Book) {
        let Some(end) = self.end else { return };
        match net.poll_connect(end) {
            Connecting::Done => {
                book.note(|| format!("client {} connected as {end:?}", self.name));
                self.phase = Phase::Open;
            }
            Connecting::Failed(_) => self.phase = Phase::Done,
            Connecting::Pending => {
                if self.gives_up_at.is_some_and(|at| at <= book.now) {
                    self.close(net, book, false, "nobody accepts");
                }
            }
        }
    }

    // Asking.

    fn ask(&mut self, book: &mut Book) {
        self.release_body(book, false);
        while self.may_ask(book) {
            let Some(id) = self.to_ask.pop_front() else { return };
            let exchange = &mut book.exchanges[id];
            exchange.started = Some(book.now);
            let (mut bytes, head_bytes) = exchange.encode_request(&self.app_ids);
            self.awaiting.push_back(id);
            let queued = self.sent_bytes + self.outbox.len();
            self.marks.push_back((queued + bytes.len(), id));
            if exchange.expects_continue {
                self.held = Some((bytes.split_off(head_bytes), book.now + CONTINUE_PATIENCE));
            }
            let (name, method, callee) = (self.name, exchange.method, exchange.callee);
            book.note(|| format!("client {name} asks {id}: {method} {callee:?}"));
            self.outbox.extend(bytes);
            let exchange = &book.exchanges[id];
            if let Some(tunnel) = exchange.tunnel {
                if tunnel.is_hasty {
                    self.outbox.extend(pattern(id, Side::Request, 0, tunnel.up_bytes));
                }
                return;
            }
        }
    }

    fn may_ask(&self, book: &Book) -> bool {
        let has_room = self.held.is_none() && self.outbox.len() < 2000;
        // A calm client asks nothing behind a request that it called its last.
        let must_wait = |id: &usize| {
            let exchange = &book.exchanges[*id];
            exchange.tunnel.is_some() || (self.is_calm && !exchange.keeps_alive)
        };
        has_room
            && self.awaiting.len() < self.depth
            && !self.told_to_close
            && !self.has_shut
            && !self.awaiting.iter().any(must_wait)
    }

    fn release_body(&mut self, book: &Book, is_told: bool) {
        if let Some((_, until)) = &self.held
            && (is_told || *until <= book.now)
            && let Some((body, _)) = self.held.take()
        {
            self.outbox.extend(body);
        }
    }

    fn transmit(&mut self, net: &mut Net, book: &mut Book, random: &mut Random) {
        let Some(end) = self.end.filter(|_| self.phase == Phase::Open) else { return };
        while !self.outbox.is_empty() {
            let mut count = self.pace.min(self.outbox.len());
            if random.chance(20) {
                count = random.between(1, count);
            }
            if let Manners::LeavesAfterSending { bytes, .. } = self.manners {
                count = count.min(bytes.saturating_sub(self.sent_bytes));
            }
            let bytes: Vec<u8> = self.outbox.range(..count).copied().collect();
            match net.write(end, &bytes) {
                Ok(0) => break,
                Ok(count) => {
                    self.outbox.drain(..count);
                    self.sent_bytes += count;
                }
                // The other direction may still bring an answer.
                Err(_) => {
                    self.outbox.clear();
                    self.held = None;
                    self.has_shut = true;
                    break;
                }
            }
            if self.pace < 20_000 {
                break;
            }
        }
        while let Some((_, id)) = self.marks.pop_front_if(|(at, _)| *at <= self.sent_bytes) {
            book.exchanges[id].sent_whole = true;
        }
        self.shut_if_due(net, end, book);
    }

    fn shut_if_due(&mut self, net: &mut Net, end: End, book: &Book) {
        if self.has_shut || !self.outbox.is_empty() || self.held.is_some() {
            return;
        }
        let has_said_all = match &self.tunnel {
            Some(tunnel) => tunnel.has_ended || tunnel.tunnel.ends_first != Ends::App,
            None => {
                let upgrades = self.awaiting.iter().any(|id| book.exchanges[*id].tunnel.is_some());
                self.manners == Manners::HalfCloses && self.to_ask.is_empty() && !upgrades
            }
        };
        if has_said_all {
            self.has_shut = true;
            net.shutdown(end);
        }
    }

    // Being answered.

    fn receive(&mut self, net: &mut Net, book: &mut Book, random: &mut Random) {
        let Some(end) = self.end else { return };
        while self.phase == Phase::Open {
            let mut count = self.pace;
            match self.manners {
                Manners::StopsReading { bytes } | Manners::LeavesAfterReceiving { bytes, .. } => {
                    count = count.min(bytes.saturating_sub(self.received_bytes));
                }
                _ => {}
            }
            if count == 0 {
                return;
            }
            if random.chance(20) {
                count = random.between(1, count);
            }
            match net.read(end, count) {
                Read::Nothing => return,
                Read::Bytes(bytes) => {
                    self.received_bytes += bytes.len();
                    self.reader.push(&bytes);
                    if let Err(complaint) = self.understand(book) {
                        book.complain(format!("client {}: {complaint}", self.name));
                        return self.close(net, book, true, "complains");
                    }
                }
                Read::Fin => return self.on_fin(net, book),
                Read::Broken(error) => return self.close(net, book, false, error_name(error)),
            }
            if self.pace < 20_000 {
                return;
            }
        }
    }

    fn understand(&mut self, book: &mut Book) -> Result<(), String> {
        while let Some(item) = self.reader.next()? {
            match item {
                Item::Head(head) => self.on_head(&head, book)?,
                Item::Data(data) => self.on_data(&data, book)?,
                Item::End(trailers) => self.on_end(&trailers, book)?,
            }
        }
        Ok(())
    }

    fn on_head(&mut self, head: &Head, book: &mut Book) -> Result<(), String> {
        let Some(id) = self.awaiting.front().copied() else {
            return Err(format!("an answer that nobody asked for: {:?}", head.start_line));
        };
        let status = status_of(head)?;
        let name = self.name;
        book.note(|| format!("client {name} gets the head of {id}: {:?}", head.start_line));
        if self.told_to_close {
            return Err(format!("{:?} behind the last answer", head.start_line));
        }
        let named = head.number("x-sim")?;
        if named.is_some_and(|named| named != id) {
            return Err(format!("exchange {id} got the answer of {named:?}"));
        }
        let exchange = &book.exchanges[id];
        if (100..200).contains(&status) && status != 101 {
            if exchange.is_http10 {
                return Err(format!("exchange {id}: HTTP/1.0 got an interim answer {status}"));
            }
            if status == 100 {
                self.release_body(book, true);
            }
            return Ok(());
        }
        if named.is_some() {
            check_answer_head(exchange, status, head)?;
        } else {
            let may_lose_place = self.has_shut && book.has_limits;
            check_own_head(exchange, status, may_lose_place)?;
        }
        let closes = head.has_option("close")
            || (exchange.is_http10 && !head.has_option("keep-alive") && status != 101);
        self.answer = Some(Answering { id, is_own: named.is_none(), got: 0, closes });
        if status == 101 {
            return self.open_tunnel(exchange);
        }
        let bodiless = exchange.method == "HEAD" || matches!(status, 204 | 304);
        let body = match head.declared()? {
            _ if bodiless => BodyEnd::Length(0),
            Some(BodyEnd::Chunked) if exchange.is_http10 => {
                return Err(format!("exchange {id}: HTTP/1.0 got chunks"));
            }
            Some(body) => body,
            None if exchange.is_http10 || closes => BodyEnd::UntilClose,
            None => return Err(format!("exchange {id}: an answer without end")),
        };
        self.reader.begin_body(body);
        Ok(())
    }

    fn open_tunnel(&mut self, exchange: &Exchange) -> Result<(), String> {
        let id = exchange.id;
        let Some(tunnel) = exchange.tunnel.filter(|_| self.awaiting.len() == 1) else {
            return Err(format!("exchange {id} did not ask for a tunnel"));
        };
        self.reader.begin_body(BodyEnd::UntilClose);
        self.tunnel = Some(Tunnelling { id, tunnel, got: 0, has_ended: false });
        if !tunnel.is_hasty {
            self.outbox.extend(pattern(id, Side::Request, 0, tunnel.up_bytes));
        }
        Ok(())
    }

    fn on_data(&mut self, data: &[u8], book: &Book) -> Result<(), String> {
        if let Some(tunnel) = &mut self.tunnel {
            let at = tunnel.got;
            tunnel.got += data.len();
            if tunnel.got > tunnel.tunnel.down_bytes {
                return Err(format!("exchange {}: more than its tunnel brought", tunnel.id));
            }
            return check_pattern(tunnel.id, Side::Answer, at, data);
        }
        let Some(answer) = &mut self.answer else {
            return Err("a body without a head".to_owned());
        };
        let at = answer.got;
        answer.got += data.len();
        if answer.is_own {
            let metadata = metadata_of("own");
            let is_metadata = book.exchanges[answer.id].callee == Callee::Metadata;
            let is_mine = metadata.as_bytes().get(at..answer.got) == Some(data);
            return if is_metadata && !is_mine {
                Err(format!("exchange {}: metadata of another app", answer.id))
            } else {
                Ok(())
            };
        }
        if answer.got > book.exchanges[answer.id].answer.body.bytes {
            return Err(format!("exchange {}: more than its app answered", answer.id));
        }
        check_pattern(answer.id, Side::Answer, at, data)
    }

    fn on_end(&mut self, trailers: &[(String, String)], book: &mut Book) -> Result<(), String> {
        let Some(Answering { id, is_own, got, closes }) = self.answer.take() else {
            return Err("the end of an answer without a head".to_owned());
        };
        let exchange = &book.exchanges[id];
        if !is_own {
            let want = if exchange.is_bodiless() { 0 } else { exchange.answer.body.bytes };
            if got != want {
                return Err(format!("exchange {id}: an end after {got} of {want} bytes"));
            }
            if want > 0 && !exchange.is_http10 {
                check_trailers(id, exchange.answer.body, trailers)?;
            }
        }
        let has_cause = self.has_shut || may_close(exchange, is_own, book.drained);
        if closes && exchange.is_calm && !has_cause {
            return Err(format!("exchange {id}: closed without need"));
        }
        self.is_tiresome |= is_own && exchange.request.bytes > LINGER_BYTES_MAX / 2;
        book.exchanges[id].is_done = true;
        self.answered_at = book.now;
        let name = self.name;
        book.note(|| format!("client {name} has the answer to {id}; closes: {closes}"));
        self.awaiting.pop_front();
        if closes {
            self.told_to_close = true;
            self.held = None;
        } else if !book.exchanges[id].sent_whole {
            // The answer came before the body was asked for, and the connection goes on: so must
            // the body.
            self.release_body(book, true);
        }
        Ok(())
    }

    fn on_fin(&mut self, net: &mut Net, book: &mut Book) {
        let mut complaint = None;
        if let Some(Tunnelling { id, tunnel, got, has_ended }) = &mut self.tunnel {
            *has_ended = true;
            if *got < tunnel.down_bytes && book.exchanges[*id].is_calm {
                complaint = Some(format!(
                    "exchange {id}: a tunnel that ended after {got} of {} bytes",
                    tunnel.down_bytes
                ));
            } else if !self.has_shut && book.exchanges[*id].is_calm {
                // Half of the tunnel is closed; ours is not.
                return;
            }
            book.exchanges[*id].is_done = true;
            self.awaiting.clear();
        } else if self.reader.is_until_close() {
            complaint = self.on_end(&[], book).err();
        } else if self.answer.is_none() && !self.reader.is_between_messages() {
            let calm = self.awaiting.front().is_some_and(|id| book.exchanges[*id].is_calm);
            complaint = calm.then(|| {
                format!("a head cut at {:?}", self.reader.rest().escape_ascii().to_string())
            });
        }
        if let Some(complaint) = complaint {
            book.complain(format!("client {}: {complaint}", self.name));
        }
        self.close(net, book, false, "the sidecar closed");
    }

    // Leaving.

    fn leave_if_due(&mut self, net: &mut Net, book: &mut Book) {
        if self.phase != Phase::Open {
            return;
        }
        let (leaves, resets) = match self.manners {
            Manners::LeavesAfterSending { bytes, resets } => (self.sent_bytes >= bytes, resets),
            Manners::LeavesAfterReceiving { bytes, resets } => {
                (self.received_bytes >= bytes, resets)
            }
            _ => (false, false),
        };
        if leaves {
            return self.leave(net, book, resets, "leaves early");
        }
        if self.gives_up_at.is_some_and(|at| at <= book.now) {
            return self.leave(net, book, false, "gives up");
        }
        let is_done = self.awaiting.is_empty() && (self.to_ask.is_empty() || self.told_to_close);
        let stays = self.manners == Manners::Stays || self.told_to_close;
        if is_done && !stays && self.tunnel.is_none() {
            self.leave(net, book, false, "is done");
        } else if is_done && self.told_to_close && !self.has_shut && self.tunnel.is_none() {
            // Nothing more to say; the sidecar closes.
            self.has_shut = true;
            self.outbox.clear();
            if let Some(end) = self.end {
                net.shutdown(end);
            }
        }
    }

    /// By its own decision: what it does not wait for is not owed.
    fn leave(&mut self, net: &mut Net, book: &mut Book, resets: bool, why: &str) {
        if !self.told_to_close {
            for id in self.awaiting.drain(..) {
                book.exchanges[id].is_calm = false;
            }
        }
        self.close(net, book, resets, why);
    }

    fn close(&mut self, net: &mut Net, book: &mut Book, resets: bool, why: &str) {
        let Some(end) = self.end else { return };
        let name = self.name;
        book.note(|| format!("client {name} is over: {why}"));
        if resets {
            net.reset(end);
        } else {
            net.close(end);
        }
        self.phase = Phase::Done;
        // What is behind an exchange that may fail may fail with it. So may what is before it and
        // not wholly taken: a cut answer ends in a reset.
        let may_fail = |id: &usize| {
            let exchange = &book.exchanges[*id];
            !exchange.is_calm || exchange.request.bytes > LINGER_BYTES_MAX / 2
        };
        let mut is_excused =
            self.is_tiresome || (why == RESET && self.awaiting.iter().any(may_fail));
        for id in std::mem::take(&mut self.awaiting) {
            self.judge_missing(id, book, is_excused, why);
            is_excused |= !book.exchanges[id].is_calm;
            book.exchanges[id].is_calm = false;
        }
    }

    /// An answer that did not come.
    fn judge_missing(&self, id: usize, book: &mut Book, is_excused: bool, why: &str) {
        let exchange = &book.exchanges[id];
        let is_behind_last = self.told_to_close;
        let is_turned_away = book.drained && exchange.seen == 0;
        let complaint = if is_behind_last && exchange.seen > 0 {
            "was carried out behind an answer that was to be the last"
        } else if is_behind_last || is_excused || is_turned_away || !exchange.is_calm {
            return;
        } else {
            "has no answer"
        };
        book.complain(format!(
            "client {}: exchange {id} {complaint} ({why}; seen {} times)",
            self.name, exchange.seen
        ));
    }
}

fn status_of(head: &Head) -> Result<u16, String> {
    let mut parts = head.start_line.splitn(3, ' ');
    let version = parts.next().unwrap_or_default();
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err(format!("no answer: {:?}", head.start_line));
    }
    let status = parts.next().and_then(|status| status.parse().ok());
    status.ok_or_else(|| format!("no status: {:?}", head.start_line))
}

fn check_answer_head(exchange: &Exchange, status: u16, head: &Head) -> Result<(), String> {
    let id = exchange.id;
    if exchange.seen == 0 {
        return Err(format!("exchange {id}: an answer of an app that was never asked"));
    }
    if status != exchange.answer.status {
        return Err(format!("exchange {id}: {status} instead of {}", exchange.answer.status));
    }
    let noise = head.find("x-noise").map_or(0, str::len);
    let noise_sent = if status == 101 { 0 } else { exchange.answer.noise_bytes };
    if noise != noise_sent || head.find("keep-alive").is_some() {
        return Err(format!("exchange {id}: the lines of its answer are not its app's"));
    }
    if !matches!(exchange.callee, Callee::App(_)) {
        return Err(format!("exchange {id} was not for an app"));
    }
    Ok(())
}

/// The sidecar's own answer: what was asked for, a refusal, or an error that has a cause.
fn check_own_head(exchange: &Exchange, status: u16, may_lose_place: bool) -> Result<(), String> {
    let is_expected = match exchange.callee {
        Callee::Healthz => status == 204,
        Callee::Metadata => status == 200,
        Callee::Control => status == 204 || (!exchange.is_calm && matches!(status, 500 | 503)),
        Callee::Nobody => status == 500,
        Callee::Malformed(index) => status == MALFORMED[index].1,
        // 200: an app's unasked bytes that were on their way when its connection was lent; nobody
        // can tell them apart.
        Callee::App(_) => {
            exchange.is_too_large
                || (!exchange.is_calm && matches!(status, 200 | 500))
                || (may_lose_place && status == 500)
        }
    };
    if is_expected {
        return Ok(());
    }
    Err(format!(
        "exchange {} got {status} from its sidecar (seen {} times)",
        exchange.id, exchange.seen
    ))
}

/// Whether the sidecar has a reason to close behind this answer.
fn may_close(exchange: &Exchange, is_own: bool, drained: bool) -> bool {
    drained
        || !exchange.keeps_alive
        || exchange.is_http10
        || exchange.answer.is_early
        || exchange.expects_continue
        || (is_own && (!exchange.sent_whole || matches!(exchange.callee, Callee::Malformed(_))))
        || exchange.answer.mischief != Mischief::None
        || exchange.is_too_large
        || (exchange.answer.body.shape == Shape::UntilClose && exchange.is_http10)
}

fn error_name(error: rustix::io::Errno) -> &'static str {
    match error {
        rustix::io::Errno::CONNRESET => RESET,
        rustix::io::Errno::CONNREFUSED => "refused",
        _ => "broken",
    }
}

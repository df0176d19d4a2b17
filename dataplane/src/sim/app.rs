//! A scripted app: answers what it is asked as the exchange's plan says, and complains of requests
//! that no client made.

#![forbid(unsafe_code)]

use super::{
    net::{End, Net, Place, Read},
    plan::{
        Book, Callee, Ends, Exchange, Mischief, Shape, Side, Tunnel, check_pattern, check_trailers,
        pattern,
    },
    random::Random,
    reader::{BodyEnd, Head, Item, Reader},
};

pub(super) struct App {
    /// Its number among the apps that clients call.
    number: usize,
    /// Wherever it listens; all of them are calm, or none is.
    places: Vec<Place>,
    /// Stands for a whole sidecar, and so is spoken to as one.
    pub(super) is_peer: bool,
    connections: Vec<Connection>,
}

struct Connection {
    end: End,
    number: usize,
    is_peer: bool,
    /// Bytes written, and read, at once at most.
    pace: usize,
    reader: Reader,
    outbox: Vec<u8>,
    serving: Option<Serving>,
    tunnel: Option<Tunnelling>,
    /// What to do once `outbox` is empty.
    then: Then,
    has_shut: bool,
    is_over: bool,
    requests: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    Close,
    Keep,
    Reset,
}

struct Serving {
    id: usize,
    got: usize,
    is_whole: bool,
    is_answered: bool,
}

struct Tunnelling {
    id: usize,
    tunnel: Tunnel,
    got: usize,
    /// The other side has said all.
    has_ended: bool,
}

impl App {
    pub(super) fn new(number: usize, places: Vec<Place>, is_peer: bool) -> Self {
        Self { number, places, is_peer, connections: Vec::new() }
    }

    pub(super) fn step(&mut self, net: &mut Net, book: &mut Book, random: &mut Random) {
        while let Some(end) = self.places.iter().find_map(|place| net.accept(*place)) {
            let pace = random.pick(&[1 << 20, 1 << 20, 20_000, 900]);
            self.connections.push(Connection::new(end, self.number, self.is_peer, pace));
        }
        random.shuffle(&mut self.connections);
        for connection in &mut self.connections {
            if book.is_eager || random.chance(80) {
                connection.step(net, book, random);
            }
        }
        self.connections.retain(|connection| !connection.is_over);
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Closes connections that are between requests, as servers do after a while; a calm one does
    /// not.
    pub(super) fn close_idle(&mut self, net: &mut Net, random: &mut Random) {
        if self.places.iter().any(|place| net.is_calm(*place)) {
            return;
        }
        for connection in &mut self.connections {
            let is_idle = connection.serving.is_none()
                && connection.tunnel.is_none()
                && connection.outbox.is_empty()
                && connection.reader.is_between_messages();
            if is_idle && connection.requests > 0 && random.chance(50) {
                connection.end(net, Then::Close);
            }
        }
        self.connections.retain(|connection| !connection.is_over);
    }
}

impl Connection {
    fn new(end: End, number: usize, is_peer: bool, pace: usize) -> Self {
        Self {
            end,
            number,
            is_peer,
            pace,
            reader: Reader::new(),
            outbox: Vec::new(),
            serving: None,
            tunnel: None,
            then: Then::Keep,
            has_shut: false,
            is_over: false,
            requests: 0,
        }
    }

    fn step(&mut self, net: &mut Net, book: &mut Book, random: &mut Random) {
        if let Err(complaint) = self.receive(net, book, random) {
            book.complain(format!("app {}: {complaint}", self.number));
            return self.end(net, Then::Reset);
        }
        self.transmit(net, random);
    }

    fn receive(
        &mut self,
        net: &mut Net,
        book: &mut Book,
        random: &mut Random,
    ) -> Result<(), String> {
        while !self.is_over {
            let count = if random.chance(20) { random.between(1, self.pace) } else { self.pace };
            match net.read(self.end, count) {
                Read::Nothing => break,
                Read::Bytes(bytes) => {
                    self.reader.push(&bytes);
                    self.understand(book)?;
                }
                Read::Fin => return self.on_fin(net, book),
                Read::Broken(_) => return self.on_broken(net, book),
            }
            if self.pace < 20_000 {
                break;
            }
        }
        Ok(())
    }

    fn understand(&mut self, book: &mut Book) -> Result<(), String> {
        loop {
            if let Some(serving) = &self.serving
                && serving.is_whole
                && self.tunnel.is_none()
                && !self.reader.rest().is_empty()
            {
                let rest = self.reader.rest();
                let shown = rest[..rest.len().min(80)].escape_ascii();
                return Err(format!("bytes behind request {}: {shown}", serving.id));
            }
            match self.reader.next()? {
                None => return Ok(()),
                Some(Item::Head(head)) => self.on_head(&head, book)?,
                Some(Item::Data(data)) => self.on_data(&data)?,
                Some(Item::End(trailers)) => self.on_end(&trailers, book)?,
            }
        }
    }

    fn on_head(&mut self, head: &Head, book: &mut Book) -> Result<(), String> {
        let id = head.number("x-sim")?.ok_or("a request that no client made")?;
        let number = self.number;
        book.note(|| format!("app {number} gets the head of {id}: {:?}", head.start_line));
        let retries = book.retries;
        let exchange = book.exchanges.get_mut(id).ok_or("a request with a wild number")?;
        check_request_head(exchange, head, self.number, self.is_peer)?;
        exchange.seen += 1;
        let times_max = if exchange.may_repeat() { 4 } else { 1 };
        let is_chunked = exchange.request.shape == Shape::Chunked;
        let attempts = if is_chunked { 1 } else { 1 + retries };
        let times_max = attempts * times_max;
        if exchange.seen > times_max {
            return Err(format!("exchange {id} came {} times", exchange.seen));
        }
        self.requests += 1;
        self.reader.begin_body(head.declared()?.unwrap_or(BodyEnd::Length(0)));
        self.serving = Some(Serving { id, got: 0, is_whole: false, is_answered: false });
        if exchange.answer.is_early {
            self.answer(exchange);
        } else if exchange.expects_continue && exchange.answer.interim.contains(&100) {
            let text = format!("HTTP/1.1 100 Go\r\nX-Sim: {id}\r\n\r\n");
            self.outbox.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    fn on_data(&mut self, data: &[u8]) -> Result<(), String> {
        if let Some(tunnel) = &mut self.tunnel {
            let at = tunnel.got;
            tunnel.got += data.len();
            if tunnel.got > tunnel.tunnel.up_bytes {
                return Err(format!("exchange {}: more than its tunnel brought", tunnel.id));
            }
            return check_pattern(tunnel.id, Side::Request, at, data);
        }
        let Some(serving) = &mut self.serving else {
            return Err("a body without a head".to_owned());
        };
        let at = serving.got;
        serving.got += data.len();
        check_pattern(serving.id, Side::Request, at, data)
    }

    fn on_end(&mut self, trailers: &[(String, String)], book: &mut Book) -> Result<(), String> {
        let Some(serving) = &mut self.serving else {
            return Err("the end of a request without a head".to_owned());
        };
        let exchange = &mut book.exchanges[serving.id];
        let id = exchange.id;
        if serving.got != exchange.request.bytes {
            let want = exchange.request.bytes;
            return Err(format!("exchange {id}: an end after {} of {want} bytes", serving.got));
        }
        check_trailers(id, exchange.request, trailers)?;
        if !exchange.sent_whole {
            return Err(format!("exchange {id} is whole, but its client has not sent all of it"));
        }
        exchange.seen_whole += 1;
        serving.is_whole = true;
        let number = self.number;
        book.note(|| format!("app {number} has all of {id}"));
        let exchange = &book.exchanges[id];
        if exchange.answer.is_early {
            self.forget_if_answered();
        } else {
            self.answer(exchange);
        }
        Ok(())
    }

    fn answer(&mut self, exchange: &Exchange) {
        let Some(serving) = &mut self.serving else { return };
        let answer = &exchange.answer;
        serving.is_answered = true;
        let mut bytes = exchange.encode_answer();
        if answer.says_close && answer.status != 101 {
            self.then = Then::Close;
        }
        match answer.mischief {
            Mischief::None => {}
            Mischief::Cut(at) => {
                bytes.truncate(at);
                self.then = Then::Close;
            }
            Mischief::Reset(at) => {
                bytes.truncate(at);
                self.then = Then::Reset;
            }
            Mischief::Garbage => bytes = b"HTTP/2 Hello \0\r\n\r\n".to_vec(),
            Mischief::Silent => bytes.clear(),
            Mischief::UnsaidClose => self.then = Then::Close,
            Mischief::Unsolicited => bytes.extend_from_slice(b"HTTP/1.1 200 Unasked\r\n\r\n"),
        }
        self.outbox.extend(bytes);
        if answer.status == 101
            && answer.mischief == Mischief::None
            && let Some(tunnel) = exchange.tunnel
        {
            let id = exchange.id;
            self.outbox.extend(pattern(id, Side::Answer, 0, tunnel.down_bytes));
            self.reader.begin_body(BodyEnd::UntilClose);
            self.tunnel = Some(Tunnelling { id, tunnel, got: 0, has_ended: false });
        } else if answer.mischief != Mischief::Silent {
            self.forget_if_answered();
        }
    }

    /// The next request may come once this one was read and answered.
    fn forget_if_answered(&mut self) {
        if self.serving.as_ref().is_some_and(|serving| serving.is_whole && serving.is_answered) {
            self.serving = None;
        }
    }

    fn transmit(&mut self, net: &mut Net, random: &mut Random) {
        while !self.outbox.is_empty() && !self.is_over {
            let mut count = self.pace.min(self.outbox.len());
            if random.chance(20) {
                count = random.between(1, count);
            }
            match net.write(self.end, &self.outbox[..count]) {
                Ok(0) => return,
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(_) => return self.end(net, Then::Close),
            }
            if self.pace < 20_000 {
                break;
            }
        }
        if self.is_over || !self.outbox.is_empty() {
            return;
        }
        if let Some(tunnel) = &self.tunnel {
            let may_shut = tunnel.has_ended || tunnel.tunnel.ends_first != Ends::Client;
            if !self.has_shut && may_shut {
                self.has_shut = true;
                net.shutdown(self.end);
            }
            return;
        }
        // A server that answers early and closes reads what is on its way, or its answer would be
        // lost in a reset.
        let may_end = self.then == Then::Reset || self.serving.is_none();
        let has_spoken = self.serving.as_ref().is_none_or(|serving| serving.is_answered);
        if self.then != Then::Keep && has_spoken && may_end {
            self.end(net, self.then);
        }
    }

    fn on_broken(&mut self, net: &mut Net, book: &Book) -> Result<(), String> {
        self.end(net, Then::Close);
        match &self.tunnel {
            Some(tunnel) if book.exchanges[tunnel.id].is_calm => {
                Err(format!("exchange {}: its tunnel broke", tunnel.id))
            }
            _ => Ok(()),
        }
    }

    fn on_fin(&mut self, net: &mut Net, book: &mut Book) -> Result<(), String> {
        if let Some(Tunnelling { id, tunnel, got, has_ended }) = &mut self.tunnel {
            *has_ended = true;
            let exchange = &book.exchanges[*id];
            if *got < tunnel.up_bytes && exchange.is_calm {
                return Err(format!(
                    "exchange {id}: a tunnel that ended after {got} of {} bytes",
                    tunnel.up_bytes
                ));
            }
            if !self.has_shut && exchange.is_calm {
                return Ok(());
            }
        }
        self.end(net, Then::Close);
        Ok(())
    }

    fn end(&mut self, net: &mut Net, how: Then) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        match how {
            Then::Reset => net.reset(self.end),
            Then::Close | Then::Keep => net.close(self.end),
        }
    }
}

fn check_request_head(
    exchange: &Exchange,
    head: &Head,
    number: usize,
    is_peer: bool,
) -> Result<(), String> {
    let id = exchange.id;
    if exchange.callee != Callee::App(number) {
        return Err(format!("exchange {id} was for {:?}", exchange.callee));
    }
    if exchange.started.is_none() {
        return Err(format!("exchange {id} has not been asked for yet"));
    }
    let want = format!("{} {} HTTP/1.1", exchange.method, exchange.path());
    if head.start_line != want {
        return Err(format!("exchange {id}: {:?} instead of {want:?}", head.start_line));
    }
    let noise = head.find("x-noise").map_or(0, str::len);
    let odd = head.find("x-odd");
    if noise != exchange.noise_bytes || odd.is_some_and(|value| value != "spaced") {
        return Err(format!("exchange {id}: its lines changed"));
    }
    if head.find("dapr-app-id").is_some() || head.find("keep-alive").is_some() {
        return Err(format!("exchange {id}: lines for the sidecar reached the app"));
    }
    if head.find("destination-app-id").is_some() != is_peer {
        return Err(format!("exchange {id}: lines between sidecars where none belong"));
    }
    let caller = if number == 0 { None } else { Some("own") };
    if head.find("dapr-caller-app-id") != caller {
        return Err(format!("exchange {id}: its caller is {:?}", head.find("dapr-caller-app-id")));
    }
    if head.find("expect").is_some() != exchange.expects_continue {
        return Err(format!("exchange {id}: its expectation was lost"));
    }
    if (head.find("upgrade") == Some("sim")) != exchange.tunnel.is_some() {
        return Err(format!("exchange {id}: its upgrade was lost"));
    }
    Ok(())
}

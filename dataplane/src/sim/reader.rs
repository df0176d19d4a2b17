//! Reads HTTP/1.1 as the scripted peers do: simply, strictly, and without a line of the code under
//! test.

#![forbid(unsafe_code)]

pub(super) struct Reader {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were read.
    at: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    ChunkData(usize),
    ChunkDataEnd,
    ChunkSize,
    Head,
    Length(usize),
    Trailers,
    UntilClose,
}

/// How long a body is; the peers decide it from a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BodyEnd {
    Chunked,
    Length(usize),
    /// Also that of a tunnel.
    UntilClose,
}

pub(super) enum Item {
    /// [`Reader::begin_body`] says what follows.
    Head(Head),
    Data(Vec<u8>),
    /// The body is complete; with the trailer lines.
    End(Vec<(String, String)>),
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) start_line: String,
    /// Names in lower case.
    pub(super) lines: Vec<(String, String)>,
}

impl Head {
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The number in a line that must be one.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.find(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("{name} is no number: {value:?}"))
    }

    /// The body that the head declares, if it does. Both, or one twice, is what nobody may ever be
    /// sent.
    pub(super) fn declared(&self) -> Result<Option<BodyEnd>, String> {
        let of = |name: &str| self.lines.iter().filter(|(other, _)| other == name).count();
        match (of("content-length"), of("transfer-encoding")) {
            (0, 0) => Ok(None),
            (1, 0) => Ok(self.number("content-length")?.map(BodyEnd::Length)),
            (0, 1) if self.find("transfer-encoding") == Some("chunked") => {
                Ok(Some(BodyEnd::Chunked))
            }
            _ => Err(format!("ambiguous framing in {:?} {:?}", self.start_line, self.lines)),
        }
    }

    pub(super) fn has_option(&self, option: &str) -> bool {
        self.find("connection").is_some_and(|value| value.eq_ignore_ascii_case(option))
    }
}

impl Reader {
    pub(super) const fn new() -> Self {
        Self { bytes: Vec::new(), at: 0, state: State::Head }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn begin_body(&mut self, end: BodyEnd) {
        self.state = match end {
            BodyEnd::Chunked => State::ChunkSize,
            BodyEnd::Length(length) => State::Length(length),
            BodyEnd::UntilClose => State::UntilClose,
        };
    }

    /// Nothing is here of a message that is not complete.
    pub(super) fn is_between_messages(&self) -> bool {
        self.state == State::Head && self.at == self.bytes.len()
    }

    pub(super) fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The next thing that is wholly here.
    pub(super) fn next(&mut self) -> Result<Option<Item>, String> {
        loop {
            match self.state {
                State::Head => return Ok(self.read_head()?.map(Item::Head)),
                State::Length(0) => {
                    self.state = State::Head;
                    return Ok(Some(Item::End(Vec::new())));
                }
                State::Length(left) => {
                    let data = self.take(left);
                    self.state = State::Length(left - data.len());
                    return Ok((!data.is_empty()).then_some(Item::Data(data)));
                }
                State::UntilClose => {
                    let data = self.take(usize::MAX);
                    return Ok((!data.is_empty()).then_some(Item::Data(data)));
                }
                State::ChunkSize => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    let size = line.split(';').next().unwrap_or_default();
                    let size = usize::from_str_radix(size, 16)
                        .map_err(|_| format!("chunk size {line:?}"))?;
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::ChunkData(0) => self.state = State::ChunkDataEnd,
                State::ChunkData(left) => {
                    let data = self.take(left);
                    self.state = State::ChunkData(left - data.len());
                    return Ok((!data.is_empty()).then_some(Item::Data(data)));
                }
                State::ChunkDataEnd => match self.line()? {
                    None => return Ok(None),
                    Some(line) if line.is_empty() => self.state = State::ChunkSize,
                    Some(line) => return Err(format!("{line:?} behind chunk data")),
                },
                State::Trailers => return self.read_trailers(),
            }
        }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.bytes.len() - self.at);
        self.at += count;
        self.bytes[self.at - count..self.at].to_vec()
    }

    /// Up to the next CRLF, which is dropped.
    fn line(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.rest().windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8(self.take(end + 2)).map_err(|e| e.to_string())?;
        Ok(Some(line[..end].to_owned()))
    }

    fn read_head(&mut self) -> Result<Option<Head>, String> {
        let Some(end) = self.rest().windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = String::from_utf8(self.take(end + 4)).map_err(|e| e.to_string())?;
        let mut lines = text[..end].split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let lines = lines.map(split_line).collect::<Result<_, _>>()?;
        Ok(Some(Head { start_line, lines }))
    }

    fn read_trailers(&mut self) -> Result<Option<Item>, String> {
        let is_whole = self.rest().starts_with(b"\r\n")
            || self.rest().windows(4).any(|four| four == b"\r\n\r\n");
        if !is_whole {
            return Ok(None);
        }
        let mut trailers = Vec::new();
        while let Some(line) = self.line()? {
            if line.is_empty() {
                break;
            }
            trailers.push(split_line(&line)?);
        }
        self.state = State::Head;
        Ok(Some(Item::End(trailers)))
    }
}

fn split_line(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

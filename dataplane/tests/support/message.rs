//! One HTTP/1.1 message as it was on the wire, read by a parser that has nothing in common with the
//! one under test and panics at anything that is not canonical: what we send must be canonical.

#![forbid(unsafe_code)]

/// How the end of a body was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    Empty,
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) start_line: String,
    /// Names as sent, in the order sent.
    pub(crate) lines: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// Decoded.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Head and body as they came.
    pub(crate) raw: Vec<u8>,
}

impl Message {
    /// `head` ends with its empty line.
    pub(crate) fn parse_head(head: &[u8]) -> Self {
        let text: String = head.iter().copied().map(char::from).collect();
        let text = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
        assert!(
            !text.replace("\r\n", "").contains(['\r', '\n', '\0']),
            "stray control bytes in a head: {text:?}"
        );
        let mut lines = text.split("\r\n");
        let start_line = lines.next().expect("a head has a start line").to_owned();
        let lines = lines.map(parse_line).collect();
        Self {
            start_line,
            lines,
            framing: Framing::Empty,
            body: Vec::new(),
            trailers: Vec::new(),
            raw: head.to_vec(),
        }
    }

    pub(crate) fn status(&self) -> u16 {
        let (version, rest) = self.start_line.split_once(' ').expect("a status line");
        assert_eq!(version, "HTTP/1.1", "our own version on every answer: {}", self.start_line);
        rest.get(..3).expect("three digits").parse().expect("three digits")
    }

    /// Every value of a line, in the order sent.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let is_it = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.lines.iter().filter(is_it).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a line that may be there once.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} {} times in {self}", all.len());
        all.first().copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The framing that the lines of a request declare.
    pub(crate) fn request_framing(&self) -> Framing {
        match self.declared_framing() {
            Framing::UntilClose => Framing::Empty,
            framing => framing,
        }
    }

    /// RFC 9112 §6.3, for the answer to a request with this method.
    pub(crate) fn response_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::Empty;
        }
        self.declared_framing()
    }

    fn declared_framing(&self) -> Framing {
        let coding = self.one("transfer-encoding");
        let length = self.one("content-length");
        assert!(coding.is_none() || length.is_none(), "two framing lines in {self}");
        if let Some(coding) = coding {
            assert!(coding.eq_ignore_ascii_case("chunked"), "not a coding we send: {coding:?}");
            return Framing::Chunked;
        }
        match length.map(|l| l.parse().expect("digits")) {
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.raw.escape_ascii())
    }
}

pub(crate) fn parse_line(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
    assert!(
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()),
        "not a field name: {line:?}"
    );
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

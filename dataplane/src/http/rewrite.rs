//! A head for the next hop: another start line, some lines gone, some lines new, the rest as it
//! came.
//!
//! Two ways with one result. In place costs two short moves and no buffer; anew is for heads that
//! do not fit or that need another name. Both keep the order of the lines, which RFC 9110 §5.3 lets
//! carry meaning.

#![forbid(unsafe_code)]

use super::{
    field::{Field, FieldSet},
    head::{CRLF, Line, Lines},
};
use crate::limits::HEADER_LINES_MAX;
use arrayvec::ArrayVec;
use std::ops::Range;

/// What to change. Lines that `Connection` names go in any case; of several `Baggage` lines the
/// first stays, as in daprd.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The parts of the start line, its CRLF included.
    pub start_line: &'a [&'a [u8]],
    pub drop: FieldSet,
    /// Whole lines with their CRLF; they come right after the start line.
    pub added: &'a [&'a [u8]],
}

/// Rewrites the head `buffer[head_start..head_start + head_bytes]` so that it ends where it ended
/// and what follows it stays. Kept lines move right over dropped ones; the new start line and lines
/// are written in front of them, into what that freed and the free bytes before `head_start`.
/// Returns where the head begins now.
///
/// `None`, with nothing changed, when there is no room or a kept line needs another name: then
/// [`rewrite_anew`].
pub fn rewrite_in_place(
    buffer: &mut [u8],
    head_start: usize,
    lines: &Lines,
    head_bytes: usize,
    rewrite: &Rewrite<'_>,
) -> Option<usize> {
    let mut kept_bytes = CRLF.len();
    let mut runs = Runs::new();
    for line in kept(lines, rewrite.drop) {
        if line.field == Field::GrpcPrefixed {
            return None;
        }
        kept_bytes += line.bytes();
        match runs.last_mut() {
            Some(run) if run.end == line.name.start => run.end = line.end,
            // Each run but the first has a dropped line before it.
            _ => runs.push(line.name.start..line.end),
        }
    }
    let head_end = head_start + head_bytes;
    let new_bytes = total(rewrite.start_line) + total(rewrite.added);
    let start = head_end.checked_sub(kept_bytes + new_bytes)?;
    move_right(buffer, head_start, &runs, head_end);
    let mut free = &mut buffer[start..head_end - kept_bytes];
    for parts in [rewrite.start_line, rewrite.added] {
        for part in parts {
            let (place, rest) = free.split_at_mut(part.len());
            place.copy_from_slice(part);
            free = rest;
        }
    }
    debug_assert!(free.is_empty());
    Some(start)
}

/// Emits the rewritten `head` piece by piece, each kept line as `name: value`.
pub fn rewrite_anew(head: &[u8], lines: &Lines, rewrite: &Rewrite<'_>, put: &mut dyn FnMut(&[u8])) {
    for part in rewrite.start_line.iter().chain(rewrite.added) {
        put(part);
    }
    for line in kept(lines, rewrite.drop) {
        if line.field == Field::GrpcPrefixed {
            put(RENAME_PREFIX);
        }
        put(line.name.of(head));
        put(b": ");
        put(line.value.of(head));
        put(CRLF);
    }
    put(CRLF);
}

/// The lines that stay, in order.
fn kept(lines: &Lines, drop: FieldSet) -> impl Iterator<Item = &Line> {
    let has_more_baggage = lines.is_repeated(Field::Baggage);
    lines.iter().enumerate().filter_map(move |(index, line)| {
        let is_dropped = line.nominated
            || drop.contains(line.field)
            || has_more_baggage && is_more_baggage(lines, index);
        (!is_dropped).then_some(line)
    })
}

fn is_more_baggage(lines: &Lines, index: usize) -> bool {
    let is_baggage = |line: &Line| line.field == Field::Baggage;
    let lines = lines.as_slice();
    is_baggage(&lines[index]) && lines[..index].iter().any(is_baggage)
}

/// Moves each run of kept lines to the right, the last one first, so that nothing is overwritten
/// before it moved. The empty line at the end, and the kept lines that touch it, stay where they
/// are.
fn move_right(buffer: &mut [u8], head_start: usize, runs: &Runs, head_end: usize) {
    let mut free_end = head_end - CRLF.len();
    for run in runs.iter().rev() {
        let run = head_start + run.start as usize..head_start + run.end as usize;
        free_end -= run.len();
        if free_end != run.start {
            buffer.copy_within(run, free_end);
        }
    }
}

/// Where kept lines lie that follow each other.
type Runs = ArrayVec<Range<u32>, { HEADER_LINES_MAX.div_ceil(2) }>;

impl Line {
    fn bytes(&self) -> usize {
        (self.end - self.name.start) as usize
    }
}

fn total(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// What daprd puts before `grpc-…`, so that an app does not take it for its own call's metadata.
const RENAME_PREFIX: &[u8] = b"dapr-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Parsed, RequestHead, parse_request};

    const DROP: FieldSet = FieldSet::of(&[
        Field::BinarySuffixed,
        Field::Connection,
        Field::DaprAppId,
        Field::HopByHop,
        Field::Host,
        Field::Upgrade,
    ]);
    const REWRITE: Rewrite<'static> = Rewrite {
        start_line: &[b"PUT ", b"/n?x", b" HTTP/1.1\r\n"],
        drop: DROP,
        added: &[b"Host: app\r\n", b"A: b\r\n"],
    };
    const START: &str = "PUT /n?x HTTP/1.1\r\nHost: app\r\nA: b\r\n";
    const BODY: &[u8] = b"body\r\n\r\n";

    fn parse(bytes: &[u8]) -> RequestHead {
        let mut head = RequestHead::new();
        assert_eq!(parse_request(bytes, 16 * 1024, &mut head), Ok(Parsed::Complete));
        head
    }

    fn anew(head: &[u8], rewrite: &Rewrite<'_>) -> String {
        let mut out = Vec::new();
        let lines = parse(head).lines;
        rewrite_anew(head, &lines, rewrite, &mut |bytes| out.extend_from_slice(bytes));
        String::from_utf8(out).unwrap()
    }

    /// The head rewritten in a buffer with this much room in front, if it can be; checks that
    /// nothing else changes.
    fn in_place(head: &[u8], rewrite: &Rewrite<'_>, headroom: usize) -> Option<String> {
        let lines = parse(head).lines;
        let mut buffer = [&vec![b'#'; headroom][..], head, BODY].concat();
        let before = buffer.clone();
        let result = rewrite_in_place(&mut buffer, headroom, &lines, head.len(), rewrite);
        let head_end = headroom + head.len();
        assert_eq!(&buffer[head_end..], BODY);
        match result {
            Some(start) => {
                assert_eq!(buffer[..start.min(headroom)], before[..start.min(headroom)]);
                Some(String::from_utf8(buffer[start..head_end].to_vec()).unwrap())
            }
            None => {
                assert_eq!(buffer, before, "a refusal changes nothing");
                None
            }
        }
    }

    #[test]
    fn rewrites_both_ways_alike() {
        for (case, lines, kept) in [
            ("nothing kept", "Host: a\r\n", ""),
            ("one kept at the end", "Host: a\r\nX: 1\r\n", "X: 1\r\n"),
            ("one kept in front", "X: 1\r\nHost: a\r\n", "X: 1\r\n"),
            (
                "kept and dropped in turn",
                "X: 1\r\nHost: a\r\nY: 2\r\nTE: t\r\nZ: 3\r\n",
                "X: 1\r\nY: 2\r\nZ: 3\r\n",
            ),
            ("dropped around", "Host: a\r\nX: 1\r\nY: 2\r\ndapr-app-id: b\r\n", "X: 1\r\nY: 2\r\n"),
            ("long line over a short one", "X: 1234567890\r\nHost: a\r\n", "X: 1234567890\r\n"),
            (
                "same names in order",
                "Host: a\r\nX: 1\r\nx: 2\r\nX: 1\r\n",
                "X: 1\r\nx: 2\r\nX: 1\r\n",
            ),
            ("nominated", "Host: a\r\nX: 1\r\nConnection: x, close\r\nY: 2\r\n", "Y: 2\r\n"),
            (
                "framing although nominated",
                "Host: a\r\nConnection: content-length\r\nContent-Length: 4\r\n",
                "Content-Length: 4\r\n",
            ),
            (
                "first baggage",
                "Host: a\r\nbaggage: a=1\r\nX: 1\r\nBaggage: b=2\r\nbaggage: c\r\n",
                "baggage: a=1\r\nX: 1\r\n",
            ),
            ("binary metadata", "Host: a\r\ngrpc-trace-bin: a\r\nx-bin: b\r\n", ""),
        ] {
            let head = format!("POST /m HTTP/1.1\r\n{lines}\r\n");
            let want = format!("{START}{kept}\r\n");
            assert_eq!(anew(head.as_bytes(), &REWRITE), want, "{case}");
            assert_eq!(in_place(head.as_bytes(), &REWRITE, 64), Some(want), "{case}");
        }
    }

    #[test]
    fn needs_exactly_the_room_that_it_needs() {
        let head = b"POST /m HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n";
        let growth = anew(head, &REWRITE).len() - head.len();
        assert_eq!(in_place(head, &REWRITE, growth - 1), None);
        assert!(in_place(head, &REWRITE, growth).is_some());
        let shorter = Rewrite { start_line: &[b"GET / HTTP/1.1\r\n"], added: &[], ..REWRITE };
        assert!(in_place(head, &shorter, 0).is_some());
    }

    #[test]
    fn renames_grpc_metadata_only_anew() {
        let head = b"POST /m HTTP/1.1\r\nHost: a\r\nGrpc-Timeout: 1S\r\n\r\n";
        assert_eq!(in_place(head, &REWRITE, 64), None);
        assert_eq!(anew(head, &REWRITE), format!("{START}dapr-Grpc-Timeout: 1S\r\n\r\n"));
        let drop = FieldSet::of(&[Field::GrpcPrefixed, Field::Host]);
        assert_eq!(in_place(head, &Rewrite { drop, ..REWRITE }, 64), Some(format!("{START}\r\n")));
    }

    #[test]
    fn an_empty_line_in_front_becomes_room() {
        let head = b"\r\nPOST /m HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n";
        let want = format!("{START}X: 1\r\n\r\n");
        assert_eq!(anew(head, &REWRITE), want);
        assert_eq!(in_place(head, &REWRITE, 64), Some(want));
    }

    /// Pseudo-random (xorshift), so that a failure can be repeated.
    fn next(seed: &mut u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 32) as usize
    }

    /// A line, and whether it stays.
    const SAMPLES: [(&str, bool); 10] = [
        ("X-Request-Id: 8f3a", true),
        ("X-Empty:", true),
        ("x-blank: \t a b \t", true),
        ("Accept:*/*", true),
        ("Cookie: a=\"b\"; c=d; a-long-name=and-a-value-that-is-longer-than-the-other-lines", true),
        ("Content-Type: application/json", true),
        ("Keep-Alive: timeout=5", false),
        ("trailer: x", false),
        ("dapr-app-id: orders", false),
        ("X-Nominated: 1", false),
    ];

    #[test]
    fn keeps_the_same_lines_in_the_same_order_whatever_is_dropped() {
        let mut seed = 0x51ab_90c3_7d24_e681;
        for round in 0..5000 {
            let mut head =
                String::from("POST /m HTTP/1.1\r\nHost: a\r\nConnection: x-nominated\r\n");
            let mut kept = Vec::new();
            for _ in 0..next(&mut seed) % 20 {
                let (line, stays) = SAMPLES[next(&mut seed) % SAMPLES.len()];
                head += &format!("{line}\r\n");
                let (name, value) = line.split_once(':').unwrap();
                kept.extend(stays.then(|| (name, value.trim_matches([' ', '\t']))));
            }
            head += ["", "Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n"]
                [next(&mut seed) % 3];
            head += "\r\n";
            let framing = parse(head.as_bytes()).framing;
            let anew = anew(head.as_bytes(), &REWRITE);
            let in_place = in_place(head.as_bytes(), &REWRITE, next(&mut seed) % 80);
            for text in [Some(anew), in_place].into_iter().flatten() {
                assert!(text.starts_with(START), "{round}: {text}");
                let head = parse(text.as_bytes());
                assert_eq!(head.bytes as usize, text.len(), "{round}: {text}");
                assert_eq!(head.framing, framing, "{round}: {text}");
                let is_framing = |line: &&Line| {
                    matches!(line.field, Field::ContentLength | Field::TransferEncoding)
                };
                let text_of = |line: &Line| {
                    let text =
                        |span: crate::http::Span| str::from_utf8(span.of(text.as_bytes())).unwrap();
                    (text(line.name).to_owned(), text(line.value).to_owned())
                };
                let lines: Vec<_> = head
                    .lines
                    .iter()
                    .skip(2)
                    .filter(|line| !is_framing(line))
                    .map(text_of)
                    .collect();
                let want: Vec<_> = kept
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect();
                assert_eq!(lines, want, "{round}: {text}");
            }
        }
    }
}

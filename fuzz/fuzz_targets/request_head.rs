//! Request heads: one verdict however the bytes arrive, and what is forwarded reads as what was
//! accepted.
//!
//! The first two bytes of the input are the size of the pieces that the rest arrives in, and the
//! room for rewriting.

#![no_main]
#![forbid(unsafe_code)]

use dataplane::http::{
    BodyReader, Field, FieldSet, Framing, HeadError, HeadScan, Line, Parsed, RequestError,
    RequestHead, Rewrite, Version, parse_request, rewrite_anew, rewrite_in_place,
};
use dataplane::limits::HEADER_LINES_MAX;
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES_MAX: usize = 4096;

const REWRITE: Rewrite<'static> = Rewrite {
    start_line: &[b"POST ", b"/m", b" HTTP/1.1\r\n"],
    drop: FieldSet::of(&[
        Field::BinarySuffixed,
        Field::Connection,
        Field::Expect,
        Field::HopByHop,
        Field::Host,
        Field::Upgrade,
    ]),
    added: &[b"Host: app\r\n"],
};

fuzz_target!(|input: &[u8]| {
    let [piece_bytes, headroom, bytes @ ..] = input else { return };
    let (verdict, head) = parse(bytes);
    let (in_pieces, head_of_pieces) = parse_in_pieces(bytes, usize::from(*piece_bytes).max(1));
    match (verdict, in_pieces) {
        // Which of two mistakes is found first may depend on what has arrived.
        (Err(_), Err(_)) => {}
        (verdict, in_pieces) => {
            assert_eq!(verdict, in_pieces);
            if verdict == Ok(Parsed::Complete) {
                assert_eq!(format!("{head:?}"), format!("{head_of_pieces:?}"));
            }
        }
    }
    match verdict {
        Err(error) => assert!((400..=505).contains(&error.status())),
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_BYTES_MAX),
        Ok(Parsed::Complete) => {
            check_head(bytes, &head);
            check_rewrite(bytes, &head, usize::from(*headroom));
            check_body(&bytes[head.bytes as usize..], head.framing);
        }
    }
});

fn parse(bytes: &[u8]) -> (Result<Parsed, RequestError>, RequestHead) {
    let mut head = RequestHead::new();
    (parse_request(bytes, HEAD_BYTES_MAX, &mut head), head)
}

fn parse_in_pieces(
    bytes: &[u8],
    piece_bytes: usize,
) -> (Result<Parsed, RequestError>, RequestHead) {
    let mut scan = HeadScan::new(HEAD_BYTES_MAX);
    for end in (piece_bytes..bytes.len()).step_by(piece_bytes) {
        if scan.is_complete(&bytes[..end]) {
            let (verdict, head) = parse(&bytes[..end]);
            assert_ne!(verdict, Ok(Parsed::Partial), "the scan promised a verdict");
            return (verdict, head);
        }
        assert_ne!(parse(&bytes[..end]).0, Ok(Parsed::Complete), "the scan missed a head");
    }
    parse(bytes)
}

fn check_head(bytes: &[u8], head: &RequestHead) {
    let text = &bytes[..head.bytes as usize];
    assert!(text.len() <= HEAD_BYTES_MAX && text.ends_with(b"\r\n\r\n"));
    let line_feeds = text.iter().filter(|byte| **byte == b'\n').count();
    let line_ends = text.windows(2).filter(|pair| pair == b"\r\n").count();
    let returns = text.iter().filter(|byte| **byte == b'\r').count();
    assert_eq!((line_feeds, returns), (line_ends, line_ends));
    assert!(!text.contains(&0));
    assert_ne!(head.framing, Framing::UntilClose);
    let count = |field| head.lines.iter().filter(|line| line.field == field).count();
    assert!(count(Field::ContentLength) + count(Field::TransferEncoding) <= 1);
    assert!(count(Field::Host) == 1 || count(Field::Host) == 0 && head.version == Version::Http10);
}

/// Name and value, as a recipient would read them.
fn read(bytes: &[u8], line: &Line) -> (Vec<u8>, Vec<u8>) {
    let mut name = line.name.of(bytes).to_ascii_lowercase();
    if line.field == Field::GrpcPrefixed {
        name.splice(..0, *b"dapr-");
    }
    (name, line.value.of(bytes).to_vec())
}

fn check_rewrite(bytes: &[u8], head: &RequestHead, headroom: usize) {
    let text = &bytes[..head.bytes as usize];
    let mut has_baggage = false;
    let mut want = vec![(b"host".to_vec(), b"app".to_vec())];
    for line in &head.lines {
        let is_more_baggage = line.field == Field::Baggage && has_baggage;
        has_baggage |= line.field == Field::Baggage;
        if !line.nominated && !REWRITE.drop.contains(line.field) && !is_more_baggage {
            want.push(read(bytes, line));
        }
    }
    let mut anew = Vec::new();
    rewrite_anew(text, &head.lines, &REWRITE, &mut |part| anew.extend_from_slice(part));
    check_rewritten(&anew, head, &want);

    let mut buffer = vec![b'#'; headroom];
    buffer.extend_from_slice(bytes);
    let before = buffer.clone();
    let head_end = headroom + text.len();
    match rewrite_in_place(&mut buffer, headroom, &head.lines, text.len(), &REWRITE) {
        Some(start) => check_rewritten(&buffer[start..head_end], head, &want),
        None => assert_eq!(buffer, before),
    }
    assert_eq!(buffer[head_end..], before[head_end..]);
}

fn check_rewritten(text: &[u8], original: &RequestHead, want: &[(Vec<u8>, Vec<u8>)]) {
    let mut head = RequestHead::new();
    // The new Host is one line more for a 1.0 request without one, and a prefix makes a line
    // longer.
    let verdict = parse_request(text, 2 * HEAD_BYTES_MAX, &mut head);
    if want.len() > HEADER_LINES_MAX {
        assert_eq!(verdict, Err(RequestError::Head(HeadError::TooManyLines)));
        return;
    }
    assert_eq!(verdict, Ok(Parsed::Complete));
    assert_eq!(head.bytes as usize, text.len());
    assert_eq!(head.framing, original.framing);
    let lines: Vec<_> = head
        .lines
        .iter()
        .map(|line| (line.name.of(text).to_ascii_lowercase(), line.value.of(text).to_vec()))
        .collect();
    assert_eq!(lines, want);
}

fn check_body(bytes: &[u8], framing: Framing) {
    let mut reader = BodyReader::new(framing);
    if let Ok(count) = reader.take(bytes) {
        assert!(count <= bytes.len() && (count == bytes.len() || reader.is_complete()));
    }
}

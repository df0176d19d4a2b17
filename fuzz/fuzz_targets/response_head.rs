//! Response heads: one verdict however the bytes arrive, and an end that does not depend on what
//! follows.
//!
//! The first two bytes of the input are the size of the pieces that the rest arrives in, and what
//! was asked.

#![no_main]
#![forbid(unsafe_code)]

use dataplane::http::{
    BodyReader, Field, Framing, HeadScan, Method, Parsed, ResponseError, ResponseHead,
    parse_response,
};
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES_MAX: usize = 4096;

type Verdict = Result<Parsed, ResponseError>;

fuzz_target!(|input: &[u8]| {
    let [piece_bytes, method, bytes @ ..] = input else { return };
    let method = if method % 4 == 0 { Method::Head } else { Method::Get };
    let (verdict, head) = parse(bytes, method);
    let (in_pieces, head_of_pieces) =
        parse_in_pieces(bytes, method, usize::from(*piece_bytes).max(1));
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
        Err(_) => {}
        Ok(Parsed::Partial) => assert!(bytes.len() < HEAD_BYTES_MAX),
        Ok(Parsed::Complete) => {
            check_head(bytes, &head, method);
            check_body(&bytes[head.bytes as usize..], head.framing);
        }
    }
});

fn parse(bytes: &[u8], method: Method) -> (Verdict, ResponseHead) {
    let mut head = ResponseHead::new();
    (parse_response(bytes, HEAD_BYTES_MAX, method, &mut head), head)
}

fn parse_in_pieces(bytes: &[u8], method: Method, piece_bytes: usize) -> (Verdict, ResponseHead) {
    let mut scan = HeadScan::new(HEAD_BYTES_MAX);
    for end in (piece_bytes..bytes.len()).step_by(piece_bytes) {
        if scan.is_complete(&bytes[..end]) {
            let (verdict, head) = parse(&bytes[..end], method);
            assert_ne!(verdict, Ok(Parsed::Partial), "the scan promised a verdict");
            return (verdict, head);
        }
        assert_ne!(parse(&bytes[..end], method).0, Ok(Parsed::Complete), "the scan missed a head");
    }
    parse(bytes, method)
}

fn check_head(bytes: &[u8], head: &ResponseHead, method: Method) {
    let text = &bytes[..head.bytes as usize];
    assert!(text.len() <= HEAD_BYTES_MAX && text.ends_with(b"\r\n\r\n"));
    assert!((100..=999).contains(&head.status));
    assert!(head.reason.of(text).iter().all(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
    let count = |field| head.lines.iter().filter(|line| line.field == field).count();
    assert!(count(Field::ContentLength) + count(Field::TransferEncoding) <= 1);
    if method == Method::Head || head.status < 200 || matches!(head.status, 204 | 304) {
        assert_eq!(head.framing, Framing::Empty);
    }
    assert!(!(head.framing == Framing::UntilClose && head.keep_alive));
    assert!(head.upgrade.is_none() || head.status == 101);
}

fn check_body(bytes: &[u8], framing: Framing) {
    let mut reader = BodyReader::new(framing);
    if let Ok(count) = reader.take(bytes) {
        assert!(count <= bytes.len() && (count == bytes.len() || reader.is_complete()));
    }
}

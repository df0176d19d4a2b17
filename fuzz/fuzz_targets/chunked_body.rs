//! Chunked bodies: however they are split, relayed or decoded, they end at the same byte and say
//! the same.
//!
//! The first byte of the input is the size of the pieces that the rest arrives in.

#![no_main]
#![forbid(unsafe_code)]

use dataplane::http::{BodyReader, ChunkError, Framing, LAST_CHUNK, chunk_header};
use libfuzzer_sys::fuzz_target;

type Reading = Result<(usize, Vec<u8>, bool), ChunkError>;

fuzz_target!(|input: &[u8]| {
    let Some((piece_bytes, bytes)) = input.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    let pieces = decode(bytes, usize::from(*piece_bytes).max(1));
    assert_eq!(whole, pieces);
    let relayed = relay(bytes, usize::from(*piece_bytes).max(1));
    assert_eq!(relayed, whole.as_ref().map(|(used, ..)| *used).map_err(|error| *error));
    if let Ok((_, content, true)) = whole {
        assert_reads_back(&content);
    }
});

fn decode(bytes: &[u8], piece_bytes: usize) -> Reading {
    let mut reader = BodyReader::new(Framing::Chunked);
    let mut content = Vec::new();
    let mut used = 0;
    for end in ends(bytes, piece_bytes) {
        while used < end && !reader.is_complete() {
            let piece = reader.next_data(&bytes[used..end])?;
            assert!(piece.framing + piece.data > 0, "no progress");
            let data_start = used + piece.framing;
            used = data_start + piece.data;
            assert!(used <= end, "more than there was");
            content.extend_from_slice(&bytes[data_start..used]);
        }
    }
    assert_eq!(reader.data_bytes(), content.len() as u64);
    assert_eq!(reader.on_end().is_ok(), reader.is_complete());
    Ok((used, content, reader.is_complete()))
}

fn relay(bytes: &[u8], piece_bytes: usize) -> Result<usize, ChunkError> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let mut used = 0;
    for end in ends(bytes, piece_bytes) {
        let count = reader.take(&bytes[used..end])?;
        assert!(count == end - used || reader.is_complete(), "stopped early");
        used += count;
    }
    Ok(used)
}

fn assert_reads_back(content: &[u8]) {
    let mut encoded = Vec::new();
    for part in content.chunks(100) {
        encoded.extend_from_slice(chunk_header(part.len(), &mut [0; 18]));
        encoded.extend_from_slice(part);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(LAST_CHUNK);
    assert_eq!(decode(&encoded, encoded.len()), Ok((encoded.len(), content.to_vec(), true)));
}

/// How many bytes have arrived after each piece.
fn ends(bytes: &[u8], piece_bytes: usize) -> impl Iterator<Item = usize> {
    (piece_bytes..).step_by(piece_bytes).take_while(|end| *end < bytes.len()).chain([bytes.len()])
}

//! A head for the next hop: another start line, some lines gone, some lines new, the rest as it came.
//!
//! Two ways with one result. In place costs two short moves and no buffer; anew is for heads that do not fit or that
//! need another name. Both keep the order of the lines, which RFC 9110 §5.3 lets carry meaning.

#![forbid(unsafe_code)]

use super::{
    field::{Field, FieldSet},
    head::{CRLF, Line, Lines},
};

/// What to change. Lines that `Connection` names go in any case; of several `Baggage` lines the first stays, as in daprd.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The parts of the start line, its CRLF included.
    pub start_line: &'a [&'a [u8]],
    pub drop: FieldSet,
    /// Whole lines with their CRLF; they come right after the start line.
    pub added: &'a [&'a [u8]],
}

/// Rewrites the head `buffer[head_start..head_start + head_bytes]` so that it ends where it ended and what follows it
/// stays. Kept lines move right over dropped ones; the new start line and lines are written in front of them, into what
/// that freed and the free bytes before `head_start`. Returns where the head begins now.
///
/// `None`, with nothing changed, when there is no room or a kept line needs another name: then [`rewrite_anew`].
pub fn rewrite_in_place(
    buffer: &mut [u8],
    head_start: usize,
    lines: &Lines,
    head_bytes: usize,
    rewrite: &Rewrite<'_>,
) -> Option<usize> {
    let mut kept_bytes = CRLF.len();
    for line in kept(lines, rewrite.drop) {
        if line.field == Field::GrpcPrefixed {
            return None;
        }
        kept_bytes += line.bytes();
    }
    let head_end = head_start + head_bytes;
    let new_bytes = total(rewrite.start_line) + total(rewrite.added);
    let start = head_end.checked_sub(kept_bytes + new_bytes)?;
    move_right(buffer, head_start, lines, head_end, rewrite.drop);
    let mut at = start;
    for part in rewrite.start_line.iter().chain(rewrite.added) {
        buffer[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    debug_assert_eq!(at + kept_bytes, head_end);
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
    let lines = lines.as_slice();
    (0..lines.len()).filter(move |index| stays(lines, *index, drop)).map(|index| &lines[index])
}

fn stays(lines: &[Line], index: usize, drop: FieldSet) -> bool {
    let line = &lines[index];
    let is_baggage = |line: &Line| line.field == Field::Baggage;
    let is_more_baggage = || is_baggage(line) && lines[..index].iter().any(is_baggage);
    !line.nominated && !drop.contains(line.field) && !is_more_baggage()
}

/// Moves each run of kept lines to the right, the last one first, so that nothing is overwritten before it moved. The
/// empty line at the end, and the kept lines that touch it, stay where they are.
fn move_right(
    buffer: &mut [u8],
    head_start: usize,
    lines: &Lines,
    head_end: usize,
    drop: FieldSet,
) {
    let lines = lines.as_slice();
    let is_kept = |index: &usize| stays(lines, *index, drop);
    let mut free_end = head_end - CRLF.len();
    let mut next = lines.len();
    while let Some(last) = (0..next).rev().find(is_kept) {
        let first = (0..last).rev().find(|index| !is_kept(index)).map_or(0, |index| index + 1);
        let run =
            head_start + lines[first].name.start as usize..head_start + lines[last].end as usize;
        free_end -= run.len();
        if free_end != run.start {
            buffer.copy_within(run, free_end);
        }
        next = first;
    }
}

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

//! The usual head, read in one pass: plain ASCII, one blank before each value, CRLF everywhere.
//!
//! Whatever is not certainly that, mistakes and heads that are not whole yet included, is
//! httparse's to judge: nothing is refused here. What is taken here httparse takes as well, with
//! the same result; a test holds the two against each other.

#![forbid(unsafe_code)]

use super::{
    field::Field,
    head::{CRLF, Line, Lines, Version, is_token},
    method::Method,
    request::RequestHead,
    response::{REASON_START, ResponseHead},
    scan::{DELETE, find_end},
    span::{Span, offset},
};

/// Fills in what the lines of the head at the start of `window` say; returns its length. `None`:
/// what `head` contains by then means nothing.
pub(super) fn read_request(window: &[u8], head: &mut RequestHead) -> Option<usize> {
    let method_end = find_end::<0x21, DELETE>(window, 0)?;
    if window[method_end] != b' ' {
        return None;
    }
    let method = Method::from_bytes(&window[..method_end]);
    if method == Method::Other {
        return None;
    }
    let target_start = method_end + 1;
    // Of a path without `#` there is nothing more to check.
    if window.get(target_start) != Some(&b'/') {
        return None;
    }
    let target_end = find_end::<0x21, b'#'>(window, target_start)?;
    let rest = window[target_end..].strip_prefix(b" HTTP/1.1\r\n")?;
    head.method = method;
    head.method_name = Span::new(0, method_end);
    head.target = Span::new(target_start, target_end);
    head.version = Version::Http11;
    let length = read_lines(window, window.len() - rest.len(), &mut head.lines)?;
    head.bytes = offset(length);
    Some(length)
}

/// As [`read_request`].
pub(super) fn read_response(window: &[u8], head: &mut ResponseHead) -> Option<usize> {
    let rest = window.strip_prefix(b"HTTP/1.1 ")?;
    let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' ', ..] = rest else {
        return None;
    };
    let reason_end = find_end::<0x20, DELETE>(window, REASON_START)?;
    if !window[reason_end..].starts_with(CRLF) {
        return None;
    }
    let digit = |digit: &u8| u16::from(digit - b'0');
    head.status = 100 * digit(hundreds) + 10 * digit(tens) + digit(ones);
    head.version = Version::Http11;
    head.reason = Span::new(REASON_START, reason_end);
    let length = read_lines(window, reason_end + CRLF.len(), &mut head.lines)?;
    head.bytes = offset(length);
    Some(length)
}

/// Reads from the first line's beginning to behind the empty line, whose end it returns.
fn read_lines(window: &[u8], mut start: usize, lines: &mut Lines) -> Option<usize> {
    loop {
        if window[start..].starts_with(CRLF) {
            return Some(start + CRLF.len());
        }
        let line = read_line(window, start)?;
        start = line.end as usize;
        lines.try_push(line)?;
    }
}

/// A line without a blank at either end of its value, which is not empty.
#[inline]
fn read_line(window: &[u8], start: usize) -> Option<Line> {
    let name_end = find_end::<0x21, b':'>(window, start)?;
    let [b':', b' ', 0x21..=b'~', ..] = window[name_end..] else { return None };
    let value_start = name_end + 2;
    let value_end = find_end::<0x20, DELETE>(window, value_start)?;
    if window[value_end - 1] == b' ' || !window[value_end..].starts_with(CRLF) {
        return None;
    }
    let name = &window[start..name_end];
    let field = Field::from_name(name);
    // A field that has a name of its own is a token, and so is its name.
    let is_known = !matches!(field, Field::BinarySuffixed | Field::GrpcPrefixed | Field::Other);
    (is_known || is_token(name)).then_some(Line {
        name: Span::new(start, name_end),
        value: Span::new(value_start, value_end),
        end: offset(value_end + CRLF.len()),
        field,
        nominated: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Parsed, request, response};

    const MAX: usize = 4096;

    const REQUESTS: [&str; 9] = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET /v1.0/invoke/a/method/x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:3500\r\nX-Padding: xx\r\n\r\n",
        "POST http://a/m HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\nAccept: */*\r\n\r\nabc",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X\r\nX: 1\r\n\r\n",
        "PUT /\"<>[]^`{|}\\ HTTP/1.1\r\nHost: a\r\ntrace-BIN: a\tb\r\ngrpc-x: (a) c\r\n\r\n",
        "PURGE / HTTP/1.1\r\nHost: a\r\nX:a\r\nY:\r\nZ: a \r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "DELETE /a HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nTE: trailers\r\n\r\n0\r\n",
    ];

    const RESPONSES: [&str; 6] = [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 Answer\r\nContent-Type: application/json\r\nContent-Length: 256\r\n\r\nxxxx",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
        "HTTP/1.1 404 \r\nX: 1\r\n\r\n",
        "HTTP/1.1 200\r\nX: 1\r\n\r\n",
        "HTTP/1.0 099 Old\r\nServer: a b (c)\r\nX-Bin: \u{e4}\r\n\r\n",
    ];

    /// What the quick way makes of it, and what httparse does.
    fn both_requests(bytes: &[u8]) -> (Option<String>, String) {
        let (mut quick, mut full) = (RequestHead::new(), RequestHead::new());
        let length = read_request(bytes, &mut quick);
        let verdict = request::parse_by_httparse(bytes, MAX, &mut full);
        let quick = length.map(|length| {
            format!("{:?} {quick:?}", quick.check(&bytes[..length]).map(|()| Parsed::Complete))
        });
        (quick, format!("{verdict:?} {full:?}"))
    }

    fn both_responses(bytes: &[u8]) -> (Option<String>, String) {
        let (mut quick, mut full) = (ResponseHead::new(), ResponseHead::new());
        let length = read_response(bytes, &mut quick);
        let verdict = response::parse_by_httparse(bytes, MAX, Method::Get, &mut full);
        let quick = length.map(|length| {
            let verdict = quick.check(&bytes[..length], Method::Get);
            format!("{:?} {quick:?}", verdict.map(|()| Parsed::Complete))
        });
        (quick, format!("{verdict:?} {full:?}"))
    }

    /// Each text whole, cut at each offset, and with each byte replaced by each other one.
    fn variants(text: &str) -> impl Iterator<Item = Vec<u8>> {
        let bytes = text.as_bytes();
        let cut = (0..=bytes.len()).map(|end| bytes[..end].to_vec());
        let replaced = (0..bytes.len()).flat_map(move |at| {
            (0..=255).map(move |byte| [&bytes[..at], &[byte], &bytes[at + 1..]].concat())
        });
        let inserted = (0..bytes.len()).flat_map(move |at| {
            b" \t\r\n:\0\x7f#"
                .iter()
                .map(move |byte| [&bytes[..at], &[*byte], &bytes[at..]].concat())
        });
        cut.chain(replaced).chain(inserted)
    }

    #[test]
    fn what_is_taken_httparse_takes_in_the_same_way() {
        let (mut taken, mut count) = (0, 0);
        let mut hold = |bytes: &[u8], (quick, full): (Option<String>, String)| {
            count += 1;
            if let Some(quick) = quick {
                taken += 1;
                assert_eq!(quick, full, "{}", bytes.escape_ascii());
            }
        };
        for bytes in REQUESTS.iter().flat_map(|text| variants(text)) {
            hold(&bytes, both_requests(&bytes));
        }
        for bytes in RESPONSES.iter().flat_map(|text| variants(text)) {
            hold(&bytes, both_responses(&bytes));
        }
        assert!(taken > count / 10, "{taken} of {count}");
    }

    #[test]
    fn the_usual_is_taken_and_nothing_that_takes_a_closer_look() {
        for (index, text) in REQUESTS.iter().enumerate() {
            let is_taken = read_request(text.as_bytes(), &mut RequestHead::new()).is_some();
            assert_eq!(is_taken, matches!(index, 0 | 1 | 8), "{text:?}");
        }
        for (index, text) in RESPONSES.iter().enumerate() {
            let is_taken = read_response(text.as_bytes(), &mut ResponseHead::new()).is_some();
            assert_eq!(is_taken, index <= 3, "{text:?}");
        }
    }

    #[test]
    fn as_many_lines_as_there_is_room_for() {
        use crate::limits::HEADER_LINES_MAX;
        for (count, is_taken) in [(HEADER_LINES_MAX, true), (HEADER_LINES_MAX + 1, false)] {
            let text = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(count));
            let length = read_request(text.as_bytes(), &mut RequestHead::new());
            assert_eq!(length, is_taken.then_some(text.len()), "{count}");
        }
    }
}

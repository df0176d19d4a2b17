//! JSON strings and Go's quoted strings, byte for byte as Go's `encoding/json` and `strconv.Quote`
//! write them; pure.
//!
//! daprd's error bodies are compared as text by tests and log filters, so the escapes are Go's:
//! `<`, `>` and `&` too.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

/// Writes the inside of a JSON string. Whatever comes in, the string stays one: invalid UTF-8
/// becomes `\ufffd`, one for each byte.
#[derive(Debug)]
pub struct JsonText<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> JsonText<'o> {
    pub const fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    pub fn bytes(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            self.text(chunk.valid());
            for _ in chunk.invalid() {
                self.out.extend_from_slice(b"\\ufffd");
            }
        }
    }

    pub fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((at, special)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
            self.out.extend_from_slice(&rest.as_bytes()[..at]);
            self.escape(special);
            rest = &rest[at + special.len_utf8()..];
        }
        self.out.extend_from_slice(rest.as_bytes());
    }

    fn escape(&mut self, special: char) {
        let short = match special {
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\u{8}' => b"\\b",
            '\u{c}' => b"\\f",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\t' => b"\\t",
            other => return self.escape_by_number(other),
        };
        self.out.extend_from_slice(short);
    }

    fn escape_by_number(&mut self, special: char) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let number = u32::from(special);
        self.out.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            self.out.push(HEX[(number >> shift & 15) as usize]);
        }
    }

    /// As Go's `%q` does, and then for JSON: what `fill` writes, in double quotes.
    pub fn quote(&mut self, fill: impl FnOnce(&mut QuotedText<'_, 'o>)) {
        self.text("\"");
        fill(&mut QuotedText { json: self });
        self.text("\"");
    }

    /// Formats into the string. Unlike [`fmt::Write::write_fmt`] it has nothing to report: a Vec
    /// takes every byte.
    pub fn format(&mut self, text: fmt::Arguments<'_>) {
        let written = self.write_fmt(text);
        debug_assert!(written.is_ok(), "no Display of ours fails");
    }
}

/// Writes the inside of a Go string within a JSON string.
#[derive(Debug)]
pub struct QuotedText<'m, 'o> {
    json: &'m mut JsonText<'o>,
}

impl QuotedText<'_, '_> {
    pub fn bytes(&mut self, text: &[u8]) {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.char(c));
            for byte in chunk.invalid() {
                self.json.format(format_args!("\\x{byte:02x}"));
            }
        }
    }

    pub fn format(&mut self, text: fmt::Arguments<'_>) {
        let written = self.write_fmt(text);
        debug_assert!(written.is_ok(), "no Display of ours fails");
    }

    fn char(&mut self, c: char) {
        match c {
            '"' => self.json.text("\\\""),
            '\\' => self.json.text("\\\\"),
            '\u{7}' => self.json.text("\\a"),
            '\u{8}' => self.json.text("\\b"),
            '\u{c}' => self.json.text("\\f"),
            '\n' => self.json.text("\\n"),
            '\r' => self.json.text("\\r"),
            '\t' => self.json.text("\\t"),
            '\u{b}' => self.json.text("\\v"),
            printable if is_printable(printable) => {
                self.json.text(printable.encode_utf8(&mut [0; 4]));
            }
            other => self.number(u32::from(other)),
        }
    }

    fn number(&mut self, code: u32) {
        match code {
            0..0x80 => self.json.format(format_args!("\\x{code:02x}")),
            0x80..0x1_0000 => self.json.format(format_args!("\\u{code:04x}")),
            _ => self.json.format(format_args!("\\U{code:08x}")),
        }
    }
}

impl fmt::Write for QuotedText<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|c| self.char(c));
        Ok(())
    }
}

impl fmt::Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        Ok(())
    }
}

const fn is_escaped(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, and the ASCII space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    // The standard library knows which characters print, but says so only by what it escapes;
    // behind another character it leaves combining marks alone, as Go does.
    let mut text = [b'a', 0, 0, 0, 0];
    let count = c.encode_utf8(&mut text[1..]).len();
    let shown = str::from_utf8(&text[..=count]).unwrap_or_default();
    shown.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right column is what Go 1.26's `json.Marshal` makes of the left one.
    #[test]
    fn escapes_as_go_does() {
        for (case, text, want) in [
            ("plain", b"a b/c'd".as_slice(), "a b/c'd"),
            ("quote and backslash", br#"a"b\c"#, r#"a\"b\\c"#),
            ("short escapes", b"\x08\x0c\n\r\t", r"\b\f\n\r\t"),
            ("other controls", b"\0\x01\x0b\x1f", r"\u0000\u0001\u000b\u001f"),
            ("delete stays", b"\x7f", "\x7f"),
            ("HTML", b"<a>&", r"\u003ca\u003e\u0026"),
            ("line separators", "\u{2028}\u{2029}".as_bytes(), r"\u2028\u2029"),
            ("unicode stays", "ü€😀".as_bytes(), "ü€😀"),
            ("invalid byte", b"a\xffb", r"a\ufffdb"),
            ("truncated sequence, a sign a byte", b"\xe2\x82", r"\ufffd\ufffd"),
            ("truncated, then text", b"\xe2\x82x", r"\ufffd\ufffdx"),
            ("surrogate", b"\xed\xa0\x80", r"\ufffd\ufffd\ufffd"),
        ] {
            let mut out = Vec::new();
            JsonText::new(&mut out).bytes(text);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{case}");
        }
    }

    /// The right column is what Go 1.26's `json.Marshal(strconv.Quote(left))` makes, without its
    /// outer quotes.
    #[test]
    fn quotes_as_go_does() {
        for (case, text, want) in [
            ("plain", b"a b".as_slice(), r#"\"a b\""#),
            ("quote and backslash", br#"a"b\"#, r#"\"a\\\"b\\\\\""#),
            ("short escapes", b"\x07\x08\x0c\n\r\t\x0b", r#"\"\\a\\b\\f\\n\\r\\t\\v\""#),
            ("controls", b"\0\x1f\x7f", r#"\"\\x00\\x1f\\x7f\""#),
            ("HTML is JSON's matter", b"<", r#"\"\u003c\""#),
            ("unicode stays", "ü😀".as_bytes(), r#"\"ü😀\""#),
            ("combining mark stays", "e\u{301}".as_bytes(), "\\\"e\u{301}\\\""),
            ("no-break space", "\u{a0}".as_bytes(), r#"\"\\u00a0\""#),
            ("zero-width space", "\u{200b}".as_bytes(), r#"\"\\u200b\""#),
            ("private use above 16 bits", "\u{f0000}".as_bytes(), r#"\"\\U000f0000\""#),
            ("replacement character stays", "\u{fffd}".as_bytes(), "\\\"\u{fffd}\\\""),
            ("invalid bytes", b"\xff\xe2\x82", r#"\"\\xff\\xe2\\x82\""#),
        ] {
            let mut out = Vec::new();
            JsonText::new(&mut out).quote(|quoted| quoted.bytes(text));
            assert_eq!(String::from_utf8(out).unwrap(), want, "{case}");
        }
    }

    #[test]
    fn quotes_pieces_as_one() {
        let mut out = Vec::new();
        JsonText::new(&mut out).quote(|quoted| {
            quoted.bytes(b"a\"");
            quoted.format(format_args!("{}", "b"));
        });
        assert_eq!(String::from_utf8(out).unwrap(), r#"\"a\\\"b\""#);
    }
}

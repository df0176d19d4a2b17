//! W3C Trace Context, level 1: `traceparent` and `tracestate` of a request, and what becomes of
//! them.
//!
//! What is malformed is ignored as the specification asks, and a new trace begins; nothing of it
//! reaches anybody.

#![forbid(unsafe_code)]

use crate::limits::{TRACESTATE_BYTES_MAX, TRACESTATE_MEMBERS_MAX};

pub(crate) type TraceId = [u8; 16];
pub(crate) type SpanId = [u8; 8];

/// Who calls, as a `traceparent` says it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) flags: u8,
}

/// The only flag of level 1.
pub(crate) const SAMPLED: u8 = 1;

impl Context {
    pub(crate) const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// `None`: it is malformed, and counts as if it were not there (§3.2.2.3, §4.3).
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = take_hex::<1>(text)?;
        let (trace, rest) = take_hex::<16>(rest.strip_prefix(b"-")?)?;
        let (span, rest) = take_hex::<8>(rest.strip_prefix(b"-")?)?;
        let ([flags], rest) = take_hex::<1>(rest.strip_prefix(b"-")?)?;
        // A later version may say more behind what this one says, and 255 is none.
        let is_known = match version {
            [0] => rest.is_empty(),
            [255] => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let is_valid = is_known && trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace, span, flags })
    }

    /// Appends the whole line, as version 00.
    pub(super) fn write_line(self, out: &mut Vec<u8>) {
        let mut line = *b"traceparent: 00-00000000000000000000000000000000-0000000000000000-00\r\n";
        let at = "traceparent: 00-".len();
        write_hex(&self.trace, &mut line[at..at + 32]);
        write_hex(&self.span, &mut line[at + 33..at + 49]);
        write_hex(&[self.flags & SAMPLED], &mut line[at + 50..at + 52]);
        out.extend_from_slice(&line);
    }
}

/// Whether a `tracestate` is passed on. Each member is a key, `=` and a value (§3.3.1).
pub(super) fn is_tracestate(value: &[u8]) -> bool {
    let mut member_count = 0;
    value.len() <= TRACESTATE_BYTES_MAX
        && value.split(|byte| *byte == b',').all(|member| {
            let member = member.trim_ascii();
            member_count += usize::from(!member.is_empty());
            member_count <= TRACESTATE_MEMBERS_MAX && (member.is_empty() || is_member(member))
        })
        && member_count > 0
}

fn is_member(member: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', member) else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let is_value_byte = |byte: &u8| matches!(byte, 0x20..=0x7e) && !b",=".contains(byte);
    (1..=KEY_BYTES_MAX).contains(&key.len())
        && (key[0].is_ascii_lowercase() || key[0].is_ascii_digit())
        && key.iter().all(is_key_byte)
        && (1..=VALUE_BYTES_MAX).contains(&value.len())
        && value.iter().all(is_value_byte)
}

/// `N` bytes as small hexadecimal digits, and what comes after them. Capitals are malformed.
fn take_hex<const N: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (digits, rest) = text.split_at_checked(2 * N)?;
    let mut bytes = [0; N];
    let mut all = 0;
    // Without a branch per digit: every request with a trace comes through here.
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (all & NO_DIGIT == 0).then_some((bytes, rest))
}

/// Of each byte as a digit.
static VALUES: [u8; 256] = values();

/// Set in what is none.
const NO_DIGIT: u8 = 0x80;

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        #[expect(clippy::cast_possible_truncation, reason = "there are sixteen")]
        {
            values[DIGITS[value] as usize] = value as u8;
        }
        value += 1;
    }
    values
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits at a time: every request without a trace gets one that is written here.
fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        *pair = PAIRS[usize::from(*byte)];
    }
}

/// Of each byte its two digits.
static PAIRS: [[u8; 2]; 256] = pairs();

const fn pairs() -> [[u8; 2]; 256] {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
}

/// W3C Trace Context §3.3.1.3.1 and §3.3.1.3.2.
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn refuses_what_the_specification_refuses() {
        for (case, text) in [
            ("empty", String::new()),
            ("short", "00".to_owned()),
            ("no trace", format!("00--{SPAN}-01")),
            ("zero trace", format!("00-{}-{SPAN}-01", "0".repeat(32))),
            ("zero span", format!("00-{TRACE}-{}-01", "0".repeat(16))),
            ("capitals", format!("00-{}-{SPAN}-01", TRACE.to_uppercase())),
            ("capital version", format!("0A-{TRACE}-{SPAN}-01")),
            ("not hexadecimal", format!("00-{TRACE}-{SPAN}-0g")),
            ("version 255", format!("ff-{TRACE}-{SPAN}-01")),
            ("more behind version 00", format!("00-{TRACE}-{SPAN}-01-more")),
            ("a dash behind version 00", format!("00-{TRACE}-{SPAN}-01-")),
            ("more without a dash", format!("01-{TRACE}-{SPAN}-01more")),
            ("no flags", format!("00-{TRACE}-{SPAN}")),
            ("flags of one digit", format!("00-{TRACE}-{SPAN}-1")),
            ("long trace", format!("00-{TRACE}0-{SPAN}-01")),
            ("space before", format!(" 00-{TRACE}-{SPAN}-01")),
            ("space within", format!("00-{TRACE} {SPAN}-01")),
            ("two of them", format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01")),
            ("no text", "00-\u{fffd}".to_owned()),
        ] {
            assert_eq!(Context::parse(text.as_bytes()), None, "{case}: {text}");
        }
    }

    #[test]
    fn reads_this_version_and_what_it_knows_of_later_ones() {
        for (case, text, flags) in [
            ("sampled", format!("00-{TRACE}-{SPAN}-01"), 1),
            ("not sampled", format!("00-{TRACE}-{SPAN}-00"), 0),
            ("unknown flags", format!("00-{TRACE}-{SPAN}-ff"), 0xff),
            ("a later version", format!("cc-{TRACE}-{SPAN}-01"), 1),
            ("a later version with more", format!("cc-{TRACE}-{SPAN}-01-what-the-future"), 1),
        ] {
            let context = Context::parse(text.as_bytes()).unwrap();
            assert_eq!(context.flags, flags, "{case}");
            let mut line = Vec::new();
            context.write_line(&mut line);
            let sampled = flags & 1;
            assert_eq!(
                String::from_utf8(line).unwrap(),
                format!("traceparent: 00-{TRACE}-{SPAN}-0{sampled}\r\n"),
                "{case}"
            );
        }
    }

    #[test]
    fn pieces_of_a_traceparent_are_none() {
        let whole = format!("00-{TRACE}-{SPAN}-01");
        for cut in 0..whole.len() {
            assert_eq!(Context::parse(&whole.as_bytes()[..cut]), None, "cut at {cut}");
        }
        let mut line = Vec::new();
        Context::parse(whole.as_bytes()).unwrap().write_line(&mut line);
        assert_eq!(line.len(), "traceparent: ".len() + whole.len() + 2);
    }

    #[test]
    fn tracestate_is_whole_or_not_at_all() {
        let members = |count| vec!["a=b"; count].join(",");
        for (case, value, want) in [
            ("empty", String::new(), false),
            ("commas", ",,".to_owned(), false),
            ("no value", "a".to_owned(), false),
            ("empty value", "a=".to_owned(), false),
            ("no key", "=b".to_owned(), false),
            ("capital", "A=b".to_owned(), false),
            ("two equals", "a=b=c".to_owned(), false),
            ("one is broken", "a=b,c".to_owned(), false),
            ("control character", "a=b\u{1}".to_owned(), false),
            ("33 members", members(33), false),
            ("too long", format!("a={},b={}", "x".repeat(256), "y".repeat(256)), false),
            ("one", "rojo=00f067aa0ba902b7".to_owned(), true),
            ("two", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE".to_owned(), true),
            ("tenant", "fw529a3039@dt=FfffffCI8k5".to_owned(), true),
            ("spaces between", "a=1 , b=2".to_owned(), true),
            ("empty member", "a=1,,b=2".to_owned(), true),
            ("32 members", members(32), true),
        ] {
            assert_eq!(is_tracestate(value.as_bytes()), want, "{case}");
        }
    }
}

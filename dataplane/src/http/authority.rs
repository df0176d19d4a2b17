//! `host [":" port]`, as in `Host` and in absolute targets (RFC 3986 §3.2, RFC 9110 §7.2).
//!
//! Two parsers that read a host differently send a request to two places, so only the grammar is
//! accepted: no user, no path, no blanks, no bytes that need a decision.

#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

/// Is this a host, perhaps an empty one, with perhaps a port?
pub(super) fn is_authority(text: &[u8]) -> bool {
    let name_bytes = text.iter().take_while(|byte| NAME_BYTES[usize::from(**byte)]).count();
    match &text[name_bytes..] {
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => is_unusual_authority(text),
    }
}

/// An address in brackets, or a name with escapes.
fn is_unusual_authority(text: &[u8]) -> bool {
    if text.first() == Some(&b'[') {
        return is_bracketed(text);
    }
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| !NAME_BYTES[usize::from(*byte)]);
        match end.map_or(&[][..], |end| &rest[end..]) {
            [] => return true,
            [b':', port @ ..] => return is_port(port),
            [b'%', high, low, tail @ ..] if is_hex(*high) && is_hex(*low) => rest = tail,
            _ => return false,
        }
    }
}

/// `[` address `]`, perhaps `:` port.
fn is_bracketed(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
    let is_address =
        str::from_utf8(&text[1..end]).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
    is_address
        && match &text[end + 1..] {
            [] => true,
            [b':', port @ ..] => is_port(port),
            _ => false,
        }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

fn is_port(port: &[u8]) -> bool {
    if port.len() > 5 {
        return false;
    }
    let number = port.iter().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then_some(sum * 10 + u32::from(digit))
    });
    number.is_some_and(|number| number <= u32::from(u16::MAX))
}

/// Characters of a registered name or an IPv4 address: unreserved ones and sub-delimiters.
static NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar_only() {
        for (text, want) in [
            ("a b", false),
            ("user@host", false),
            ("user:pass@host", false),
            ("host/path", false),
            ("host\\path", false),
            ("host?q", false),
            ("host#f", false),
            ("host:80:80", false),
            ("host:8o", false),
            ("host:-1", false),
            ("host:65536", false),
            ("host:000080", false),
            ("h\u{f6}st", false),
            ("a%2", false),
            ("a%zz", false),
            ("[::1", false),
            ("[::1]x", false),
            ("[::1]:x", false),
            ("[]", false),
            ("[127.0.0.1]", false),
            ("[fe80::1%25eth0]", false),
            ("::1", false),
            ("a\"b", false),
            ("a<b>", false),
            ("", true),
            (":80", true),
            ("localhost", true),
            ("localhost:3500", true),
            ("localhost:", true),
            ("127.0.0.1:65535", true),
            ("[::1]", true),
            ("[::ffff:10.0.0.1]:3500", true),
            ("orders.default.svc.cluster.local", true),
            ("under_score", true),
            ("a%20b", true),
        ] {
            assert_eq!(is_authority(text.as_bytes()), want, "{text}");
        }
    }
}

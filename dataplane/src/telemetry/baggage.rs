//! Is this W3C Baggage? daprd refuses a request whose `baggage` its library cannot read, in that
//! library's words.

#![forbid(unsafe_code)]

use crate::limits::{BAGGAGE_BYTES_MAX, BAGGAGE_MEMBER_BYTES_MAX, BAGGAGE_MEMBERS_MAX};
use std::fmt;

/// Why it is none, with the part that is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BaggageError<'a> {
    Key(&'a [u8]),
    Member(&'a [u8]),
    MemberTooLong(usize),
    Property(&'a [u8]),
    TooLong(usize),
    TooMany,
    Value(&'a [u8]),
}

impl fmt::Display for BaggageError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, part) = match self {
            Self::Key(part) => ("invalid key", part),
            Self::Member(part) => ("invalid baggage list-member", part),
            Self::Property(part) => ("invalid baggage list-member property", part),
            Self::Value(part) => ("invalid value", part),
            Self::MemberTooLong(bytes) => return write!(f, "list-member too large: {bytes}"),
            Self::TooLong(bytes) => return write!(f, "baggage-string too large: {bytes}"),
            Self::TooMany => return f.write_str("too many list-members in baggage-string"),
        };
        write!(f, "{words}: {:?}", String::from_utf8_lossy(part))
    }
}

/// # Errors
/// The first thing that is wrong with it.
pub(super) fn check(value: &[u8]) -> Result<(), BaggageError<'_>> {
    if value.is_empty() {
        return Ok(());
    }
    if value.len() > BAGGAGE_BYTES_MAX {
        return Err(BaggageError::TooLong(value.len()));
    }
    for (index, member) in value.split(|byte| *byte == b',').enumerate() {
        if index >= BAGGAGE_MEMBERS_MAX {
            return Err(BaggageError::TooMany);
        }
        check_member(member)?;
    }
    Ok(())
}

fn check_member(member: &[u8]) -> Result<(), BaggageError<'_>> {
    if member.len() > BAGGAGE_MEMBER_BYTES_MAX {
        return Err(BaggageError::MemberTooLong(member.len()));
    }
    let mut parts = member.split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    let Some(equals) = memchr::memchr(b'=', pair) else {
        return Err(BaggageError::Member(member));
    };
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    if !is_token(key.trim_ascii()) {
        return Err(BaggageError::Key(key));
    }
    if !is_value(value.trim_ascii()) {
        return Err(BaggageError::Value(value));
    }
    match parts.find(|property| !is_property(property)) {
        Some(property) => Err(BaggageError::Property(property)),
        None => Ok(()),
    }
}

fn is_property(property: &[u8]) -> bool {
    match memchr::memchr(b'=', property) {
        Some(equals) => {
            is_token(property[..equals].trim_ascii())
                && is_value(property[equals + 1..].trim_ascii())
        }
        None => property.is_empty() || is_token(property.trim_ascii()),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_sign = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte))
}

/// W3C Baggage §3.3.2.4: no spaces, quotes, commas, semicolons or backslashes, and each `%` begins
/// two digits.
fn is_value(text: &[u8]) -> bool {
    let is_octet =
        |byte: &u8| matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
    let is_triplet = |at: usize| {
        text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    text.iter().all(is_octet) && memchr::memchr_iter(b'%', text).all(is_triplet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_baggage() {
        let long = "x".repeat(BAGGAGE_MEMBER_BYTES_MAX);
        for (text, want) in [
            ("invalid-baggage".to_owned(), "invalid baggage list-member: \"invalid-baggage\""),
            (
                "key1=value1,no-equals,key2=value2".to_owned(),
                "invalid baggage list-member: \"no-equals\"",
            ),
            ("a=b,".to_owned(), "invalid baggage list-member: \"\""),
            ("=b".to_owned(), "invalid key: \"\""),
            ("a b=c".to_owned(), "invalid key: \"a b\""),
            ("a=b c".to_owned(), "invalid value: \"b c\""),
            ("a=\"b\"".to_owned(), "invalid value: \"\\\"b\\\"\""),
            ("a=%zz".to_owned(), "invalid value: \"%zz\""),
            ("a=%2".to_owned(), "invalid value: \"%2\""),
            ("a=b;p q".to_owned(), "invalid baggage list-member property: \"p q\""),
            ("a=b;p=\\".to_owned(), "invalid baggage list-member property: \"p=\\\\\""),
            (vec!["a=b"; 181].join(","), "too many list-members in baggage-string"),
            (format!("k={long}"), "list-member too large: 4098"),
            (format!("k={long}{long}"), "baggage-string too large: 8194"),
        ] {
            assert_eq!(check(text.as_bytes()).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn takes_what_is() {
        for text in [
            "",
            "a=b",
            "a=",
            "key1=value1%20with%20spaces,key2=value2%2Fwith%2Fslashes",
            "key1=value1;prop1=propvalue1, key2 = value2 ;prop2",
            "a=b=c",
        ] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
        let most = vec!["a=b"; BAGGAGE_MEMBERS_MAX].join(",");
        assert_eq!(check(most.as_bytes()), Ok(()));
    }
}

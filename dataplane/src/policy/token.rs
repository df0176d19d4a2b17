//! Did the client bring the API's token? In a time that says nothing about how close it came.

#![forbid(unsafe_code)]

use snapshot::policy::Token;
use subtle::{Choice, ConstantTimeEq};

/// The time depends on the length of what was brought, which whoever brought it knows, and on
/// nothing of the token: its bytes are gone through again and again for as long as that takes.
pub fn is_token(brought: &[u8], token: &Token) -> bool {
    let wanted = token.secret().as_bytes();
    let bytes = brought.iter().zip(wanted.iter().cycle());
    let same_length = (brought.len() as u64).ct_eq(&(wanted.len() as u64));
    let is_same: Choice = bytes.fold(same_length, |same, (a, b)| same & a.ct_eq(b));
    is_same.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_token_and_nothing_else() {
        let token = Token::new("secret").unwrap();
        for (brought, want) in [
            ("", false),
            ("s", false),
            ("secre", false),
            ("secreT", false),
            ("xecret", false),
            ("secrets", false),
            ("secretsecret", false),
            ("secret", true),
        ] {
            assert_eq!(is_token(brought.as_bytes(), &token), want, "{brought}");
        }
    }
}

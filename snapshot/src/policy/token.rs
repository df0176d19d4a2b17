//! A secret that travels in a header line: never shown, and fit for one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest token in bytes. It must fit into a request's head, of which a client has 8 KiB by
/// default, beside everything else.
pub const TOKEN_BYTES_MAX: usize = 4096;

#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(Box<str>);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// HTTP drops spaces at the ends of a header line, and knows no line breaks in it: nobody could
    /// ever send such a token.
    #[error("has a space at an end or a control character, which no header line can carry")]
    Unfit,
}

impl Token {
    /// # Errors
    /// When no header line can carry it.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let is_unfit = |byte: u8| byte.is_ascii_control();
        if text.trim_matches([' ', '\t']).len() != text.len() || text.bytes().any(is_unfit) {
            return Err(TokenError::Unfit);
        }
        Ok(Self(text.into()))
    }

    /// For a header line, and for comparing; nothing else may see it.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        Self::new(&text)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_header_line_carries_and_shows_nothing() {
        for (case, text, want) in [
            ("empty", "", Err(TokenError::Empty)),
            ("a line break", "a\n", Err(TokenError::Unfit)),
            ("a forged line", "a\r\nX: y", Err(TokenError::Unfit)),
            ("a space in front", " a", Err(TokenError::Unfit)),
            ("a tab within", "a\tb", Err(TokenError::Unfit)),
            ("a space within", "a b", Ok(())),
            ("letters beyond ASCII", "ä", Ok(())),
        ] {
            assert_eq!(Token::new(text).map(|_| ()), want, "{case}");
        }
        assert_eq!(Token::new(&"a".repeat(4097)), Err(TokenError::TooLong));
        let token = Token::new("very-secret").unwrap();
        assert_eq!(format!("{token:?}"), "(hidden)");
        let coded: Vec<u8> = postcard::to_stdvec(&token).unwrap();
        assert_eq!(postcard::from_bytes::<Token>(&coded), Ok(token));
        let forged = postcard::to_stdvec("a\r\nb").unwrap();
        assert!(postcard::from_bytes::<Token>(&forged).is_err());
    }
}

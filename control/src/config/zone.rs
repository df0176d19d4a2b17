//! Where something runs: a name that sidecars close to each other share, such as a data centre's.

#![forbid(unsafe_code)]

/// A label that [`parse`] has let through.
pub(crate) type Zone = Box<str>;

/// As long as a DNS name; a row of a registry stays small.
pub(crate) const ZONE_BYTES_MAX: usize = 253;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ZoneError {
    #[error("it is empty")]
    Empty,
    #[error("it is {0} bytes long; at most {ZONE_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("it contains the character {0:?}; use printable characters without spaces")]
    Character(char),
}

/// # Errors
/// When it is no name that could be written on one line.
pub(crate) fn parse(text: &str) -> Result<Zone, ZoneError> {
    if text.is_empty() {
        return Err(ZoneError::Empty);
    }
    if text.len() > ZONE_BYTES_MAX {
        return Err(ZoneError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        Some(c) => Err(ZoneError::Character(c)),
        None => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_name() {
        for (case, text, want) in [
            ("empty", "", Err(ZoneError::Empty)),
            ("too long", &"z".repeat(254), Err(ZoneError::TooLong(254))),
            ("a space", "rack 7", Err(ZoneError::Character(' '))),
            ("a line", "a\nb", Err(ZoneError::Character('\n'))),
            ("a cloud's", "eu-central-1a", Ok("eu-central-1a".into())),
            ("a path", "berlin/rack.7", Ok("berlin/rack.7".into())),
        ] {
            assert_eq!(parse(text), want, "{case}");
        }
    }
}

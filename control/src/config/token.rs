//! Tokens of an app: from the environment, as daprd has them, or from where a node's file says.
//!
//! What is wrong with a token is told without the token.

#![forbid(unsafe_code)]

use super::{ConfigError, Environment};
use snapshot::policy::{TOKEN_BYTES_MAX, Token};
use std::{fs::File, io::Read, path::Path};

pub(crate) const API_TOKEN: &str = "DAPR_API_TOKEN";
pub(crate) const APP_TOKEN: &str = "APP_API_TOKEN";

/// An empty variable counts as unset, as with daprd.
pub(super) fn of_variable(
    name: &'static str,
    env: Environment<'_>,
) -> Result<Option<Token>, ConfigError> {
    let Some(text) = env(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let token = Token::new(&text);
    let refused = |e| ConfigError::Variable { name: name.to_owned(), reason: format!("it {e}") };
    token.map(Some).map_err(refused)
}

/// The token in a file; a line break at its end is no part of it.
///
/// # Errors
/// Why there is none.
pub(crate) fn of_file(path: &Path) -> Result<Token, String> {
    let failed = |e| format!("{}: {e}", path.display());
    // A token, a line break of two bytes, and one that is too many.
    let bytes_max = TOKEN_BYTES_MAX as u64 + 3;
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max).read_to_string(&mut text).map_err(failed)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Token::new(text).map_err(|e| format!("the token in {} {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::fs;

    #[test]
    fn a_file_has_one_token_and_perhaps_a_line_break() {
        let temp = TestDir::new();
        let path = temp.path().join("token");
        let long = "x".repeat(TOKEN_BYTES_MAX);
        for (case, text, want) in [
            ("nothing", "", Err("is empty")),
            ("a line break", "\n", Err("is empty")),
            ("two lines", "a\nb\n", Err("has a space at an end or a control character")),
            ("a space at its end", "a \n", Err("has a space at an end or a control character")),
            ("too long", &format!("{long}x"), Err("is longer than 4096 bytes")),
            ("as it is", "secret", Ok("secret")),
            ("a line", "secret\n", Ok("secret")),
            ("a line of Windows", "secret\r\n", Ok("secret")),
            ("as long as may be", &format!("{long}\r\n"), Ok(&long)),
        ] {
            fs::write(&path, text).unwrap();
            match (of_file(&path), want) {
                (Ok(token), Ok(want)) => assert_eq!(token.secret(), want, "{case}"),
                (Err(e), Err(want)) => {
                    assert!(e.contains(want) && !e.contains("secret"), "{case}: {e}");
                }
                (found, _) => panic!("{case}: {found:?}"),
            }
        }
        let absent = of_file(&temp.path().join("absent")).unwrap_err();
        assert!(absent.contains("No such file"), "{absent}");
    }

    #[test]
    fn a_variable_is_refused_without_being_shown() {
        for (text, want) in [(Some("\nsecret"), Err(())), (Some(""), Ok(None)), (None, Ok(None))] {
            let env = |_: &str| text.map(str::to_owned);
            let found = of_variable(API_TOKEN, &env);
            if let Err(e) = &found {
                assert!(e.to_string().starts_with("DAPR_API_TOKEN: it has"), "{e}");
                assert!(!e.to_string().contains("secret"), "{e}");
            }
            assert_eq!(found.map_err(|_| ()), want, "{text:?}");
        }
    }
}

//! `spec.httpPipeline` and `spec.appHttpPipeline` of an app: what requests go through on their way
//! into its API, and on their way to the app itself or out to a server outside of Dapr.
//!
//! Control puts them together from the components that handlers name, in the order of the file; the
//! first step is the outermost one. A step that is not here does nothing: whoever cannot be
//! understood has been refused before.

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pipelines {
    /// Of requests to the sidecar's API, behind its token.
    pub api: Vec<Step>,
    /// Of calls to the app, and of its own ones to servers outside of Dapr.
    pub app: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// `middleware.http.routeralias`: the first pattern that fits decides; none need fit.
    Alias(Vec<AliasRoute>),
    /// `middleware.http.routerchecker`: what the rule does not fit is refused.
    Check(Pattern),
    /// `middleware.http.ratelimit`.
    RateLimit(RateLimit),
    /// `middleware.http.uppercase`: bodies with their ASCII letters in capitals.
    Uppercase { request: bool, answer: bool },
}

/// A path that stands for another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AliasRoute {
    /// Of the whole decoded path, with a group for each of the variables.
    pub pattern: Pattern,
    /// Their names; what they match is added to the query.
    pub variables: Vec<String>,
    /// Not encoded.
    pub path: String,
}

/// So many requests of a client for a path in each second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// The component; wherever it is used in an app's pipelines it counts as one.
    pub component: String,
    /// Above zero.
    pub per_second: f64,
}

/// A regular expression over bytes, in the syntax that Go's and ours have in common.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// In words of the parser, whose first lines draw the place of the mistake.
    #[error("{0}")]
    Syntax(String),
    #[error("is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    #[error("has {0:?} between brackets, which Go reads as these letters; write \\{0}")]
    SetOperation(String),
}

impl Pattern {
    /// # Errors
    /// What cannot be matched in bounded memory, or means something else to Go.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let in_brackets = text.find('[').map_or("", |start| &text[start..]);
        if let Some(operation) = ["&&", "--", "~~"].iter().find(|o| in_brackets.contains(**o)) {
            return Err(PatternError::SetOperation((*operation).to_owned()));
        }
        compile(text).map_err(|e| {
            let text = e.to_string();
            let last = text.lines().last().unwrap_or_default();
            PatternError::Syntax(last.trim_start_matches("error: ").to_owned())
        })?;
        Ok(Self(text.to_owned()))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Groups, without the one that is the whole match.
    pub fn group_count(&self) -> usize {
        self.compile().captures_len() - 1
    }

    /// Ready to match; each worker has its own, since they keep scratch memory.
    pub fn compile(&self) -> Regex {
        compile(&self.0).expect("it was compiled when it was made")
    }
}

/// Without Unicode: Go's `\d`, `\w` and `\s` mean ASCII, and paths are bytes.
fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(PATTERN_MEMORY_BYTES_MAX)
        .dfa_size_limit(PATTERN_MEMORY_BYTES_MAX)
        .build()
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// Longest expression; longer ones are lists, and belong into several rules.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Of an expression, compiled, and of what matching it may keep, in each worker.
const PATTERN_MEMORY_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_go_reads_otherwise_or_nobody_can_bound() {
        for (case, text, want) in [
            ("open group", "(a", "unclosed group"),
            (
                "look-ahead",
                "(?=a)",
                "look-around, including look-ahead and look-behind, is not supported",
            ),
            ("back reference", r"(a)\1", "backreferences are not supported"),
            ("set operation", "[a&&b]", r#"has "&&" between brackets"#),
            ("too much memory", "((a{100}){100}){100}", "exceeds size limit"),
        ] {
            let refusal = Pattern::new(text).unwrap_err().to_string();
            assert!(refusal.contains(want), "{case}: {refusal}");
        }
        assert_eq!(Pattern::new(&"a".repeat(4097)), Err(PatternError::TooLong));
        let forged = postcard::to_stdvec("(").unwrap();
        assert!(postcard::from_bytes::<Pattern>(&forged).is_err());
    }

    #[test]
    fn matches_bytes_as_go_does() {
        for (case, text, subject, want) in [
            ("anywhere", "b", &b"abc"[..], true),
            ("whole", "^b$", b"abc", false),
            ("digits are ASCII", r"^\d$", "\u{663}".as_bytes(), false),
            ("no UTF-8", "^/[^/]+$", b"/\xff\xfe", true),
            ("nothing fits everything", "", b"", true),
        ] {
            let pattern = Pattern::new(text).unwrap();
            assert_eq!(pattern.compile().is_match(subject), want, "{case}");
            let coded = postcard::to_stdvec(&pattern).unwrap();
            assert_eq!(postcard::from_bytes(&coded), Ok(pattern), "{case}");
        }
        assert_eq!(Pattern::new("(a)(?:b)").unwrap().group_count(), 1);
    }
}

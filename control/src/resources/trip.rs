//! The `trip` expression of a circuit breaker, from its text to the steps that the data plane
//! evaluates: the part of CEL that computes with the breaker's counts.
//!
//! Kinds are checked here, as CEL checks them, so that what is loaded means what it says; a
//! constant without value, such as a division by zero, is refused with the rest.

#![forbid(unsafe_code)]

use snapshot::policy::trip::{Count, Counts, STACK_MAX, STEPS_MAX, Step, Trip, Value, evaluate};
use std::fmt;

/// # Errors
/// Why the breaker could never work.
pub(super) fn compile(text: &str) -> Result<Trip, TripError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TripError(format!("is longer than {TEXT_BYTES_MAX} bytes")));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, steps: Vec::new(), depth: 0 };
    let operand = parser.choice()?;
    if let Some(token) = parser.peek() {
        return Err(TripError(format!("has {token} where it should have ended")));
    }
    if operand.kind != Kind::Bool {
        return Err(TripError(format!(
            "is {}, and must be true or false; compare it with something",
            operand.kind
        )));
    }
    let too_long = || TripError(format!("has more than {STEPS_MAX} operations"));
    if stack_needed(&parser.steps) > STACK_MAX {
        return Err(TripError("is nested too deeply".to_owned()));
    }
    Trip::new(parser.steps).ok_or_else(too_long)
}

/// What is wrong, to be read after the name of the key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TripError(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Bool,
    Float,
    Int,
}

/// A part of the expression whose steps end the list.
#[derive(Clone, Copy)]
struct Operand {
    kind: Kind,
    start: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Float(f64),
    Int(i64),
    Name(String),
    Sign(&'static str),
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    steps: Vec<Step>,
    depth: usize,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "true or false",
            Self::Float => "a fraction",
            Self::Int => "a whole number",
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Int(value) => value.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Sign(sign) => sign.fmt(f),
        }
    }
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// The operation that one of these signs stands for, if it comes next.
    fn take<T: Copy>(&mut self, signs: &[(&str, T)]) -> Option<T> {
        let Some(Token::Sign(sign)) = self.peek() else { return None };
        let (_, found) = signs.iter().find(|(name, _)| name == sign)?;
        let found = *found;
        self.at += 1;
        Some(found)
    }

    fn expect(&mut self, sign: &str) -> Result<(), TripError> {
        match self.take(&[(sign, ())]) {
            Some(()) => Ok(()),
            None => Err(TripError(format!("lacks {sign:?} before {}", self.next_words()))),
        }
    }

    fn next_words(&self) -> String {
        self.peek().map_or_else(|| "its end".to_owned(), |token| format!("{:?}", token.to_string()))
    }

    /// `condition ? value : other`.
    fn choice(&mut self) -> Result<Operand, TripError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TripError("is nested too deeply".to_owned()));
        }
        let condition = self.chain(0)?;
        if self.take(&[("?", ())]).is_some() {
            let value = self.choice()?;
            self.expect(":")?;
            let other = self.choice()?;
            if condition.kind != Kind::Bool || value.kind != other.kind {
                let (value, other) = (value.kind, other.kind);
                return Err(TripError(format!(
                    "chooses by {} between {value} and {other}; the first must be true or false, \
                     the others alike",
                    condition.kind
                )));
            }
            self.depth -= 1;
            return self.finish(Step::Select, Operand { start: condition.start, ..value });
        }
        self.depth -= 1;
        Ok(condition)
    }

    /// Operations of one level and those that bind closer, from the left.
    fn chain(&mut self, level: usize) -> Result<Operand, TripError> {
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.chain(level + 1)?;
        while let Some(step) = self.take(signs) {
            let right = self.chain(level + 1)?;
            left = self.binary(step, left, right)?;
        }
        Ok(left)
    }

    fn binary(
        &mut self,
        (step, negated): (Step, bool),
        left: Operand,
        right: Operand,
    ) -> Result<Operand, TripError> {
        let divides = matches!(step, Step::Divide | Step::Remainder);
        if divides && self.constant(right.start) == Some(Value::Int(0)) {
            return Err(TripError("divides by zero".to_owned()));
        }
        let kind = kind_of(step, left.kind, right.kind)?;
        let operand = self.finish(step, Operand { kind, start: left.start })?;
        if negated { self.finish(Step::Not, operand) } else { Ok(operand) }
    }

    fn unary(&mut self) -> Result<Operand, TripError> {
        let Some(step) = self.take(&[("!", Step::Not), ("-", Step::Negate)]) else {
            return self.primary();
        };
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TripError("is nested too deeply".to_owned()));
        }
        let operand = self.unary()?;
        self.depth -= 1;
        if (step == Step::Not) != (operand.kind == Kind::Bool) {
            let sign = if step == Step::Not { "!" } else { "-" };
            return Err(TripError(format!("has {sign:?} before {}", operand.kind)));
        }
        self.finish(step, operand)
    }

    fn primary(&mut self) -> Result<Operand, TripError> {
        if self.take(&[("(", ())]).is_some() {
            let operand = self.choice()?;
            self.expect(")")?;
            return Ok(operand);
        }
        let words = self.next_words();
        let start = self.steps.len();
        let token = self.peek().cloned();
        self.at += 1;
        let (kind, step) = match token {
            Some(Token::Float(value)) => (Kind::Float, Step::Float(value)),
            Some(Token::Int(value)) => (Kind::Int, Step::Int(value)),
            Some(Token::Name(name)) => match &*name {
                "true" | "false" => (Kind::Bool, Step::Bool(name == "true")),
                "double" => return self.conversion(Kind::Float, Step::ToFloat),
                "int" => return self.conversion(Kind::Int, Step::ToInt),
                name => (Kind::Int, Step::Count(count(name)?)),
            },
            Some(Token::Sign(_)) | None => {
                return Err(TripError(format!("has {words} where a value should stand")));
            }
        };
        self.finish(step, Operand { kind, start })
    }

    fn conversion(&mut self, kind: Kind, step: Step) -> Result<Operand, TripError> {
        self.expect("(")?;
        let operand = self.choice()?;
        self.expect(")")?;
        if operand.kind == Kind::Bool {
            return Err(TripError("makes a number of true or false".to_owned()));
        }
        self.finish(step, Operand { kind, ..operand })
    }

    /// Adds the step that makes `operand` out of what is there.
    fn finish(&mut self, step: Step, operand: Operand) -> Result<Operand, TripError> {
        self.steps.push(step);
        let is_constant = !self.steps[operand.start..].iter().any(|s| matches!(s, Step::Count(_)));
        if is_constant && self.constant(operand.start).is_none() {
            return Err(TripError("has a part without value, such as a division by zero".into()));
        }
        Ok(operand)
    }

    /// The value of the last steps, if it is the same whatever was counted.
    fn constant(&self, start: usize) -> Option<Value> {
        let steps = &self.steps[start..];
        let is_constant = !steps.iter().any(|step| matches!(step, Step::Count(_)));
        is_constant.then(|| evaluate(steps, &Counts::default())).flatten()
    }
}

fn count(name: &str) -> Result<Count, TripError> {
    if let Some((_, count)) = Count::ALL.iter().find(|(known, _)| *known == name) {
        return Ok(*count);
    }
    let known: Vec<String> = Count::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    Err(TripError(match crate::config::closest(name, &known) {
        Some(meant) => format!("names {name:?}; is it {meant:?}?"),
        None => format!("names {name:?}; there are {}", known.join(", ")),
    }))
}

fn kind_of(step: Step, left: Kind, right: Kind) -> Result<Kind, TripError> {
    let is_number = left != Kind::Bool;
    match step {
        _ if left != right => Err(TripError(format!(
            "combines {left} with {right}; write double(…) around the whole number, or compare \
             the other"
        ))),
        Step::And | Step::Or if !is_number => Ok(Kind::Bool),
        Step::And | Step::Or => {
            Err(TripError(format!("has && or || between {left} and {right}; compare them first")))
        }
        Step::Equal => Ok(Kind::Bool),
        Step::Remainder if left == Kind::Float => {
            Err(TripError("has % between fractions".to_owned()))
        }
        _ if !is_number => Err(TripError("computes with true or false".to_owned())),
        Step::Greater | Step::GreaterOrEqual | Step::Less | Step::LessOrEqual => Ok(Kind::Bool),
        _ => Ok(left),
    }
}

fn stack_needed(steps: &[Step]) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for step in steps {
        now = match step {
            Step::Bool(_) | Step::Count(_) | Step::Float(_) | Step::Int(_) => now + 1,
            Step::Negate | Step::Not | Step::ToFloat | Step::ToInt => now,
            Step::Select => now.saturating_sub(2),
            _ => now.saturating_sub(1),
        };
        most = most.max(now);
    }
    most
}

fn tokens(text: &str) -> Result<Vec<Token>, TripError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (token, length) = token(rest)?;
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn token(text: &str) -> Result<(Token, usize), TripError> {
    if let Some(sign) = SIGNS.iter().find(|sign| text.starts_with(**sign)) {
        return Ok((Token::Sign(sign), sign.len()));
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let word = &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())];
    let bad = |what: &str| TripError(format!("has {what:?}, which it cannot have"));
    match word.chars().next() {
        None => Err(bad(&text.chars().take(1).collect::<String>())),
        Some('0'..='9' | '.') if word.contains('.') => {
            let value: f64 = word.parse().map_err(|_| bad(word))?;
            Ok((Token::Float(value), word.len()))
        }
        Some('0'..='9') => Ok((Token::Int(word.parse().map_err(|_| bad(word))?), word.len())),
        Some(_) => Ok((Token::Name(word.to_owned()), word.len())),
    }
}

/// Longer ones before those they begin with.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")", "?", ":",
];

/// What each sign does, and whether the opposite is meant; the loosest first.
const LEVELS: &[&[(&str, (Step, bool))]] = &[
    &[("||", (Step::Or, false))],
    &[("&&", (Step::And, false))],
    &[
        ("==", (Step::Equal, false)),
        ("!=", (Step::Equal, true)),
        ("<=", (Step::LessOrEqual, false)),
        (">=", (Step::GreaterOrEqual, false)),
        ("<", (Step::Less, false)),
        (">", (Step::Greater, false)),
    ],
    &[("+", (Step::Add, false)), ("-", (Step::Subtract, false))],
    &[
        ("*", (Step::Multiply, false)),
        ("/", (Step::Divide, false)),
        ("%", (Step::Remainder, false)),
    ],
];

const TEXT_BYTES_MAX: usize = 1024;

/// Parts within each other.
const DEPTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_never_work() {
        let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
        let wide = vec!["requests > 1"; 60].join(" && ");
        for (text, want) in [
            ("", "has its end where a value should stand"),
            ("requests", "is a whole number, and must be true or false; compare it"),
            ("requests > 5)", "has ) where it should have ended"),
            ("(requests > 5", "lacks \")\" before its end"),
            ("requests > > 5", "has \">\" where a value should stand"),
            ("requests & 1", "has \"&\", which it cannot have"),
            ("failures > 5", "names \"failures\""),
            ("consecutivefailures > 5", "is it \"consecutiveFailures\"?"),
            ("totalFailures / 0 > 1", "divides by zero"),
            ("totalFailures % (3 - 3) > 1", "divides by zero"),
            ("requests > 1 / (2 - 2)", "divides by zero"),
            ("requests > 9223372036854775807 + 1", "has a part without value"),
            ("requests > 92233720368547758070", "which it cannot have"),
            ("totalFailures / requests > 0.5", "combines a whole number with a fraction"),
            ("requests && true", "combines"),
            ("requests || requests", "compare them first"),
            ("!requests", "has \"!\" before a whole number"),
            ("-(requests > 1)", "has \"-\" before true or false"),
            ("true + true", "computes with true or false"),
            ("requests > 1 ? 1 : true", "chooses by true or false between"),
            ("double(true) > 1.0", "makes a number of true or false"),
            ("2.5 % 2.0 > 1.0", "has % between fractions"),
            ("1 < 2 < 3", "combines"),
            (&deep, "is nested too deeply"),
            (&wide, "operations"),
        ] {
            let error = compile(text).expect_err(text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let long = format!("requests > {}", " ".repeat(TEXT_BYTES_MAX));
        assert!(compile(&long).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn means_what_cel_means() {
        let counts = Counts {
            requests: 10,
            successes: 4,
            failures: 6,
            consecutive_successes: 0,
            consecutive_failures: 3,
        };
        for (text, want) in [
            ("consecutiveFailures > 5", false),
            ("consecutiveFailures >= 3", true),
            ("requests==10&&totalFailures!=6", false),
            ("totalSuccesses + totalFailures == requests", true),
            ("requests > 5 || 1 / totalSuccesses > 0 && false", true),
            ("2 + 3 * 4 - 6 / 2 % 2 == 13", true),
            ("(2 + 3) * 4 == 20", true),
            ("10 - 3 - 2 == 5", true),
            ("!(requests < 5) && !!true", true),
            ("- 7 / 2 == -3", true),
            ("double(totalFailures) / double(requests) > 0.5", true),
            ("int(2.9) == 2", true),
            ("requests >= 10 ? totalFailures > 5 : true", true),
            ("requests < 1 ? true : requests > 99 ? true : false", false),
            ("totalFailures / consecutiveSuccesses > 1", false),
            ("requests > 1 || totalFailures / consecutiveSuccesses > 1", true),
        ] {
            let trip = compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(trip.is_met(&counts), want, "{text}");
        }
    }
}

//! When a circuit breaker opens, in the words of the expression that it was compiled from: for
//! operators, who want to see what is in force.

#![forbid(unsafe_code)]

use super::trip::{Count, Step, Trip};
use std::fmt;

/// Part of an expression, and how firmly it holds together: parts that hold less firmly than what
/// they become part of need parentheses.
type Part = (String, u8);

const ATOM: u8 = 8;
const UNARY: u8 = 7;
const SELECT: u8 = 1;

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stack: Vec<Part> = Vec::new();
        for step in self.steps() {
            let part = part(*step, &mut stack);
            stack.push(part);
        }
        f.write_str(&pop(&mut stack).0)
    }
}

fn part(step: Step, stack: &mut Vec<Part>) -> Part {
    let (sign, firmness) = match step {
        Step::Bool(value) => return (value.to_string(), ATOM),
        Step::Count(count) => return (name(count).to_owned(), ATOM),
        Step::Float(value) => return (format!("{value:?}"), ATOM),
        Step::Int(value) => return (value.to_string(), if value < 0 { UNARY } else { ATOM }),
        Step::ToFloat => return (format!("double({})", pop(stack).0), ATOM),
        Step::ToInt => return (format!("int({})", pop(stack).0), ATOM),
        Step::Negate => return (format!("-{}", within(pop(stack), ATOM)), UNARY),
        Step::Not => return (format!("!{}", within(pop(stack), ATOM)), UNARY),
        Step::Select => {
            let (other, value, condition) = (pop(stack), pop(stack), pop(stack));
            let inner = SELECT + 1;
            let (condition, value) = (within(condition, inner), within(value, inner));
            return (format!("{condition} ? {value} : {}", within(other, SELECT)), SELECT);
        }
        Step::Multiply => ("*", 6),
        Step::Divide => ("/", 6),
        Step::Remainder => ("%", 6),
        Step::Add => ("+", 5),
        Step::Subtract => ("-", 5),
        Step::Equal => ("==", 4),
        Step::Greater => (">", 4),
        Step::GreaterOrEqual => (">=", 4),
        Step::Less => ("<", 4),
        Step::LessOrEqual => ("<=", 4),
        Step::And => ("&&", 3),
        Step::Or => ("||", 2),
    };
    let (right, left) = (pop(stack), pop(stack));
    let (left, right) = (within(left, firmness), within(right, firmness + 1));
    (format!("{left} {sign} {right}"), firmness)
}

fn within((text, firmness): Part, wanted: u8) -> String {
    if firmness < wanted { format!("({text})") } else { text }
}

/// Steps that nobody compiled may lack operands.
fn pop(stack: &mut Vec<Part>) -> Part {
    stack.pop().unwrap_or_else(|| ("?".to_owned(), ATOM))
}

const fn name(count: Count) -> &'static str {
    match count {
        Count::ConsecutiveFailures => "consecutiveFailures",
        Count::ConsecutiveSuccesses => "consecutiveSuccesses",
        Count::Failures => "totalFailures",
        Count::Requests => "requests",
        Count::Successes => "totalSuccesses",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_it_was_written() {
        use Step::{
            Add, And, Bool, Divide, Float, GreaterOrEqual, Int, Less, Multiply, Not, Or, Select,
            Subtract, ToFloat,
        };
        let (failures, requests) = (Step::Count(Count::Failures), Step::Count(Count::Requests));
        for (steps, want) in [
            (vec![], "?"),
            (vec![Less], "? < ?"),
            (
                vec![
                    failures,
                    ToFloat,
                    requests,
                    ToFloat,
                    Divide,
                    Float(0.5),
                    GreaterOrEqual,
                    requests,
                    Int(9),
                    Less,
                    Not,
                    And,
                ],
                "double(totalFailures) / double(requests) >= 0.5 && !(requests < 9)",
            ),
            (vec![Int(1), Int(2), Int(3), Subtract, Subtract], "1 - (2 - 3)"),
            (vec![Int(1), Int(2), Subtract, Int(3), Subtract], "1 - 2 - 3"),
            (vec![Int(1), Int(2), Add, Int(-3), Multiply], "(1 + 2) * -3"),
            (vec![Bool(true), Bool(false), Or, Bool(true), And], "(true || false) && true"),
            (vec![Bool(true), Int(1), Int(2), Select], "true ? 1 : 2"),
        ] {
            assert_eq!(Trip::new(steps).unwrap().to_string(), want);
        }
        assert_eq!(Trip::usual().to_string(), "consecutiveFailures > 5");
    }
}

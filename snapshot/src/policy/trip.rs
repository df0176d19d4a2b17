//! When a circuit breaker opens: a small expression over what it has counted, as a list of steps
//! for a stack.
//!
//! Control compiles and checks it; here it is only evaluated, in bounded time and memory whatever
//! the list is. A value that cannot be had (a division by zero, an overflow) does not open the
//! breaker, as with daprd.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What a breaker has counted since its counts began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u32,
    pub successes: u32,
    pub failures: u32,
    pub consecutive_successes: u32,
    pub consecutive_failures: u32,
}

/// The names by which an expression knows [`Counts`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Count {
    ConsecutiveFailures,
    ConsecutiveSuccesses,
    Failures,
    Requests,
    Successes,
}

/// One step: takes its operands from the stack and leaves its value there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Add,
    And,
    Bool(bool),
    Count(Count),
    Divide,
    Equal,
    Float(f64),
    Greater,
    GreaterOrEqual,
    Int(i64),
    Less,
    LessOrEqual,
    Multiply,
    Negate,
    Not,
    Or,
    Remainder,
    /// Of condition, value and other value.
    Select,
    Subtract,
    ToFloat,
    ToInt,
}

/// Opens the breaker when it is true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trip(Box<[Step]>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Float(f64),
    Int(i64),
}

/// Steps of one expression.
pub const STEPS_MAX: usize = 128;

/// Values waiting at one time.
pub const STACK_MAX: usize = 32;

impl Trip {
    /// `None` when there are too many steps.
    pub fn new(steps: Vec<Step>) -> Option<Self> {
        (steps.len() <= STEPS_MAX).then(|| Self(steps.into()))
    }

    /// daprd's `consecutiveFailures > 5`.
    pub fn usual() -> Self {
        Self([Step::Count(Count::ConsecutiveFailures), Step::Int(5), Step::Greater].into())
    }

    pub fn is_met(&self, counts: &Counts) -> bool {
        self.evaluate(counts) == Some(Value::Bool(true))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// `None`: there is no value.
    pub fn evaluate(&self, counts: &Counts) -> Option<Value> {
        evaluate(&self.0, counts)
    }
}

impl Count {
    pub const ALL: [(&'static str, Self); 5] = [
        ("requests", Self::Requests),
        ("totalSuccesses", Self::Successes),
        ("totalFailures", Self::Failures),
        ("consecutiveSuccesses", Self::ConsecutiveSuccesses),
        ("consecutiveFailures", Self::ConsecutiveFailures),
    ];

    const fn of(self, counts: &Counts) -> u32 {
        match self {
            Self::ConsecutiveFailures => counts.consecutive_failures,
            Self::ConsecutiveSuccesses => counts.consecutive_successes,
            Self::Failures => counts.failures,
            Self::Requests => counts.requests,
            Self::Successes => counts.successes,
        }
    }
}

/// The value of the steps; `None` when they have none.
pub fn evaluate(steps: &[Step], counts: &Counts) -> Option<Value> {
    let mut stack = Stack { values: [None; STACK_MAX], len: 0 };
    for step in steps.iter().take(STEPS_MAX) {
        let value = match *step {
            Step::Bool(value) => Some(Value::Bool(value)),
            Step::Count(count) => Some(Value::Int(i64::from(count.of(counts)))),
            Step::Float(value) => Some(Value::Float(value)),
            Step::Int(value) => Some(Value::Int(value)),
            Step::Negate | Step::Not | Step::ToFloat | Step::ToInt => unary(*step, stack.pop()),
            Step::Select => {
                let (other, value, condition) = (stack.pop(), stack.pop(), stack.pop());
                match condition {
                    Some(Value::Bool(true)) => value,
                    Some(Value::Bool(false)) => other,
                    _ => None,
                }
            }
            _ => {
                let (right, left) = (stack.pop(), stack.pop());
                binary(*step, left, right)
            }
        };
        stack.push(value)?;
    }
    stack.pop()
}

/// A place without value is one that could not be computed.
struct Stack {
    values: [Option<Value>; STACK_MAX],
    len: usize,
}

impl Stack {
    fn pop(&mut self) -> Option<Value> {
        self.len = self.len.checked_sub(1)?;
        self.values[self.len]
    }

    /// `None` when there is no room.
    fn push(&mut self, value: Option<Value>) -> Option<()> {
        *self.values.get_mut(self.len)? = value;
        self.len += 1;
        Some(())
    }
}

fn unary(step: Step, operand: Option<Value>) -> Option<Value> {
    match (step, operand?) {
        (Step::Negate, Value::Int(value)) => value.checked_neg().map(Value::Int),
        (Step::Negate, Value::Float(value)) => Some(Value::Float(-value)),
        (Step::Not, Value::Bool(value)) => Some(Value::Bool(!value)),
        (Step::ToFloat, Value::Int(value)) => Some(Value::Float(float_of(value))),
        (Step::ToFloat, value @ Value::Float(_)) => Some(value),
        (Step::ToInt, Value::Float(value)) => int_of(value).map(Value::Int),
        (Step::ToInt, value @ Value::Int(_)) => Some(value),
        _ => None,
    }
}

/// Of `&&` and `||` one side may be without value where the other one decides alone, as CEL has it.
fn binary(step: Step, left: Option<Value>, right: Option<Value>) -> Option<Value> {
    match step {
        Step::And => return logic(left, right, false),
        Step::Or => return logic(left, right, true),
        _ => {}
    }
    match (left?, right?) {
        (Value::Int(left), Value::Int(right)) => ints(step, left, right),
        (Value::Float(left), Value::Float(right)) => floats(step, left, right),
        (Value::Bool(left), Value::Bool(right)) => {
            (step == Step::Equal).then_some(Value::Bool(left == right))
        }
        _ => None,
    }
}

fn logic(left: Option<Value>, right: Option<Value>, deciding: bool) -> Option<Value> {
    let deciding = Value::Bool(deciding);
    match (left, right) {
        (Some(value), _) if value == deciding => Some(deciding),
        (_, Some(value)) if value == deciding => Some(deciding),
        (Some(Value::Bool(_)), Some(right @ Value::Bool(_))) => Some(right),
        _ => None,
    }
}

fn ints(step: Step, left: i64, right: i64) -> Option<Value> {
    let number = match step {
        Step::Add => left.checked_add(right),
        Step::Divide => left.checked_div(right),
        Step::Multiply => left.checked_mul(right),
        Step::Remainder => left.checked_rem(right),
        Step::Subtract => left.checked_sub(right),
        Step::Equal => return Some(Value::Bool(left == right)),
        Step::Greater => return Some(Value::Bool(left > right)),
        Step::GreaterOrEqual => return Some(Value::Bool(left >= right)),
        Step::Less => return Some(Value::Bool(left < right)),
        Step::LessOrEqual => return Some(Value::Bool(left <= right)),
        _ => None,
    };
    number.map(Value::Int)
}

#[expect(clippy::float_cmp, reason = "an expression that asks whether two are equal means it")]
fn floats(step: Step, left: f64, right: f64) -> Option<Value> {
    let number = match step {
        Step::Add => left + right,
        Step::Divide => left / right,
        Step::Multiply => left * right,
        Step::Subtract => left - right,
        Step::Equal => return Some(Value::Bool(left == right)),
        Step::Greater => return Some(Value::Bool(left > right)),
        Step::GreaterOrEqual => return Some(Value::Bool(left >= right)),
        Step::Less => return Some(Value::Bool(left < right)),
        Step::LessOrEqual => return Some(Value::Bool(left <= right)),
        _ => return None,
    };
    Some(Value::Float(number))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
const fn float_of(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "CEL cuts off the fraction; range is checked")]
fn int_of(value: f64) -> Option<i64> {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    (value > -BOUND && value < BOUND).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: Counts = Counts {
        requests: 10,
        successes: 4,
        failures: 6,
        consecutive_successes: 0,
        consecutive_failures: 6,
    };

    #[test]
    fn steps_without_value_open_nothing() {
        use Step::{Add, And, Bool, Count as C, Divide, Int, Less, Negate, Or, Select};
        let t = Bool(true);
        for (case, steps) in [
            ("no steps", vec![]),
            ("nothing on the stack", vec![Less]),
            ("one operand", vec![Int(1), Less]),
            ("a number", vec![Int(1)]),
            ("mixed kinds", vec![Int(1), t, Less]),
            ("division by zero", vec![Int(0), Int(1), Int(0), Divide, Less]),
            ("overflow", vec![Int(i64::MAX), Int(1), Add, Int(0), Less]),
            ("negated minimum", vec![Int(i64::MIN), Negate, Int(1), Less]),
            ("and without a side", vec![t, Int(1), Int(0), Divide, And]),
            ("or without a side", vec![Bool(false), Int(1), Int(0), Divide, Or]),
            ("a condition without value", vec![Int(1), Int(0), Divide, t, t, Select]),
            ("more than the stack holds", vec![t; STACK_MAX + 1]),
            ("false", vec![C(Count::Failures), C(Count::Successes), Less]),
        ] {
            let trip = Trip::new(steps).unwrap();
            assert!(!trip.is_met(&COUNTS), "{case}: {:?}", trip.evaluate(&COUNTS));
        }
        assert_eq!(Trip::new(vec![t; STEPS_MAX + 1]), None);
    }

    #[test]
    fn computes_as_cel_does() {
        use Step::{
            And, Bool, Count as C, Divide, Equal, Float, Int, Less, Not, Or, Remainder, Select,
            Subtract, ToFloat, ToInt,
        };
        let (t, f) = (Bool(true), Bool(false));
        let failed = [Int(1), Int(0), Divide];
        let with = |before: &[Step], after: &[Step]| [before, &failed, after].concat();
        for (case, steps, want) in [
            ("counts", vec![C(Count::Successes), C(Count::Failures), Less], Value::Bool(true)),
            (
                "whole division",
                vec![C(Count::Failures), C(Count::Successes), Divide],
                Value::Int(1),
            ),
            ("remainder", vec![Int(-7), Int(4), Remainder], Value::Int(-3)),
            ("order of operands", vec![Int(5), Int(7), Subtract], Value::Int(-2)),
            ("floats", vec![Int(6), ToFloat, Float(4.0), Divide], Value::Float(1.5)),
            ("to whole", vec![Float(-1.9), ToInt], Value::Int(-1)),
            ("equal bools", vec![t, f, Not, Equal], Value::Bool(true)),
            ("false and nothing", with(&[f], &[And]), Value::Bool(false)),
            ("nothing and false", with(&[], &[f, And]), Value::Bool(false)),
            ("true or nothing", with(&[t], &[Or]), Value::Bool(true)),
            ("nothing or true", with(&[], &[t, Or]), Value::Bool(true)),
            ("what is not selected", with(&[t, Int(1)], &[Select]), Value::Int(1)),
        ] {
            assert_eq!(evaluate(&steps, &COUNTS), Some(want), "{case}");
        }
        let met =
            |consecutive_failures| Trip::usual().is_met(&Counts { consecutive_failures, ..COUNTS });
        assert!(!met(5) && met(6));
    }
}

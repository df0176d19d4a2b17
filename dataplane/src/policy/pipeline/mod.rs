//! The steps of `spec.httpPipeline` and `spec.appHttpPipeline`, asked one after the other about one
//! request: may it pass, under which path, and what becomes of the bodies.
//!
//! Pure: what a step wants done is an [`Outcome`], which [`crate::relay`] carries out. The steps
//! and their words are daprd 1.18's components. An app without pipelines never comes here.

#![forbid(unsafe_code)]

mod alias;
mod client;
mod rate;

pub(crate) use client::{Client, NOWHERE};
pub(crate) use rate::RateLimits;

use crate::clock::Instant;
use alias::Alias;
use rate::Rate;
use regex::bytes::Regex;
use snapshot::policy;

/// One of an app's pipelines, as one worker asks it.
pub(crate) struct Pipeline {
    steps: Box<[Step]>,
}

enum Step {
    Alias(Alias),
    Check(Regex),
    Rate(Rate),
    Uppercase { request: bool, answer: bool },
}

/// A request as the steps see and change it. Kept by the worker, so that nothing is allocated once
/// the buffers are warm.
#[derive(Default)]
pub(crate) struct Subject {
    /// Decoded.
    pub path: Vec<u8>,
    /// As it came, without `?`.
    pub query: Vec<u8>,
    /// Path and query as they are written, which rules about the whole of it see.
    pub uri: Vec<u8>,
    scratch: Vec<u8>,
}

/// What the steps need beside the request.
pub(crate) struct Surroundings<'a> {
    /// The number of the app whose pipeline it is.
    pub app: usize,
    pub client: Client<'a>,
    pub limits: &'a RateLimits,
    pub now: Instant,
}

/// What is to be done with the request.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub refusal: Option<Refusal>,
    /// [`Subject`] is another one now.
    pub is_rewritten: bool,
    /// The app is told that the client came from nowhere, as a limit took it.
    pub is_from_nowhere: bool,
    pub uppercases_request: bool,
    pub uppercases_answer: bool,
}

/// In the place of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// No rule fits its path.
    InvalidRouter,
    TooManyRequests,
}

impl Refusal {
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRouter => 400,
            Self::TooManyRequests => 429,
        }
    }

    /// The whole body, which has no line break.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InvalidRouter => "invalid router",
            Self::TooManyRequests => "You have reached maximum request limit.",
        }
    }
}

impl Pipeline {
    /// `None`: it has no step.
    pub(crate) fn new(steps: &[policy::Step]) -> Option<Self> {
        let steps: Box<[Step]> = steps.iter().map(Step::new).collect();
        (!steps.is_empty()).then_some(Self { steps })
    }

    /// A limit counts by whom requests come from.
    pub(crate) fn counts_clients(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Rate(_)))
    }

    /// `lines` receives what the answer is to carry, whoever gives it. A refusal ends it: the steps
    /// behind it are never asked.
    pub(crate) fn pass(
        &self,
        subject: &mut Subject,
        around: &Surroundings<'_>,
        lines: &mut Vec<u8>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for step in &self.steps {
            match step {
                Step::Alias(alias) => outcome.is_rewritten |= alias.rewrite(subject),
                Step::Check(rule) if rule.is_match(&subject.uri) => {}
                Step::Check(_) => outcome.refusal = Some(Refusal::InvalidRouter),
                Step::Rate(rate) => {
                    outcome.is_from_nowhere |= around.client.is_unknown();
                    if !rate.take(subject, around, lines) {
                        outcome.refusal = Some(Refusal::TooManyRequests);
                    }
                }
                Step::Uppercase { request, answer } => {
                    outcome.uppercases_request |= request;
                    outcome.uppercases_answer |= answer;
                }
            }
            if outcome.refusal.is_some() {
                break;
            }
        }
        outcome
    }
}

impl Step {
    fn new(step: &policy::Step) -> Self {
        match step {
            policy::Step::Alias(routes) => Self::Alias(Alias::new(routes)),
            policy::Step::Check(rule) => Self::Check(rule.compile()),
            policy::Step::RateLimit(limit) => Self::Rate(Rate::new(limit)),
            policy::Step::Uppercase { request, answer } => {
                Self::Uppercase { request: *request, answer: *answer }
            }
        }
    }
}

impl Subject {
    pub(crate) fn clear(&mut self) {
        self.path.clear();
        self.query.clear();
        self.uri.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::{AliasRoute, Pattern, RateLimit};

    fn subject(path: &str) -> Subject {
        let (path, uri) = (path.as_bytes().to_vec(), path.as_bytes().to_vec());
        Subject { path, uri, ..Subject::default() }
    }

    fn check(rule: &str) -> policy::Step {
        policy::Step::Check(Pattern::new(rule).unwrap())
    }

    fn alias(from: &str, to: &str) -> policy::Step {
        let pattern = Pattern::new(&format!("^{from}$")).unwrap();
        let route = AliasRoute { pattern, variables: Vec::new(), path: to.to_owned() };
        policy::Step::Alias(vec![route])
    }

    fn rate(per_second: f64) -> policy::Step {
        policy::Step::RateLimit(RateLimit { component: "r".to_owned(), per_second })
    }

    fn passed(steps: &[policy::Step], path: &str) -> (Outcome, String, String) {
        let limits = RateLimits::default();
        let client = Client { forwarded_for: None, real_ip: None, address: Some(b"10.0.0.7:1") };
        let around = Surroundings { app: 1, client, limits: &limits, now: Instant::from_nanos(1) };
        let (mut subject, mut lines) = (subject(path), Vec::new());
        let pipeline = Pipeline::new(steps).unwrap();
        let outcome = pipeline.pass(&mut subject, &around, &mut lines);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (outcome, text(subject.path), text(lines))
    }

    #[test]
    fn a_refusal_ends_it() {
        let upper = policy::Step::Uppercase { request: true, answer: true };
        for (case, steps, want) in [
            ("first", vec![check("^/a$"), upper.clone()], (Some(Refusal::InvalidRouter), false)),
            ("last", vec![upper.clone(), check("^/a$")], (Some(Refusal::InvalidRouter), true)),
            ("a limit first", vec![rate(1.0), upper.clone()], (None, true)),
            ("none", vec![check("^/b"), upper], (None, true)),
        ] {
            let (outcome, ..) = passed(&steps, "/b");
            assert_eq!((outcome.refusal, outcome.uppercases_answer), want, "{case}");
        }
        let (outcome, _, lines) = passed(&[check("^/a$"), rate(1.0)], "/b");
        assert_eq!((outcome.refusal, lines.as_str()), (Some(Refusal::InvalidRouter), ""));
    }

    #[test]
    fn each_step_sees_what_the_one_before_it_made() {
        let steps = [alias("/a", "/b"), alias("/b", "/c d"), check("^/c%20d$"), alias("/b", "/e")];
        let (outcome, path, _) = passed(&steps, "/a");
        assert_eq!((outcome.refusal, outcome.is_rewritten, path.as_str()), (None, true, "/c d"));
        let (outcome, path, _) = passed(&steps[..2], "/x");
        assert_eq!((outcome.is_rewritten, path.as_str()), (false, "/x"));
    }

    #[test]
    fn nothing_is_a_pipeline_without_steps() {
        assert!(Pipeline::new(&[]).is_none());
        assert!(Pipeline::new(&[rate(1.0)]).unwrap().counts_clients());
        assert!(!Pipeline::new(&[check("a")]).unwrap().counts_clients());
    }
}

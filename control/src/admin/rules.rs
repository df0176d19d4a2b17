//! `spec.metrics.rules`: values of labels that are shown as others, so that there are fewer.
//!
//! They are applied where the page is made, to each metric by its own; samples that are then alike
//! are added up. A rule that is no regular expression never gets here.

#![forbid(unsafe_code)]

use regex::{Regex, RegexBuilder};
use std::collections::HashMap;

/// By metric, as daprd names them without `dapr_`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules(HashMap<String, Vec<Rule>>);

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    label: String,
    expression: Regex,
    replacement: String,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let parts = |rule: &Self| {
            (rule.label.clone(), rule.expression.as_str().to_owned(), rule.replacement.clone())
        };
        parts(self) == parts(other)
    }
}

impl Rule {
    /// # Errors
    /// Why the expression is none.
    pub(crate) fn new(label: &str, expression: &str, replacement: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(expression).size_limit(EXPRESSION_BYTES_MAX).build();
        let expression = built.map_err(|e| {
            // Its text shows the place in lines of its own; the last one says what is wrong.
            let text = e.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("{expression:?} is not a regular expression: {reason}")
        })?;
        let (label, replacement) = (label.to_owned(), replacement.to_owned());
        Ok(Self { label, expression, replacement })
    }
}

impl Rules {
    pub(crate) fn add(&mut self, metric: &str, rule: Rule) {
        self.0.entry(plain(metric)).or_default().push(rule);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn apply(&self, metric: &str, labels: &mut [(String, String)]) {
        let Some(rules) = self.0.get(&plain(metric)) else { return };
        for (label, value) in labels {
            for rule in rules.iter().filter(|rule| rule.label == *label) {
                *value = rule.expression.replace_all(value, &rule.replacement).into_owned();
            }
        }
    }
}

/// daprd takes a metric's name with and without its prefix, and with slashes.
fn plain(metric: &str) -> String {
    let metric = metric.replace('/', "_");
    metric.strip_prefix("dapr_").unwrap_or(&metric).to_owned()
}

/// Of one compiled expression.
const EXPRESSION_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_values_of_its_metric_and_label() {
        let mut rules = Rules::default();
        let rule =
            |label, expression, replacement| Rule::new(label, expression, replacement).unwrap();
        rules.add("dapr_http_server_latency", rule("path", "orders/.+", "orders/ID"));
        rules.add("http/server/latency", rule("path", "^/a/(\\w+)/.*$", "/a/$1"));
        rules.add("other", rule("path", ".*", "x"));
        for (case, metric, label, value, want) in [
            ("matched", "dapr_http_server_latency", "path", "/v1/orders/7", "/v1/orders/ID"),
            ("group", "dapr_http_server_latency", "path", "/a/b/c", "/a/b"),
            ("unmatched", "dapr_http_server_latency", "path", "/x", "/x"),
            ("other label", "dapr_http_server_latency", "method", "orders/7", "orders/7"),
            ("other metric", "dapr_http_server_request_count", "path", "orders/7", "orders/7"),
        ] {
            let mut labels = [(label.to_owned(), value.to_owned())];
            rules.apply(metric, &mut labels);
            assert_eq!(labels[0].1, want, "{case}");
        }
    }

    #[test]
    fn refuses_what_is_no_expression_or_too_large_a_one() {
        for expression in ["(", "a{1000}{1000}{1000}"] {
            let reason = Rule::new("path", expression, "x").unwrap_err();
            assert!(reason.contains("is not a regular expression"), "{reason}");
        }
    }
}

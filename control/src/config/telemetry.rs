//! `spec.metrics`, `spec.tracing` and the options of `spec.logging.apiLogging` in the files that
//! `--config` names: what is told of an app's calls, in daprd's words and with daprd's defaults.
//!
//! What a key cannot mean is refused with its place; a key that does not exist is ignored, as daprd
//! does, and named.

#![forbid(unsafe_code)]

use super::{file::Weight, keys::parse_bool, schema, tracing::Exporters};
use crate::{
    admin::rules::{Rule, Rules},
    yaml::{Node, Place, Value},
};
use snapshot::{ApiLog, Metrics, PathPattern, Sampling, Telemetry, Tracing};
use std::{collections::HashSet, sync::Arc};

/// What files say; of several a later one replaces what an earlier one says of the same key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    low_cardinality: bool,
    excludes_verbs: bool,
    patterns: Vec<PathPattern>,
    counts_error_codes: bool,
    latency_bounds_ms: Option<Vec<u32>>,
    pub(crate) rules: Arc<Rules>,
    log: ApiLog,
    sampling_rate: String,
    pub(crate) exporters: Exporters,
}

/// What flags and environment add to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) metrics: bool,
    pub(crate) api_log: bool,
    /// The environment names a collector of traces, and files name none.
    pub(crate) collector: bool,
}

/// Something to be told of a key.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
    /// `None`: it is right, and not done.
    pub(super) weight: Option<Weight>,
}

impl Options {
    /// What the data plane is told.
    pub(crate) fn compile(&self, wanted: Wanted) -> Telemetry {
        let metrics = wanted.metrics.then(|| Metrics {
            has_raw_paths: !self.low_cardinality,
            patterns: self.patterns.clone(),
            excludes_verbs: self.excludes_verbs,
            counts_error_codes: self.counts_error_codes,
            latency_bounds_ms: match &self.latency_bounds_ms {
                Some(bounds) => bounds.clone(),
                None => LATENCY_BOUNDS_MS.to_vec(),
            },
        });
        let api_log = wanted.api_log.then_some(self.log);
        Telemetry { metrics, api_log, tracing: self.tracing(wanted.collector) }
    }

    /// daprd's rules: without a rate nothing is recorded unless somebody collects; a rate that is
    /// no number is the default; zero turns all of it off.
    fn tracing(&self, has_collector: bool) -> Option<Tracing> {
        let rate = match self.sampling_rate.as_str() {
            "" if has_collector => Some(1.0),
            "" if self.exporters.has_any() => Some(SAMPLING_RATE_DEFAULT),
            "" => None,
            text => Some(text.parse().unwrap_or(SAMPLING_RATE_DEFAULT)),
        };
        match rate {
            None => Some(Tracing::PassThrough),
            Some(0.0) => None,
            Some(rate) => Some(Tracing::Recording(Sampling::of_ratio(rate))),
        }
    }
}

/// Reads the node at `path` into `options`; returns what is wrong with it.
pub(super) fn read(path: &str, node: &Node, options: &mut Options) -> Vec<Finding> {
    let mut reader = Reader { options, findings: Vec::new() };
    reader.key(path, node);
    reader.findings
}

pub(super) struct Reader<'a> {
    pub(super) options: &'a mut Options,
    pub(super) findings: Vec<Finding>,
}

impl Reader<'_> {
    fn key(&mut self, path: &str, node: &Node) {
        if node.is_null() {
            return;
        }
        match path.rsplit_once('.').map_or(path, |(_, name)| name) {
            "http" => self.mapping(path, node, HTTP_KEYS, Self::http),
            "latencyDistributionBuckets" => {
                self.options.latency_bounds_ms = self.bounds(path, node);
            }
            "recordErrorCodes" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.counts_error_codes = is_set;
                }
            }
            "rules" => self.options.rules = Arc::new(self.rules(path, node)),
            "obfuscateURLs" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.log.obfuscates_urls = is_set;
                }
            }
            "omitHealthChecks" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.log.omits_health_checks = is_set;
                }
            }
            _ => self.mapping(path, node, TRACING_KEYS, Self::tracing),
        }
    }

    fn http(&mut self, name: &str, path: &str, node: &Node) {
        match name {
            "increasedCardinality" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.low_cardinality = !is_set;
                }
            }
            "excludeVerbs" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.excludes_verbs = is_set;
                }
            }
            _ => self.options.patterns = self.patterns(path, node),
        }
    }

    fn tracing(&mut self, name: &str, path: &str, node: &Node) {
        if name == "samplingRate" {
            let Some(text) = node.text() else { return self.not_a_value(path, node) };
            if !text.is_empty() && text.parse::<f64>().is_err() {
                let message = format!("{text:?} is not a number; 0.0001 counts, as with daprd");
                self.finding(node.place, path, message, Weight::Ignored);
            }
            text.clone_into(&mut self.options.sampling_rate);
            return;
        }
        self.exporter(name, path, node);
    }

    /// Calls `read` with the name, path and value of each key that is known.
    pub(super) fn mapping(
        &mut self,
        path: &str,
        node: &Node,
        known: &[&str],
        read: fn(&mut Self, &str, &str, &Node),
    ) {
        let Value::Map(entries) = &node.value else {
            let message = format!("must be a mapping, not {}", node.kind());
            return self.finding(node.place, path, message, Weight::Refused);
        };
        for (key, child) in entries {
            let path = format!("{path}.{}", key.text);
            if known.contains(&key.text.as_str()) {
                if !child.is_null() {
                    read(self, &key.text, &path, child);
                }
                continue;
            }
            let message = "there is no such key; it is ignored, as with daprd";
            self.finding(key.place, &path, message.to_owned(), Weight::Ignored);
            let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            if let Some(finding) = self.findings.last_mut() {
                let meant = schema::closest(&key.text, &known);
                finding.suggestion = meant.map(|name| format!("is it {name:?}?"));
            }
        }
    }

    fn patterns(&mut self, path: &str, node: &Node) -> Vec<PathPattern> {
        let mut patterns: Vec<PathPattern> = Vec::new();
        let mut shapes = HashSet::new();
        for item in self.list(path, node, PATTERNS_MAX) {
            let Some(text) = item.text() else {
                self.not_a_value(path, item);
                continue;
            };
            match PathPattern::parse(text) {
                Ok(pattern) if shapes.insert(pattern.segments().to_vec()) => patterns.push(pattern),
                Ok(_) => {
                    let message = format!("{text:?}: another pattern means the same paths");
                    self.finding(item.place, path, message, Weight::Refused);
                }
                Err(reason) => {
                    let message = format!("{text:?}: {reason}");
                    self.finding(item.place, path, message, Weight::Refused);
                }
            }
        }
        patterns
    }

    fn bounds(&mut self, path: &str, node: &Node) -> Option<Vec<u32>> {
        let mut bounds: Vec<u32> = Vec::new();
        for item in self.list(path, node, BUCKETS_MAX) {
            let bound = item.text().and_then(|text| text.parse().ok());
            match bound.filter(|bound| bounds.last().unwrap_or(&0) < bound) {
                Some(bound) => bounds.push(bound),
                None => {
                    let message = "must be whole milliseconds above zero, each more than the last";
                    self.finding(item.place, path, message.to_owned(), Weight::Refused);
                }
            }
        }
        (!bounds.is_empty()).then_some(bounds)
    }

    fn rules(&mut self, path: &str, node: &Node) -> Rules {
        let mut rules = Rules::default();
        for rule in self.list(path, node, RULES_MAX) {
            let metric = find(rule, "name").and_then(Node::text);
            let Some(metric) = metric else {
                let message = "a rule needs the name of a metric".to_owned();
                self.finding(rule.place, path, message, Weight::Refused);
                continue;
            };
            let Some(labels) = find(rule, "labels") else { continue };
            for label in self.list(path, labels, RULES_MAX) {
                self.label_rules(path, metric, label, &mut rules);
            }
        }
        rules
    }

    fn label_rules(&mut self, path: &str, metric: &str, label: &Node, rules: &mut Rules) {
        let name = find(label, "name").and_then(Node::text);
        let Some(name) = name else {
            let message = format!("{metric}: a label needs a name");
            return self.finding(label.place, path, message, Weight::Refused);
        };
        let Some(Node { value: Value::Map(pairs), .. }) = find(label, "regex") else {
            let message = format!("{metric}: label {name:?} needs a mapping regex");
            return self.finding(label.place, path, message, Weight::Refused);
        };
        for (replacement, expression) in pairs {
            let text = expression.text().unwrap_or_default();
            match Rule::new(name, text, &replacement.text) {
                Ok(rule) => rules.add(metric, rule),
                Err(reason) => {
                    let message = format!("{metric}, label {name:?}: {reason}");
                    self.finding(expression.place, path, message, Weight::Refused);
                }
            }
        }
    }

    pub(super) fn list<'n>(&mut self, path: &str, node: &'n Node, count_max: usize) -> &'n [Node] {
        match &node.value {
            Value::Null => &[],
            Value::Sequence(items) if items.len() <= count_max => items,
            Value::Sequence(_) => {
                let message = format!("has at most {count_max} entries");
                self.finding(node.place, path, message, Weight::Refused);
                &[]
            }
            _ => {
                let message = format!("must be a list, not {}", node.kind());
                self.finding(node.place, path, message, Weight::Refused);
                &[]
            }
        }
    }

    pub(super) fn bool(&mut self, path: &str, node: &Node) -> Option<bool> {
        let Some(text) = node.text() else {
            self.not_a_value(path, node);
            return None;
        };
        match parse_bool(text) {
            Ok(is_set) => Some(is_set),
            Err(message) => {
                self.finding(node.place, path, message, Weight::Refused);
                None
            }
        }
    }

    pub(super) fn not_a_value(&mut self, path: &str, node: &Node) {
        let message = format!("must be a single value, not {}", node.kind());
        self.finding(node.place, path, message, Weight::Refused);
    }

    pub(super) fn finding(&mut self, place: Place, key: &str, message: String, weight: Weight) {
        let (key, weight) = (key.to_owned(), Some(weight));
        self.findings.push(Finding { place, key, message, suggestion: None, weight });
    }
}

fn find<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, child)| child)
}

const HTTP_KEYS: &[&str] = &["excludeVerbs", "increasedCardinality", "pathMatching"];
const TRACING_KEYS: &[&str] = &["otel", "samplingRate", "stdout", "zipkin"];

/// Patterns of one app. Each costs memory on every worker, and an API has fewer routes.
const PATTERNS_MAX: usize = 512;
/// Buckets of one histogram; each is a line of the page for every series.
const BUCKETS_MAX: usize = 64;
/// Rules, and labels of each.
const RULES_MAX: usize = 64;

const SAMPLING_RATE_DEFAULT: f64 = 1e-4;

/// daprd's.
const LATENCY_BOUNDS_MS: [u32; 34] = [
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400,
    500, 650, 800, 1000, 2000, 5000, 10000, 20000, 50000, 100_000,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::Configuration;

    fn parse(spec: &str) -> (Options, Vec<String>) {
        let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let configuration = Configuration::parse("c.yaml", &format!("spec:\n{indented}"));
        let problems = configuration.problems.iter().map(ToString::to_string).collect();
        (configuration.telemetry, problems)
    }

    const ALL: Wanted = Wanted { metrics: true, api_log: true, collector: false };

    #[test]
    fn refuses_what_a_key_cannot_mean() {
        for (case, spec, want) in [
            (
                "bool",
                "metric:\n  http:\n    increasedCardinality: perhaps",
                "c.yaml:4:29: spec.metric.http.increasedCardinality: write true or false",
            ),
            (
                "unknown key",
                "metrics:\n  http:\n    excludeVerb: true",
                "c.yaml:4:7: spec.metrics.http.excludeVerb: there is no such key; it is ignored, as \
                 with daprd; is it \"excludeVerbs\"?",
            ),
            (
                "pattern",
                "metrics:\n  http:\n    pathMatching: [orders]",
                "c.yaml:4:22: spec.metrics.http.pathMatching: \"orders\": a pattern begins with a slash",
            ),
            (
                "the same twice",
                "metrics:\n  http:\n    pathMatching: ['/a/{x}', '/a/{y}']",
                "c.yaml:4:32: spec.metrics.http.pathMatching: \"/a/{y}\": another pattern means the \
                 same paths",
            ),
            (
                "buckets",
                "metrics:\n  latencyDistributionBuckets: [5, 5]",
                "c.yaml:3:37: spec.metrics.latencyDistributionBuckets: must be whole milliseconds \
                 above zero, each more than the last",
            ),
            (
                "rule",
                "metrics:\n  rules:\n  - name: x\n    labels:\n    - name: path\n      regex: {a: '('}",
                "c.yaml:7:20: spec.metrics.rules: x, label \"path\": \"(\" is not a regular expression",
            ),
            (
                "sampling",
                "tracing:\n  samplingRate: often",
                "c.yaml:3:19: spec.tracing.samplingRate: \"often\" is not a number; 0.0001 counts, as \
                 with daprd",
            ),
            (
                "log",
                "logging:\n  apiLogging:\n    obfuscateURLs: 7",
                "c.yaml:4:22: spec.logging.apiLogging.obfuscateURLs: write true or false",
            ),
        ] {
            let (_, problems) = parse(spec);
            assert_eq!(problems.len(), 1, "{case}: {problems:?}");
            assert!(problems[0].starts_with(want), "{case}: {problems:?}");
        }
    }

    #[test]
    fn has_the_defaults_of_daprd() {
        let telemetry = Options::default().compile(ALL);
        let metrics = telemetry.metrics.unwrap();
        assert!(metrics.has_raw_paths && !metrics.excludes_verbs && !metrics.counts_error_codes);
        assert_eq!(metrics.latency_bounds_ms.len(), 34);
        assert_eq!(telemetry.api_log, Some(ApiLog::default()));
        assert_eq!(telemetry.tracing, Some(Tracing::PassThrough));
        assert_eq!(Options::default().compile(Wanted::default()).metrics, None);
    }

    #[test]
    fn reads_every_option() {
        let (options, problems) = parse(
            "metrics:\n  http:\n    increasedCardinality: false\n    excludeVerbs: true\n    \
             pathMatching: ['/a/{x}']\n  recordErrorCodes: true\n  latencyDistributionBuckets: [5, 50]\n\
             logging:\n  apiLogging:\n    obfuscateURLs: true\n    omitHealthChecks: true\n\
             tracing:\n  samplingRate: '1'",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let telemetry = options.compile(ALL);
        assert_eq!(
            telemetry.metrics,
            Some(Metrics {
                has_raw_paths: false,
                patterns: vec![PathPattern::parse("/a/{x}").unwrap()],
                excludes_verbs: true,
                counts_error_codes: true,
                latency_bounds_ms: vec![5, 50],
            })
        );
        let log = ApiLog { obfuscates_urls: true, omits_health_checks: true };
        assert_eq!(telemetry.api_log, Some(log));
        assert_eq!(telemetry.tracing, Some(Tracing::Recording(Sampling::of_ratio(1.0))));
    }

    #[test]
    fn the_sampling_rate_decides_what_is_traced() {
        let recording = |ratio| Some(Tracing::Recording(Sampling::of_ratio(ratio)));
        for (case, spec, collector, want) in [
            ("nothing", "", false, Some(Tracing::PassThrough)),
            ("off", "tracing: {samplingRate: '0'}", false, None),
            ("off, differently", "tracing: {samplingRate: '0.0'}", true, None),
            ("half", "tracing: {samplingRate: '0.5'}", false, recording(0.5)),
            ("no number", "tracing: {samplingRate: x}", false, recording(1e-4)),
            ("an exporter", "tracing: {stdout: true}", false, recording(1e-4)),
            ("a collector", "", true, recording(1.0)),
        ] {
            let wanted = Wanted { collector, ..ALL };
            assert_eq!(parse(spec).0.compile(wanted).tracing, want, "{case}");
        }
    }
}

//! `spec.api`: which of Dapr's APIs the app may use. Rules about gRPC are read and left alone: that
//! API is not served.

#![forbid(unsafe_code)]

use super::section::Section;
use crate::yaml::Node;
use dataplane::dapr::Allowed;
use snapshot::policy::{ApiRule, ApiRules};

/// Reads on top of what earlier files say; each list takes the place of the one before it.
pub(super) fn read(rules: &mut ApiRules, node: &Node, section: &mut Section<'_>) {
    for (name, child) in section.entries(node, KEY, &["allowed", "denied"]) {
        let key = format!("{KEY}.{name}");
        let items = section.items(child, &key).iter();
        let list = items.filter_map(|item| rule(item, &key, section)).collect();
        match name {
            "allowed" => rules.allowed = list,
            _ => rules.denied = list,
        }
    }
}

/// A rule without effect may have been meant to lock something, and is told.
fn rule(node: &Node, key: &str, section: &mut Section<'_>) -> Option<ApiRule> {
    let mut rule = ApiRule { name: String::new(), version: String::new() };
    let mut protocol = String::new();
    for (name, child) in section.entries(node, key, &["name", "version", "protocol"]) {
        let key = format!("{key}.{name}");
        match name {
            "name" => rule.name = section.text(child, &key),
            "version" => rule.version = section.text(child, &key),
            _ => protocol = section.text(child, &key),
        }
    }
    match protocol.to_ascii_lowercase().as_str() {
        "grpc" => None,
        "http" => {
            if !Allowed::is_about_any(&rule) {
                let ApiRule { name, version } = &rule;
                let message = format!(
                    "there is no API {version:?}/{name:?}, so the rule has no effect, as with daprd; \
                     write name: state, version: v1, or the beginning of a path, name: state/, \
                     version: v1.0"
                );
                section.doubt(node.place, key, message);
            }
            Some(rule)
        }
        _ => {
            let message = format!(
                "protocol {protocol:?} is neither http nor grpc, so the rule has no effect, as \
                 with daprd"
            );
            section.doubt(node.place, key, message);
            None
        }
    }
}

const KEY: &str = "spec.api";

#[cfg(test)]
mod tests {
    use crate::config::file::Configuration;

    fn configuration(specs: &[&str]) -> Configuration {
        let texts: Vec<String> = specs.iter().map(|s| format!("spec:\n  api: {s}\n")).collect();
        Configuration::parse_all(texts.iter().map(|text| ("c.yaml", text.as_str())))
    }

    #[test]
    fn tells_of_rules_without_effect() {
        let spec = "
    allowed: {}
    denied:
    - {name: state, version: v1}
    - {name: state, version: v1, protocol: tcp}
    - {name: state, version: 1.0, protocol: http}
    - {nam: state, version: v1, protocol: http}";
        let configuration = configuration(&[spec]);
        let problems: Vec<String> =
            configuration.problems.iter().map(ToString::to_string).collect();
        let want = [
            "c.yaml:3:14: spec.api.allowed: must be a list, not a mapping",
            "c.yaml:5:7: spec.api.denied: protocol \"\" is neither http nor grpc",
            "c.yaml:6:7: spec.api.denied: protocol \"tcp\" is neither http nor grpc",
            "c.yaml:7:7: spec.api.denied: there is no API \"1.0\"/\"state\"",
            "c.yaml:8:8: spec.api.denied.nam: there is no such key",
            "c.yaml:8:7: spec.api.denied: there is no API \"v1\"/\"\"",
        ];
        assert_eq!(problems.len(), want.len(), "{problems:#?}");
        for (problem, want) in problems.iter().zip(want) {
            assert!(problem.starts_with(want), "{problem}\nwant {want}");
        }
    }

    #[test]
    fn keeps_the_rules_about_http() {
        let rules = configuration(&[
            "{allowed: [{name: invoke, version: v1, protocol: HTTP}]}",
            "{denied: [{name: state/, version: v1.0, protocol: http}, \
              {name: state, version: v1, protocol: grpc}]}",
        ]);
        assert_eq!(rules.problems, []);
        let rules = rules.api.unwrap();
        assert_eq!((rules.allowed[0].name.as_str(), rules.allowed.len()), ("invoke", 1));
        assert_eq!((rules.denied[0].name.as_str(), rules.denied.len()), ("state/", 1));
        assert_eq!(Configuration::parse("c.yaml", "spec: {}").api, None);
    }
}

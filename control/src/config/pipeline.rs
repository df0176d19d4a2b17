//! `spec.httpPipeline` and `spec.appHttpPipeline`: which components requests go through, by their
//! names. What these components are, resources say.

#![forbid(unsafe_code)]

use super::{file::FilePlace, section::Section};
use crate::yaml::Node;

/// Both pipelines, as files name them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PipelineSpecs {
    /// `spec.httpPipeline`.
    pub(crate) api: Vec<Handler>,
    /// `spec.appHttpPipeline`.
    pub(crate) app: Vec<Handler>,
}

/// A component in a pipeline. Nothing else of the same name is meant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Handler {
    pub(crate) name: String,
    /// `middleware.http.…`
    pub(crate) kind: String,
    pub(crate) version: String,
    pub(crate) place: FilePlace,
    /// From the root of the file.
    pub(crate) key: String,
}

/// Reads on top of what earlier files say: a list takes the place of the one before it.
pub(super) fn read(specs: &mut PipelineSpecs, key: &str, node: &Node, section: &mut Section<'_>) {
    let handlers = match key {
        API => &mut specs.api,
        _ => &mut specs.app,
    };
    if node.is_null() {
        handlers.clear();
        return;
    }
    for (name, child) in section.entries(node, key, &["handlers"]) {
        let key = format!("{key}.{name}");
        let items = section.items(child, &key);
        if items.len() > HANDLERS_MAX {
            let message = format!("has more than {HANDLERS_MAX} handlers");
            section.refuse(child.place, &key, message);
            continue;
        }
        let read = |(index, item)| handler(item, format!("{key}[{index}]"), section);
        *handlers = items.iter().enumerate().filter_map(read).collect();
    }
}

fn handler(node: &Node, key: String, section: &mut Section<'_>) -> Option<Handler> {
    let place = section.place(node.place);
    let (mut name, mut kind, mut version) = (String::new(), String::new(), String::new());
    for (field, child) in section.entries(node, &key, &["name", "type", "version", "selector"]) {
        let key = format!("{key}.{field}");
        match field {
            "name" => name = section.text(child, &key),
            "type" => kind = section.text(child, &key),
            "version" => version = section.text(child, &key),
            _ => {}
        }
    }
    if name.is_empty() || kind.is_empty() {
        let message = "needs name and type of a component, such as \
                       {name: limit, type: middleware.http.ratelimit}";
        section.refuse(node.place, &key, message);
        return None;
    }
    if version.is_empty() {
        "v1".clone_into(&mut version);
    }
    Some(Handler { name, kind, version, place, key })
}

const API: &str = "spec.httpPipeline";

/// Each request goes through all of them.
const HANDLERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use crate::config::file::Configuration;

    fn configuration(specs: &[&str]) -> Configuration {
        let texts: Vec<String> = specs.iter().map(|s| format!("spec:\n  {s}\n")).collect();
        Configuration::parse_all(texts.iter().map(|text| ("c.yaml", text.as_str())))
    }

    #[test]
    fn refuses_handlers_that_name_nothing() {
        for (spec, want) in [
            ("httpPipeline: [a]", "c.yaml:2:17: spec.httpPipeline: must be a mapping, not a list"),
            ("httpPipeline: {handlers: {}}", "spec.httpPipeline.handlers: must be a list"),
            ("httpPipeline: {handlers: [a]}", "spec.httpPipeline.handlers[0]: must be a mapping"),
            ("appHttpPipeline: {handlers: [{name: a}]}", "needs name and type of a component"),
            ("appHttpPipeline: {handlers: [{name: a, typ: b}]}", "there is no such key"),
            ("appHttpPipeline: {handlers: [{name: [a], type: b}]}", "must be a single value"),
        ] {
            let problems = configuration(&[spec]).problems;
            assert!(problems[0].to_string().contains(want), "{spec}: {problems:?}");
        }
        let many = vec!["{name: a, type: b}"; 33].join(", ");
        let problems = configuration(&[&format!("httpPipeline: {{handlers: [{many}]}}")]).problems;
        assert!(problems[0].to_string().contains("more than 32 handlers"), "{problems:?}");
    }

    #[test]
    fn a_later_file_takes_the_place_of_an_earlier_one() {
        let read = configuration(&[
            "httpPipeline: {handlers: [{name: a, type: t}, {name: b, type: t, version: v2}]}",
            "appHttpPipeline: {handlers: [{name: c, type: t, selector: {fields: []}}]}",
        ]);
        assert_eq!(read.problems, []);
        let names = |handlers: &[super::Handler]| {
            let texts = handlers.iter().map(|h| format!("{}/{}/{}", h.name, h.kind, h.version));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(names(&read.pipelines.api), ["a/t/v1", "b/t/v2"]);
        assert_eq!(names(&read.pipelines.app), ["c/t/v1"]);
        assert_eq!(read.pipelines.api[1].key, "spec.httpPipeline.handlers[1]");
        let read =
            configuration(&["httpPipeline: {handlers: [{name: a, type: t}]}", "httpPipeline:"]);
        assert!(read.pipelines.api.is_empty());
    }
}

//! Which kind of file something is that an operator wants to have checked: told by what stands in
//! it, since its name says nothing.
//!
//! Only the top of the first document is looked at. Whatever is wrong with the rest is for the
//! reader of that kind to say.

#![forbid(unsafe_code)]

use super::{
    Environment,
    file::{self, FilePlace, Problem, Weight},
};
use crate::{
    node,
    yaml::{self, Node, Value},
};
use std::path::Path;

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum FileKind {
    /// A list of apps that the registry `file` reads.
    Apps,
    Configuration,
    Node,
}

impl FileKind {
    /// # Errors
    /// When it is none of these, or cannot be read.
    pub(crate) fn of(path: &str, env: Environment<'_>) -> Result<Self, Problem> {
        let text = file::read(Path::new(path)).map_err(|reason| Problem::of_file(path, reason))?;
        // What a Configuration puts into its text may be what makes it YAML.
        let documents = yaml::parse(&file::expand(&text, env)).or_else(|_| yaml::parse(&text));
        let documents = documents.map_err(|e| problem(path, Some(e.place), e.message))?;
        match documents.first() {
            Some(root) => of_root(root).map_err(|message| problem(path, Some(root.place), message)),
            None => Err(problem(path, None, format!("is empty; {KINDS}"))),
        }
    }
}

fn problem(path: &str, place: Option<yaml::Place>, message: String) -> Problem {
    Problem {
        place: FilePlace::new(path.into(), place),
        key: String::new(),
        message,
        suggestion: None,
        weight: Weight::Refused,
    }
}

fn of_root(root: &Node) -> Result<FileKind, String> {
    let entries = match &root.value {
        Value::Map(entries) => entries,
        Value::Sequence(apps) if apps.iter().all(is_app_of_a_registry) => {
            return Ok(FileKind::Apps);
        }
        Value::Sequence(_) => return Err(format!("a list, but not one of a registry; {KINDS}")),
        Value::Null | Value::Text(_) => return Err(format!("unknown; {KINDS}")),
    };
    let find = |name: &str| entries.iter().find(|(key, _)| key.text == name);
    match find("kind").map(|(_, kind)| kind.text().unwrap_or_default()) {
        Some("Configuration") => return Ok(FileKind::Configuration),
        Some(other) => return Err(format!("is of kind {other:?}, which is not checked; {KINDS}")),
        None => {}
    }
    if ["apiVersion", "metadata", "spec"].into_iter().any(|name| find(name).is_some()) {
        return Ok(FileKind::Configuration);
    }
    match entries.iter().any(|(key, _)| node::is_key(&key.text)) {
        true => Ok(FileKind::Node),
        false => Err(format!("unknown; {KINDS}")),
    }
}

fn is_app_of_a_registry(node: &Node) -> bool {
    match &node.value {
        Value::Map(entries) => entries.iter().any(|(key, _)| key.text == "endpoints"),
        _ => false,
    }
}

const KINDS: &str = "a Configuration has kind: Configuration, a node's file has apps, the file of a \
    registry is a list of apps with endpoints";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_by_what_stands_in_it() {
        use FileKind::{Apps, Configuration, Node};
        for (case, text, want) in [
            ("a resource of another kind", "kind: Component\nspec: {}", Err("kind \"Component\"")),
            ("something else", "version: 3\nservices: {}", Err("unknown; ")),
            ("a word", "hello", Err("unknown; ")),
            ("a list of something", "- 1\n- 2", Err("a list, but not one of a registry")),
            ("apps for a node", "- {id: a, http-port: 1}", Err("a list, but not one")),
            ("a Configuration", "kind: Configuration", Ok(Configuration)),
            ("one without a kind", "spec: {}", Ok(Configuration)),
            ("a node", "apps: []", Ok(Node)),
            ("a node with mistakes", "log-level: loud\naps: []", Ok(Node)),
            ("a registry", "- {id: a, endpoints: []}", Ok(Apps)),
            ("a registry without apps", "[]", Ok(Apps)),
        ] {
            let documents = yaml::parse(text).unwrap();
            match (of_root(&documents[0]), want) {
                (Err(got), Err(want)) => assert!(got.contains(want), "{case}: {got}"),
                (got, want) => assert_eq!(got, want.map_err(str::to_owned), "{case}"),
            }
        }
    }
}

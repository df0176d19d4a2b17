//! YAML, and with it JSON, as a small tree in which every node knows its line and column.
//!
//! What is read here was written by people, who want to be told where their mistake is; a derive of
//! serde names the first problem only, and no place for those that are found later. Parsing is
//! bounded: an alias counts as many nodes as it stands for, so a file cannot grow in memory beyond
//! [`NODES_MAX`].

#![forbid(unsafe_code)]

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};
use std::{collections::HashMap, fmt};

/// Where something stands in a file, both counted from one.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// In the order of the file; no key twice.
    Map(Vec<(Key, Node)>),
    Null,
    Sequence(Vec<Node>),
    /// As it is written, without quotes. A number or a bool is text until somebody wants it as
    /// such.
    Text(String),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// Something that is wrong at one place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Node {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) const fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The same as JSON, in which every single value is a text.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.text.clone(), node.to_json()));
                serde_json::Value::Object(entries.collect())
            }
            Value::Null => serde_json::Value::Null,
            Value::Sequence(nodes) => nodes.iter().map(Self::to_json).collect(),
            Value::Text(text) => text.clone().into(),
        }
    }

    /// What a problem says was found instead.
    pub(crate) const fn kind(&self) -> &'static str {
        match self.value {
            Value::Map(_) => "a mapping",
            Value::Null => "nothing",
            Value::Sequence(_) => "a list",
            Value::Text(_) => "a single value",
        }
    }
}

/// The documents of a file. An empty file has none.
///
/// # Errors
/// The first thing that is not YAML: what follows it cannot be told from its consequences.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Problem> {
    let mut builder = Builder::default();
    // Byte order marks come from editors that mean well.
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) = event.map_err(|e| scan_problem(&e))?;
        builder.on_event(event, place_of(&span.start))?;
    }
    Ok(builder.documents)
}

fn place_of(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn scan_problem(error: &ScanError) -> Problem {
    Problem::new(place_of(error.marker()), error.info())
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    /// Lists and mappings that are not closed yet, the outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    node_count: usize,
}

struct Open {
    place: Place,
    anchor: usize,
    content: Content,
    /// Nodes there were before this one.
    node_count: usize,
}

enum Content {
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
    Sequence(Vec<Node>),
}

impl Builder {
    fn on_event(&mut self, event: Event<'_>, place: Place) -> Result<(), Problem> {
        match event {
            Event::Alias(anchor) => self.on_alias(anchor, place),
            Event::MappingEnd | Event::SequenceEnd => self.on_end(),
            Event::MappingStart(anchor, _) => {
                self.on_start(anchor, place, Content::Map { entries: Vec::new(), key: None })
            }
            Event::Scalar(text, style, anchor, _) => {
                let is_null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if is_null { Value::Null } else { Value::Text(text.into_owned()) };
                self.count(1, place)?;
                self.on_node(Node { place, value }, anchor, 1)
            }
            Event::SequenceStart(anchor, _) => {
                self.on_start(anchor, place, Content::Sequence(Vec::new()))
            }
            Event::DocumentEnd
            | Event::DocumentStart(_)
            | Event::Nothing
            | Event::StreamEnd
            | Event::StreamStart => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Problem> {
        self.node_count = self.node_count.saturating_add(nodes);
        if self.node_count > NODES_MAX {
            return Err(Problem::new(place, format!("the file has more than {NODES_MAX} values")));
        }
        Ok(())
    }

    fn on_alias(&mut self, anchor: usize, place: Place) -> Result<(), Problem> {
        let Some((node, nodes)) = self.anchors.get(&anchor) else {
            return Err(Problem::new(place, "this alias has no anchor"));
        };
        let (node, nodes) = (Node { place, value: node.value.clone() }, *nodes);
        self.count(nodes, place)?;
        self.on_node(node, 0, nodes)
    }

    fn on_start(&mut self, anchor: usize, place: Place, content: Content) -> Result<(), Problem> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Problem::new(place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let node_count = self.node_count;
        self.count(1, place)?;
        self.open.push(Open { place, anchor, content, node_count });
        Ok(())
    }

    fn on_end(&mut self) -> Result<(), Problem> {
        let Some(Open { place, anchor, content, node_count }) = self.open.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::Map { entries, key: _ } => Value::Map(entries),
            Content::Sequence(nodes) => Value::Sequence(nodes),
        };
        self.on_node(Node { place, value }, anchor, self.node_count - node_count)
    }

    /// Puts a finished node where it belongs.
    fn on_node(&mut self, node: Node, anchor: usize, nodes: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), nodes));
            self.count(nodes, node.place)?;
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(node),
            Some(Content::Sequence(list)) => list.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(key_of(node, entries)?),
            },
        }
        Ok(())
    }
}

fn key_of(node: Node, entries: &[(Key, Node)]) -> Result<Key, Problem> {
    let place = node.place;
    let Value::Text(text) = node.value else {
        return Err(Problem::new(place, format!("a key must be a word, not {}", node.kind())));
    };
    if let Some((first, _)) = entries.iter().find(|(key, _)| key.text == text) {
        let message = format!("key {text:?} stands here a second time, after {}", first.place);
        return Err(Problem::new(place, message));
    }
    Ok(Key { place, text })
}

/// Values in one file, aliases counted as what they stand for.
const NODES_MAX: usize = 1_000_000;

/// Lists and mappings within each other. Readers of the tree may recurse.
const DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Text(text) => format!("{text:?}"),
            Value::Sequence(nodes) => {
                format!("[{}]", nodes.iter().map(self::text).collect::<Vec<_>>().join(","))
            }
            Value::Map(entries) => {
                let entry =
                    |(key, node): &(Key, Node)| format!("{}={}", key.text, self::text(node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn says_where_it_cannot_be_read() {
        let deep = "[".repeat(DEPTH_MAX + 1);
        let bomb: String = (1..10).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
            let alias = vec![format!("*a{}", n - 1); 10].join(",");
            format!("{text}a{n}: &a{n} [{alias}]\n")
        });
        for (case, yaml, place, message) in [
            ("a bracket too few", "a: [1, 2\nb: 3\n", (2, 2), ""),
            ("a tab as indentation", "a:\n\tb: 1\n", (2, 2), ""),
            ("a key twice", "a: 1\nb: 2\na: 3\n", (3, 1), "key \"a\" stands here a second time"),
            ("a list as key", "a: 1\n? [x]\n: 2\n", (2, 3), "a key must be a word, not a list"),
            ("no anchor", "a: *b\n", (1, 4), ""),
            ("too deep", &deep, (1, 65), "nested deeper"),
            ("a bomb", &bomb, (6, 0), "the file has more than"),
        ] {
            let problem = parse(yaml).expect_err(case);
            assert!(problem.message.contains(message), "{case}: {problem}");
            assert_eq!(problem.place.line, place.0, "{case}: {problem}");
            assert!(place.1 == 0 || problem.place.column == place.1, "{case}: {problem}");
        }
    }

    #[test]
    fn what_is_written_as_json_is_read_as_the_same() {
        let yaml = "{a: [1, 'x: y', ~], b: {c: \"\\\"\"}, d: }";
        let document = parse(yaml).unwrap().remove(0);
        let again = parse(&document.to_json().to_string()).unwrap().remove(0);
        assert_eq!(text(&again), text(&document));
        assert_eq!(text(&again), r#"{a=["1","x: y",null],b={c="\""},d=null}"#);
    }

    #[test]
    fn reads_yaml_and_json() {
        for (case, yaml, want) in [
            ("nothing", "", ""),
            ("a comment", "# nothing\n", ""),
            ("a mapping", "a: 1\nb: [x, 'null', null, ~]\n", r#"{a="1",b=["x","null",null,null]}"#),
            (
                "json",
                "{\"a\": [1, true, null],\n\t\"b\": {\"c\": \"\\u00e4\"}}",
                r#"{a=["1","true",null],b={c="ä"}}"#,
            ),
            ("two documents", "a: 1\n---\nb: 2\n", r#"{a="1"} {b="2"}"#),
            ("an alias", "a: &x {b: 1}\nc: *x\n", r#"{a={b="1"},c={b="1"}}"#),
            ("a byte order mark", "\u{feff}a: 1", r#"{a="1"}"#),
        ] {
            let documents = parse(yaml).unwrap_or_else(|e| panic!("{case}: {e}"));
            let text: Vec<String> = documents.iter().map(text).collect();
            assert_eq!(text.join(" "), want, "{case}");
        }
    }
}

//! Which label a path has: a pattern that it matches, itself, or none.
//!
//! Go's `ServeMux` decides: at each segment a literal beats a wildcard, and a wildcard beats a
//! rest; where that leads nowhere the next one is tried. Matching allocates nothing.

#![forbid(unsafe_code)]

use super::names::{NameId, Names};
use memchr::memmem::Finder;
use snapshot::{Metrics, PathPattern, Segment};

/// The patterns of one app, as a tree of segments.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    nodes: Vec<Node>,
    /// What is shown for each; patterns that also stand for the method of an invocation are shown
    /// with its prefix.
    labels: Vec<String>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Vec<(Box<[u8]>, usize)>,
    wildcard: Option<usize>,
    /// The pattern that ends here, without a slash.
    here: Option<usize>,
    /// With a slash, and nothing after it.
    end: Option<usize>,
    /// With a slash, and anything after it.
    rest: Option<usize>,
}

impl Patterns {
    pub(super) fn new(patterns: &[PathPattern]) -> Self {
        let mut tree = Self { nodes: vec![Node::default()], labels: Vec::new() };
        for pattern in patterns {
            tree.insert(pattern);
            if !pattern.as_str().starts_with(INVOKE_PREFIX)
                && let Ok(invoked) = PathPattern::parse(&format!("{INVOKE_METHOD}{pattern}"))
            {
                tree.insert(&invoked);
            }
        }
        tree
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Of two patterns for the same paths the first one counts.
    fn insert(&mut self, pattern: &PathPattern) {
        let label = self.labels.len();
        let mut at = 0;
        for segment in pattern.segments() {
            match segment {
                Segment::Literal(text) => at = self.literal(at, text.as_bytes()),
                Segment::Wildcard => at = self.wildcard(at),
                Segment::End | Segment::Rest => {}
            }
        }
        let node = &mut self.nodes[at];
        let place = match pattern.segments().last() {
            Some(Segment::End) => &mut node.end,
            Some(Segment::Rest) => &mut node.rest,
            _ => &mut node.here,
        };
        place.get_or_insert(label);
        self.labels.push(pattern.as_str().to_owned());
    }

    fn literal(&mut self, at: usize, text: &[u8]) -> usize {
        if let Some((_, next)) = self.nodes[at].literals.iter().find(|(known, _)| **known == *text)
        {
            return *next;
        }
        let next = self.push();
        self.nodes[at].literals.push((text.into(), next));
        next
    }

    fn wildcard(&mut self, at: usize) -> usize {
        if let Some(next) = self.nodes[at].wildcard {
            return next;
        }
        let next = self.push();
        self.nodes[at].wildcard = Some(next);
        next
    }

    fn push(&mut self) -> usize {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }

    /// `path` begins with a slash.
    pub(super) fn find(&self, path: &[u8]) -> Option<&str> {
        let label = self.find_below(0, path)?;
        Some(&self.labels[label])
    }

    /// `rest` is empty or begins with a slash. As deep as the longest pattern at most.
    fn find_below(&self, at: usize, rest: &[u8]) -> Option<usize> {
        let node = &self.nodes[at];
        let Some((_, after)) = rest.split_first() else { return node.here };
        let length = memchr::memchr(b'/', after).unwrap_or(after.len());
        let (segment, next) = after.split_at(length);
        let literal = node.literals.iter().find(|(text, _)| **text == *segment);
        if let Some(found) = literal.and_then(|(_, child)| self.find_below(*child, next)) {
            return Some(found);
        }
        if let Some(child) = node.wildcard
            && !segment.is_empty()
            && let Some(found) = self.find_below(child, next)
        {
            return Some(found);
        }
        if after.is_empty() && node.end.is_some() { node.end } else { node.rest }
    }
}

/// The label of `path`, decoded and without double slashes, as daprd 1.18 has it for requests to
/// its API.
pub(super) fn label(
    path: &[u8],
    metrics: &Metrics,
    patterns: &Patterns,
    names: &mut Names,
) -> Label {
    if let Some(pattern) = patterns.find(path) {
        return Label { name: names.intern(pattern.as_bytes()), is_pattern: true };
    }
    let name = if metrics.has_raw_paths {
        names.intern(without_ids(path))
    } else if patterns.is_empty() && STATIC_PATHS.contains(&path) {
        names.intern(path)
    } else {
        NameId::EMPTY
    };
    Label { name, is_pattern: false }
}

/// What is shown for a path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Label {
    pub(super) name: NameId,
    pub(super) is_pattern: bool,
}

/// `double` finds two of them.
pub(super) fn merge_slashes<'a>(
    path: &'a [u8],
    double: &Finder<'_>,
    scratch: &'a mut Vec<u8>,
) -> &'a [u8] {
    if double.find(path).is_none() {
        return path;
    }
    scratch.clear();
    for byte in path {
        if *byte != b'/' || scratch.last() != Some(&b'/') {
            scratch.push(*byte);
        }
    }
    scratch
}

/// Keys of a store are as many as it has entries; daprd shows the store alone.
fn without_ids(path: &[u8]) -> &[u8] {
    for prefix in STORE_PREFIXES {
        if let Some(store) = path.strip_prefix(*prefix) {
            let length = memchr::memchr(b'/', store).unwrap_or(store.len());
            return &path[..prefix.len() + length];
        }
    }
    path
}

const INVOKE_PREFIX: &str = "/v1.0/invoke/";
const INVOKE_METHOD: &str = "/v1.0/invoke/{app_id}/method";
const STORE_PREFIXES: &[&[u8]] = &[b"/v1.0/state/", b"/v1.0/secrets/"];
/// Few, and so kept where paths are not.
const STATIC_PATHS: &[&[u8]] =
    &[b"/dapr/config", b"/dapr/metrics", b"/dapr/subscribe", b"/healthz"];

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        let parsed: Vec<PathPattern> =
            texts.iter().map(|text| PathPattern::parse(text).unwrap()).collect();
        Patterns::new(&parsed)
    }

    #[test]
    fn the_more_specific_pattern_wins_as_in_go() {
        let tree = patterns(&[
            "/orders",
            "/orders/{id}",
            "/orders/new",
            "/orders/{id}/items/{$}",
            "/orders/{id}/",
            "/files/{path...}",
            "/v1.0/invoke/{app}/method/special",
            "/shop/new",
            "/shop/{id}/c",
        ]);
        for (path, want) in [
            ("/", None),
            ("/other", None),
            ("/orders", Some("/orders")),
            ("/orders/", None),
            ("/orders/7", Some("/orders/{id}")),
            ("/orders/new", Some("/orders/new")),
            ("/orders/7/", Some("/orders/{id}/")),
            ("/orders/7/x/y", Some("/orders/{id}/")),
            ("/orders/7/items/", Some("/orders/{id}/items/{$}")),
            ("/orders/7/items/1", Some("/orders/{id}/")),
            // A literal that leads nowhere does not hide the wildcard beside it.
            ("/shop/new/c", Some("/shop/{id}/c")),
            ("/shop//c", None),
            ("/shop/new/", None),
            ("/files", None),
            ("/files/", Some("/files/{path...}")),
            ("/files/a/b", Some("/files/{path...}")),
            ("/v1.0/invoke/shop/method/orders/7", Some("/v1.0/invoke/{app_id}/method/orders/{id}")),
            ("/v1.0/invoke/shop/method/special", Some("/v1.0/invoke/{app}/method/special")),
            ("/v1.0/invoke//method/orders", None),
        ] {
            assert_eq!(tree.find(path.as_bytes()), want, "{path}");
        }
    }

    #[test]
    fn labels_follow_the_options() {
        let tree = patterns(&["/orders/{id}"]);
        for (case, has_raw_paths, has_patterns, path, want) in [
            ("raw", true, false, "/v1.0/invoke/a/method/b", "/v1.0/invoke/a/method/b"),
            ("slashes", true, false, "//v1.0///invoke/a", "/v1.0/invoke/a"),
            ("state", true, false, "/v1.0/state/redis/key", "/v1.0/state/redis"),
            ("secret", true, false, "/v1.0/secrets/vault/key", "/v1.0/secrets/vault"),
            ("low", false, false, "/v1.0/invoke/a/method/b", ""),
            ("low, static", false, false, "/dapr/config", "/dapr/config"),
            ("matched", false, true, "/orders/7", "/orders/{id}"),
            ("matched beside raw", true, true, "//orders/7", "/orders/{id}"),
            ("unmatched, low", false, true, "/x", ""),
            ("unmatched, raw", true, true, "/x", "/x"),
        ] {
            let metrics = Metrics {
                has_raw_paths,
                patterns: Vec::new(),
                excludes_verbs: false,
                counts_error_codes: false,
                latency_bounds_ms: Vec::new(),
            };
            let none = Patterns::new(&[]);
            let tree = if has_patterns { &tree } else { &none };
            let mut names = Names::default();
            let mut merged = Vec::new();
            let path = merge_slashes(path.as_bytes(), &Finder::new("//"), &mut merged);
            let label = label(path, &metrics, tree, &mut names);
            assert_eq!(&**names.text(label.name), want, "{case}");
        }
    }
}

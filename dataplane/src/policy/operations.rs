//! The operations of one caller as a tree of path segments, searched as daprd 1.18 searches it.
//!
//! The order of the policy has a meaning at every level: the first child that fits is taken, and no
//! other is looked at again. A node with an action ends the search even if the operation goes on,
//! so `/public` covers `/public/extra`.

#![forbid(unsafe_code)]

/// A segment is kept with the slash in front of it: `*` alone and `/*` are different things to
/// daprd.
#[derive(Clone, Debug)]
pub(super) struct Node<T> {
    segment: Box<[u8]>,
    action: Option<T>,
    children: Vec<Self>,
}

impl<T> Node<T> {
    pub(super) fn root() -> Self {
        Self { segment: b"/".as_slice().into(), action: None, children: Vec::new() }
    }

    /// `name` begins with a slash. Of operations with one name the first one stays.
    pub(super) fn insert(&mut self, name: &[u8], action: T) {
        debug_assert_eq!(name.first(), Some(&b'/'));
        let mut node = self;
        for segment in segments(name) {
            let at = match node.children.iter().position(|child| *child.segment == *segment) {
                Some(at) => at,
                None => {
                    let child = Self { segment: segment.into(), ..Self::root() };
                    node.children.push(child);
                    node.children.len() - 1
                }
            };
            node = &mut node.children[at];
        }
        node.action.get_or_insert(action);
    }

    /// The action for an operation, which begins with a slash.
    pub(super) fn find(&self, operation: &[u8]) -> Option<&T> {
        debug_assert_eq!(operation.first(), Some(&b'/'));
        let mut node = self;
        let mut rest = segments(operation).peekable();
        while let Some(segment) = rest.next() {
            let is_last = rest.peek().is_none();
            node = node.child_for(segment, is_last)?;
            match &node.action {
                Some(_) if !is_last && *node.segment == *ANY_ONE => {}
                Some(action) => return Some(action),
                None if is_last => return node.child_for(ANY_ONE, true)?.action.as_ref(),
                None => {}
            }
        }
        None
    }

    fn child_for(&self, segment: &[u8], is_last: bool) -> Option<&Self> {
        self.children.iter().find(|child| {
            let pattern = &*child.segment;
            match pattern {
                _ if *pattern == *segment => true,
                ANY_ONE => is_last,
                ANY_MORE => true,
                _ => is_match(segment, pattern),
            }
        })
    }
}

const ANY_ONE: &[u8] = b"/*";
const ANY_MORE: &[u8] = b"/**";

/// The parts of a path, each with its slash; an empty one behind a slash at the end.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let behind_slash = rest.get(1..)?;
        let end = memchr::memchr(b'/', behind_slash).map_or(rest.len(), |at| at + 1);
        let (segment, after) = rest.split_at(end);
        rest = after;
        Some(segment)
    })
}

/// Does `pattern`, in which `*` stands for any bytes and for none, fit the whole text? Linear in
/// memory and without recursion: of several stars only the last one met is tried otherwise.
fn is_match(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut wanted) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(wanted) {
            Some(b'*') => {
                star = Some((wanted, at));
                wanted += 1;
            }
            Some(byte) if *byte == text[at] => {
                at += 1;
                wanted += 1;
            }
            _ => {
                let Some((behind, from)) = star else { return false };
                star = Some((behind, from + 1));
                (wanted, at) = (behind + 1, from + 1);
            }
        }
    }
    pattern[wanted..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// daprd's own matching: a table over both texts.
    fn is_match_by_table(text: &[u8], pattern: &[u8]) -> bool {
        let mut row = vec![false; pattern.len() + 1];
        row[0] = true;
        for (at, byte) in pattern.iter().enumerate() {
            row[at + 1] = row[at] && *byte == b'*';
        }
        for letter in text {
            let before = row.clone();
            row[0] = false;
            for (at, byte) in pattern.iter().enumerate() {
                row[at + 1] = match byte {
                    b'*' => row[at] || before[at + 1],
                    byte => before[at] && byte == letter,
                };
            }
        }
        row[pattern.len()]
    }

    #[test]
    fn wildcards_match_as_in_a_table() {
        let mut texts = vec![Vec::new()];
        for length in 0..5 {
            let longer: Vec<Vec<u8>> = texts
                .iter()
                .filter(|text: &&Vec<u8>| text.len() == length)
                .flat_map(|text| b"ab*".iter().map(|byte| [text.as_slice(), &[*byte]].concat()))
                .collect();
            texts.extend(longer);
        }
        for pattern in &texts {
            for text in &texts {
                let want = is_match_by_table(text, pattern);
                assert_eq!(is_match(text, pattern), want, "{text:?} {pattern:?}");
            }
        }
    }

    #[test]
    fn the_first_child_that_fits_is_taken() {
        for (case, operations, operation, want) in [
            ("nothing", &[][..], "/a", None),
            ("another", &["/a"], "/b", None),
            ("shorter", &["/a/b"], "/a", None),
            ("longer text", &["/a"], "/ab", None),
            ("same", &["/a"], "/a", Some(0)),
            ("covers what is below", &["/a"], "/a/b/c", Some(0)),
            ("one star, one part", &["/a/*"], "/a/b", Some(0)),
            ("one star, no part", &["/a/*"], "/a", Some(0)),
            ("one star, two parts", &["/a/*"], "/a/b/c", None),
            ("two stars, no part", &["/a/**"], "/a", Some(0)),
            ("two stars, two parts", &["/a/**"], "/a/b/c", Some(0)),
            ("a star within", &["/a*c"], "/abbc", Some(0)),
            ("a star within fits nothing", &["/a*c"], "/ac", Some(0)),
            ("a star within ends at slashes", &["/a*c"], "/ab/c", None),
            ("a star within covers what is below", &["/a*"], "/ab/c", Some(0)),
            ("order: star first", &["/*", "/a"], "/a", Some(0)),
            ("order: star first, not last part", &["/*", "/a/b"], "/a/b", Some(1)),
            ("order: two stars first", &["/**", "/a"], "/a", Some(0)),
            ("order: text first", &["/a", "/**"], "/a", Some(0)),
            ("no way back", &["/a*/x", "/ab/y"], "/ab/y", None),
            ("the first of one name", &["/a", "/a"], "/a", Some(0)),
            ("a shorter one ends the search", &["/a/b", "/a"], "/a/b", Some(1)),
            ("the root", &["/"], "/", Some(0)),
            ("the root is no prefix", &["/"], "/a", None),
            ("an empty part", &["/a/"], "/a/", Some(0)),
            ("a star as text goes on", &["/*", "/*/b"], "/*/b", Some(1)),
            ("a star as text", &["/*"], "/*/b", None),
        ] {
            let mut root = Node::root();
            for (index, name) in operations.iter().enumerate() {
                root.insert(name.as_bytes(), index);
            }
            assert_eq!(root.find(operation.as_bytes()).copied(), want, "{case}");
        }
    }
}

//! `middleware.http.routeralias`: a path that stands for another one, with what its variables
//! matched in the query.

#![forbid(unsafe_code)]

use super::Subject;
use crate::dapr::escape;
use regex::bytes::{Captures, Regex};
use snapshot::policy::AliasRoute;

pub(super) struct Alias {
    /// In their order: the first one that fits decides.
    routes: Box<[Route]>,
}

struct Route {
    pattern: Regex,
    variables: Box<[Box<[u8]>]>,
    path: Box<[u8]>,
}

impl Alias {
    pub(super) fn new(routes: &[AliasRoute]) -> Self {
        let name = |name: &String| name.as_bytes().into();
        let route = |route: &AliasRoute| Route {
            pattern: route.pattern.compile(),
            variables: route.variables.iter().map(name).collect(),
            path: route.path.as_bytes().into(),
        };
        Self { routes: routes.iter().map(route).collect() }
    }

    /// Whether any route fits, and `subject` is another one now.
    pub(super) fn rewrite(&self, subject: &mut Subject) -> bool {
        let Some(route) = self.routes.iter().find(|route| route.pattern.is_match(&subject.path))
        else {
            return false;
        };
        if !route.variables.is_empty()
            && let Some(captures) = route.pattern.captures(&subject.path)
        {
            write_query(&subject.query, route, &captures, &mut subject.scratch);
            std::mem::swap(&mut subject.query, &mut subject.scratch);
        }
        subject.path.clear();
        subject.path.extend_from_slice(&route.path);
        subject.uri.clear();
        escape::encode_path(&subject.path, &mut subject.uri);
        if subject.uri.is_empty() {
            subject.uri.push(b'/');
        }
        if !subject.query.is_empty() {
            subject.uri.push(b'?');
            subject.uri.extend_from_slice(&subject.query);
        }
        true
    }
}

/// As Go's `url.Values` reads, adds to and writes a query: sorted by keys, pairs that it cannot
/// read left out. Allocates, where daprd's component does, too.
fn write_query(query: &[u8], route: &Route, captures: &Captures<'_>, out: &mut Vec<u8>) {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> =
        query.split(|byte| *byte == b'&').filter_map(pair).collect();
    for (index, name) in route.variables.iter().enumerate() {
        let value = captures.get(index + 1).map_or(&b""[..], |found| found.as_bytes());
        pairs.push((name.to_vec(), value.to_vec()));
    }
    // Stable: the values of a key stay in their order.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    out.clear();
    for (key, value) in &pairs {
        if !out.is_empty() {
            out.push(b'&');
        }
        escape::encode_query(key, out);
        out.push(b'=');
        escape::encode_query(value, out);
    }
}

fn pair(text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if text.is_empty() || memchr::memchr(b';', text).is_some() {
        return None;
    }
    let (key, value) = match memchr::memchr(b'=', text) {
        Some(equals) => (&text[..equals], &text[equals + 1..]),
        None => (text, &b""[..]),
    };
    let (mut decoded_key, mut decoded_value) = (Vec::new(), Vec::new());
    escape::decode_query(key, &mut decoded_key).ok()?;
    escape::decode_query(value, &mut decoded_value).ok()?;
    Some((decoded_key, decoded_value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::Pattern;

    fn alias(routes: &[(&str, &[&str], &str)]) -> Alias {
        let routes: Vec<AliasRoute> = routes
            .iter()
            .map(|(pattern, variables, path)| AliasRoute {
                pattern: Pattern::new(pattern).unwrap(),
                variables: variables.iter().map(|name| (*name).to_owned()).collect(),
                path: (*path).to_owned(),
            })
            .collect();
        Alias::new(&routes)
    }

    #[test]
    fn rewrites_what_fits_and_nothing_else() {
        let alias = alias(&[
            ("^/a$", &[], "/v1.0/invoke/s/method/a"),
            ("^/b/([^/]+)$", &["id"], "/v1.0/invoke/s/method/b"),
            ("^/b/([^/]+)/([0-9]+)$", &["id", "x"], "/c"),
            ("^/a.*$", &[], "/never for /a"),
            ("^/e$", &[], ""),
        ]);
        for (case, path, query, want) in [
            ("no route", "/n", "q=1", None),
            ("a whole path", "/a/b/c", "", Some("/never%20for%20/a")),
            ("the first that fits", "/a", "", Some("/v1.0/invoke/s/method/a")),
            (
                "the query stays as it is",
                "/a",
                "b=2&a=%zz",
                Some("/v1.0/invoke/s/method/a?b=2&a=%zz"),
            ),
            ("a variable", "/b/7", "", Some("/v1.0/invoke/s/method/b?id=7")),
            (
                "it joins the query, which is put in order",
                "/b/7",
                "z=1&id=%20&a&bad=%zz&c;d=1&&z=+",
                Some("/v1.0/invoke/s/method/b?a=&id=+&id=7&z=1&z=+"),
            ),
            (
                "letters that a query cannot have",
                "/b/ä&=",
                "",
                Some("/v1.0/invoke/s/method/b?id=%C3%A4%26%3D"),
            ),
            ("two variables", "/b/7/8", "", Some("/c?id=7&x=8")),
            ("no digits", "/b/7/x", "", None),
            ("to nothing", "/e", "", Some("/")),
        ] {
            let mut subject = Subject {
                path: path.as_bytes().to_vec(),
                query: query.as_bytes().to_vec(),
                ..Subject::default()
            };
            let rewritten = alias.rewrite(&mut subject);
            let uri = rewritten.then(|| String::from_utf8(subject.uri).unwrap());
            assert_eq!(uri.as_deref(), want, "{case}");
        }
    }
}

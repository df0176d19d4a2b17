//! Request targets and Go's `path.Clean`; the first thing that happens to what a caller asks for.
//! Pure, in place.
//!
//! Routing and dispatch look at cleaned paths, so the cleaning must be Go's to the byte: a rule
//! about `/admin` means what is left after `..` is resolved.

#![forbid(unsafe_code)]

use super::escape::{self, EscapeError};

/// A request target cut into the parts that matter here. Both parts are as they came, not decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// Empty for CONNECT and for an absolute form without path.
    pub path: &'a [u8],
    /// Without `?`.
    pub query: &'a [u8],
}

/// Why a request target is refused before anybody asks where it leads. Answered with 400, as Go's
/// server does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadTarget {
    #[error("it contains a control character or a space")]
    Character,
    #[error("{0}")]
    Escape(#[from] EscapeError),
    #[error("it is neither a path, nor an absolute http URL, nor *")]
    Form,
}

/// Cuts a request target, in any of the four forms of RFC 9112 §3.2.
///
/// # Errors
/// The target is none of the four, or could be read differently by the next parser.
pub fn split_target<'a>(method: &[u8], target: &'a [u8]) -> Result<Target<'a>, BadTarget> {
    if target.iter().any(|byte| byte.is_ascii_control() || *byte == b' ') {
        return Err(BadTarget::Character);
    }
    if target == b"*" {
        return Ok(Target { path: target, query: b"" });
    }
    if method == b"CONNECT" && is_authority(target) {
        return Ok(Target { path: b"", query: b"" });
    }
    let (target, query) = cut_query(target);
    let path = match target {
        [b'/', ..] => target,
        _ => path_of_absolute(target).ok_or(BadTarget::Form)?,
    };
    escape::check(path)?;
    Ok(Target { path, query })
}

/// A fragment has no place in a request; Go keeps one in the query up to the app's URL and cuts it
/// there, so it is cut here.
fn cut_query(target: &[u8]) -> (&[u8], &[u8]) {
    let Some(mark) = memchr::memchr(b'?', target) else { return (target, b"") };
    let query = &target[mark + 1..];
    let end = memchr::memchr(b'#', query).unwrap_or(query.len());
    (&target[..mark], &query[..end])
}

/// RFC 9110 §4.2: an http URL has a host, and one with user information is not to be trusted.
fn path_of_absolute(target: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = memchr::memchr(b'/', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    is_authority(authority).then_some(path)
}

/// RFC 3986 §3.2 without user information and without escapes. Nothing is ever looked up by it.
fn is_authority(text: &[u8]) -> bool {
    let is_name = |byte: &u8| escape::is_unreserved(*byte) || escape::is_sub_delimiter(*byte);
    let (host, port) = match text.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = memchr::memchr(b']', literal) else { return false };
            let (address, rest) = literal.split_at(end);
            if !address.iter().all(|byte| is_name(byte) || *byte == b':') {
                return false;
            }
            (address, &rest[1..])
        }
        None => {
            let (name, rest) = text.split_at(memchr::memchr(b':', text).unwrap_or(text.len()));
            if !name.iter().all(is_name) {
                return false;
            }
            (name, rest)
        }
    };
    let is_port =
        |port: &[u8]| port.first() == Some(&b':') && port[1..].iter().all(u8::is_ascii_digit);
    !host.is_empty() && (port.is_empty() || is_port(port))
}

/// Go's `path.Clean`: no doubled slash, no `.`, no `..` but at the front of a relative path, no
/// slash at the end, never empty.
pub fn clean(path: &mut Vec<u8>) {
    if is_clean(path) {
        return;
    }
    let length = clean_slice(path);
    path.truncate(length);
    if path.is_empty() {
        path.push(b'.');
    }
}

/// May say no for a clean path, never yes for another.
pub fn is_clean(path: &[u8]) -> bool {
    match path {
        [] | [b'.', ..] => return false,
        [b'/'] => return true,
        [.., b'/'] => return false,
        _ => {}
    }
    memchr::memchr_iter(b'/', path).all(|at| !matches!(path.get(at + 1), Some(b'/' | b'.')))
}

/// Writes behind the reader, which a slash or a dropped part always keeps ahead. Returns the new
/// length.
fn clean_slice(path: &mut [u8]) -> usize {
    let root = usize::from(path.first() == Some(&b'/'));
    let (mut read, mut write) = (root, root);
    // Nothing before this may be taken back by `..`: the root, or leading `..`.
    let mut floor = root;
    while read < path.len() {
        let end = memchr::memchr(b'/', &path[read..]).map_or(path.len(), |at| read + at);
        match &path[read..end] {
            b"" | b"." => {}
            b".." if write > floor => {
                write = memchr::memrchr(b'/', &path[floor..write]).map_or(floor, |at| floor + at);
            }
            b".." if root == 1 => {}
            part => {
                let is_up = part == b"..";
                if write > root {
                    path[write] = b'/';
                    write += 1;
                }
                path.copy_within(read..end, write);
                write += end - read;
                if is_up {
                    floor = write;
                }
            }
        }
        read = end + 1;
    }
    write
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_targets_that_lead_nowhere() {
        let escape = |text: &[u8]| Err(BadTarget::Escape(escape::check(text).unwrap_err()));
        for (case, method, target, want) in [
            ("empty", "GET", "", Err(BadTarget::Form)),
            ("empty CONNECT", "CONNECT", "", Err(BadTarget::Form)),
            ("no slash", "GET", "foo", Err(BadTarget::Form)),
            ("authority with GET", "GET", "a:80", Err(BadTarget::Form)),
            ("other scheme", "GET", "ftp://a/b", Err(BadTarget::Form)),
            ("no host", "GET", "http:///b", Err(BadTarget::Form)),
            ("no slashes", "GET", "http:a/b", Err(BadTarget::Form)),
            ("asterisk with a query", "OPTIONS", "*?x", Err(BadTarget::Form)),
            ("CONNECT with a query", "CONNECT", "a:80?x", Err(BadTarget::Form)),
            ("CONNECT to no host", "CONNECT", "a/b", Err(BadTarget::Form)),
            ("open bracket", "GET", "http://[::1/b", Err(BadTarget::Form)),
            ("empty brackets", "GET", "http://[]/b", Err(BadTarget::Form)),
            ("port in letters", "GET", "http://a:b/c", Err(BadTarget::Form)),
            ("port without host", "GET", "http://:80/c", Err(BadTarget::Form)),
            ("text behind brackets", "GET", "http://[::1]a/c", Err(BadTarget::Form)),
            ("escape in host", "GET", "http://%61/b", Err(BadTarget::Form)),
            ("user information", "GET", "http://u:p@a/b", Err(BadTarget::Form)),
            ("fragment in host", "GET", "http://a#b", Err(BadTarget::Form)),
            ("space", "GET", "/a b", Err(BadTarget::Character)),
            ("newline", "GET", "/a\nb", Err(BadTarget::Character)),
            ("delete", "GET", "/a\x7fb", Err(BadTarget::Character)),
            ("NUL in query", "GET", "/a?\0", Err(BadTarget::Character)),
            ("bad escape", "GET", "/a%zz", escape(b"%zz")),
            ("short escape", "GET", "/a%4", escape(b"%4")),
            ("bad escape in absolute form", "GET", "http://h/a%4", escape(b"%4")),
        ] {
            assert_eq!(split_target(method.as_bytes(), target.as_bytes()), want, "{case}");
        }
    }

    #[test]
    fn splits_every_form() {
        for (case, method, target, path, query) in [
            ("origin", "GET", "/a/b", "/a/b", ""),
            ("query", "GET", "/a?x=1?y=2", "/a", "x=1?y=2"),
            ("mark alone", "GET", "/a?", "/a", ""),
            ("bad escape in the query is not ours", "GET", "/a?%zz", "/a", "%zz"),
            ("fragment after query", "GET", "/a?x#y", "/a", "x"),
            ("fragment in path stays", "GET", "/a#y?x", "/a#y", "x"),
            ("two slashes first", "GET", "//a//b", "//a//b", ""),
            ("absolute", "GET", "http://h:1/a?x", "/a", "x"),
            ("absolute, upper case", "GET", "HTTPS://h/a", "/a", ""),
            ("absolute without path", "GET", "http://h?x", "", "x"),
            ("absolute, IPv6", "GET", "http://[::1]:80/a", "/a", ""),
            ("asterisk", "OPTIONS", "*", "*", ""),
            ("authority", "CONNECT", "h:443", "", ""),
            ("CONNECT with a path", "CONNECT", "/a", "/a", ""),
            ("bytes above ASCII", "GET", "/ü", "/ü", ""),
        ] {
            let want = Target { path: path.as_bytes(), query: query.as_bytes() };
            assert_eq!(split_target(method.as_bytes(), target.as_bytes()), Ok(want), "{case}");
        }
    }

    /// From the table of Go's `path.TestClean`, and more of the same printed by it.
    const CLEANED: [(&str, &str); 60] = [
        ("", "."),
        ("abc", "abc"),
        ("abc/def", "abc/def"),
        ("a/b/c", "a/b/c"),
        (".", "."),
        ("..", ".."),
        ("../..", "../.."),
        ("../../abc", "../../abc"),
        ("/abc", "/abc"),
        ("/", "/"),
        ("abc/", "abc"),
        ("abc/def/", "abc/def"),
        ("a/b/c/", "a/b/c"),
        ("./", "."),
        ("../", ".."),
        ("../../", "../.."),
        ("/abc/", "/abc"),
        ("abc//def//ghi", "abc/def/ghi"),
        ("//abc", "/abc"),
        ("///abc", "/abc"),
        ("//abc//", "/abc"),
        ("abc//", "abc"),
        ("abc/./def", "abc/def"),
        ("/./abc/def", "/abc/def"),
        ("abc/.", "abc"),
        ("abc/def/ghi/../jkl", "abc/def/jkl"),
        ("abc/def/../ghi/../jkl", "abc/jkl"),
        ("abc/def/..", "abc"),
        ("abc/def/../..", "."),
        ("/abc/def/../..", "/"),
        ("abc/def/../../..", ".."),
        ("/abc/def/../../..", "/"),
        ("abc/def/../../../ghi/jkl/../../../mno", "../../mno"),
        ("abc/./../def", "def"),
        ("abc//./../def", "def"),
        ("abc/../../././../def", "../../def"),
        ("//", "/"),
        ("/..", "/"),
        ("/../", "/"),
        ("/../a", "/a"),
        ("/../../a/..", "/"),
        ("./a", "a"),
        ("./../a", "../a"),
        ("a/..", "."),
        ("a/../", "."),
        ("a/../..", ".."),
        ("...", "..."),
        ("a/...", "a/..."),
        ("a/.../..", "a"),
        (".a", ".a"),
        ("/.a", "/.a"),
        ("a/.b/..", "a"),
        ("..a/..", "."),
        ("a..", "a.."),
        ("a../..", "."),
        ("../a/../..", "../.."),
        ("../a/b/..", "../a"),
        ("/a/b/../../c", "/c"),
        ("a/b/../../c", "c"),
        ("*", "*"),
    ];

    #[test]
    fn cleans_as_go_does() {
        for (path, want) in CLEANED {
            let mut bytes = path.as_bytes().to_vec();
            clean(&mut bytes);
            assert_eq!(bytes.escape_ascii().to_string(), want, "{path:?}");
            clean(&mut bytes);
            assert_eq!(bytes.escape_ascii().to_string(), want, "{path:?} again");
        }
    }

    /// The short cut and the long way must agree on every path of these bytes up to seven long.
    #[test]
    fn the_short_cut_is_only_taken_for_clean_paths() {
        let mut paths = vec![Vec::new()];
        for _ in 0..7 {
            for path in &paths {
                if is_clean(path) {
                    let mut cleaned = path.clone();
                    let length = clean_slice(&mut cleaned);
                    cleaned.truncate(length);
                    assert_eq!(&cleaned, path);
                }
            }
            let longer = |path: &Vec<u8>| b"/.a".map(|byte| [path.as_slice(), &[byte]].concat());
            paths = paths.iter().flat_map(longer).collect();
        }
    }
}

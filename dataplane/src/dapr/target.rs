//! Who is called: from a header, from basic authentication, or from the path; then the app id and
//! namespace in it. Pure.
//!
//! daprd decides on the *decoded* path, so whoever calls these functions has decoded it exactly
//! once.

#![forbid(unsafe_code)]

use super::path;

/// A target taken apart. Bytes, since nothing says that a caller sends UTF-8.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Named<'a> {
    App {
        id: &'a [u8],
        namespace: &'a [u8],
    },
    /// An `http://` or `https://` URL in place of an app id.
    External(&'a [u8]),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TargetError {
    Empty,
    /// More than one dot; shown with the whole target.
    Malformed,
}

/// Takes a target apart, as daprd 1.18 does: `id` or `id.namespace`.
///
/// # Errors
/// It is neither, nor a URL.
pub fn split_id<'a>(target: &'a [u8], own_namespace: &'a str) -> Result<Named<'a>, TargetError> {
    if target.is_empty() {
        return Err(TargetError::Empty);
    }
    if target.starts_with(b"http://") || target.starts_with(b"https://") {
        return Ok(Named::External(target));
    }
    match memchr::memchr(b'.', target) {
        None => Ok(Named::App { id: target, namespace: own_namespace.as_bytes() }),
        Some(dot) => {
            let (id, namespace) = (&target[..dot], &target[dot + 1..]);
            match memchr::memchr(b'.', namespace) {
                None => Ok(Named::App { id, namespace }),
                Some(_) => Err(TargetError::Malformed),
            }
        }
    }
}

/// The app id alone, for texts that name it without its namespace.
pub fn id_of(target: &[u8]) -> &[u8] {
    match split_id(target, "") {
        Ok(Named::App { id, .. }) => id,
        _ => target,
    }
}

/// Finds `dapr-app-id:<id>` in a `Basic` authorization: the form
/// `http://dapr-app-id:<id>@host:port/<method>`. Puts the id, which may be empty, into `target`; an
/// authorization that says anything else leaves it untouched.
pub fn find_in_authorization(authorization: &[u8], target: &mut Vec<u8>) -> bool {
    let Some(encoded) = authorization.strip_prefix(b"Basic ") else { return false };
    let start = target.len();
    if !decode_base64(encoded, target) || !keep_id_of_pair(target, start) {
        target.truncate(start);
        return false;
    }
    true
}

/// Leaves of `dapr-app-id:<id>` behind `start` the id. False unless there are exactly those two
/// parts.
fn keep_id_of_pair(text: &mut Vec<u8>, start: usize) -> bool {
    let pair = &text[start..];
    let Some(colon) = memchr::memchr(b':', pair) else { return false };
    let is_ours = pair[..colon].eq_ignore_ascii_case(b"dapr-app-id");
    if !is_ours || memchr::memchr(b':', &pair[colon + 1..]).is_some() {
        return false;
    }
    text.drain(start..=start + colon);
    true
}

/// Standard base64 with padding, as Go's `base64.StdEncoding` takes it: unused bits of the last
/// byte are not looked at.
fn decode_base64(text: &[u8], out: &mut Vec<u8>) -> bool {
    if !text.len().is_multiple_of(4) {
        return false;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return false;
    }
    let digits = &text[..text.len() - padding];
    for quad in digits.chunks(4) {
        let mut bits = 0u32;
        for at in 0..4 {
            let Some(value) = quad.get(at).map_or(Some(0), |digit| sextet(*digit)) else {
                return false;
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes[..quad.len() * 6 / 8]);
    }
    true
}

const fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Finds `/v1.0/invoke/<target>/method/<method>` in a decoded path, with any number of slashes
/// around the first two parts. What it returns is not cleaned and not decoded a second time yet.
pub fn find_in_path(decoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = strip_parts(decoded, &[b"v1.0", b"invoke"])?;
    let end = memchr::memmem::find(rest, METHOD).filter(|at| *at > 0)?;
    Some((&rest[..end], &rest[end + METHOD.len()..]))
}

/// What follows `parts`, each with slashes around it.
fn strip_parts<'a>(path: &'a [u8], parts: &[&[u8]]) -> Option<&'a [u8]> {
    let mut rest = path;
    for part in parts {
        rest = trim_slashes(rest).strip_prefix(*part)?;
        if rest.first() != Some(&b'/') {
            return None;
        }
    }
    Some(trim_slashes(rest))
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

/// The method of a call whose target is not in the path: the whole path.
pub fn method_of_path(decoded: &mut Vec<u8>) {
    path::clean(decoded);
    if decoded.first() == Some(&b'/') {
        decoded.remove(0);
    }
}

/// The method of a call whose target is in the path.
pub fn method_after_target(method: &mut Vec<u8>) {
    path::clean(method);
    if method == b"." {
        method.clear();
    }
}

const METHOD: &[u8] = b"/method/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_ids_as_daprd_1_18() {
        let app = |id: &'static str, namespace: &'static str| {
            Ok(Named::App { id: id.as_bytes(), namespace: namespace.as_bytes() })
        };
        for (case, target, want) in [
            ("empty", "", Err(TargetError::Empty)),
            ("three parts", "a.b.c", Err(TargetError::Malformed)),
            ("dots only", "..", Err(TargetError::Malformed)),
            ("id", "app", app("app", "own")),
            ("id and namespace", "app.ns", app("app", "ns")),
            ("empty namespace is not the own one", "app.", app("app", "")),
            ("empty id", ".ns", app("", "ns")),
            ("URL", "http://h:81/a.b.c", Ok(Named::External(b"http://h:81/a.b.c"))),
            ("URL with TLS", "https://h", Ok(Named::External(b"https://h"))),
            ("other scheme is an id", "ftp://h", app("ftp://h", "own")),
        ] {
            assert_eq!(split_id(target.as_bytes(), "own"), want, "{case}");
        }
    }

    #[test]
    fn names_the_id_alone() {
        for (target, want) in
            [("app", "app"), ("app.ns", "app"), ("a.b.c", "a.b.c"), ("http://h.i", "http://h.i")]
        {
            assert_eq!(id_of(target.as_bytes()), want.as_bytes(), "{target}");
        }
    }

    #[test]
    fn reads_basic_authorization_as_daprd_1_18() {
        for (case, authorization, want) in [
            ("other scheme", "Bearer ZGFwci1hcHAtaWQ6YXBw", None),
            ("lower-case scheme", "basic ZGFwci1hcHAtaWQ6YXBw", None),
            ("two spaces", "Basic  ZGFwci1hcHAtaWQ6YXBw", None),
            ("other user", "Basic dXNlcjphcHA=", None),
            ("no colon", "Basic ZGFwci1hcHAtaWQ=", None),
            ("two colons, as in a URL", "Basic ZGFwci1hcHAtaWQ6aHR0cDovL2g=", None),
            ("no padding", "Basic ZGFwci1hcHAtaWQ6YQ", None),
            ("too much padding", "Basic ZGFwci1hcHAtaWQ6a===", None),
            ("padding inside", "Basic ZGFwci1h=HAtaWQ6YXBw", None),
            ("URL alphabet", "Basic ZGFwci1hcHAtaWQ6_-8=", None),
            ("nothing", "Basic ", None),
            ("id", "Basic ZGFwci1hcHAtaWQ6YXBw", Some("app")),
            ("id, one pad", "Basic ZGFwci1hcHAtaWQ6YWI=", Some("ab")),
            ("id, two pads", "Basic ZGFwci1hcHAtaWQ6YQ==", Some("a")),
            ("id and namespace", "Basic ZGFwci1hcHAtaWQ6YXBwLm5z", Some("app.ns")),
            ("upper case", "Basic REFQUi1BUFAtSUQ6YXBw", Some("app")),
            ("empty id", "Basic ZGFwci1hcHAtaWQ6", Some("")),
            ("unused bits set", "Basic ZGFwci1hcHAtaWQ6YR==", Some("a")),
        ] {
            let mut target = b"x".to_vec();
            let found = find_in_authorization(authorization.as_bytes(), &mut target);
            let rest = String::from_utf8(target.split_off(1)).unwrap();
            assert_eq!(found.then_some(rest.as_str()), want, "{case}");
            assert!(found || rest.is_empty(), "{case}: leaves nothing behind");
        }
    }

    #[test]
    fn finds_target_and_method_in_a_path_as_daprd_1_18() {
        for (case, path, want) in [
            ("empty", "", None),
            ("root", "/", None),
            ("other", "/foo", None),
            ("other version", "/v1.1/invoke/app/method/foo", None),
            ("longer part", "/v1.0/invokes/app/method/foo", None),
            ("no slash at the end", "/v1.0/invoke", None),
            ("no target", "/v1.0/invoke/", None),
            ("no method", "/v1.0/invoke/app", None),
            ("no slash after method", "/v1.0/invoke/app/method", None),
            ("method first", "/v1.0/invoke/method/foo", None),
            ("empty target", "/v1.0/invoke//method/foo", None),
            ("plain", "/v1.0/invoke/app/method/foo", Some(("app", "foo"))),
            ("no slash before", "v1.0/invoke/app/method/foo", Some(("app", "foo"))),
            ("slashes", "//v1.0//invoke//app/method/foo", Some(("app", "foo"))),
            ("slashes after", "/v1.0/invoke/app//method//foo", Some(("app/", "/foo"))),
            ("empty method", "/v1.0/invoke/app/method/", Some(("app", ""))),
            (
                "the first method/ counts",
                "/v1.0/invoke/a/method/b/method/c",
                Some(("a", "b/method/c")),
            ),
            ("URL", "/v1.0/invoke/http://h:81/method/x", Some(("http://h:81", "x"))),
            ("URL with path", "/v1.0/invoke/http://h/a/b/method/x", Some(("http://h/a/b", "x"))),
        ] {
            let want = want.map(|(target, method)| (target.as_bytes(), method.as_bytes()));
            assert_eq!(find_in_path(path.as_bytes()), want, "{case}");
        }
    }
}

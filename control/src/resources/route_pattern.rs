//! A path of `middleware.http.routeralias`, in the notation of Go's gorilla/mux: `/shops/{id}` or
//! `/shops/{id:[0-9]+}`, made a regular expression of the whole path.

#![forbid(unsafe_code)]

use snapshot::policy::{AliasRoute, Pattern};

/// # Errors
/// Why no path can fit, in mux's words where it has any.
pub(super) fn route(template: &str, path: &str) -> Result<AliasRoute, String> {
    if !template.starts_with('/') {
        return Err(format!("path must start with a slash, got {template:?}"));
    }
    let (mut text, mut variables) = ("^".to_owned(), Vec::new());
    let mut rest = template;
    while let Some(start) = rest.find(['{', '}']) {
        let inner = rest[start..].strip_prefix('{').and_then(in_braces);
        let Some(inner) = inner else { return Err(format!("unbalanced braces in {template:?}")) };
        let (name, pattern) = inner.split_once(':').unwrap_or((inner, "[^/]+"));
        if name.is_empty() || pattern.is_empty() {
            return Err(format!("missing name or pattern in \"{{{inner}}}\""));
        }
        if variables.iter().any(|known| known == name) {
            return Err(format!("duplicated route variable {name:?}"));
        }
        text.push_str(&regex::escape(&rest[..start]));
        text.push('(');
        text.push_str(pattern);
        text.push(')');
        variables.push(name.to_owned());
        rest = &rest[start + inner.len() + 2..];
    }
    text.push_str(&regex::escape(rest));
    text.push('$');
    let pattern = Pattern::new(&text).map_err(|e| format!("{template:?}: {e}"))?;
    if pattern.group_count() != variables.len() {
        return Err(format!(
            "{template:?} contains capture groups in its regexp; write (?:pattern) instead of \
             (pattern)"
        ));
    }
    Ok(AliasRoute { pattern, variables, path: path.to_owned() })
}

/// What stands in front of the brace that closes the one before `text`.
fn in_braces(text: &str) -> Option<&str> {
    let mut open_count = 1;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open_count += 1,
            b'}' => open_count -= 1,
            _ => {}
        }
        if open_count == 0 {
            return Some(&text[..index]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_mux_would_never_match() {
        for (template, want) in [
            ("a", "path must start with a slash, got \"a\""),
            ("", "path must start with a slash, got \"\""),
            ("/a{", "unbalanced braces in \"/a{\""),
            ("/a}", "unbalanced braces in \"/a}\""),
            ("/{a{2}", "unbalanced braces in \"/{a{2}\""),
            ("/{}", "missing name or pattern in \"{}\""),
            ("/{a:}", "missing name or pattern in \"{a:}\""),
            ("/{a}/{a}", "duplicated route variable \"a\""),
            ("/{a:(b)}", "contains capture groups"),
            ("/{a:[}", "unclosed character class"),
        ] {
            let refusal = route(template, "/x").unwrap_err();
            assert!(refusal.contains(want), "{template}: {refusal}");
        }
    }

    #[test]
    fn fits_the_whole_path_with_its_variables() {
        for (template, path, want) in [
            ("/a", "/a", Some(vec![])),
            ("/a", "/a/", None),
            ("/a", "/b/a", None),
            ("/a.b", "/axb", None),
            ("/s/{id}", "/s/7", Some(vec!["7"])),
            ("/s/{id}", "/s/7/8", None),
            ("/s/{id}/x{rest:.*}", "/s/7/x/y/z", Some(vec!["7", "/y/z"])),
            ("/s/{id:[0-9]{2}}", "/s/42", Some(vec!["42"])),
            ("/s/{id:[0-9]{2}}", "/s/4", None),
            ("/s/{a:x|y}", "/s/y", Some(vec!["y"])),
        ] {
            let route = route(template, "/t").unwrap();
            let captures = route.pattern.compile().captures(path.as_bytes()).map(|captures| {
                let texts = captures.iter().skip(1).flatten();
                texts.map(|found| String::from_utf8_lossy(found.as_bytes()).into_owned()).collect()
            });
            let want: Option<Vec<String>> =
                want.map(|texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect());
            assert_eq!(captures, want, "{template} {path}");
            assert_eq!(route.variables.len(), want.map_or(route.variables.len(), |w| w.len()));
        }
    }
}

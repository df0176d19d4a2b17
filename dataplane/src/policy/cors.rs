//! What browsers are told about who may use this API from where: the behaviour of go-chi/cors v1.2,
//! as daprd 1.18 sets it up.
//!
//! Nothing is refused here. A browser that misses its lines refuses by itself; any other client
//! never asked.

#![forbid(unsafe_code)]

use snapshot::policy::AllowedOrigins;

/// Origins, ready to be asked for.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    allows_all: bool,
    exact: Box<[Box<str>]>,
    /// What stands before and behind the star.
    patterns: Box<[(Box<str>, Box<str>)]>,
}

/// What of a request head matters here: the first line of each name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'a> {
    pub method: &'a [u8],
    pub origin: Option<&'a [u8]>,
    /// `Access-Control-Request-Method`.
    pub wanted_method: Option<&'a [u8]>,
    /// `Access-Control-Request-Headers`.
    pub wanted_headers: Option<&'a [u8]>,
}

impl Cors {
    pub fn new(origins: &AllowedOrigins) -> Self {
        let origins: Vec<String> =
            origins.0.iter().map(|origin| origin.trim().to_lowercase()).collect();
        let (patterns, exact): (Vec<&String>, Vec<&String>) =
            origins.iter().partition(|origin| origin.contains('*'));
        let split = |pattern: &&String| {
            pattern.split_once('*').map(|(before, behind)| (before.into(), behind.into()))
        };
        Self {
            allows_all: origins.iter().any(|origin| origin == "*"),
            exact: exact.iter().map(|origin| origin.as_str().into()).collect(),
            patterns: patterns.iter().filter_map(split).collect(),
        }
    }

    /// Appends the lines that go with the answer to a request. `true`: it only asked what it may
    /// ask, and the answer is an empty 200.
    pub fn answer(&self, question: &Question<'_>, lines: &mut Vec<u8>) -> bool {
        let wanted = question.wanted_method.filter(|method| !method.is_empty());
        match wanted.filter(|_| question.method == b"OPTIONS") {
            Some(wanted) => {
                lines.extend_from_slice(VARY_PREFLIGHT);
                if self.allow(question.origin, wanted, lines) {
                    write_wanted(wanted, question.wanted_headers.unwrap_or_default(), lines);
                }
                true
            }
            None => {
                lines.extend_from_slice(VARY);
                self.allow(question.origin, question.method, lines);
                false
            }
        }
    }

    fn allow(&self, origin: Option<&[u8]>, method: &[u8], lines: &mut Vec<u8>) -> bool {
        let Some(origin) = origin.filter(|origin| self.has(origin)) else { return false };
        if !METHODS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(method)) {
            return false;
        }
        lines.extend_from_slice(b"Access-Control-Allow-Origin: ");
        lines.extend_from_slice(if self.allows_all { b"*" } else { origin });
        lines.extend_from_slice(b"\r\n");
        true
    }

    fn has(&self, origin: &[u8]) -> bool {
        let is_it = |known: &str| known.as_bytes().eq_ignore_ascii_case(origin);
        let fits = |(before, behind): &(Box<str>, Box<str>)| {
            origin.len() >= before.len() + behind.len()
                && origin[..before.len()].eq_ignore_ascii_case(before.as_bytes())
                && origin[origin.len() - behind.len()..].eq_ignore_ascii_case(behind.as_bytes())
        };
        !origin.is_empty()
            && (self.allows_all
                || self.exact.iter().any(|known| is_it(known))
                || self.patterns.iter().any(fits))
    }
}

/// Any header may be sent, so those that were asked for are the answer.
fn write_wanted(method: &[u8], headers: &[u8], lines: &mut Vec<u8>) {
    lines.extend_from_slice(b"Access-Control-Allow-Methods: ");
    lines.extend(method.iter().map(u8::to_ascii_uppercase));
    lines.extend_from_slice(b"\r\n");
    let start = lines.len();
    lines.extend_from_slice(b"Access-Control-Allow-Headers: ");
    if write_names(headers, lines) {
        lines.extend_from_slice(b"\r\n");
    } else {
        lines.truncate(start);
    }
}

/// The names of a list in their canonical spelling, whatever is no part of a name left out.
/// `false`: there is none.
fn write_names(list: &[u8], out: &mut Vec<u8>) -> bool {
    let mut is_first = true;
    let mut capital = true;
    for word in list.split(|byte| matches!(byte, b',' | b' ')) {
        let start = out.len();
        out.extend_from_slice(if is_first { b"" } else { b", " });
        let name = out.len();
        for byte in word {
            match byte {
                b'a'..=b'z' if capital => out.push(byte.to_ascii_uppercase()),
                b'A'..=b'Z' if !capital => out.push(byte.to_ascii_lowercase()),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(*byte),
                _ => {}
            }
            capital = *byte == b'-';
        }
        if out.len() == name {
            out.truncate(start);
        } else {
            (is_first, capital) = (false, true);
        }
    }
    !is_first
}

const VARY: &[u8] = b"Vary: Origin\r\n";
const VARY_PREFLIGHT: &[u8] = b"Vary: Origin\r\nVary: Access-Control-Request-Method\r\n\
    Vary: Access-Control-Request-Headers\r\n";

/// Those that daprd names, and OPTIONS, which the library always allows.
const METHODS: [&str; 7] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "https://a.example,http://*.b.example:80, HTTPS://C.example";

    fn answer(origins: &str, question: &Question<'_>) -> (bool, String) {
        let origins = AllowedOrigins(origins.split(',').map(str::to_owned).collect());
        let mut lines = Vec::new();
        let is_preflight = Cors::new(&origins).answer(question, &mut lines);
        (is_preflight, String::from_utf8(lines).unwrap())
    }

    #[test]
    fn tells_plain_requests_from_where_they_may_come() {
        for (case, origins, method, origin, want) in [
            ("no origin", "*", "GET", None, ""),
            ("empty origin", "*", "GET", Some(""), ""),
            ("unknown verb", "*", "PROPFIND", Some("https://x"), ""),
            ("unknown origin", LIST, "GET", Some("https://x"), ""),
            ("other scheme", LIST, "GET", Some("http://a.example"), ""),
            ("longer", LIST, "GET", Some("https://a.example.evil"), ""),
            ("shorter than its pattern", LIST, "GET", Some("http://.b.example:8"), ""),
            ("all", "*", "GET", Some("https://x"), "*"),
            ("all, among others", "https://a,*", "GET", Some("https://x"), "*"),
            ("in the list", LIST, "POST", Some("https://a.example"), "https://a.example"),
            ("in another case", LIST, "GET", Some("https://A.Example"), "https://A.Example"),
            ("behind a space", LIST, "GET", Some("https://c.example"), "https://c.example"),
            ("a pattern", LIST, "GET", Some("http://x.b.example:80"), "http://x.b.example:80"),
            ("OPTIONS", "*", "OPTIONS", Some("https://x"), "*"),
        ] {
            let (method, origin) = (method.as_bytes(), origin.map(str::as_bytes));
            let question = Question { method, origin, ..Question::default() };
            let (is_preflight, lines) = answer(origins, &question);
            let mut wanted = "Vary: Origin\r\n".to_owned();
            if !want.is_empty() {
                wanted = format!("{wanted}Access-Control-Allow-Origin: {want}\r\n");
            }
            assert_eq!((is_preflight, lines), (false, wanted), "{case}");
        }
    }

    #[test]
    fn answers_preflights_itself() {
        const VARY: &str = "Vary: Origin\r\nVary: Access-Control-Request-Method\r\n\
            Vary: Access-Control-Request-Headers\r\n";
        let question = Question {
            method: b"OPTIONS",
            origin: Some(b"https://a.example"),
            wanted_method: Some(b"post"),
            wanted_headers: Some(b"dapr-API-token,, x-\"y,content-type z_1.a"),
        };
        let allowed = "Access-Control-Allow-Origin: https://a.example\r\n\
            Access-Control-Allow-Methods: POST\r\n";
        let headers = "Access-Control-Allow-Headers: Dapr-Api-Token, X-y, Content-Type, Z_1.a\r\n";
        for (case, question, want) in [
            ("no origin", Question { origin: None, ..question }, String::new()),
            ("other origin", Question { origin: Some(b"x"), ..question }, String::new()),
            ("unknown verb", Question { wanted_method: Some(b"TRACE"), ..question }, String::new()),
            ("no headers", Question { wanted_headers: None, ..question }, allowed.to_owned()),
            ("no names", Question { wanted_headers: Some(b" ,;"), ..question }, allowed.to_owned()),
            ("all", question, format!("{allowed}{headers}")),
        ] {
            assert_eq!(answer(LIST, &question), (true, format!("{VARY}{want}")), "{case}");
        }
        for plain in [
            Question { method: b"GET", ..question },
            Question { wanted_method: None, ..question },
            Question { wanted_method: Some(b""), ..question },
        ] {
            assert!(!answer(LIST, &plain).0, "{plain:?}");
        }
    }
}

//! What a request asks for: an invocation, and whom and what it calls; or something the sidecar
//! answers itself. Pure.
//!
//! The behaviour is daprd 1.18's, in its order: the registered routes first, matched against the
//! cleaned path as it came; then the header `dapr-app-id`, basic authorization, and the path, each
//! on the path decoded exactly once.

#![forbid(unsafe_code)]

mod allowed;
pub mod building_blocks;
pub mod escape;
pub mod external;
pub mod headers;
pub mod invariant;
pub mod json;
pub mod local;
pub mod message;
pub mod method;
mod methods;
pub mod path;
mod plain;
mod registered;
pub mod target;

pub use allowed::Allowed;
pub use building_blocks::BuildingBlock;
pub use methods::Methods;
pub use path::BadTarget;

use path::Target;
use registered::Routes;

/// What of a request head matters here.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a [u8],
    /// As it stands on the request line: a path, an absolute URL, `*`, or CONNECT's authority.
    pub target: &'a [u8],
    /// The first `dapr-app-id` line, without spaces around it.
    pub app_id_header: Option<&'a [u8]>,
    /// The first `Authorization` line, without spaces around it.
    pub authorization: Option<&'a [u8]>,
}

/// Buffers kept by the connection, so that interpretation allocates nothing once they are warm.
#[derive(Clone, Debug, Default)]
pub struct CallNotes {
    /// Of an invocation the target as it was found, namespace included; take it apart with
    /// [`target::split_id`]. Of a local call the name in its path: the metadata key, or the
    /// component's name.
    pub target: Vec<u8>,
    /// Decoded once and cleaned, not yet normalised: [`method::normalise`] it before anything else,
    /// so that its refusal can quote it.
    pub method: Vec<u8>,
    /// As it came, without `?` and without a fragment; empty when there is none.
    pub query: Vec<u8>,
    /// The method is normal, and its own encoding in a path.
    is_plain: bool,
    scratch: Vec<u8>,
}

impl CallNotes {
    /// Nothing is noted any more; the buffers stay.
    pub fn clear(&mut self) {
        self.target.clear();
        self.method.clear();
        self.query.clear();
        self.is_plain = false;
        self.scratch.clear();
    }

    /// [`method::normalise`], which most methods have no need of.
    ///
    /// # Errors
    /// As there.
    pub fn normalise(&mut self) -> Result<(), method::MethodError> {
        debug_assert!(!self.is_plain || method::is_normal(&self.method));
        if self.is_plain { Ok(()) } else { method::normalise(&mut self.method) }
    }

    /// [`method::app_path`] of the normalised method.
    ///
    /// # Errors
    /// As there.
    pub fn write_app_path(&self, out: &mut Vec<u8>) -> Result<(), escape::EscapeError> {
        if !self.is_plain {
            return method::app_path(&self.method, out);
        }
        out.push(b'/');
        out.extend_from_slice(&self.method);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// Call [`CallNotes::target`]. With `app_id_header_used` the header `dapr-app-id` must not be
    /// forwarded.
    Invoke {
        app_id_header_used: bool,
    },
    /// See [`local::answer`].
    Local(LocalCall),
    NoTarget,
}

/// Something that the sidecar answers itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalCall {
    BadTarget(BadTarget),
    Healthz,
    HealthzOutbound,
    MetadataGet,
    /// Control keeps the value; the key is in [`CallNotes::target`].
    MetadataSet,
    /// As [`Self::NotFound`].
    MethodNotAllowed {
        allow: Methods,
    },
    /// Where nothing is invoked: on the public port, and where invocation is not allowed. Elsewhere
    /// everything unknown is an invocation.
    NotFound,
    /// Control's work, too.
    Shutdown,
    Unconfigured(BuildingBlock),
}

/// Reads what a request on the Dapr API port asks for.
pub fn interpret(request: &Request<'_>, notes: &mut CallNotes) -> Asked {
    interpret_allowed(request, &Allowed::ALL, notes)
}

/// The same where not all of it need be allowed.
pub fn interpret_allowed(request: &Request<'_>, allowed: &Allowed, notes: &mut CallNotes) -> Asked {
    notes.clear();
    let is_named_by_path = request.app_id_header.is_none() && request.authorization.is_none();
    if is_named_by_path
        && allowed.has_invoke
        && let Some(call) = plain::find(request.target)
    {
        notes.target.extend_from_slice(call.id);
        notes.method.extend_from_slice(call.method);
        notes.query.extend_from_slice(call.query);
        notes.is_plain = true;
        return Asked::Invoke { app_id_header_used: false };
    }
    interpret_closely(request, allowed, notes)
}

fn interpret_closely(request: &Request<'_>, allowed: &Allowed, notes: &mut CallNotes) -> Asked {
    let target = match read_target(request, notes) {
        Ok(target) => target,
        Err(reason) => return Asked::Local(LocalCall::BadTarget(reason)),
    };
    let routes = Routes::of_api(allowed);
    if !allowed.has_invoke {
        find_routed_path(target.path, notes);
        let call = routes.find_only(request.method, &notes.scratch, &mut notes.target);
        return Asked::Local(call);
    }
    if may_be_registered(target.path) {
        find_routed_path(target.path, notes);
        if let Some(call) = routes.find(request.method, &notes.scratch, &mut notes.target) {
            return Asked::Local(call);
        }
    }
    find_target(request, notes)
}

/// Reads what a request asks for whose path and query a pipeline has made others, and which none of
/// the registered routes was for. `path` is decoded.
pub fn interpret_rewritten(
    request: &Request<'_>,
    path: &[u8],
    query: &[u8],
    notes: &mut CallNotes,
) -> Asked {
    notes.clear();
    notes.method.extend_from_slice(path);
    notes.query.extend_from_slice(query);
    find_target(request, notes)
}

/// Reads what a request on the public port asks for: health and metadata, and no invocation.
pub fn interpret_public(request: &Request<'_>, notes: &mut CallNotes) -> LocalCall {
    notes.clear();
    match read_target(request, notes) {
        Ok(target) => {
            find_routed_path(target.path, notes);
            Routes::public().find_only(request.method, &notes.scratch, &mut notes.target)
        }
        Err(reason) => LocalCall::BadTarget(reason),
    }
}

/// Reads a plain request to an app, as if it had come by invoke: all of its path is the method.
pub fn interpret_inbound(request: &Request<'_>, notes: &mut CallNotes) -> Asked {
    notes.clear();
    match read_target(request, notes) {
        Ok(_) => {
            target::method_of_path(&mut notes.method);
            Asked::Invoke { app_id_header_used: false }
        }
        Err(reason) => Asked::Local(LocalCall::BadTarget(reason)),
    }
}

/// Reads a plain request to the address of an app, `target`, by somebody who does not know of a
/// sidecar: a call of that app, whatever else the request says, where calls are allowed.
pub fn interpret_captured(
    request: &Request<'_>,
    target: &[u8],
    allowed: &Allowed,
    notes: &mut CallNotes,
) -> Asked {
    if !allowed.has_invoke {
        notes.clear();
        return Asked::NoTarget;
    }
    let asked = interpret_inbound(request, notes);
    notes.target.extend_from_slice(target);
    asked
}

/// Leaves the decoded path in `notes.method`.
fn read_target<'a>(request: &Request<'a>, notes: &mut CallNotes) -> Result<Target<'a>, BadTarget> {
    let target = path::split_target(request.method, request.target)?;
    notes.query.extend_from_slice(target.query);
    escape::decode_path(target.path, &mut notes.method)?;
    Ok(target)
}

/// Nearly every request is told from the registered routes by how its path begins. All of them
/// begin with a version; only cleaning, or decoding by the router, could make one of another path.
fn may_be_registered(path: &[u8]) -> bool {
    let is_settled = path::is_clean(path) && escape::is_routed_as_it_is(path);
    !is_settled || (path.starts_with(b"/v1.0") && !path.starts_with(b"/v1.0/invoke/"))
}

/// The path that the router sees, in `notes.scratch`: as Go would write it, cleaned, not decoded.
fn find_routed_path(path: &[u8], notes: &mut CallNotes) {
    escape::routed_path(path, &notes.method, &mut notes.scratch);
    path::clean(&mut notes.scratch);
}

fn find_target(request: &Request<'_>, notes: &mut CallNotes) -> Asked {
    if let Some(id) = request.app_id_header.filter(|id| !id.is_empty()) {
        notes.target.extend_from_slice(id);
        target::method_of_path(&mut notes.method);
        return Asked::Invoke { app_id_header_used: true };
    }
    if let Some(authorization) = request.authorization
        && target::find_in_authorization(authorization, &mut notes.target)
    {
        target::method_of_path(&mut notes.method);
        return invoke_unless_empty(&notes.target);
    }
    find_target_in_path(notes)
}

fn invoke_unless_empty(target: &[u8]) -> Asked {
    if target.is_empty() { Asked::NoTarget } else { Asked::Invoke { app_id_header_used: false } }
}

fn find_target_in_path(notes: &mut CallNotes) -> Asked {
    let Some((target, method)) = target::find_in_path(&notes.method) else {
        return Asked::NoTarget;
    };
    // The target is decoded a second time, as a query component; daprd keeps it as it was where
    // that fails or leaves nothing.
    if escape::decode_query(target, &mut notes.target).is_err() || notes.target.is_empty() {
        notes.target.clear();
        notes.target.extend_from_slice(target);
    }
    let start = notes.method.len() - method.len();
    notes.method.drain(..start);
    target::method_after_target(&mut notes.method);
    Asked::Invoke { app_id_header_used: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for, as one line: the target, the method, the query if there is one, and
    /// `-header` if the header is to be dropped.
    fn asked(request: &Request<'_>) -> String {
        let mut notes = CallNotes::default();
        let asked = interpret(request, &mut notes);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match asked {
            Asked::NoTarget => "no target".to_string(),
            Asked::Local(call) => {
                format!("{call:?} {}", text(&notes.target)).trim_end().to_string()
            }
            Asked::Invoke { app_id_header_used } => {
                let mut line = format!("{} | {}", text(&notes.target), text(&notes.method));
                if !notes.query.is_empty() {
                    line = format!("{line} | {}", text(&notes.query));
                }
                if app_id_header_used {
                    line.push_str(" -header");
                }
                line
            }
        }
    }

    #[test]
    fn the_short_way_and_the_long_way_lead_to_the_same_call() {
        const PARTS: [&str; 14] = [
            "/", "v1.0", "invoke", "method", "app", "x", ".", "..", "%41", "?", "=", "+", "//",
            "a.b",
        ];
        let prefix = ["/v1.0/invoke/app/method/", "/v1.0/invoke/"];
        let mut taken = 0;
        for number in 0..PARTS.len().pow(4) * 2 {
            let mut target = prefix[number % 2].to_owned();
            let mut rest = number / 2;
            while rest > 0 {
                target.push_str(PARTS[rest % PARTS.len()]);
                rest /= PARTS.len();
            }
            let request = request("GET", &target);
            let (mut short, mut long) = (CallNotes::default(), CallNotes::default());
            let asked = interpret(&request, &mut short);
            assert_eq!(asked, interpret_closely(&request, &Allowed::ALL, &mut long), "{target}");
            taken += usize::from(short.is_plain);
            if !short.is_plain {
                continue;
            }
            assert_eq!(short.normalise(), long.normalise(), "{target}");
            let (mut path, mut long_path) = (Vec::new(), Vec::new());
            let written = short.write_app_path(&mut path);
            assert_eq!(written, long.write_app_path(&mut long_path), "{target}");
            assert_eq!(path, long_path, "{target}");
            let parts = |notes: &CallNotes| {
                [&notes.target, &notes.method, &notes.query]
                    .map(|part| part.escape_ascii().to_string())
            };
            assert_eq!(parts(&short), parts(&long), "{target}");
        }
        assert!(taken > 1000, "{taken} took the short way");
    }

    fn request<'a>(method: &'a str, target: &'a str) -> Request<'a> {
        Request {
            method: method.as_bytes(),
            target: target.as_bytes(),
            app_id_header: None,
            authorization: None,
        }
    }

    /// `Basic` with `dapr-app-id:app` in base64.
    const BASIC_APP: &[u8] = b"Basic ZGFwci1hcHAtaWQ6YXBw";
    /// The same with an empty id.
    const BASIC_EMPTY: &[u8] = b"Basic ZGFwci1hcHAtaWQ6";

    #[test]
    fn finds_target_and_method_in_the_url_as_daprd_1_18() {
        for (case, target, want) in [
            ("no such path", "/foo", "no target"),
            ("root", "/", "no target"),
            ("no method", "/v1.0/invoke/app", "no target"),
            ("no slash after method", "/v1.0/invoke/app/method", "no target"),
            ("no target", "/v1.0/invoke//method/foo", "no target"),
            ("other version", "/v1.1/invoke/app/method/foo", "no target"),
            ("asterisk", "*", "no target"),
            ("encoded prefix part is decoded, too", "/v1.0/%69nvoke/app/method/foo", "app | foo"),
            ("plain", "/v1.0/invoke/app/method/foo", "app | foo"),
            ("slashes in the prefix", "/v1.0////invoke/app/method/foo", "app | foo"),
            ("slashes everywhere", "//v1.0//invoke//app/method//foo", "app | /foo"),
            ("slashes before method", "//v1.0//invoke//app//method//foo", "app/ | /foo"),
            ("empty method", "/v1.0/invoke/app/method/", "app | "),
            ("slash as method", "/v1.0/invoke/app/method//", "app | /"),
            ("slash at the end is lost", "/v1.0/invoke/app/method/a/b/", "app | a/b"),
            ("dots", "/v1.0/invoke/app/method/a/./b/../c", "app | a/c"),
            ("encoded slashes", "/v1.0/invoke/app/method/admin%2F..%2Fpublic", "app | public"),
            ("dots above the method", "/v1.0/invoke/app/method/../x", "app | ../x"),
            (
                "query",
                "/v1.0/invoke/app/method/foo?x=1%202&y=a/../b",
                "app | foo | x=1%202&y=a/../b",
            ),
            ("mark alone", "/v1.0/invoke/app/method/foo?", "app | foo"),
            ("absolute form", "http://h:3500/v1.0/invoke/app/method/foo?x", "app | foo | x"),
            ("namespace", "/v1.0/invoke/app.ns/method/x", "app.ns | x"),
            ("too many dots are found out later", "/v1.0/invoke/a.b.c/method/x", "a.b.c | x"),
            ("URL", "/v1.0/invoke/http://h:81/method/x", "http://h:81 | x"),
            ("URL, encoded", "/v1.0/invoke/https%3A%2F%2Fh/method/x", "https://h | x"),
            ("URL, half encoded", "/v1.0/invoke/https%3A/%2Fh/method/x", "https://h | x"),
            ("URL with path", "/v1.0/invoke/http://h/base/method/x", "http://h/base | x"),
            ("id is decoded twice", "/v1.0/invoke/a%2562/method/x", "ab | x"),
            ("plus in an id is a space", "/v1.0/invoke/a+b/method/x", "a b | x"),
            ("bad second escape keeps the first", "/v1.0/invoke/a%25zz/method/x", "a%zz | x"),
            ("method is decoded once", "/v1.0/invoke/app/method/a%2541+b", "app | a%41+b"),
            ("encoded mark", "/v1.0/invoke/app/method/a%3Fb", "app | a?b"),
            ("second method part", "/v1.0/invoke/app/method/a/method/b", "app | a/method/b"),
            ("appendix A", "/v1.0/invoke/b/method/orders//7/?x=1%202", "b | orders/7 | x=1%202"),
        ] {
            assert_eq!(asked(&request("GET", target)), want, "{case}");
        }
    }

    /// To whom a captured request goes is the kernel's to say, whatever it says itself.
    #[test]
    fn a_captured_request_is_a_call_of_whom_was_dialled() {
        let mut notes = CallNotes::default();
        for (case, target, want) in [
            ("root", "/", ""),
            ("a path", "/pay?x=1", "pay"),
            ("another's invocation", "/v1.0/invoke/B/method/x", "v1.0/invoke/B/method/x"),
            ("a route of the API", "/v1.0/shutdown", "v1.0/shutdown"),
            ("dots", "/a/../b", "b"),
        ] {
            let request = Request {
                app_id_header: Some(b"hdr"),
                authorization: Some(BASIC_APP),
                ..request("POST", target)
            };
            let asked = interpret_captured(&request, b"checkout.prod", &Allowed::ALL, &mut notes);
            assert_eq!(asked, Asked::Invoke { app_id_header_used: false }, "{case}");
            assert_eq!(notes.target, b"checkout.prod", "{case}");
            assert_eq!(notes.method, want.as_bytes(), "{case}");
        }
        let mut without_invoke = Allowed::ALL;
        without_invoke.has_invoke = false;
        let asked =
            interpret_captured(&request("GET", "/x"), b"checkout", &without_invoke, &mut notes);
        assert_eq!((asked, &notes.target[..]), (Asked::NoTarget, &b""[..]));
    }

    #[test]
    fn header_beats_basic_beats_url_as_daprd_1_18() {
        let header = Some(b"hdr".as_slice());
        let basic = Some(BASIC_APP);
        let url = "/v1.0/invoke/B/method/x";
        for (case, target, app_id_header, authorization, want) in [
            ("empty header", "/x", Some(b"".as_slice()), None, "no target"),
            ("empty id in basic", url, None, Some(BASIC_EMPTY), "no target"),
            ("bearer", "/x", None, Some(b"Bearer abc".as_slice()), "no target"),
            ("header", "/checkout/100", header, None, "hdr | checkout/100 -header"),
            ("header and URL", url, header, None, "hdr | v1.0/invoke/B/method/x -header"),
            ("header and basic", "/x", header, basic, "hdr | x -header"),
            ("basic and URL", url, None, basic, "app | v1.0/invoke/B/method/x"),
            ("empty header and URL", url, Some(b""), None, "B | x"),
            ("empty header and basic", "/x", Some(b""), basic, "app | x"),
            ("bearer and URL", url, None, Some(b"Bearer abc"), "B | x"),
            ("basic", "/checkout/100", None, basic, "app | checkout/100"),
            ("header is taken as it is", "/x", Some(b"a%41.ns"), None, "a%41.ns | x -header"),
            ("header, slashes", "///foo//bar", header, None, "hdr | foo/bar -header"),
            ("header, root", "/", header, None, "hdr |  -header"),
            ("header, dots", "/admin/../public", header, None, "hdr | public -header"),
            ("header, encoded", "/a%2F..%2Fb%23?q", header, None, "hdr | b# | q -header"),
            ("header, slash at the end", "/a/", header, None, "hdr | a -header"),
            ("header, asterisk", "*", header, None, "hdr | * -header"),
            ("header, absolute form without path", "http://h", header, None, "hdr | . -header"),
            ("metadata beats header", "/v1.0/metadata", header, basic, "MetadataGet"),
            ("health beats header", "/v1.0/healthz", header, None, "Healthz"),
            ("state beats header", "/v1.0/state/s/k", header, None, "Unconfigured(State) s"),
            ("unknown API does not", "/v1.0/nothing", header, None, "hdr | v1.0/nothing -header"),
        ] {
            let request = Request { app_id_header, authorization, ..request("GET", target) };
            assert_eq!(asked(&request), want, "{case}");
        }
    }

    #[test]
    fn refuses_bad_targets_before_anything_else() {
        for (case, method, target, want) in [
            ("empty", "GET", "", "Form"),
            ("no path", "GET", "foo", "Form"),
            ("control character", "GET", "/v1.0/invoke/a/method/\u{1}", "Character"),
            ("space", "GET", "/a b", "Character"),
            ("bad escape", "GET", "/v1.0/invoke/a/method/%zz", "Escape"),
            ("bad escape on the public routes", "GET", "/v1.0/metadata/%4", "Escape"),
        ] {
            let request = Request { app_id_header: Some(b"a"), ..request(method, target) };
            let local = asked(&request);
            assert!(local.starts_with(&format!("BadTarget({want}")), "{case}: {local}");
            let public = interpret_public(&request, &mut CallNotes::default());
            assert_eq!(format!("{public:?}"), local, "{case}");
        }
    }

    #[test]
    fn registered_routes_are_matched_on_the_cleaned_encoded_path() {
        for (case, method, target, want) in [
            ("HEAD is not GET", "HEAD", "/v1.0/healthz", "no target"),
            ("lower-case method", "get", "/v1.0/healthz", "no target"),
            ("unknown method", "PROPFIND", "/v1.0/healthz", "no target"),
            ("POST", "POST", "/v1.0/healthz", "no target"),
            ("encoded route", "GET", "/v1.0/%68ealthz", "no target"),
            ("encoded slash", "GET", "/v1.0%2Fhealthz", "no target"),
            ("the same in front", "GET", "/%2f/v1.0/state/s/k^", "Unconfigured(State) s"),
            (
                "the same after invoke",
                "GET",
                "/v1.0/invoke/^%2F..%2F..%2Fstate%2Fs%2Fk",
                "Unconfigured(State) s",
            ),
            ("encoded slash beside invalid characters", "GET", "/v1.0/state/s/\"%2Fk", "no target"),
            ("more parts", "GET", "/v1.0/healthz/x", "no target"),
            ("key missing", "PUT", "/v1.0/metadata", "no target"),
            ("key missing, with slash", "PUT", "/v1.0/metadata/", "no target"),
            ("wrong method", "GET", "/v1.0/shutdown", "no target"),
            ("the API itself", "GET", "/v1.0", "no target"),
            ("health", "GET", "/v1.0/healthz", "Healthz"),
            ("query", "GET", "/v1.0/healthz?appid=a", "Healthz"),
            ("slash at the end", "GET", "/v1.0/healthz/", "Healthz"),
            ("slashes", "GET", "//v1.0///healthz//", "Healthz"),
            ("dots", "GET", "/x/../v1.0/./healthz", "Healthz"),
            ("dots after invoke", "GET", "/v1.0/invoke/../healthz", "Healthz"),
            ("absolute form", "GET", "http://h/v1.0/healthz", "Healthz"),
            ("outbound", "GET", "/v1.0/healthz/outbound", "HealthzOutbound"),
            ("metadata", "GET", "/v1.0/metadata", "MetadataGet"),
            ("key", "PUT", "/v1.0/metadata/k", "MetadataSet k"),
            ("key is decoded as a query", "PUT", "/v1.0/metadata/a%2Fb+c%2B", "MetadataSet a/b c+"),
            ("key beside invalid characters", "PUT", "/v1.0/metadata/\"%41", "MetadataSet \"A"),
            ("shutdown", "POST", "/v1.0/shutdown", "Shutdown"),
            (
                "an invocation of the same name",
                "GET",
                "/v1.0/invoke/a/method/healthz",
                "a | healthz",
            ),
        ] {
            assert_eq!(asked(&request(method, target)), want, "{case}");
        }
    }

    #[test]
    fn tells_the_building_blocks_apart_as_daprd_1_18() {
        for (method, target, want) in [
            ("GET", "/v1.0/state/s", "no target"),
            ("PUT", "/v1.0/state/s/k", "no target"),
            ("GET", "/v1.0/state/s/k/l", "no target"),
            ("POST", "/v1.0/state/s/query", "no target"),
            ("GET", "/v1.0/state/s/k", "Unconfigured(State) s"),
            ("DELETE", "/v1.0/state/s/k", "Unconfigured(State) s"),
            ("POST", "/v1.0/state/s", "Unconfigured(State) s"),
            ("PUT", "/v1.0/state/s", "Unconfigured(State) s"),
            ("POST", "/v1.0/state/s/bulk", "Unconfigured(State) s"),
            ("PUT", "/v1.0/state/s/transaction", "Unconfigured(State) s"),
            ("POST", "/v1.0-alpha1/state/s/query", "Unconfigured(State) s"),
            ("POST", "/v1.0/publish/p", "no target"),
            ("GET", "/v1.0/publish/p/t", "no target"),
            ("POST", "/v1.0/publish/p/t", "Unconfigured(Publish) p"),
            ("PUT", "/v1.0/publish/p/t/u/v", "Unconfigured(Publish) p"),
            ("POST", "/v1.0/publish/bulk/p/t", "Unconfigured(Publish) p"),
            ("POST", "/v1.0/publish/bulk/t", "Unconfigured(Publish) bulk"),
            ("POST", "/v1.0-alpha1/publish/bulk/p/t", "Unconfigured(Publish) p"),
            ("POST", "/v1.0-alpha1/publish/p/t", "no target"),
            ("GET", "/v1.0/secrets/s/k", "Unconfigured(Secrets) s"),
            ("GET", "/v1.0/secrets/s/bulk", "Unconfigured(Secrets) s"),
            ("GET", "/v1.0/configuration/c?key=k", "Unconfigured(Configuration) c"),
            ("GET", "/v1.0-alpha1/configuration/c/subscribe", "Unconfigured(Configuration) c"),
            ("GET", "/v1.0/configuration/c/i/unsubscribe", "Unconfigured(Configuration) c"),
            ("POST", "/v1.0-alpha1/lock/l", "Unconfigured(Lock) l"),
            ("POST", "/v1.0-alpha1/unlock/l", "Unconfigured(Lock) l"),
            ("POST", "/v1.0/lock/l", "no target"),
            ("PUT", "/v1.0-alpha1/crypto/c/encrypt", "Unconfigured(Cryptography) c"),
            ("PUT", "/v1.0-alpha1/crypto/c/decrypt", "Unconfigured(Cryptography) c"),
            ("POST", "/v1.0-alpha1/crypto/c/encrypt", "no target"),
            ("POST", "/v1.0-alpha1/subtlecrypto/c/getkey", "Unconfigured(Cryptography) c"),
            ("POST", "/v1.0-alpha1/subtlecrypto/c/verify", "Unconfigured(Cryptography) c"),
            ("POST", "/v1.0/bindings/b", "Unconfigured(Bindings) b"),
            ("PUT", "/v1.0/bindings/b", "Unconfigured(Bindings) b"),
            ("GET", "/v1.0/bindings/b", "no target"),
            ("GET", "/v1.0/actors/t/i/method/m", "Unconfigured(Actors) t"),
            ("PUT", "/v1.0/actors/t/i/state", "Unconfigured(Actors) t"),
            ("GET", "/v1.0/actors/t/i/state/k", "Unconfigured(Actors) t"),
            ("DELETE", "/v1.0/actors/t/i/timers/n", "Unconfigured(Actors) t"),
            ("GET", "/v1.0/actors/t/i/timers/n", "no target"),
            ("GET", "/v1.0/actors/t/i/reminders/n", "Unconfigured(Actors) t"),
            ("POST", "/v1.0-alpha1/conversation/c/converse", "Unconfigured(Conversation) c"),
            ("POST", "/v1.0-alpha2/conversation/c/converse", "Unconfigured(Conversation) c"),
            ("POST", "/v1.0/conversation/c/converse", "no target"),
            ("POST", "/v1.0-alpha1/jobs/j", "Unconfigured(JobScheduling) j"),
            ("GET", "/v1.0/jobs/j", "Unconfigured(JobLookup) j"),
            ("DELETE", "/v1.0/jobs/j", "Unconfigured(JobDeletion) j"),
            ("PUT", "/v1.0/jobs/j", "no target"),
            ("GET", "/v1.0/workflows/w/i", "Unconfigured(Actors) w"),
            ("POST", "/v1.0-beta1/workflows/w/i/start", "Unconfigured(Actors) w"),
            ("POST", "/v1.0-alpha1/workflows/w/i/raiseEvent/e", "Unconfigured(Actors) w"),
            ("POST", "/v1.0/workflows/w/i/stop", "no target"),
        ] {
            assert_eq!(asked(&request(method, target)), want, "{method} {target}");
        }
    }

    #[test]
    fn the_public_port_knows_health_and_metadata_alone() {
        for (case, method, target, want) in [
            ("invocation", "GET", "/v1.0/invoke/a/method/m", "NotFound"),
            ("root", "GET", "/", "NotFound"),
            ("asterisk", "OPTIONS", "*", "NotFound"),
            ("shutdown", "POST", "/v1.0/shutdown", "NotFound"),
            ("state", "GET", "/v1.0/state/s/k", "NotFound"),
            (
                "wrong method",
                "POST",
                "/v1.0/healthz",
                r#"MethodNotAllowed { allow: Methods("GET") }"#,
            ),
            ("HEAD", "HEAD", "/v1.0/healthz", r#"MethodNotAllowed { allow: Methods("GET") }"#),
            ("key", "GET", "/v1.0/metadata/k", r#"MethodNotAllowed { allow: Methods("PUT") }"#),
            (
                "unknown method",
                "PROPFIND",
                "/nothing",
                r#"MethodNotAllowed { allow: Methods("") }"#,
            ),
            ("health", "GET", "/v1.0/healthz/", "Healthz"),
            ("outbound", "GET", "//v1.0/healthz/outbound", "HealthzOutbound"),
            ("metadata", "GET", "/v1.0/metadata", "MetadataGet"),
            ("set metadata", "PUT", "/v1.0/metadata/k", "MetadataSet"),
        ] {
            let request = Request { app_id_header: Some(b"a"), ..request(method, target) };
            let call = interpret_public(&request, &mut CallNotes::default());
            assert_eq!(format!("{call:?}"), want, "{case}");
        }
    }

    /// From the target on the caller's request line to the one on the app's.
    fn seen_by_app(request: &Request<'_>) -> String {
        let mut notes = CallNotes::default();
        assert!(matches!(interpret(request, &mut notes), Asked::Invoke { .. }));
        if method::normalise(&mut notes.method).is_err() {
            return "500".to_string();
        }
        let (mut to_peer, mut at_peer, mut to_app) = (Vec::new(), Vec::new(), Vec::new());
        method::encode_for_peer(&notes.method, &mut to_peer);
        method::decode_from_peer(&to_peer, &mut at_peer).unwrap();
        match method::app_path(&at_peer, &mut to_app) {
            Ok(()) if notes.query.is_empty() => String::from_utf8(to_app).unwrap(),
            Ok(()) => String::from_utf8([&to_app, b"?".as_slice(), &notes.query].concat()).unwrap(),
            Err(_) => "500".to_string(),
        }
    }

    /// daprd 1.18's integration tests reservedchars/pathcorrectness and reservedchars/acl, beside
    /// what Go's client writes for their paths.
    #[test]
    fn an_app_sees_what_it_sees_behind_daprd_1_18() {
        for (path, want) in [
            ("test%23stream", "500"),
            ("test%3Fstream", "500"),
            ("test%25stream", "500"),
            ("test%00stream", "500"),
            ("test%0Dstream", "500"),
            ("test%7Fstream", "500"),
            ("a%23b%3Fc%25d", "500"),
            ("admin%3Fignored", "500"),
            ("admin%00public", "500"),
            ("public%23/../unauthorized", "/unauthorized"),
            ("public%23../../admin", "/admin"),
            ("100%25", "500"),
            ("test%22stream", "/test%22stream"),
            ("test%2Astream", "/test*stream"),
            ("test%5Cstream", "/test%5Cstream"),
            ("test\"stream", "/test%22stream"),
            ("test*stream", "/test*stream"),
            ("test\\stream", "/test%5Cstream"),
            ("test?stream", "/test?stream"),
            ("test%20stream", "/test%20stream"),
            ("%C3%BC", "/%C3%BC"),
            ("%2541", "/%41"),
            ("%252E%252E/x", "/%2E%2E/x"),
            ("a%253Fb", "/a%3Fb"),
            ("public", "/public"),
            ("admin%2F..%2Fpublic", "/public"),
            ("admin%2F..%2F..%2Fpublic", "/public"),
            ("admin%2Fsecret%2F..%2F..%2Fpublic", "/public"),
            ("..%2Fpublic", "/public"),
            ("..%2F..%2Fpublic", "/public"),
            ("..", "/"),
            ("public///extra", "/public/extra"),
            ("public%2F..%2Fpublic", "/public"),
            ("a%2Fb%2Fc%2F..%2F..%2F..%2Fpublic", "/public"),
            ("admin%5C..%5Cpublic", "/admin%5C..%5Cpublic"),
            ("public%2F..%2Funauthorized", "/unauthorized"),
            ("admin?bypass", "/admin?bypass"),
            ("", "/"),
            ("/", "/"),
            ("/x", "/x"),
            ("A-Za-z0-9-._~:/[]@!$'()+,=", "/A-Za-z0-9-._~:/[]@!$'()+,="),
        ] {
            let target = format!("/v1.0/invoke/app/method/{path}");
            assert_eq!(seen_by_app(&request("GET", &target)), want, "URL: {path}");
            let target = format!("/{path}");
            let by_header = Request { app_id_header: Some(b"app"), ..request("GET", &target) };
            assert_eq!(seen_by_app(&by_header), want, "header: {path}");
        }
    }

    #[test]
    fn notes_are_not_carried_over() {
        let mut notes = CallNotes::default();
        interpret(&request("GET", "/v1.0/invoke/app/method/foo?x=1"), &mut notes);
        assert_eq!(interpret(&request("GET", "/foo"), &mut notes), Asked::NoTarget);
        assert!(notes.target.is_empty() && notes.query.is_empty());
    }

    #[test]
    fn nothing_is_allocated_once_the_notes_are_warm() {
        let mut notes = CallNotes::default();
        for target in ["/v1.0/invoke/some-app.ns/method/a//b?query=1", "/v1.0//metadata/none"] {
            interpret(&request("GET", target), &mut notes);
        }
        let capacities = |notes: &CallNotes| {
            [&notes.target, &notes.method, &notes.query, &notes.scratch].map(Vec::capacity)
        };
        let before = capacities(&notes);
        for target in ["/v1.0/invoke/app/method/foo?x", "/v1.0/healthz", "/v1.0/state/s/k", "/x"] {
            interpret(&request("GET", target), &mut notes);
        }
        assert_eq!(capacities(&notes), before);
    }
}

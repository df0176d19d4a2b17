//! daprd's routes beside invocation, and the matching of a cleaned, still encoded path against
//! them; pure.
//!
//! A registered route wins over everything else a request may say about its target. Whatever
//! matches no row is an invocation, an unknown method on a known path included.

#![forbid(unsafe_code)]

use super::{BuildingBlock, LocalCall, escape};

/// One row: which versions and methods, what comes behind the version, and what that asks for.
/// `{name}` is a part whose text matters, `{}` one whose text does not, `*` one or more parts.
struct Registered {
    versions: &'static [&'static str],
    methods: &'static [&'static str],
    pattern: &'static str,
    call: LocalCall,
}

/// Finds what is asked for by `method` and `path`, which is cleaned and not decoded, and puts the
/// decoded `{name}` into `name`.
pub(super) fn find(method: &[u8], path: &[u8], name: &mut Vec<u8>) -> Option<LocalCall> {
    find_in(ROUTES, method, path, name)
}

/// The same on the public port, which has five routes and no fallback.
pub(super) fn find_public(method: &[u8], path: &[u8], name: &mut Vec<u8>) -> LocalCall {
    // The router looks at the method before the path.
    if !METHODS.iter().any(|known| known.as_bytes() == method) {
        return LocalCall::MethodNotAllowed { allow: None };
    }
    let public = &ROUTES[..PUBLIC_COUNT];
    if let Some(call) = find_in(public, method, path, name) {
        return call;
    }
    let on_path = public.iter().find(|route| route.captures(path).is_some());
    on_path.map_or(LocalCall::NotFound, |route| LocalCall::MethodNotAllowed {
        allow: route.methods.first().copied(),
    })
}

fn find_in(
    routes: &[Registered],
    method: &[u8],
    path: &[u8],
    name: &mut Vec<u8>,
) -> Option<LocalCall> {
    let takes = |route: &Registered| route.methods.iter().any(|m| m.as_bytes() == method);
    for route in routes.iter().filter(|route| takes(route)) {
        if let Some(captured) = route.captures(path) {
            name.clear();
            return match escape::decode_query(captured, name) {
                Ok(()) => Some(route.call),
                Err(error) => Some(LocalCall::BadTarget(error.into())),
            };
        }
    }
    None
}

impl Registered {
    /// The part that `{name}` stands for, empty if there is none; `None` if the path is another
    /// one.
    fn captures<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let (version, rest) = cut(path.strip_prefix(b"/")?);
        if !self.versions.iter().any(|known| known.as_bytes() == version) {
            return None;
        }
        let mut rest = rest?;
        let mut captured: &[u8] = b"";
        let mut pattern = self.pattern.split('/').peekable();
        while let Some(wanted) = pattern.next() {
            if wanted == "*" {
                return Some(captured);
            }
            let (part, after) = cut(rest);
            match wanted {
                "{name}" => captured = part,
                "{}" => {}
                text if text.as_bytes() == part => {}
                _ => return None,
            }
            match (after, pattern.peek().is_some()) {
                (Some(after), true) => rest = after,
                (None, false) => return Some(captured),
                _ => return None,
            }
        }
        None
    }
}

fn cut(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'/', path) {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

/// Those that daprd's router (chi 5.2) knows.
const METHODS: [&str; 9] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

const V1: &[&str] = &["v1.0"];
const ALPHA1: &[&str] = &["v1.0-alpha1"];
const V1_ALPHA1: &[&str] = &["v1.0", "v1.0-alpha1"];
const ALPHA1_ALPHA2: &[&str] = &["v1.0-alpha1", "v1.0-alpha2"];
const WORKFLOW: &[&str] = &["v1.0", "v1.0-beta1", "v1.0-alpha1"];

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];
const POST: &[&str] = &["POST"];
const DELETE: &[&str] = &["DELETE"];
const WRITE: &[&str] = &["POST", "PUT"];
const ANY: &[&str] = &["GET", "POST", "DELETE", "PUT"];
const CHANGE: &[&str] = &["POST", "PUT", "DELETE"];

/// The routes that the public port has, too, come first.
const PUBLIC_COUNT: usize = 4;

/// All routes of daprd 1.18.3 (pkg/api/http) but `invoke/*`. Fixed parts before captured ones, as
/// its router prefers them.
const ROUTES: &[Registered] = &[
    row(V1, GET, "healthz", LocalCall::Healthz),
    row(V1, GET, "healthz/outbound", LocalCall::HealthzOutbound),
    row(V1, GET, "metadata", LocalCall::MetadataGet),
    row(V1, PUT, "metadata/{name}", LocalCall::MetadataSet),
    row(V1, POST, "shutdown", LocalCall::Shutdown),
    block(V1, GET, "state/{name}/{}", BuildingBlock::State),
    block(V1, DELETE, "state/{name}/{}", BuildingBlock::State),
    block(V1, WRITE, "state/{name}", BuildingBlock::State),
    block(V1, WRITE, "state/{name}/bulk", BuildingBlock::State),
    block(V1, WRITE, "state/{name}/transaction", BuildingBlock::State),
    block(ALPHA1, WRITE, "state/{name}/query", BuildingBlock::State),
    block(V1_ALPHA1, WRITE, "publish/bulk/{name}/*", BuildingBlock::Publish),
    block(V1, WRITE, "publish/{name}/*", BuildingBlock::Publish),
    block(V1, GET, "secrets/{name}/{}", BuildingBlock::Secrets),
    block(V1, WRITE, "bindings/{name}", BuildingBlock::Bindings),
    block(V1, WRITE, "actors/{name}/{}/state", BuildingBlock::Actors),
    block(V1, GET, "actors/{name}/{}/state/{}", BuildingBlock::Actors),
    block(V1, ANY, "actors/{name}/{}/method/{}", BuildingBlock::Actors),
    block(V1, ANY, "actors/{name}/{}/reminders/{}", BuildingBlock::Actors),
    block(V1, CHANGE, "actors/{name}/{}/timers/{}", BuildingBlock::Actors),
    block(V1_ALPHA1, GET, "configuration/{name}", BuildingBlock::Configuration),
    block(V1_ALPHA1, GET, "configuration/{name}/subscribe", BuildingBlock::Configuration),
    block(V1_ALPHA1, GET, "configuration/{name}/{}/unsubscribe", BuildingBlock::Configuration),
    block(ALPHA1, POST, "lock/{name}", BuildingBlock::Lock),
    block(ALPHA1, POST, "unlock/{name}", BuildingBlock::Lock),
    block(ALPHA1, PUT, "crypto/{name}/encrypt", BuildingBlock::Cryptography),
    block(ALPHA1, PUT, "crypto/{name}/decrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/getkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/encrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/decrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/wrapkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/unwrapkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/sign", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/verify", BuildingBlock::Cryptography),
    block(WORKFLOW, GET, "workflows/{name}/{}", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/raiseEvent/{}", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/start", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/pause", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/resume", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/terminate", BuildingBlock::Actors),
    block(WORKFLOW, POST, "workflows/{name}/{}/purge", BuildingBlock::Actors),
    block(V1_ALPHA1, POST, "jobs/{name}", BuildingBlock::JobScheduling),
    block(V1_ALPHA1, GET, "jobs/{name}", BuildingBlock::JobLookup),
    block(V1_ALPHA1, DELETE, "jobs/{name}", BuildingBlock::JobDeletion),
    block(ALPHA1_ALPHA2, POST, "conversation/{name}/converse", BuildingBlock::Conversation),
];

const fn row(
    versions: &'static [&'static str],
    methods: &'static [&'static str],
    pattern: &'static str,
    call: LocalCall,
) -> Registered {
    Registered { versions, methods, pattern, call }
}

const fn block(
    versions: &'static [&'static str],
    methods: &'static [&'static str],
    pattern: &'static str,
    block: BuildingBlock,
) -> Registered {
    row(versions, methods, pattern, LocalCall::Unconfigured(block))
}

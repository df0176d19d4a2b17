//! daprd's routes beside invocation, and the matching of a cleaned, still encoded path against
//! them; pure.
//!
//! A registered route wins over everything else a request may say about its target. Whatever
//! matches no row is an invocation, an unknown method on a known path included.

#![forbid(unsafe_code)]

use super::{BuildingBlock, LocalCall, Methods, allowed::Allowed, escape};

/// One row: which versions and methods, what comes behind the version, and what that asks for. The
/// text of the first part in braces matters, that of others does not; `*` is one or more parts.
///
/// Parts have daprd's names, since rules of what is allowed may be written with them.
pub(super) struct Registered {
    pub(super) versions: &'static [&'static str],
    methods: &'static [&'static str],
    pub(super) pattern: &'static str,
    pub(super) call: LocalCall,
}

/// Rows, and which of them there are.
#[derive(Clone, Copy)]
pub(super) struct Routes<'a> {
    rows: &'static [Registered],
    allowed: &'a Allowed,
}

impl<'a> Routes<'a> {
    /// Those of the Dapr API port.
    pub(super) const fn of_api(allowed: &'a Allowed) -> Self {
        Self { rows: ROUTES, allowed }
    }

    /// Those of the public port, where nothing can be forbidden.
    pub(super) const fn public() -> Self {
        let (rows, _) = ROUTES.split_at(PUBLIC_COUNT);
        Self { rows, allowed: &Allowed::ALL }
    }

    /// Finds what is asked for by `method` and `path`, which is cleaned and not decoded, and puts
    /// the decoded text of its first part in braces into `name`.
    pub(super) fn find(self, method: &[u8], path: &[u8], name: &mut Vec<u8>) -> Option<LocalCall> {
        let takes = |route: &Registered| route.methods.iter().any(|m| m.as_bytes() == method);
        let (_, captured, call) = self.on_path(path).find(|(route, ..)| takes(route))?;
        name.clear();
        match escape::decode_query(captured, name) {
            Ok(()) => Some(call),
            Err(error) => Some(LocalCall::BadTarget(error.into())),
        }
    }

    /// The same where an unknown path is not an invocation.
    pub(super) fn find_only(self, method: &[u8], path: &[u8], name: &mut Vec<u8>) -> LocalCall {
        // The router looks at the method before the path.
        if !METHODS.iter().any(|known| known.as_bytes() == method) {
            return LocalCall::MethodNotAllowed { allow: Methods::default() };
        }
        if let Some(call) = self.find(method, path, name) {
            return call;
        }
        let mut rows = self.on_path(path).peekable();
        if rows.peek().is_none() {
            return LocalCall::NotFound;
        }
        let names = rows.flat_map(|(route, ..)| route.methods);
        LocalCall::MethodNotAllowed { allow: Methods::of(names) }
    }

    fn on_path(self, path: &[u8]) -> impl Iterator<Item = (&'static Registered, &[u8], LocalCall)> {
        self.rows.iter().enumerate().filter_map(move |(index, route)| {
            let (version, captured) = route.captures(path)?;
            self.allowed.has(index, version).then_some((route, captured, route.call))
        })
    }
}

impl Registered {
    /// Which of the versions it is, and the first part in braces, empty if there is none; `None` if
    /// the path is another one.
    fn captures<'p>(&self, path: &'p [u8]) -> Option<(usize, &'p [u8])> {
        let (version, rest) = cut(path.strip_prefix(b"/")?);
        let version = self.versions.iter().position(|known| known.as_bytes() == version)?;
        let mut rest = rest?;
        let mut captured: Option<&[u8]> = None;
        let mut pattern = self.pattern.split('/').peekable();
        while let Some(wanted) = pattern.next() {
            if wanted == "*" {
                return Some((version, captured.unwrap_or_default()));
            }
            let (part, after) = cut(rest);
            match wanted {
                name if name.starts_with('{') => captured = captured.or(Some(part)),
                text if text.as_bytes() == part => {}
                _ => return None,
            }
            match (after, pattern.peek().is_some()) {
                (Some(after), true) => rest = after,
                (None, false) => return Some((version, captured.unwrap_or_default())),
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
pub(super) const ROUTES: &[Registered] = &[
    row(V1, GET, "healthz", LocalCall::Healthz),
    row(V1, GET, "healthz/outbound", LocalCall::HealthzOutbound),
    row(V1, GET, "metadata", LocalCall::MetadataGet),
    row(V1, PUT, "metadata/{key}", LocalCall::MetadataSet),
    row(V1, POST, "shutdown", LocalCall::Shutdown),
    block(V1, GET, "state/{storeName}/{key}", BuildingBlock::State),
    block(V1, DELETE, "state/{storeName}/{key}", BuildingBlock::State),
    block(V1, WRITE, "state/{storeName}", BuildingBlock::State),
    block(V1, WRITE, "state/{storeName}/bulk", BuildingBlock::State),
    block(V1, WRITE, "state/{storeName}/transaction", BuildingBlock::State),
    block(ALPHA1, WRITE, "state/{storeName}/query", BuildingBlock::State),
    block(V1_ALPHA1, WRITE, "publish/bulk/{pubsubname}/*", BuildingBlock::Publish),
    block(V1, WRITE, "publish/{pubsubname}/*", BuildingBlock::Publish),
    block(V1, GET, "secrets/{secretStoreName}/bulk", BuildingBlock::Secrets),
    block(V1, GET, "secrets/{secretStoreName}/{key}", BuildingBlock::Secrets),
    block(V1, WRITE, "bindings/{name}", BuildingBlock::Bindings),
    block(V1, WRITE, "actors/{actorType}/{actorId}/state", BuildingBlock::Actors),
    block(V1, GET, "actors/{actorType}/{actorId}/state/{key}", BuildingBlock::Actors),
    block(V1, ANY, "actors/{actorType}/{actorId}/method/{method}", BuildingBlock::Actors),
    block(V1, ANY, "actors/{actorType}/{actorId}/reminders/{name}", BuildingBlock::Actors),
    block(V1, CHANGE, "actors/{actorType}/{actorId}/timers/{name}", BuildingBlock::Actors),
    block(V1_ALPHA1, GET, "configuration/{storeName}", BuildingBlock::Configuration),
    block(V1_ALPHA1, GET, "configuration/{storeName}/subscribe", BuildingBlock::Configuration),
    block(
        V1_ALPHA1,
        GET,
        "configuration/{storeName}/{configurationSubscribeID}/unsubscribe",
        BuildingBlock::Configuration,
    ),
    block(ALPHA1, POST, "lock/{storeName}", BuildingBlock::Lock),
    block(ALPHA1, POST, "unlock/{storeName}", BuildingBlock::Lock),
    block(ALPHA1, PUT, "crypto/{name}/encrypt", BuildingBlock::Cryptography),
    block(ALPHA1, PUT, "crypto/{name}/decrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/getkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/encrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/decrypt", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/wrapkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/unwrapkey", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/sign", BuildingBlock::Cryptography),
    block(ALPHA1, POST, "subtlecrypto/{name}/verify", BuildingBlock::Cryptography),
    block(WORKFLOW, GET, "workflows/{workflowComponent}/{instanceID}", BuildingBlock::Actors),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{instanceID}/raiseEvent/{eventName}",
        BuildingBlock::Actors,
    ),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{workflowName}/start",
        BuildingBlock::Actors,
    ),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{instanceID}/pause",
        BuildingBlock::Actors,
    ),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{instanceID}/resume",
        BuildingBlock::Actors,
    ),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{instanceID}/terminate",
        BuildingBlock::Actors,
    ),
    block(
        WORKFLOW,
        POST,
        "workflows/{workflowComponent}/{instanceID}/purge",
        BuildingBlock::Actors,
    ),
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

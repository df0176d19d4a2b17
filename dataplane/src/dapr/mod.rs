//! What a request asks for: an invocation, and whom and what it calls; or something the sidecar
//! answers itself. Pure.
//!
//! The behaviour is daprd 1.18's, in its order: the registered routes first, matched against the
//! cleaned path as it came; then the header `dapr-app-id`, basic authorization, and the path, each
//! on the path decoded exactly once.

#![forbid(unsafe_code)]

pub mod building_blocks;
pub mod escape;
pub mod headers;
pub mod invariant;
pub mod json;
pub mod local;
pub mod message;
pub mod method;
pub mod path;
mod registered;
pub mod target;

pub use building_blocks::BuildingBlock;
pub use path::BadTarget;

use path::Target;

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
    scratch: Vec<u8>,
}

impl CallNotes {
    fn clear(&mut self) {
        self.target.clear();
        self.method.clear();
        self.query.clear();
        self.scratch.clear();
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
    MethodNotAllowed {
        allow: Option<&'static str>,
    },
    /// On the public port alone; elsewhere everything unknown is an invocation.
    NotFound,
    /// Control's work, too.
    Shutdown,
    Unconfigured(BuildingBlock),
}

/// Reads what a request on the Dapr API port asks for.
pub fn interpret(request: &Request<'_>, notes: &mut CallNotes) -> Asked {
    notes.clear();
    let target = match read_target(request, notes) {
        Ok(target) => target,
        Err(reason) => return Asked::Local(LocalCall::BadTarget(reason)),
    };
    if may_be_registered(target.path)
        && let Some(call) = find_registered(request.method, target.path, notes)
    {
        return Asked::Local(call);
    }
    find_target(request, notes)
}

/// Reads what a request on the public port asks for: health and metadata, and no invocation.
pub fn interpret_public(request: &Request<'_>, notes: &mut CallNotes) -> LocalCall {
    notes.clear();
    match read_target(request, notes) {
        Ok(target) => match clean_escaped(target.path, &mut notes.scratch) {
            Ok(()) => registered::find_public(request.method, &notes.scratch, &mut notes.target),
            Err(reason) => LocalCall::BadTarget(reason),
        },
        Err(reason) => LocalCall::BadTarget(reason),
    }
}

/// Leaves the decoded path in `notes.method`.
fn read_target<'a>(request: &Request<'a>, notes: &mut CallNotes) -> Result<Target<'a>, BadTarget> {
    let target = path::split_target(request.method, request.target)?;
    notes.query.extend_from_slice(target.query);
    escape::decode_path(target.path, &mut notes.method)?;
    Ok(target)
}

/// All registered routes begin with a version. What cleaning may change is looked at closely; so is
/// what no longer begins with one.
fn may_be_registered(path: &[u8]) -> bool {
    !path.is_empty() && path != b"*" && (path.starts_with(b"/v1.0") || !path::is_clean(path))
}

fn find_registered(method: &[u8], path: &[u8], notes: &mut CallNotes) -> Option<LocalCall> {
    if path.starts_with(b"/v1.0/invoke/") && path::is_clean(path) {
        return None;
    }
    match clean_escaped(path, &mut notes.scratch) {
        Ok(()) => registered::find(method, &notes.scratch, &mut notes.target),
        Err(reason) => Some(LocalCall::BadTarget(reason)),
    }
}

/// The path that the router sees: as Go would write it, cleaned, not decoded.
fn clean_escaped(path: &[u8], out: &mut Vec<u8>) -> Result<(), BadTarget> {
    escape::escaped_path(path, out)?;
    path::clean(out);
    Ok(())
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

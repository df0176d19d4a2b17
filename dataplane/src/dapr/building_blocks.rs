//! The other Dapr APIs: which requests are theirs, and what daprd 1.18 answers when none of their
//! components is configured. Pure.
//!
//! Ringcar carries invocation only. A request for another building block must still be told apart
//! from an invocation, since daprd's routes win over a `dapr-app-id` header, and must fail in the
//! words by which SDKs know what is missing. daprd looks at some of the request bodies first and
//! may call one malformed; here none is read.

#![forbid(unsafe_code)]

use super::{
    json::JsonText,
    message::{write_error, write_error_with_details},
};
use snapshot::App;

/// Whose API was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BuildingBlock {
    /// Workflows too: both need the placement service.
    Actors,
    Bindings,
    Configuration,
    Conversation,
    Cryptography,
    JobDeletion,
    JobLookup,
    JobScheduling,
    Lock,
    Publish,
    Secrets,
    State,
}

impl BuildingBlock {
    /// The status that daprd 1.18.3 gives it (pkg/messages/predefined.go, pkg/api/errors).
    pub const fn status(self) -> u16 {
        match self {
            Self::Actors | Self::Conversation => 400,
            Self::Publish => 404,
            Self::Bindings
            | Self::Configuration
            | Self::Cryptography
            | Self::JobDeletion
            | Self::JobLookup
            | Self::JobScheduling
            | Self::Lock
            | Self::Secrets
            | Self::State => 500,
        }
    }

    /// Appends the error body. `name` is what the path called the component.
    pub fn write_body(self, app: &App, name: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::State => write_state(app, name, out),
            Self::Publish => write_publish(name, out),
            Self::JobScheduling => {
                write_job("DAPR_SCHEDULER_SCHEDULE_JOB", "failed to schedule job", app, out);
            }
            Self::JobLookup => {
                write_job("DAPR_SCHEDULER_GET_JOB", "failed to get job", app, out);
            }
            Self::JobDeletion => {
                write_job("DAPR_SCHEDULER_DELETE_JOB", "failed to delete job", app, out);
            }
            plain => {
                let (code, text, names_component) = plain.words();
                write_error(out, code, |message| {
                    for (index, part) in text.split("{}").enumerate() {
                        if index > 0 && names_component {
                            message.bytes(name);
                        }
                        message.text(part);
                    }
                });
            }
        }
    }

    const fn words(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::Bindings => (
                "ERR_INVOKE_OUTPUT_BINDING",
                "error invoking output binding {}: couldn't find output binding {}",
                true,
            ),
            Self::Configuration => (
                "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
                "configuration stores not configured",
                false,
            ),
            Self::Conversation => {
                ("ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component {}", true)
            }
            Self::Cryptography => {
                ("ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured", false)
            }
            Self::Lock => ("ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured", false),
            Self::Secrets => {
                ("ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured", false)
            }
            _ => ("ERR_ACTOR_NO_PLACEMENT", "placement service is not configured", false),
        }
    }
}

fn write_state(app: &App, name: &[u8], out: &mut Vec<u8>) {
    let fill = |message: &mut JsonText<'_>| {
        message.text("state store ");
        message.bytes(name);
        message.text(" is not configured");
    };
    write_error_with_details(out, "ERR_STATE_STORE_NOT_CONFIGURED", fill, |out| {
        let metadata = [("appID", app.id.as_str())];
        write_error_info("DAPR_STATE_NOT_CONFIGURED", &metadata, out);
    });
}

/// The publisher itself is always there, so that without any component daprd 1.18 says "not found",
/// never "not configured". Its metadata would repeat the query's `metadata.*`; those stay out here.
fn write_publish(name: &[u8], out: &mut Vec<u8>) {
    let fill = |message: &mut JsonText<'_>| {
        message.text("pubsub ");
        message.bytes(name);
        message.text(" is not found");
    };
    write_error_with_details(out, "ERR_PUBSUB_NOT_FOUND", fill, |out| {
        write_error_info("DAPR_PUBSUB_NOT_FOUND", &[], out);
    });
}

fn write_job(reason: &str, what: &str, app: &App, out: &mut Vec<u8>) {
    let fill = |message: &mut JsonText<'_>| {
        message.text(what);
        message.text(" due to: scheduler clients are disabled");
    };
    write_error_with_details(out, reason, fill, |out| {
        let metadata = [("appID", app.id.as_str()), ("namespace", app.namespace.as_str())];
        write_error_info(reason, &metadata, out);
    });
}

/// `google.rpc.ErrorInfo` with its keys sorted, as Go writes a map.
fn write_error_info(reason: &str, metadata: &[(&str, &str)], out: &mut Vec<u8>) {
    out.extend_from_slice(
        b",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\
          \"domain\":\"dapr.io\",\"metadata\":{",
    );
    for (index, (key, value)) in metadata.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":\"");
        JsonText::new(out).text(value);
        out.push(b'"');
    }
    out.extend_from_slice(b"},\"reason\":\"");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\"}]");
}

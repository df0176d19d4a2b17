//! Requests that the data plane passes on: metadata entries, and shutdown.
//!
//! A change is answered once it is in force, so that a client that reads after its write finds it.

#![forbid(unsafe_code)]

use super::{End, Sidecar, Stage};
use crate::node::admin::Answer;
use snapshot::{
    Version,
    wire::{AdminCallId, AdminRequest, ToDataPlane},
};
use std::time::Duration;
use tokio::time::Instant;

/// An answer that waits until a state is in force.
pub(super) struct Reply {
    pub(super) version: Version,
    pub(super) to: Waiting,
}

pub(super) enum Waiting {
    Call(AdminCallId),
    Operator(Answer),
}

impl Sidecar {
    pub(super) fn on_admin_call(
        &mut self,
        call: AdminCallId,
        app: u32,
        request: AdminRequest,
    ) -> Option<End> {
        match request {
            AdminRequest::SetMetadata { key, value } => {
                let value = String::from_utf8_lossy(&value).into_owned();
                self.set_metadata(call, app, key, value);
                None
            }
            AdminRequest::Shutdown { force: _ } if self.node.is_some() => {
                self.shut_one_down(call, app);
                None
            }
            AdminRequest::Shutdown { force: false } => {
                self.reply(call, 204, "");
                self.log.info("Shutdown requested via API");
                match self.stage {
                    Stage::Serving => self.begin_shutdown(),
                    _ => None,
                }
            }
            AdminRequest::Shutdown { force: true } => {
                self.reply(call, 204, "");
                self.log.warning(
                    "Force shutdown requested, exiting immediately without graceful shutdown",
                );
                self.stage = Stage::Forcing { until: Instant::now() + FORCE_PAUSE };
                None
            }
        }
    }

    fn set_metadata(&mut self, call: AdminCallId, app: u32, key: String, value: String) {
        if self.replies.len() >= REPLIES_MAX {
            self.reply(call, 503, "too many changes are waiting");
            return;
        }
        self.note_in_registry(app, &key, &value);
        match self.publisher.set_metadata(self.supervisor.told(), app, key, value) {
            Ok(()) => {
                let version = self.publish();
                self.replies.push_back(Reply { version, to: Waiting::Call(call) });
            }
            Err(e) => self.reply(call, 400, &e.to_string()),
        }
    }

    fn note_in_registry(&mut self, app: u32, key: &str, value: &str) {
        let Some(served) = self.apps.get_mut(&app) else { return };
        if served.entry.note(key, value) && served.stage.is_registered() {
            self.register(app);
        }
    }

    pub(super) fn reply_up_to(&mut self, version: Version, status: u16, message: &str) {
        let due = self.replies.iter().take_while(|reply| reply.version <= version).count();
        let due: Vec<Waiting> = self.replies.drain(..due).map(|reply| reply.to).collect();
        for to in due {
            match to {
                Waiting::Call(call) => self.reply(call, status, message),
                Waiting::Operator(answer) => answer.send(status, message.to_owned()),
            }
        }
    }

    pub(super) fn reply(&mut self, call: AdminCallId, status: u16, message: &str) {
        let (content_type, body) = if message.is_empty() {
            (String::new(), Vec::new())
        } else {
            let body = serde_json::json!({ "errorCode": "ERR_INTERNAL", "message": message });
            ("application/json".to_owned(), body.to_string().into_bytes())
        };
        self.supervisor.send(&ToDataPlane::AdminReply { call, status, content_type, body });
    }
}

/// Time for the answer to a forced shutdown to leave; daprd's.
const FORCE_PAUSE: Duration = Duration::from_millis(100);

/// Metadata changes that wait to be in force.
const REPLIES_MAX: usize = 1024;

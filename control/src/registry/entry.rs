//! What is registered of one running sidecar: how to call it, and what `ringcar list` shows.

#![forbid(unsafe_code)]

use crate::{config::zone::Zone, timestamp::Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{net::SocketAddr, path::Path, sync::Arc};

/// The shape of the file. A reader that does not know it leaves the entry out.
const FORMAT: u32 = 1;

/// Largest file that is read: the command line is the only part of any length.
pub(crate) const ENTRY_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Entry {
    format: u32,
    pub(crate) id: AppId,
    pub(crate) namespace: Namespace,
    pub(crate) instance: InstanceId,
    /// The sidecar's control process.
    pub(crate) pid: u32,
    pub(crate) created: Timestamp,
    /// Where other sidecars call.
    pub(crate) peer: Address,
    /// Where sidecars on other machines call, if they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote_peer: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Zone>,
    /// Where the app, and `ringcar invoke`, call.
    pub(crate) api: Address,
    pub(crate) grpc_port: u16,
    /// 0: none.
    pub(crate) app_port: u16,
    /// 0: none.
    pub(crate) metrics_port: u16,
    pub(crate) body_bytes_max: Option<u64>,
    pub(crate) read_buffer_bytes: u32,
    /// The node that serves the app, where it is not a sidecar of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Arc<str>>,
    /// Where operators ask its control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<Arc<Path>>,
    /// `None` where `run` told nothing, which is so for all apps of a node.
    #[serde(flatten, deserialize_with = "run_entries", skip_serializing_if = "Option::is_none")]
    run: Option<Box<RunEntries>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("is larger than {ENTRY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("is not an entry: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("has format {0}; this version reads {FORMAT}")]
    Format(u32),
}

/// What never changes while a sidecar runs.
pub(crate) struct Identity {
    pub(crate) id: AppId,
    pub(crate) namespace: Namespace,
    pub(crate) instance: InstanceId,
    pub(crate) peer: Address,
    pub(crate) api: Address,
}

/// What `run` tells of itself, of the run file that names the app, and where the logs are; empty
/// where it told nothing of the kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct RunEntries {
    /// The `run` command that started the sidecar, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cli_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) app_pid: Option<u32>,
    /// The app's command line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) command: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) run_template_path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) run_template_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) app_log_path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) daprd_log_path: String,
}

/// A process has many entries, or one of these.
fn run_entries<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RunEntries>>, D::Error> {
    let entries = RunEntries::deserialize(from)?;
    Ok((entries != RunEntries::default()).then(|| Box::new(entries)))
}

impl RunEntries {
    const fn nothing() -> Self {
        Self {
            cli_pid: None,
            app_pid: None,
            command: String::new(),
            run_template_path: String::new(),
            run_template_name: String::new(),
            app_log_path: String::new(),
            daprd_log_path: String::new(),
        }
    }
}

impl Entry {
    pub(crate) fn new(identity: Identity) -> Self {
        let Identity { id, namespace, instance, peer, api } = identity;
        Self {
            format: FORMAT,
            id,
            namespace,
            instance,
            pid: std::process::id(),
            created: Timestamp::now(),
            peer,
            remote_peer: None,
            zone: None,
            api,
            grpc_port: 0,
            app_port: 0,
            metrics_port: 0,
            body_bytes_max: None,
            read_buffer_bytes: 0,
            node: None,
            control: None,
            run: None,
        }
    }

    /// What `ringcar list` and `ringcar stop` need of what `run` tells; `false` when it is nothing
    /// of that.
    pub(crate) fn note(&mut self, key: &str, value: &str) -> bool {
        let mut run = self.run.clone().unwrap_or_default();
        match key {
            "cliPID" => run.cli_pid = value.parse().ok(),
            "appPID" => run.app_pid = value.parse().ok(),
            "appCommand" => value.clone_into(&mut run.command),
            "runTemplatePath" => value.clone_into(&mut run.run_template_path),
            "runTemplateName" => value.clone_into(&mut run.run_template_name),
            "appLogPath" => value.clone_into(&mut run.app_log_path),
            "daprdLogPath" => value.clone_into(&mut run.daprd_log_path),
            _ => return false,
        }
        self.run = Some(run);
        true
    }

    pub(crate) fn run(&self) -> &RunEntries {
        const NOTHING: &RunEntries = &RunEntries::nothing();
        self.run.as_deref().unwrap_or(NOTHING)
    }

    /// # Errors
    /// When the bytes are no entry this version can read.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge);
        }
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        match serde_json::from_slice::<Head>(bytes)?.format {
            FORMAT => Ok(serde_json::from_slice(bytes)?),
            other => Err(EntryError::Format(other)),
        }
    }

    /// # Errors
    /// When it would be larger than is read.
    pub(crate) fn emit(&self) -> Result<Vec<u8>, EntryError> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        if bytes.len() > ENTRY_BYTES_MAX { Err(EntryError::TooLarge) } else { Ok(bytes) }
    }

    /// The port of the API, 0 when it is a Unix socket.
    pub(crate) const fn http_port(&self) -> u16 {
        match &self.api {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => 0,
        }
    }
}

#[cfg(test)]
impl Entry {
    pub(crate) fn sample(id: &str, instance: &str) -> Self {
        Self::new(Identity {
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            instance: InstanceId(instance.into()),
            peer: Address::Unix(format!("/run/{instance}").into()),
            api: Address::Tcp(([127, 0, 0, 1], 3500).into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_entry() {
        for (case, bytes, want) in [
            ("empty", &b""[..], "is not an entry"),
            ("cut off", b"{\"format\":1,\"id\":\"a\"", "is not an entry"),
            ("another format", b"{\"format\":2}", "has format 2"),
            ("id with a dot", b"{\"format\":1,\"id\":\"a.b\"}", "is not an entry"),
        ] {
            let text = Entry::parse(bytes).unwrap_err().to_string();
            assert!(text.starts_with(want), "{case}: {text}");
        }
        let huge = vec![b' '; ENTRY_BYTES_MAX + 1];
        assert!(matches!(Entry::parse(&huge), Err(EntryError::TooLarge)));
        let mut long = Entry::sample("a", "1");
        long.note("appCommand", &"x".repeat(ENTRY_BYTES_MAX));
        assert!(matches!(long.emit(), Err(EntryError::TooLarge)));
    }

    #[test]
    fn reads_what_it_writes_and_ignores_what_it_does_not_know() {
        let mut entry = Entry::sample("orders", "7-1");
        entry.note("cliPID", "12");
        entry.zone = Some("berlin".into());
        entry.note("appCommand", "python3 \"app.py\"");
        let bytes = entry.emit().unwrap();
        assert_eq!(Entry::parse(&bytes).unwrap(), entry);
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        value["weather"] = "fair".into();
        assert_eq!(Entry::parse(value.to_string().as_bytes()).unwrap(), entry);
    }
}

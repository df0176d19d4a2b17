//! Who calls, and what it knows: a sidecar or a node that runs is asked over its socket; for one
//! that does not run, the registries it would have are read.

#![forbid(unsafe_code)]

use super::{
    super::sidecar::{SidecarError, configure, environment},
    Arguments, ExplainError,
};
use crate::{
    config::{
        Config, ConfigError,
        flags::{self, Values},
    },
    http_client,
    knowledge::{
        Knowledge, KnownApp, KnownEndpoint, KnownRow, KnownServer, Question, RegistryState,
    },
    log::Log,
    registry::{Entry, Identity, Registries, Revision, Table},
    runtime_dir::RuntimeDir,
};
use hyper::{Method, body::Bytes};
use snapshot::{Address, InstanceId};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio::time::Instant;

#[derive(Debug, thiserror::Error)]
pub(super) enum CallerError {
    #[error(
        "no sidecar of app {wanted} runs on this machine; there are: {there}. For one that does not \
         run, name its --config or --app-port"
    )]
    NoCaller { wanted: String, there: String },
    #[error("say who calls with --as; there are: {0}")]
    WhoCalls(String),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Flags(String),
    #[error("{0}")]
    Plan(#[from] SidecarError),
}

pub(super) struct Caller {
    pub(super) entry: Entry,
    /// Of one that does not run.
    plan: Option<Box<Config>>,
}

impl Caller {
    pub(super) fn find(table: &Table, arguments: &Arguments) -> Result<Self, CallerError> {
        let Arguments { caller, node, .. } = arguments;
        let is_meant = |entry: &&Entry| {
            let is_named = caller.as_deref().is_none_or(|id| id == entry.id.as_str());
            is_named && (node.is_none() || entry.node.as_deref() == node.as_deref())
        };
        let mut meant = table.iter().filter(is_meant);
        let running = |entry: &Entry| Self { entry: entry.clone(), plan: None };
        match (meant.next(), caller) {
            (Some(first), Some(_)) => Ok(running(first)),
            (Some(only), None) if meant.next().is_none() => Ok(running(only)),
            (None, Some(id)) if !arguments.config.is_empty() || arguments.app_port.is_some() => {
                Self::planned(id, arguments)
            }
            (None, Some(wanted)) => {
                Err(CallerError::NoCaller { wanted: wanted.clone(), there: ids(table) })
            }
            (_, None) => Err(CallerError::WhoCalls(ids(table))),
        }
    }

    fn planned(id: &str, arguments: &Arguments) -> Result<Self, CallerError> {
        let mut words = vec![format!("--app-id={id}")];
        words.extend(arguments.config.iter().map(|path| format!("--config={path}")));
        words.extend(arguments.app_port.map(|port| format!("--app-port={port}")));
        let matches = flags::matches_of(&words).map_err(|e| CallerError::Flags(e.to_string()))?;
        let mut values = Values::new(&matches, &environment)?;
        let config = configure(&mut values)?;
        let api = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, config.http_port)));
        let mut entry = Entry::new(Identity {
            id: config.app_id.clone(),
            namespace: config.namespace.clone(),
            instance: InstanceId("none".into()),
            peer: Address::Unix("none".into()),
            api,
        });
        entry.app_port = config.app_port;
        entry.body_bytes_max = config.body_bytes_max;
        Ok(Self { entry, plan: Some(Box::new(config)) })
    }

    pub(super) fn words(&self) -> String {
        let Entry { id, namespace, pid, node, .. } = &self.entry;
        let place = match (&self.plan, node) {
            (Some(_), _) => "which does not run".to_owned(),
            (None, Some(node)) => format!("node {node}, process {pid}"),
            (None, None) => format!("process {pid}"),
        };
        format!("{id} in namespace {namespace}, {place}")
    }

    pub(super) const fn is_running(&self) -> bool {
        self.plan.is_none()
    }

    /// How it is served itself; `None`: nobody tells.
    pub(super) async fn known(&self) -> Option<KnownApp> {
        if let Some(config) = &self.plan {
            return Some(KnownApp {
                access: config.guards.access.clone(),
                resiliency: config.resiliency.clone(),
                concurrency_max: config.care.concurrency_max,
                is_healthy: None,
                http_endpoints: KnownServer::all(&config.in_scope.http_endpoints),
            });
        }
        let Entry { id, namespace, control, .. } = &self.entry;
        let question = Question { id: id.clone(), namespace: namespace.clone() };
        ask(control.as_ref()?, &question).await.ok()?.app
    }

    /// What it knows of an app, and in which words that was found out.
    pub(super) async fn learn(
        &self,
        question: &Question,
        table: &Table,
        dir: &RuntimeDir,
    ) -> Result<(Knowledge, String), ExplainError> {
        if let Some(config) = &self.plan {
            let knowledge = self.read(config, question, dir).await?;
            return Ok((knowledge, "the registries of its configuration, read now".to_owned()));
        }
        let asked = match &self.entry.control {
            Some(socket) => ask(socket, question).await,
            None => Err("it has no socket for questions".to_owned()),
        };
        Ok(match asked {
            Ok(knowledge) => {
                let words = format!("its control, whose state {} is in force", knowledge.version);
                (knowledge, words)
            }
            Err(reason) => {
                let words =
                    format!("the local registry alone, since its control is silent: {reason}");
                (of_table(&self.entry, question, table), words)
            }
        })
    }

    async fn read(
        &self,
        config: &Config,
        question: &Question,
        dir: &RuntimeDir,
    ) -> Result<Knowledge, ExplainError> {
        let Question { id, namespace } = question;
        dir.create()?;
        let mut registries =
            Registries::start(&config.registries, dir, &[], Vec::new(), &Log::silent())?;
        registries.learn(id, namespace, Instant::now() + LEARN_TIMEOUT).await;
        let rows = registries.known(id, namespace);
        let is_here = *id == config.app_id && *namespace == config.namespace;
        Ok(Knowledge {
            is_here,
            app: if is_here { self.known().await } else { None },
            registries: registries.states(),
            endpoints: counting(&rows),
            rows,
            ..Knowledge::default()
        })
    }
}

fn ids(table: &Table) -> String {
    let ids: BTreeSet<&str> = table.iter().map(|entry| entry.id.as_str()).collect();
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.into_iter().collect::<Vec<_>>().join(", ")
}

pub(super) async fn ask(socket: &Path, question: &Question) -> Result<Knowledge, String> {
    let body = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let request = http_client::request(Method::POST, "/v1/explain", Bytes::from(body));
    let request = request.map_err(|e| e.to_string())?;
    let address = Address::Unix(socket.into());
    let response = http_client::call(&address, request, ASK_TIMEOUT).await;
    let response = response.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    serde_json::from_slice(response.body()).map_err(|e| format!("it is not understood: {e}"))
}

/// What every sidecar of this machine knows.
pub(super) fn of_table(caller: &Entry, question: &Question, table: &Table) -> Knowledge {
    let is_it = |entry: &&Entry| entry.id == question.id && entry.namespace == question.namespace;
    let rows: Vec<KnownRow> = table
        .iter()
        .filter(is_it)
        .map(|entry| KnownRow {
            registry: "local".to_owned(),
            revision: Revision::Local { pid: entry.pid, created: entry.created }.to_string(),
            instance: entry.instance.0.to_string(),
            address: entry.peer.clone(),
            zone: entry.zone.as_deref().map(str::to_owned),
            hidden: (entry.pid == caller.pid && is_own(entry, caller))
                .then(|| "the app is served here".to_owned()),
        })
        .collect();
    Knowledge {
        is_here: rows.iter().any(|row| row.hidden.is_some()),
        registries: vec![RegistryState { name: "local".into(), state: "up".into() }],
        endpoints: counting(&rows),
        rows,
        ..Knowledge::default()
    }
}

/// Served by the caller's data plane: it itself, or a neighbour on its node.
fn is_own(entry: &Entry, caller: &Entry) -> bool {
    entry.instance == caller.instance || (entry.node.is_some() && entry.node == caller.node)
}

fn counting(rows: &[KnownRow]) -> Vec<KnownEndpoint> {
    let rows = rows.iter().filter(|row| row.hidden.is_none());
    rows.map(|row| KnownEndpoint { address: row.address.clone(), zone: row.zone.clone() }).collect()
}

/// A control that takes longer is in trouble.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// For registries over a network, one that must be given up included.
const LEARN_TIMEOUT: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(caller: Option<&str>, node: Option<&str>) -> Arguments {
        Arguments {
            call: "orders/GET".into(),
            path: "/".into(),
            caller: caller.map(str::to_owned),
            node: node.map(str::to_owned),
            config: Vec::new(),
            app_port: None,
            output: super::super::Output::Table,
        }
    }

    #[test]
    fn the_caller_is_the_one_that_is_meant() {
        let mut node = Entry::sample("orders", "3");
        node.node = Some("shop".into());
        let table = vec![Entry::sample("checkout", "1"), Entry::sample("orders", "2"), node];
        let find = |caller: Option<&str>, node: Option<&str>| {
            let found = Caller::find(&table, &arguments(caller, node));
            found.map(|caller| caller.entry.instance.0.to_string()).map_err(|e| e.to_string())
        };
        for (case, caller, node, want) in [
            ("by its name", Some("checkout"), None, Ok("1")),
            ("the first of several", Some("orders"), None, Ok("2")),
            ("that of a node", Some("orders"), Some("shop"), Ok("3")),
            ("the only one of a node", None, Some("shop"), Ok("3")),
            ("any of several", None, None, Err("there are: checkout, orders")),
            ("nobody", Some("nope"), None, Err("no sidecar of app nope runs")),
            ("not on that node", Some("checkout"), Some("shop"), Err("no sidecar of app checkout")),
        ] {
            match (find(caller, node), want) {
                (Err(got), Err(want)) => assert!(got.contains(want), "{case}: {got}"),
                (got, want) => {
                    assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{case}");
                }
            }
        }
        let plan = Arguments { app_port: Some(6001), ..arguments(Some("new"), None) };
        let planned = Caller::find(&table, &plan).unwrap();
        assert_eq!((planned.entry.id.as_str(), planned.entry.app_port), ("new", 6001));
        assert!(planned.words().ends_with("which does not run"));
    }

    #[test]
    fn neighbours_on_a_node_are_here() {
        let mut orders = Entry::sample("orders", "1");
        let question = Question { id: orders.id.clone(), namespace: orders.namespace.clone() };
        let mut caller = Entry::sample("caller", "2");
        for (case, node, want) in [("sidecars", None, false), ("a node", Some("shop"), true)] {
            (orders.node, caller.node) = (node.map(Into::into), node.map(Into::into));
            let table = vec![orders.clone(), caller.clone()];
            let knowledge = of_table(&caller, &question, &table);
            assert_eq!(knowledge.is_here, want, "{case}");
            assert_eq!(knowledge.endpoints.is_empty(), want, "{case}");
        }
    }
}

//! A control that serves the apps of a node: its file, what operators change beside it, and how
//! both become the set of apps that is served.

#![forbid(unsafe_code)]

use super::{
    Sidecar,
    admin::{Reply, Waiting},
    apps::{self, Failure, Outcome},
};
use crate::{
    claim::PlaneName,
    config::{Config, file::Problem},
    listen::ListenError,
    log::Log,
    node::{
        Files,
        admin::{self, Answer, Wish},
        changes::{Changes, Name},
        config::{Defaults, NodeConfig},
        environment,
    },
    registry::inotify::{self, DirectoryWatch, directory_of},
    runtime_dir::RuntimeDir,
};
use serde::Serialize;
use snapshot::{AppId, Namespace, wire::AdminCallId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

pub(super) struct Node {
    pub(super) name: String,
    files: Files,
    base: Config,
    defaults: Defaults,
    /// Of the file.
    apps: Vec<Arc<Config>>,
    changes: Changes,
    /// What operators added, as it was last understood.
    added: BTreeMap<Name, Arc<Config>>,
    orders: mpsc::Receiver<admin::Order>,
    admin_socket: PathBuf,
    changed: Arc<Notify>,
    /// End with the node.
    watches: JoinSet<()>,
    watched: BTreeSet<PathBuf>,
    /// What was wrong with the file the last time.
    refusal: Option<String>,
}

pub(super) enum Order {
    FileChanged,
    Operator(admin::Order),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{0}")]
    Listen(#[from] ListenError),
}

/// One app, as `ringcar node list` tells it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    id: &'a str,
    namespace: &'a str,
    api: String,
    address: String,
    state: &'static str,
    source: &'static str,
}

impl Node {
    /// Must be called within the runtime, by whoever has the claim.
    pub(super) fn start(
        config: &NodeConfig,
        files: Files,
        dir: &RuntimeDir,
        name: &PlaneName,
        log: &Log,
    ) -> Result<Self, NodeError> {
        let admin_socket = dir.admin_socket(name);
        let orders = admin::serve(&admin_socket)?;
        let (changes, problem) = Changes::load(dir.node_changes(name));
        if let Some(problem) = problem {
            log.error(format_args!("Changes of an earlier control are lost: {problem}"));
        }
        let directory = files.path.as_deref().map(directory_of);
        let mut node = Self {
            name: config.name.clone(),
            files,
            base: config.base.clone(),
            defaults: config.defaults.clone(),
            apps: config.apps.iter().cloned().map(Arc::new).collect(),
            changes,
            added: BTreeMap::new(),
            orders,
            admin_socket,
            changed: Arc::new(Notify::new()),
            watches: JoinSet::new(),
            watched: BTreeSet::new(),
            refusal: None,
        };
        node.watch(directory, log);
        Ok(node)
    }

    /// From here on a change in one of these directories has the file read anew.
    fn watch(&mut self, directories: impl IntoIterator<Item = PathBuf>, log: &Log) {
        for directory in directories {
            if !self.watched.insert(directory.clone()) {
                continue;
            }
            match DirectoryWatch::start(&directory, inotify::Wake::OnClose) {
                Ok(mut watch) => {
                    let changed = Arc::clone(&self.changed);
                    self.watches.spawn(async move {
                        while watch.changed().await.is_ok() {
                            changed.notify_one();
                        }
                    });
                }
                Err(e) => log.warning(format_args!("{e}; SIGHUP reads the file anew")),
            }
        }
    }

    /// The apps of the file, and what was changed beside it.
    pub(super) fn wanted(&mut self, log: &Log) -> Vec<Arc<Config>> {
        let of_file = self.apps.iter().map(|app| (apps::name_of(app), Arc::clone(app)));
        let mut wanted: BTreeMap<Name, Arc<Config>> = of_file.collect();
        wanted.retain(|name, _| !self.changes.is_removed(name));
        for (name, text) in self.changes.added() {
            // What was understood once may not be any more, under another file's defaults or with
            // other resources; then it stays as it was.
            if let Ok(apps) = self.defaults.apps(text, &self.base, &environment) {
                let apps = apps.into_iter().map(|(app, _)| (name.clone(), Arc::new(app)));
                self.added.extend(apps);
            }
            wanted.extend(self.added.get_key_value(name).map(|(n, app)| (n.clone(), app.clone())));
        }
        self.added.retain(|name, _| wanted.contains_key(name));
        let wanted: Vec<Arc<Config>> = wanted.into_values().collect();
        let directories = wanted.iter().flat_map(|app| app.resources.iter().cloned());
        let directories: BTreeSet<PathBuf> = directories.collect();
        self.watch(directories, log);
        wanted
    }

    fn is_in_file(&self, name: &Name) -> bool {
        self.apps.iter().any(|app| apps::name_of(app) == *name)
    }

    pub(super) fn end(self) {
        let _ = fs::remove_file(&self.admin_socket);
        self.changes.end();
    }
}

/// The next order. Dropping the future before it is ready loses nothing.
pub(super) async fn next(node: &mut Option<Node>) -> Order {
    let Some(node) = node else { return std::future::pending().await };
    tokio::select! {
        () = node.changed.notified() => Order::FileChanged,
        order = node.orders.recv() => match order {
            Some(order) => Order::Operator(order),
            None => std::future::pending().await,
        },
    }
}

impl Sidecar {
    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::FileChanged => self.reload_node(),
            Order::Operator(admin::Order { wish, answer }) => match wish {
                Wish::Add(text) => self.add_apps(&text, answer),
                Wish::List => answer.send(200, self.list_apps()),
                Wish::Reload => {
                    self.reload_node();
                    let refusal = self.node.as_ref().and_then(|node| node.refusal.clone());
                    match refusal {
                        Some(reason) => answer.send(422, reason),
                        None => self.answer_when_live(answer),
                    }
                }
                Wish::Remove { namespace, id } => self.remove_app(&namespace, &id, answer),
            },
        }
    }

    /// Reads the file anew. One that is broken leaves everything as it was.
    pub(super) fn reload_node(&mut self) {
        let Some(node) = &mut self.node else { return };
        let config = match node.files.read(&environment) {
            Ok(config) => config,
            Err(problems) => {
                let text = texts(&problems);
                if node.refusal.as_ref() != Some(&text) {
                    self.log.error(format_args!(
                        "The node's file is not taken, and what was in force stays: {text}"
                    ));
                    node.refusal = Some(text);
                }
                return;
            }
        };
        let was_refused = node.refusal.take().is_some();
        node.apps = config.apps.into_iter().map(Arc::new).collect();
        node.defaults = config.defaults;
        let (old, new) = (&node.base, &config.base);
        let waits = old.metrics != new.metrics || old.registries != new.registries;
        let wanted = node.wanted(&self.log);
        if waits {
            let text = "Changes of the metrics page and of registries wait for the next start";
            self.log.warning(text);
        }
        self.log.set_threshold(config.base.log.threshold);
        self.graceful_timeout = config.base.graceful_timeout;
        self.block_duration = config.base.block_duration;
        let told = self.supervisor.told();
        self.publisher.set_on_control_lost(told, config.on_control_lost);
        let before = self.version();
        let outcome = self.serve(wanted);
        for failure in &outcome.failures {
            self.log.error(failure.text());
        }
        if outcome.version != before || was_refused {
            self.log.info(format_args!("Node's file reloaded: {} apps", self.apps.len()));
        }
    }

    /// All of them, or none.
    fn add_apps(&mut self, text: &str, answer: Answer) {
        let Some(node) = &mut self.node else { return };
        let apps = match node.defaults.apps(text, &node.base, &environment) {
            Ok(apps) if apps.is_empty() => return answer.send(422, "there is no app".to_owned()),
            Ok(apps) => apps,
            Err(problems) => return answer.send(422, texts(&problems)),
        };
        let added: Vec<(Name, String)> =
            apps.into_iter().map(|(app, text)| (apps::name_of(&app), text)).collect();
        let before = node.changes.clone();
        if let Err(e) = node.changes.add(&added) {
            return answer.send(500, format!("the change cannot be written down: {e}"));
        }
        let wanted = node.wanted(&self.log);
        let outcome = self.serve(wanted);
        let is_about = |failure: &&Failure| added.iter().any(|(name, _)| *name == failure.name);
        let failures: Vec<String> =
            outcome.failures.iter().filter(is_about).map(Failure::text).collect();
        if failures.is_empty() {
            for ((namespace, id), _) in &added {
                self.log.info(format_args!("App {namespace}/{id} was added"));
            }
            return self.answer_at(outcome.version, answer);
        }
        self.take_back(before);
        answer.send(409, failures.join("\n"));
    }

    fn take_back(&mut self, before: Changes) {
        let Some(node) = &mut self.node else { return };
        if let Err(e) = node.changes.restore(before) {
            self.log.error(format_args!("a change that failed cannot be taken back: {e}"));
        }
        let wanted = node.wanted(&self.log);
        self.serve(wanted);
    }

    fn remove_app(&mut self, namespace: &str, id: &str, answer: Answer) {
        let name = Namespace::new(namespace).ok().zip(AppId::new(id).ok());
        let Some((name, outcome)) =
            name.and_then(|name| Some((name.clone(), self.drop_app(&name)?)))
        else {
            return answer.send(404, format!("app {namespace}/{id} is not served here"));
        };
        match outcome {
            Ok(outcome) => {
                self.log.info(format_args!("App {}/{} is no longer served", name.0, name.1));
                self.answer_at(outcome.version, answer);
            }
            Err(e) => answer.send(500, format!("the change cannot be written down: {e}")),
        }
    }

    /// `None` when there is no such app.
    fn drop_app(&mut self, name: &Name) -> Option<std::io::Result<Outcome>> {
        let node = self.node.as_mut()?;
        if !node.wanted(&self.log).iter().any(|app| apps::name_of(app) == *name) {
            return None;
        }
        let is_in_file = node.is_in_file(name);
        if let Err(e) = node.changes.remove(name, is_in_file) {
            return Some(Err(e));
        }
        let wanted = node.wanted(&self.log);
        Some(Ok(self.serve(wanted)))
    }

    /// `POST /v1.0/shutdown` at an app's port: its sidecar ends, and those of the others do not.
    pub(super) fn shut_one_down(&mut self, call: AdminCallId, number: u32) {
        self.reply(call, 204, "");
        let Some(served) = self.apps.get(&number) else { return };
        let name = apps::name_of(&served.config);
        self.log.info(format_args!("Shutdown of app {}/{} requested via API", name.0, name.1));
        if let Some(Err(e)) = self.drop_app(&name) {
            self.log.error(format_args!("the change cannot be written down: {e}"));
        }
    }

    fn answer_when_live(&mut self, answer: Answer) {
        self.answer_at(self.version(), answer);
    }

    fn answer_at(&mut self, version: snapshot::Version, answer: Answer) {
        if version <= self.live {
            return answer.send(204, String::new());
        }
        self.replies.push_back(Reply { version, to: Waiting::Operator(answer) });
    }

    fn list_apps(&self) -> String {
        let Some(node) = &self.node else { return String::new() };
        let rows: Vec<Row<'_>> = self
            .apps
            .values()
            .map(|served| {
                let name = apps::name_of(&served.config);
                let is_added = node.changes.added().any(|(added, _)| *added == name);
                Row {
                    id: served.entry.id.as_str(),
                    namespace: served.entry.namespace.as_str(),
                    api: served.entry.api.to_string(),
                    address: served.address(),
                    state: served.stage.name(),
                    source: if is_added { "added" } else { "file" },
                }
            })
            .collect();
        serde_json::to_string(&rows).expect("strings have a JSON form")
    }
}

impl Failure {
    fn text(&self) -> String {
        format!("App {}/{} cannot be served so: {}", self.name.0, self.name.1, self.reason)
    }
}

fn texts(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

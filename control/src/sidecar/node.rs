//! A control that serves the apps of a node: its file, what operators change beside it, and how
//! both become the set of apps that is served.

#![forbid(unsafe_code)]

use super::{
    Sidecar,
    admin::{Reply, Waiting},
    apps::{self, Failure},
    farewell::Farewells,
    watches::Watches,
};
use crate::{
    claim::PlaneName,
    config::{Config, file::Problem},
    log::Log,
    node::{
        Files,
        admin::{Answer, Order, Wish},
        changes::{Changes, Name},
        config::{Added, Defaults, NodeConfig},
        environment,
    },
    registry::inotify::directory_of,
    runtime_dir::RuntimeDir,
    steering::NodeSteering,
};
use serde::Serialize;
use snapshot::{AppId, Namespace, wire::AdminCallId};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::PathBuf,
    sync::Arc,
};

pub(super) struct Node {
    pub(super) name: Arc<str>,
    files: Files,
    base: Config,
    defaults: Defaults,
    /// As the node was started.
    steering: NodeSteering,
    /// Of the file.
    apps: Vec<Arc<Config>>,
    changes: Changes,
    /// What operators added, as it was last understood.
    added: BTreeMap<Name, Arc<Config>>,
    pub(super) farewells: Farewells,
    watches: Watches,
    /// What was wrong with the file the last time.
    refusal: Option<String>,
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
    /// Must be called within the runtime, by whoever has the claim. Takes the apps out of `config`:
    /// of a thousand, one copy is enough.
    pub(super) fn start(
        config: &mut NodeConfig,
        files: Files,
        dir: &RuntimeDir,
        name: &PlaneName,
        log: &Log,
    ) -> Self {
        let (changes, problem) = Changes::load(dir.node_changes(name));
        if let Some(problem) = problem {
            log.error(format_args!("Changes of an earlier control are lost: {problem}"));
        }
        let mut node = Self {
            name: config.name.as_str().into(),
            files,
            base: config.base.clone(),
            defaults: config.defaults.clone(),
            steering: config.steering.clone(),
            apps: mem::take(&mut config.apps),
            changes,
            added: BTreeMap::new(),
            farewells: Farewells::default(),
            watches: Watches::default(),
            refusal: None,
        };
        node.watch_files(&config.files, log);
        node
    }

    /// From here on a change of one of these, or of the node's own file, has them read anew.
    fn watch_files(&mut self, named: &BTreeSet<PathBuf>, log: &Log) {
        let files = self.files.path.iter().chain(named);
        self.watches.add(files.map(|path| directory_of(path)).collect::<Vec<_>>(), log);
    }

    /// The apps of the file, and what was changed beside it.
    pub(super) fn wanted(&mut self, log: &Log) -> Vec<Arc<Config>> {
        let of_file = self.apps.iter().map(|app| (apps::name_of(app), Arc::clone(app)));
        let mut wanted: BTreeMap<Name, Arc<Config>> = of_file.collect();
        wanted.retain(|name, _| !self.changes.is_removed(name));
        let mut named = BTreeSet::new();
        for (name, text) in self.changes.added() {
            // What was understood once may not be any more, under another file's defaults or with
            // other resources; then it stays as it was.
            if let Ok(Added { apps, files }) = self.defaults.apps(text, &self.base, &environment) {
                named.extend(files);
                let apps = apps.into_iter().map(|(app, _)| (name.clone(), app));
                self.added.extend(apps);
            }
            wanted.extend(self.added.get_key_value(name).map(|(n, app)| (n.clone(), app.clone())));
        }
        self.added.retain(|name, _| wanted.contains_key(name));
        wanted.extend(self.farewells.apps().map(|(name, app)| (name.clone(), Arc::clone(app))));
        let wanted: Vec<Arc<Config>> = wanted.into_values().collect();
        let directories = wanted.iter().flat_map(|app| app.resources.iter().cloned());
        let directories: BTreeSet<PathBuf> = directories.collect();
        self.watches.add(directories, log);
        self.watch_files(&named, log);
        wanted
    }

    fn is_in_file(&self, name: &Name) -> bool {
        self.apps.iter().any(|app| apps::name_of(app) == *name)
    }

    pub(super) fn end(self) {
        self.changes.end();
    }
}

/// Ready when one of its files may have changed.
pub(super) async fn changed(node: &Option<Node>) {
    match node {
        Some(node) => node.watches.changed().await,
        None => std::future::pending().await,
    }
}

impl Sidecar {
    pub(super) fn on_order(&mut self, Order { wish, answer }: Order) {
        match wish {
            Wish::Explain(question) => self.explain(question, answer),
            Wish::Denials => self.tell_denials(answer),
            Wish::DenialsAfter(number) => self.follow_denials(number, answer),
            Wish::Detach => self.detach(answer),
            _ if self.node.is_none() => {
                answer.send(404, "this is a sidecar, not a node".to_owned());
            }
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
        }
    }

    /// Reads the file anew. One that is broken leaves everything as it was.
    pub(super) fn reload_node(&mut self) {
        self.cut_farewells_short();
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
        node.apps = config.apps;
        node.defaults = config.defaults;
        node.watch_files(&config.files, &self.log);
        if node.base.process.metrics != config.base.process.metrics {
            self.log.warning("Changes of the metrics page wait for the next start");
        }
        if node.steering != config.steering {
            self.log.warning("Changes of the node's own steering wait for the next start");
        }
        let is_new = |warning: &&String| !node.base.warnings.contains(warning);
        config.base.warnings.iter().filter(is_new).for_each(|warning| self.log.warning(warning));
        node.base.warnings.clone_from(&config.base.warnings);
        let wanted = node.wanted(&self.log);
        self.log.set_threshold(config.base.process.log.threshold);
        self.graceful_timeout = config.base.process.graceful_timeout;
        self.block_duration = config.base.process.block_duration;
        self.scrapes.set_rules(&config.base.telemetry.rules);
        let told = self.supervisor.told();
        self.publisher.set_on_control_lost(told, config.on_control_lost);
        let before = self.version();
        let renewal = self.renew(&config.base.registries, wanted);
        if renewal.version != before || was_refused || renewal.is_renewed {
            self.log.info(format_args!("Node's file reloaded: {} apps", self.apps.len()));
        }
    }

    /// All of them, or none.
    fn add_apps(&mut self, text: &str, answer: Answer) {
        self.cut_farewells_short();
        let Some(node) = &mut self.node else { return };
        let apps = match node.defaults.apps(text, &node.base, &environment) {
            Ok(Added { apps, .. }) if apps.is_empty() => {
                return answer.send(422, "there is no app".to_owned());
            }
            Ok(Added { apps, .. }) => apps,
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
        let Some((name, done)) =
            name.and_then(|name| Some((name.clone(), self.forget_app(&name)?)))
        else {
            return answer.send(404, format!("app {namespace}/{id} is not served here"));
        };
        match done {
            Ok(()) => {
                self.log.info(format_args!("App {}/{} is no longer served", name.0, name.1));
                self.bid_farewell(&name, Some(answer));
            }
            Err(e) => answer.send(500, format!("the change cannot be written down: {e}")),
        }
    }

    /// Writes down that the app is not wanted. `None` when there is no such app.
    fn forget_app(&mut self, name: &Name) -> Option<std::io::Result<()>> {
        let node = self.node.as_mut()?;
        if node.farewells.is_leaving(name)
            || !node.wanted(&self.log).iter().any(|app| apps::name_of(app) == *name)
        {
            return None;
        }
        let is_in_file = node.is_in_file(name);
        Some(node.changes.remove(name, is_in_file))
    }

    /// `POST /v1.0/shutdown` at an app's port: its sidecar ends, and those of the others do not.
    pub(super) fn shut_one_down(&mut self, call: AdminCallId, number: u32) {
        self.reply(call, 204, "");
        let Some(served) = self.apps.get(&number) else { return };
        let name = apps::name_of(&served.config);
        self.log.info(format_args!("Shutdown of app {}/{} requested via API", name.0, name.1));
        match self.forget_app(&name) {
            None => {}
            Some(Ok(())) => self.bid_farewell(&name, None),
            Some(Err(e)) => {
                self.log.error(format_args!("the change cannot be written down: {e}"));
            }
        }
    }

    pub(super) fn answer_when_live(&mut self, answer: Answer) {
        self.answer_at(self.version(), answer);
    }

    pub(super) fn answer_at(&mut self, version: snapshot::Version, answer: Answer) {
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
    pub(super) fn text(&self) -> String {
        format!("App {}/{} cannot be served so: {}", self.name.0, self.name.1, self.reason)
    }
}

fn texts(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

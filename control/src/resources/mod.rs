//! Dapr's resources: the manifests in the directories that `--resources-path` names, as daprd 1.18
//! reads them.
//!
//! Files end in `.yaml` or `.yml` and may hold several documents; keys count whatever their case,
//! directories within are passed over. What service invocation does not need is skipped with a
//! line each. With one problem that matters nothing of a load counts, so that what was in force
//! stays whole.

#![forbid(unsafe_code)]

mod codes;
mod compile;
mod component;
mod http_endpoint;
mod in_scope;
mod middleware;
mod pipelines;
mod reader;
mod resiliency;
mod route_pattern;
mod secrets;
mod template;
mod trip;
mod variable;

use crate::{
    config::{
        Config, Environment,
        file::{Problem, Weight},
        flags::Values,
    },
    yaml::{self, Node, Value},
};
use component::Component;
use http_endpoint::Endpoint;
pub(crate) use in_scope::InScope;
#[cfg(test)]
pub(crate) use in_scope::Loaded;
use reader::Reader;
use resiliency::Resiliency;
use secrets::{SecretStore, Stores};
use snapshot::{Namespace, policy};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use template::Template;

/// What the directories hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    resiliencies: Vec<Resiliency>,
    http_endpoints: Vec<Endpoint>,
    /// Middleware of pipelines.
    middleware: Vec<Component>,
    /// Those that are on this machine; each that cannot be read, with the apps that would have it.
    secret_stores: Vec<SecretStore>,
    unread_stores: Vec<(Component, Problem)>,
    /// For the log.
    pub(crate) notes: Vec<String>,
}

/// The directories that flags, variables and files name.
pub(crate) fn paths(values: &Values) -> Vec<String> {
    // There resources come from the cluster.
    if values.text("mode") == "kubernetes" {
        return Vec::new();
    }
    let mut paths: Vec<String> =
        values.list("resources-path").into_iter().map(str::to_owned).collect();
    let old = values.text("components-path");
    if paths.is_empty() && !old.is_empty() {
        paths.push(old.to_owned());
    }
    paths
}

/// Reads what `values` name into `config`.
///
/// # Errors
/// All that is wrong.
pub(crate) fn configure(
    config: &mut Config,
    values: &Values,
    env: Environment<'_>,
) -> Result<(), Vec<Problem>> {
    let paths = paths(values);
    let resources = Resources::load(&paths, env)?;
    config.warnings.extend(resources.notes.iter().cloned());
    resources.apply(config, paths, env)
}

impl Resources {
    /// # Errors
    /// All that is wrong.
    pub(crate) fn load(paths: &[String], env: Environment<'_>) -> Result<Self, Vec<Problem>> {
        let (mut found, problems) = Self::read(paths, env);
        let (refused, ignored): (Vec<_>, Vec<_>) =
            problems.into_iter().partition(|problem| problem.weight == Weight::Refused);
        found.notes.extend(ignored.iter().map(ToString::to_string));
        if refused.is_empty() { Ok(found) } else { Err(refused) }
    }

    fn read(paths: &[String], env: Environment<'_>) -> (Self, Vec<Problem>) {
        let (mut found, mut problems) = (Self::default(), Vec::new());
        for path in paths {
            match files(Path::new(path)) {
                Ok(files) => {
                    files.iter().for_each(|file| found.read_file(file, env, &mut problems));
                }
                Err(reason) => problems.push(Problem::of_file(path, reason)),
            }
        }
        if found.http_endpoints.len() > ENDPOINTS_MAX {
            let reason = format!("more than {ENDPOINTS_MAX} resources are of kind HTTPEndpoint");
            problems.push(Problem::of_file(&paths.join(", "), reason));
        }
        (found, problems)
    }

    /// All problems of these directories, for whichever app, and what else is to be said.
    pub(crate) fn check(paths: &[String], env: Environment<'_>) -> (Vec<Problem>, Vec<String>) {
        let (found, mut problems) = Self::read(paths, env);
        problems.extend(found.unread_stores.iter().map(|(_, problem)| problem.clone()));
        let all = found.middleware.iter().chain(found.unread_stores.iter().map(|(c, _)| c));
        let apps: Vec<&String> = all.flat_map(|component| &component.scopes).collect();
        for component in &found.middleware {
            // In the name of an app that has it, since its secrets may be that app's alone.
            let app = component.scopes.first().or(apps.first().copied());
            let app_id = app.map_or("", |id| id);
            let stores = Stores::of(&found.secret_stores, app_id, env);
            let namespace = Namespace::default();
            let template = Template { app_id, namespace: namespace.as_str(), env };
            problems.extend(middleware::step(component, &stores, &template).err());
        }
        let scopes = found.resiliencies.iter().flat_map(|resource| &resource.scopes);
        for app_id in scopes.map(String::as_str).chain([""]) {
            for problem in found.resiliency_of(app_id).err().into_iter().flatten() {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        (problems, found.notes)
    }

    /// What of them holds for this app.
    ///
    /// # Errors
    /// What does not fit together.
    pub(crate) fn apply(
        &self,
        config: &mut Config,
        paths: Vec<String>,
        env: Environment<'_>,
    ) -> Result<(), Vec<Problem>> {
        let app_id = config.app_id.clone();
        let unread = self.unread_stores.iter().filter(|(store, _)| store.is_for(app_id.as_str()));
        let unread: Vec<Problem> = unread.map(|(_, problem)| problem.clone()).collect();
        if !unread.is_empty() {
            return Err(unread);
        }
        config.resiliency = self.resiliency_of(app_id.as_str())?;
        let stores = Stores::of(&self.secret_stores, app_id.as_str(), env);
        self.set_pipelines(config, &stores, env)?;
        let in_scope = InScope::of(self, app_id.as_str(), &stores, &mut config.warnings);
        let has_token = config.guards.app_token.is_some();
        config.warnings.extend(in_scope.overruled(has_token));
        config.in_scope = Arc::new(in_scope);
        config.resources = paths.into_iter().map(PathBuf::from).collect();
        // A secret that changes changes what is in force.
        config.resources.extend(stores.directories());
        Ok(())
    }

    fn set_pipelines(
        &self,
        config: &mut Config,
        stores: &Stores<'_>,
        env: Environment<'_>,
    ) -> Result<(), Vec<Problem>> {
        let app_id = config.app_id.as_str();
        let components: Vec<&Component> =
            self.middleware.iter().filter(|component| component.is_for(app_id)).collect();
        let specs = Arc::clone(&config.pipelines);
        let template = Template { app_id, namespace: config.namespace.as_str(), env };
        let around = pipelines::Around { components: &components, stores, template: &template };
        let mut notes = Vec::new();
        let compiled = pipelines::compile(&specs, &around, &mut notes)?;
        config.warnings.extend(notes);
        if let Some(compiled) = compiled {
            Arc::make_mut(&mut config.guards).pipelines = Some(Arc::new(compiled));
        }
        Ok(())
    }

    fn resiliency_of(
        &self,
        app_id: &str,
    ) -> Result<Option<Arc<policy::resiliency::Resiliency>>, Vec<Problem>> {
        compile::compile(&self.resiliencies, app_id)
    }

    fn read_file(&mut self, path: &Path, env: Environment<'_>, problems: &mut Vec<Problem>) {
        let name = path.display().to_string();
        match read(path) {
            Ok(text) => self.read_text(&name, &text, env, problems),
            Err(reason) => problems.push(Problem::of_file(&name, reason)),
        }
    }

    fn read_text(
        &mut self,
        path: &str,
        text: &str,
        env: Environment<'_>,
        problems: &mut Vec<Problem>,
    ) {
        let mut reader = Reader::new(path);
        match yaml::parse(text) {
            Ok(documents) if documents.len() > DOCUMENTS_MAX => {
                let place = documents[DOCUMENTS_MAX].place;
                reader.refuse(place, "", format!("has more than {DOCUMENTS_MAX} documents"));
            }
            Ok(documents) => {
                for (index, document) in documents.iter().enumerate() {
                    self.read_document(&mut reader, (path, index), document, env);
                }
            }
            Err(e) => reader.refuse(e.place, "", e.message),
        }
        problems.append(&mut reader.problems);
    }

    fn read_document(
        &mut self,
        reader: &mut Reader,
        (path, index): (&str, usize),
        document: &Node,
        env: Environment<'_>,
    ) {
        if document.is_null() {
            return;
        }
        let kind = entry(document, "kind").and_then(Node::text).unwrap_or_default();
        let name = name_of(document);
        let skipped = match kind {
            // The others are daprd's to read; this one it reads first or not at all.
            "Resiliency" if index > 0 => {
                "is passed over, as with daprd: it is not the first document of its file".to_owned()
            }
            "Resiliency" => {
                self.resiliencies.push(resiliency::read(reader, path, document));
                return;
            }
            "HTTPEndpoint" => {
                self.http_endpoints.extend(http_endpoint::read(reader, document, env));
                return;
            }
            "Configuration" => "is passed over: --config names those that count".to_owned(),
            "Component" => match self.read_component(reader, document, env) {
                Some(skipped) => skipped,
                None => return,
            },
            "" => "has no kind and is skipped".to_owned(),
            _ => "is skipped: service invocation needs none".to_owned(),
        };
        let place = reader.place(document.place);
        self.notes.push(format!("{place}: {} {skipped}", label(kind, &name)));
    }
}

impl Resources {
    /// Why it is of no interest; `None`: it is.
    fn read_component(
        &mut self,
        reader: &mut Reader,
        document: &Node,
        env: Environment<'_>,
    ) -> Option<String> {
        let kind = component::kind_of(document);
        let lower = kind.to_ascii_lowercase();
        if lower.starts_with("secretstores.local.") {
            let component = component::read(reader, document, env)?;
            match SecretStore::open(&component) {
                Some(Ok(store)) => self.secret_stores.push(store),
                Some(Err(problem)) => self.unread_stores.push((component, problem)),
                None => return Some(format!("({kind}) is skipped: there is no such secret store")),
            }
            return None;
        }
        if lower.starts_with(middleware::PREFIX) {
            self.middleware.extend(component::read(reader, document, env));
            return None;
        }
        Some(match lower.starts_with("secretstores.") {
            true => format!(
                "({kind}) is skipped: secrets come from secretstores.local.file and \
                 secretstores.local.env here"
            ),
            false => format!("({kind}) is skipped: service invocation needs no component"),
        })
    }
}

fn label(kind: &str, name: &str) -> String {
    match kind {
        "" => "document".to_owned(),
        kind => format!("{kind} {name:?}"),
    }
}

/// What stands at a key, whatever its case.
fn entry<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    let is_it = |(key, _): &&(yaml::Key, Node)| key.text.eq_ignore_ascii_case(name);
    entries.iter().find(is_it).map(|(_, node)| node)
}

fn name_of(document: &Node) -> String {
    metadata(document, "name").to_owned()
}

fn metadata<'n>(document: &'n Node, name: &str) -> &'n str {
    let found = entry(document, "metadata").and_then(|metadata| entry(metadata, name));
    found.and_then(Node::text).unwrap_or_default()
}

/// In the order of their names, which decides what replaces what.
fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => "no such directory".to_owned(),
        io::ErrorKind::NotADirectory => "is no directory".to_owned(),
        _ => format!("cannot be read: {e}"),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        let is_yaml =
            extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml");
        if is_yaml && !path.is_dir() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(format!("holds more than {FILES_MAX} files of resources"));
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
        }
        Ok(metadata) if !metadata.is_file() => return Err("is no file".to_owned()),
        _ => {}
    }
    fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {e}"),
    })
}

// Resources are written by hand.

const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILES_MAX: usize = 1000;
const DOCUMENTS_MAX: usize = 1000;

/// Each is part of what the data plane is told of every app that may call it.
const ENDPOINTS_MAX: usize = 1000;

#[cfg(test)]
mod tests;

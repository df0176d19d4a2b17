//! Secret stores on this machine, `secretstores.local.env` and `secretstores.local.file`, as daprd
//! 1.18 reads them: where `secretKeyRef` leads to.
//!
//! A secret is never part of a message: what is told of one that is missing is its name.

#![forbid(unsafe_code)]

use super::{
    component::{Component, Given},
    reader::{Field, Reader},
    variable,
};
use crate::config::{Environment, file::Problem};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// `secretKeyRef`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SecretRef {
    name: String,
    /// Of a secret of several values; otherwise its name again.
    key: String,
}

/// What a store holds, as it was read with the resources.
#[derive(Clone, Debug)]
pub(super) struct SecretStore {
    name: String,
    scopes: Vec<String>,
    /// By name, then by key.
    secrets: Secrets,
    /// Where to look for changes.
    pub(super) directory: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Secrets {
    /// Every variable behind this prefix, as far as anybody has asked for one.
    Environment {
        prefix: String,
    },
    File(BTreeMap<String, BTreeMap<String, String>>),
}

/// The stores that one app has.
pub(super) struct Stores<'s> {
    stores: Vec<&'s SecretStore>,
    env: Environment<'s>,
}

impl SecretRef {
    pub(super) fn read(reader: &mut Reader, field: &Field<'_>) -> Option<Self> {
        let (mut name, mut key) = (String::new(), String::new());
        for part in reader.fields(field.node, &field.path, &["name", "key"]) {
            let text = reader.text(&part).unwrap_or_default().to_owned();
            match part.name {
                "name" => name = text,
                _ => key = text,
            }
        }
        if name.is_empty() {
            // daprd takes it for no reference at all.
            reader.ignore(field.node.place, &field.path, "names no secret, and means nothing");
            return None;
        }
        if key.is_empty() {
            key.clone_from(&name);
        }
        Some(Self { name, key })
    }
}

impl SecretStore {
    /// `None`: it is a store of another kind.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn open(component: &Component) -> Option<Result<Self, Problem>> {
        let text = |name: &str| {
            let is_it = |p: &&super::component::Property| p.name.eq_ignore_ascii_case(name);
            component.properties.iter().find(is_it).and_then(|property| match &property.value {
                Given::Text(text) => Some(text.clone()),
                Given::Secret(_) => None,
            })
        };
        let store = |secrets, directory| Self {
            name: component.name.clone(),
            scopes: component.scopes.clone(),
            secrets,
            directory,
        };
        let kind = component.kind.to_ascii_lowercase();
        let is_secret = |p: &&super::component::Property| matches!(p.value, Given::Secret(_));
        if let Some(property) = component.properties.iter().find(is_secret)
            && [ENVIRONMENT, FILE].contains(&kind.as_str())
        {
            let message =
                "is a secret, and a secret store is opened without any other; write value";
            return Some(Err(property.problem(message)));
        }
        match kind.as_str() {
            ENVIRONMENT => {
                let prefix = text("prefix").unwrap_or_default();
                Some(Ok(store(Secrets::Environment { prefix }, None)))
            }
            FILE => {
                let Some(path) = text("secretsFile").filter(|path| !path.is_empty()) else {
                    return Some(Err(component.problem(
                        "missing local secrets file in metadata; write \
                         {name: secretsFile, value: /path/to/secrets.json}",
                    )));
                };
                let separator = text("nestedSeparator").filter(|text| !text.is_empty());
                let separator = separator.unwrap_or_else(|| ":".to_owned());
                let is_multi_valued = text("multiValued").is_some_and(|text| is_true(&text));
                let directory = crate::registry::inotify::directory_of(Path::new(&path));
                Some(match read(&path) {
                    Ok(values) => {
                        let secrets =
                            Secrets::File(secrets_of(&values, &separator, is_multi_valued));
                        Ok(store(secrets, Some(directory)))
                    }
                    Err(reason) => Err(component.problem(format!("secretsFile {path} {reason}"))),
                })
            }
            _ => None,
        }
    }
}

impl<'s> Stores<'s> {
    pub(super) fn of(stores: &'s [SecretStore], app_id: &str, env: Environment<'s>) -> Self {
        let has = |store: &&SecretStore| {
            store.scopes.is_empty() || store.scopes.iter().any(|id| id == app_id)
        };
        Self { stores: stores.iter().filter(has).collect(), env }
    }

    /// Where they may change.
    pub(super) fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.stores.iter().filter_map(|store| store.directory.clone())
    }

    /// # Errors
    /// Why there is no such secret, without a word of any other.
    pub(super) fn find(&self, store: &str, wanted: &SecretRef) -> Result<String, String> {
        let SecretRef { name, key } = wanted;
        // Of several of one name the last one counts.
        let Some(found) = self.stores.iter().rev().find(|known| known.name == store) else {
            return Err(match store {
                "" => "is in a secret store, and auth.secretStore names none".to_owned(),
                store => {
                    format!("is in the secret store {store:?}, which this sidecar does not have")
                }
            });
        };
        let value = match &found.secrets {
            Secrets::Environment { prefix } => {
                let variable = format!("{prefix}{name}");
                let allowed = variable::is_not_ours(&variable) && key == name;
                allowed.then(|| (self.env)(&variable)).flatten()
            }
            Secrets::File(secrets) => secrets.get(name).and_then(|values| values.get(key)).cloned(),
        };
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            let key = if key == name { String::new() } else { format!(" with key {key:?}") };
            format!("is not in the secret store {store:?}: it has no secret {name:?}{key}")
        })
    }
}

fn read(path: &str) -> Result<Map<String, Value>, String> {
    let too_large = |e: &fs::Metadata| e.len() > FILE_BYTES_MAX;
    if fs::metadata(path).as_ref().is_ok_and(too_large) {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(_) => Err("is no JSON object".to_owned()),
        Err(e) => Err(format!("is no JSON: line {} column {}", e.line(), e.column())),
    }
}

fn secrets_of(
    values: &Map<String, Value>,
    separator: &str,
    is_multi_valued: bool,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut flat = BTreeMap::new();
    if !is_multi_valued {
        values.iter().for_each(|(name, value)| flatten(name.clone(), value, separator, &mut flat));
        let single =
            |(name, value): (String, String)| (name.clone(), BTreeMap::from([(name, value)]));
        return flat.into_iter().map(single).collect();
    }
    let mut secrets = BTreeMap::new();
    for (name, value) in values {
        match value {
            Value::String(text) => {
                secrets.insert(name.clone(), BTreeMap::from([(name.clone(), text.clone())]));
            }
            Value::Object(values) => {
                let mut flat = BTreeMap::new();
                let entries = values.iter();
                entries
                    .for_each(|(name, value)| flatten(name.clone(), value, separator, &mut flat));
                secrets.insert(name.clone(), flat);
            }
            // daprd leaves out whatever else there is.
            _ => {}
        }
    }
    secrets
}

/// Each single value under the names that lead to it.
fn flatten(path: String, value: &Value, separator: &str, into: &mut BTreeMap<String, String>) {
    let below = |name: &str| format!("{path}{separator}{name}");
    match value {
        Value::Object(values) => {
            values.iter().for_each(|(name, value)| flatten(below(name), value, separator, into));
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                flatten(below(&index.to_string()), value, separator, into);
            }
        }
        Value::String(text) => drop(into.entry(path).or_insert_with(|| text.clone())),
        // daprd makes Go's complaint about a number or a bool of it.
        Value::Bool(_) | Value::Number(_) => {
            into.entry(path).or_insert_with(|| value.to_string());
        }
        Value::Null => {}
    }
}

/// As daprd reads a bool of its metadata.
fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "on" | "t" | "true" | "y" | "yes")
}

const ENVIRONMENT: &str = "secretstores.local.env";
const FILE: &str = "secretstores.local.file";

/// It is held in memory, for as long as the resources are.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{test_dir::TestDir, yaml};

    const SECRETS: &str = r#"{
        "plain": "one",
        "db": {"user": "me", "pass": {"old": "x", "new": "y"}, "ports": [1, "two"], "on": true},
        "nothing": null,
        "empty": ""
    }"#;

    fn environment(name: &str) -> Option<String> {
        let known = ["PRE_KEY", "KEY", "DAPR_API_TOKEN", "APP_API_TOKEN"];
        known.contains(&name).then(|| format!("of {name}"))
    }

    fn component(kind: &str, metadata: &str) -> Component {
        let text = format!(
            "kind: Component\nmetadata: {{name: s}}\nspec: {{type: {kind}, metadata: [{metadata}]}}\n"
        );
        let mut reader = Reader::new("s.yaml");
        let read =
            super::super::component::read(&mut reader, &yaml::parse(&text).unwrap()[0], &|_| None);
        read.expect("a component")
    }

    fn found(store: &SecretStore, name: &str, key: &str) -> Result<String, String> {
        let stores = std::slice::from_ref(store);
        let wanted = SecretRef { name: name.to_owned(), key: key.to_owned() };
        Stores::of(stores, "a", &environment).find("s", &wanted)
    }

    #[test]
    fn stores_that_cannot_be_read_are_told() {
        let directory = TestDir::new();
        let path = directory.path().join("s.json");
        for (case, text, want) in [
            ("no file", None, "cannot be read: No such file"),
            ("no JSON", Some("{\"a\": \"s3cret\""), "is no JSON: line 1 column 14"),
            ("a list", Some("[]"), "is no JSON object"),
        ] {
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            let value = format!("{{name: secretsFile, value: {}}}", path.display());
            let opened = SecretStore::open(&component(FILE, &value)).unwrap();
            let told = opened.unwrap_err().to_string();
            assert!(told.contains(want) && !told.contains("s3cret"), "{case}: {told}");
        }
        let told = SecretStore::open(&component(FILE, "")).unwrap().unwrap_err().to_string();
        assert!(told.contains("missing local secrets file in metadata"), "{told}");
        assert!(SecretStore::open(&component("secretstores.azure.keyvault", "")).is_none());
    }

    #[test]
    fn variables_are_found_by_their_names_behind_the_prefix() {
        for (prefix, name, key, want) in [
            ("", "KEY", "KEY", Some("of KEY")),
            ("PRE_", "KEY", "KEY", Some("of PRE_KEY")),
            ("", "KEY", "other", None),
            ("", "NONE", "NONE", None),
            ("", "DAPR_API_TOKEN", "DAPR_API_TOKEN", None),
            ("DAPR_", "API_TOKEN", "API_TOKEN", None),
            ("", "APP_API_TOKEN", "APP_API_TOKEN", None),
        ] {
            let metadata = format!("{{name: Prefix, value: {prefix:?}}}");
            let store = SecretStore::open(&component(ENVIRONMENT, &metadata)).unwrap().unwrap();
            assert_eq!(found(&store, name, key).ok().as_deref(), want, "{prefix}{name} {key}");
        }
    }

    #[test]
    fn files_are_read_flat_or_with_several_values_as_daprd_1_18() {
        let directory = TestDir::new();
        let path = directory.path().join("s.json");
        fs::write(&path, SECRETS).unwrap();
        let file = format!("{{name: secretsFile, value: {}}}", path.display());
        let (dot, multi) =
            ("{name: nestedSeparator, value: .}", "{name: multiValued, value: \"true\"}");
        for (case, more, name, key, want) in [
            ("plain", "", "plain", "plain", Some("one")),
            ("nested", "", "db:user", "db:user", Some("me")),
            ("deeper", "", "db:pass:new", "db:pass:new", Some("y")),
            ("in a list", "", "db:ports:1", "db:ports:1", Some("two")),
            ("a number", "", "db:ports:0", "db:ports:0", Some("1")),
            ("another separator", dot, "db.pass.old", "db.pass.old", Some("x")),
            ("the usual one then", dot, "db:pass:old", "db:pass:old", None),
            ("a mapping itself", "", "db", "db", None),
            ("a key of a flat one", "", "db:user", "user", None),
            ("nothing", "", "nothing", "nothing", None),
            ("empty", "", "empty", "empty", None),
            ("of several values", multi, "db", "user", Some("me")),
            ("nested within them", multi, "db", "pass:new", Some("y")),
            ("one of one", multi, "plain", "plain", Some("one")),
            ("flat no more", multi, "db:user", "db:user", None),
        ] {
            let store = SecretStore::open(&component(FILE, &format!("{file}, {more}")));
            let store = store.unwrap().unwrap();
            assert_eq!(store.directory.as_deref(), Some(directory.path()));
            assert_eq!(found(&store, name, key).ok().as_deref(), want, "{case}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        let store = SecretStore::open(&component(ENVIRONMENT, "")).unwrap().unwrap();
        let wanted = SecretRef { name: "n".to_owned(), key: "k".to_owned() };
        let stores = [SecretStore { scopes: vec!["b".to_owned()], ..store.clone() }, store];
        for (app, store, want) in [
            ("a", "", "is in a secret store, and auth.secretStore names none"),
            ("a", "t", "is in the secret store \"t\", which this sidecar does not have"),
            ("a", "s", "is not in the secret store \"s\": it has no secret \"n\" with key \"k\""),
        ] {
            let told = Stores::of(&stores, app, &environment).find(store, &wanted).unwrap_err();
            assert_eq!(told, want);
        }
        let told = Stores::of(&stores[..1], "a", &environment).find("s", &wanted).unwrap_err();
        assert!(told.contains("which this sidecar does not have"), "{told}");
    }
}

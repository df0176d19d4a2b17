//! A resource of kind Component, as far as service invocation needs any: middleware of pipelines,
//! and the stores in which secrets are.
//!
//! Values that are not here yet, because they are in a store, are looked up per app: a store may be
//! in the scope of one app only.

#![forbid(unsafe_code)]

use super::{
    reader::{Field, Reader},
    secrets::SecretRef,
    variable,
};
use crate::{
    config::{
        Environment,
        file::{FilePlace, Problem, Weight},
    },
    yaml::{Node, Value},
};

#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) name: String,
    /// As it is written.
    pub(super) kind: String,
    pub(super) version: String,
    /// The apps that have it; empty: all.
    pub(super) scopes: Vec<String>,
    /// Where its secrets are.
    pub(super) secret_store: String,
    pub(super) properties: Vec<Property>,
    pub(super) place: FilePlace,
}

/// One of `spec.metadata`.
#[derive(Clone, Debug)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) value: Given,
    pub(super) place: FilePlace,
    pub(super) key: String,
}

/// A value, as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Given {
    Secret(SecretRef),
    Text(String),
}

impl Component {
    pub(super) fn is_for(&self, app_id: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|id| id == app_id)
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        let (place, key) = (self.place.clone(), String::new());
        let message = format!("Component {:?}: {}", self.name, message.into());
        Problem { place, key, message, suggestion: None, weight: Weight::Refused }
    }
}

impl Property {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        let (place, key) = (self.place.clone(), self.key.clone());
        let message = message.into();
        Problem { place, key, message, suggestion: None, weight: Weight::Refused }
    }
}

/// `spec.type` of a document.
pub(super) fn kind_of(document: &Node) -> &str {
    let spec = super::entry(document, "spec").and_then(|spec| super::entry(spec, "type"));
    spec.and_then(Node::text).unwrap_or_default()
}

/// Of `root`, whose kind is known. `None`: what is wrong with it was told.
pub(super) fn read(reader: &mut Reader, root: &Node, env: Environment<'_>) -> Option<Component> {
    let mut component = Component {
        name: super::name_of(root),
        kind: String::new(),
        version: String::new(),
        scopes: Vec::new(),
        secret_store: secret_store_of(root),
        properties: Vec::new(),
        place: reader.place(root.place),
    };
    let known = ["apiVersion", "auth", "kind", "metadata", "scopes", "spec"];
    for field in reader.fields(root, "", &known) {
        match field.name {
            "scopes" => component.scopes = reader.texts(&field),
            "spec" => read_spec(reader, &field, env, &mut component),
            _ => {}
        }
    }
    if component.name.is_empty() {
        reader.refuse(root.place, "metadata.name", "is missing; others name it by this");
        return None;
    }
    if component.version.is_empty() {
        "v1".clone_into(&mut component.version);
    }
    Some(component)
}

/// `auth.secretStore` of a resource.
pub(super) fn secret_store_of(root: &Node) -> String {
    let store = super::entry(root, "auth").and_then(|auth| super::entry(auth, "secretStore"));
    store.and_then(Node::text).unwrap_or_default().to_owned()
}

fn read_spec(reader: &mut Reader, spec: &Field<'_>, env: Environment<'_>, into: &mut Component) {
    let known = ["type", "version", "ignoreErrors", "initTimeout", "metadata"];
    for field in reader.fields(spec.node, &spec.path, &known) {
        match field.name {
            "type" => into.kind = reader.text(&field).unwrap_or_default().to_owned(),
            "version" => into.version = reader.text(&field).unwrap_or_default().to_owned(),
            "metadata" => {
                for (index, node) in reader.items(&field).iter().enumerate() {
                    let path = format!("{}[{index}]", field.path);
                    into.properties.extend(read_property(reader, node, path, env));
                }
            }
            _ => {}
        }
    }
}

fn read_property(
    reader: &mut Reader,
    node: &Node,
    key: String,
    env: Environment<'_>,
) -> Option<Property> {
    let (mut name, mut value, mut from_variable, mut secret) = (String::new(), None, None, None);
    for field in reader.fields(node, &key, &["name", "value", "envRef", "secretKeyRef"]) {
        match field.name {
            "name" => name = reader.text(&field).unwrap_or_default().to_owned(),
            "value" => value = Some(text_of(field.node)),
            "envRef" => from_variable = Some(variable::read(reader, &field, env, "it is empty")),
            _ => secret = SecretRef::read(reader, &field),
        }
    }
    if name.is_empty() {
        reader.refuse(node.place, &format!("{key}.name"), "is missing");
        return None;
    }
    // As daprd has it: a value beats a variable, and that one a secret.
    let value = match (value.filter(|text| !text.is_empty()).or(from_variable), secret) {
        (Some(text), _) => Given::Text(text),
        (None, Some(secret)) => Given::Secret(secret),
        (None, None) => Given::Text(String::new()),
    };
    Some(Property { name, value, place: reader.place(node.place), key })
}

/// A mapping or a list stands for its JSON.
fn text_of(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.clone(),
        Value::Null => String::new(),
        Value::Map(_) | Value::Sequence(_) => node.to_json().to_string(),
    }
}

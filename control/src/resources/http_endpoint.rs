//! A resource of kind HTTPEndpoint: checked, so that a mistake in it is told, and named in the log.

#![forbid(unsafe_code)]

use super::reader::Reader;
use crate::yaml::Node;

pub(super) fn check(reader: &mut Reader, root: &Node) {
    let known = ["apiVersion", "auth", "kind", "metadata", "scopes", "spec"];
    let fields = reader.fields(root, "", &known);
    let Some(spec) = fields.into_iter().find(|field| field.name == "spec") else {
        return reader.ignore(root.place, "spec", "is missing");
    };
    let known = ["version", "baseUrl", "headers", "clientTLS"];
    let fields = reader.fields(spec.node, &spec.path, &known);
    let Some(url) = fields.into_iter().find(|field| field.name == "baseUrl") else {
        return reader.ignore(spec.node.place, "spec.baseUrl", "is missing");
    };
    let Some(text) = reader.text(&url) else { return };
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let message = format!("{text:?} is no URL; write http://host:port or https://host:port");
        reader.ignore(url.node.place, &url.path, message);
    }
}

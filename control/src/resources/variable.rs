//! `envRef`: a value that is in the environment, where daprd lets resources read it.

#![forbid(unsafe_code)]

use super::reader::{Field, Reader};
use crate::config::Environment;

/// Empty where there is nothing to be had, as with daprd, and said, with what follows from it.
pub(super) fn read(
    reader: &mut Reader,
    field: &Field<'_>,
    env: Environment<'_>,
    then: &str,
) -> String {
    let Some(name) = reader.text(field) else { return String::new() };
    let problem = if !may_be_read(name) {
        format!("{name} may not be read from here, as with daprd; {then}")
    } else {
        match env(name).filter(|value| !value.is_empty()) {
            Some(value) => return value,
            None => format!("the variable {name} is not set; {then}"),
        }
    };
    reader.ignore(field.node.place, &field.path, problem);
    String::new()
}

fn may_be_read(name: &str) -> bool {
    is_not_ours(name) && !name.contains(' ')
}

/// The sidecar's own secrets are nobody else's.
pub(super) fn is_not_ours(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    !upper.starts_with("DAPR_") && upper != "APP_API_TOKEN"
}

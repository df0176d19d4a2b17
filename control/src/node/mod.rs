//! What makes a control a node's: a file of many apps, changes to them while it runs, and a socket
//! where operators ask for both.

#![forbid(unsafe_code)]

pub(crate) mod admin;
pub(crate) mod changes;
pub(crate) mod config;
mod keys;

use crate::{
    config::{Environment, file::Problem},
    steering::settings::Accelerate,
};
use config::NodeConfig;
use std::{fs, io, path::PathBuf};

/// Where a node's configuration is read, at start and whenever it changes.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Without one, all apps come while it runs.
    pub(crate) path: Option<PathBuf>,
    /// Stands above the name in the file.
    pub(crate) name: Option<String>,
    /// Stands above the one in the file.
    pub(crate) accelerate: Option<Accelerate>,
}

impl Files {
    /// # Errors
    /// All that is wrong.
    pub(crate) fn read(&self, env: Environment<'_>) -> Result<NodeConfig, Vec<Problem>> {
        let (label, text) = match &self.path {
            None => (String::new(), String::new()),
            Some(path) => {
                let label = path.display().to_string();
                match read(path) {
                    Ok(text) => (label, text),
                    Err(reason) => return Err(vec![Problem::of_file(&label, reason)]),
                }
            }
        };
        let mut config = NodeConfig::parse(&label, &text, self.name.as_deref(), env)?;
        config.steering.accelerate = self.accelerate.unwrap_or(config.steering.accelerate);
        Ok(config)
    }
}

/// Whether a node's file may have this key at its top.
pub(crate) fn is_key(name: &str) -> bool {
    keys::find(keys::NODE, name).is_some()
}

fn read(path: &PathBuf) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {e}"),
    })
}

/// The environment of this process.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Some thousands of apps with a page of text each.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

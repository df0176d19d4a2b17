//! `ringcar ebpf`: Ringcar's programs in the kernel, whoever brought them in.

#![forbid(unsafe_code)]

use super::{config::Output, fail, output, print, say};
use crate::steering::forget_names;
use ebpf_loader::pins::{self, Pins};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: EbpfCommand,
}

#[derive(clap::Subcommand)]
enum EbpfCommand {
    /// List what is attached, by the node it belongs to
    Status(Status),
    /// Detach programs and drop their maps; a node that runs serves on, unsteered
    Uninstall(Uninstall),
}

#[derive(clap::Args)]
struct Status {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(clap::Args)]
struct Uninstall {
    /// Of this node alone
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Hosts file that the node gave names of apps (`capture-hosts`), and that loses them again
    #[arg(long, value_name = "FILE", default_value = "/etc/hosts")]
    hosts: PathBuf,
}

/// One version of the programs that is attached for a node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    version: String,
    programs: Vec<String>,
    maps: usize,
    /// What acceleration has done, by event.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    acceleration: BTreeMap<&'static str, u64>,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    match &arguments.command {
        EbpfCommand::Status(Status { output }) => status(*output),
        EbpfCommand::Uninstall(arguments) => uninstall(arguments),
    }
}

fn status(output: Output) -> ExitCode {
    let rows: Vec<Row> = pins::list(Path::new(pins::FILE_SYSTEM))
        .into_iter()
        .flat_map(|pinned| {
            let (node, maps) = (pinned.name, pinned.maps.len());
            pinned.links.into_iter().map(move |(version, programs)| Row {
                acceleration: acceleration(&node, &version),
                node: node.clone(),
                version,
                programs,
                maps,
            })
        })
        .collect();
    print(match output {
        Output::Json => output::json(&rows),
        Output::Table => table(&rows),
        Output::Yaml => output::yaml(&rows),
    });
    ExitCode::SUCCESS
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No programs are attached.\n".to_owned();
    }
    let head = ["NODE", "VERSION", "MAPS", "PROGRAMS"];
    let cells = rows.iter().map(|row| {
        let Row { node, version, programs, maps, .. } = row;
        vec![node.clone(), version.clone(), maps.to_string(), programs.join(" ")]
    });
    let counted = rows.iter().filter(|row| !row.acceleration.is_empty()).map(|row| {
        let counts = row.acceleration.iter().map(|(event, count)| format!("{event} {count}"));
        format!("\nAcceleration of {}: {}\n", row.node, counts.collect::<Vec<_>>().join(", "))
    });
    output::table(&head, cells) + &counted.collect::<String>()
}

/// Of the version that accelerates; empty for others.
fn acceleration(node: &str, version: &str) -> BTreeMap<&'static str, u64> {
    if !version.contains("-accelerate-") {
        return BTreeMap::new();
    }
    let counts = ebpf_loader::acceleration_counts(Path::new(pins::FILE_SYSTEM), node);
    counts.into_iter().flatten().map(|(pace, count)| (pace.name(), count)).collect()
}

fn uninstall(Uninstall { node, hosts }: &Uninstall) -> ExitCode {
    let file_system = Path::new(pins::FILE_SYSTEM);
    let is_meant =
        |name: &str| node.as_deref().is_none_or(|node| name == node || node_of(name) == node);
    let pinned = pins::list(file_system).into_iter().map(|pinned| pinned.name);
    let names: Vec<String> = pinned.filter(|name| is_meant(name)).collect();
    let mut is_any = false;
    for name in names {
        match Pins::new(file_system, &name).remove() {
            Ok(was_there) => is_any |= was_there,
            Err(e) => return fail(e),
        }
        // Without programs its addresses lead nowhere.
        if let Err(e) = forget_names(hosts, &name) {
            return fail(format_args!("the names of {name} stay in {}: {e}", hosts.display()));
        }
    }
    say(if is_any { "✅  Programs detached" } else { "No programs were attached" });
    ExitCode::SUCCESS
}

/// Nodes of one name in different runtime directories differ in what follows it.
fn node_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(node, _)| node)
}

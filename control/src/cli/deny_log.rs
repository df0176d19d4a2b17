//! `ringcar deny-log`: what a node's programs in the kernel refused.

#![forbid(unsafe_code)]

use super::{
    config::Output,
    fail,
    node::{Which, ask},
    output, print,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// One connection that was refused, as the node tells it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    time: String,
    caller: String,
    callee: String,
    address: String,
    pid: u32,
    command: String,
    reason: String,
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    let text = match ask(&arguments.which, Method::GET, "/v1/denials", String::new()).await {
        Ok(text) => text,
        Err(e) => return fail(e),
    };
    let rows: Vec<Row> = match serde_json::from_str(&text) {
        Ok(rows) => rows,
        Err(e) => return fail(format_args!("the node's answer is not understood: {e}")),
    };
    print(match arguments.output {
        Output::Json => output::json(&rows),
        Output::Table => table(&rows),
        Output::Yaml => output::yaml(&rows),
    });
    ExitCode::SUCCESS
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "Nothing was denied.\n".to_owned();
    }
    let head = ["TIME", "CALLER", "CALLEE", "ADDRESS", "PID", "COMMAND", "REASON"];
    let cells = rows.iter().map(|row| {
        let Row { time, caller, callee, address, pid, command, reason } = row;
        let pid = pid.to_string();
        [time, caller, callee, address, &pid, command, reason].map(Clone::clone).to_vec()
    });
    output::table(&head, cells)
}

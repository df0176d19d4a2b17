//! `ringcar deny-log`: what a node's programs in the kernel refused.

#![forbid(unsafe_code)]

use super::{
    config::Output,
    fail,
    node::{NodeCommandError, Which, ask},
    output, print,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Write},
    process::ExitCode,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Go on with what is denied from now on, one row a line, until interrupted
    #[arg(short, long)]
    follow: bool,
}

/// One connection that was refused, as the node tells it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    number: u64,
    time: String,
    caller: String,
    callee: String,
    address: String,
    pid: u32,
    command: String,
    reason: String,
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    let Arguments { which, output, follow } = arguments;
    let first = match rows(&which, "/v1/denials").await {
        Ok(rows) => rows,
        Err(e) => return fail(e),
    };
    if !follow {
        print(match output {
            Output::Json => output::json(&first),
            Output::Table => table(&first),
            Output::Yaml => output::yaml(&first),
        });
        return ExitCode::SUCCESS;
    }
    let mut rows_now = first;
    let mut last = 0;
    loop {
        for row in &rows_now {
            // Nobody reads any more.
            if io::stdout().lock().write_all(line(row, output).as_bytes()).is_err() {
                return ExitCode::SUCCESS;
            }
            last = row.number;
        }
        // Answered when there is something to tell, or after a while with nothing.
        rows_now = match rows(&which, &format!("/v1/denials?after={last}")).await {
            Ok(rows) => rows,
            Err(e) => return fail(e),
        };
    }
}

async fn rows(which: &Which, path: &str) -> Result<Vec<Row>, NodeCommandError> {
    let text = ask(which, Method::GET, path, String::new()).await?;
    serde_json::from_str(&text)
        .map_err(|e| NodeCommandError::Answer(format!("the node's answer is not understood: {e}")))
}

/// One row as it comes.
fn line(row: &Row, output: Output) -> String {
    let Row { time, caller, callee, address, pid, command, reason, .. } = row;
    match output {
        Output::Json => serde_json::to_string(row).map(|text| text + "\n").unwrap_or_default(),
        Output::Table => {
            format!("{time}  {caller}  {callee}  {address}  {pid}  {command}  {reason}\n")
        }
        Output::Yaml => output::yaml(&[row]),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "Nothing was denied.\n".to_owned();
    }
    let head = ["TIME", "CALLER", "CALLEE", "ADDRESS", "PID", "COMMAND", "REASON"];
    let cells = rows.iter().map(|row| {
        let Row { time, caller, callee, address, pid, command, reason, .. } = row;
        let pid = pid.to_string();
        [time, caller, callee, address, &pid, command, reason].map(Clone::clone).to_vec()
    });
    output::table(&head, cells)
}

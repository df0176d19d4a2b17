//! `ringcar list`: the running apps of this machine, in the columns and fields of `dapr list`.

#![forbid(unsafe_code)]

use super::{fail, output, print};
use crate::{
    registry::{Entry, RegistryError, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
    timestamp::Timestamp,
};
use serde::Serialize;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Json,
    Table,
    Yaml,
}

#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
}

/// One row, with the names of `dapr list`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    app_id: String,
    http_port: u16,
    grpc_port: u16,
    app_port: u16,
    metrics_enabled: bool,
    command: String,
    age: String,
    created: String,
    daprd_pid: u32,
    cli_pid: u32,
    app_pid: u32,
    max_request_body_size: u64,
    http_read_buffer_size: u32,
    run_template_path: String,
    app_log_path: String,
    daprd_log_path: String,
    run_template_name: String,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let text = match rows(Timestamp::now()) {
        Ok(rows) => match arguments.output {
            Output::Json => output::json(&rows),
            Output::Table => table(&rows),
            Output::Yaml => output::yaml(&rows),
        },
        Err(e) => return fail(e),
    };
    print(text);
    ExitCode::SUCCESS
}

fn rows(now: Timestamp) -> Result<Vec<Row>, ListError> {
    let table = LocalRegistry::new(RuntimeDir::locate()?).read()?;
    Ok(table.into_iter().map(|entry| row(entry, now)).collect())
}

fn row(entry: Entry, now: Timestamp) -> Row {
    let run = entry.run().clone();
    Row {
        http_port: entry.http_port(),
        app_id: entry.id.into(),
        grpc_port: entry.grpc_port,
        app_port: entry.app_port,
        metrics_enabled: entry.metrics_port != 0,
        command: shorten(&run.command),
        age: age(entry.created.seconds_until(now)),
        created: entry.created.listed(),
        daprd_pid: entry.pid,
        cli_pid: run.cli_pid.unwrap_or(0),
        app_pid: run.app_pid.unwrap_or(0),
        max_request_body_size: entry.body_bytes_max.unwrap_or(0),
        http_read_buffer_size: entry.read_buffer_bytes,
        run_template_path: run.run_template_path,
        app_log_path: run.app_log_path,
        daprd_log_path: run.daprd_log_path,
        run_template_name: run.run_template_name,
    }
}

fn shorten(command: &str) -> String {
    if command.chars().count() <= COMMAND_LENGTH_MAX {
        return command.to_owned();
    }
    let kept: String = command.chars().take(COMMAND_LENGTH_MAX - 3).collect();
    format!("{kept}...")
}

/// The largest unit only, as Kubernetes' tools print ages.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No Dapr instances found.\n".to_owned();
    }
    let head = [
        "APP ID",
        "HTTP PORT",
        "GRPC PORT",
        "APP PORT",
        "COMMAND",
        "AGE",
        "CREATED",
        "DAPRD PID",
        "CLI PID",
        "APP PID",
        "RUN_TEMPLATE_PATH",
        "APP_LOG_PATH",
        "DAPRD_LOG_PATH",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.app_id.clone(),
            row.http_port.to_string(),
            row.grpc_port.to_string(),
            row.app_port.to_string(),
            row.command.clone(),
            row.age.clone(),
            row.created.clone(),
            row.daprd_pid.to_string(),
            row.cli_pid.to_string(),
            row.app_pid.to_string(),
            row.run_template_path.clone(),
            row.app_log_path.clone(),
            row.daprd_log_path.clone(),
        ]
    });
    without_empty_columns(&head, cells.collect())
}

/// As `dapr list`: a column that no app has anything in is left out.
fn without_empty_columns(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let is_kept = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
    let kept: Vec<usize> = (0..head.len()).filter(is_kept).collect();
    let head: Vec<&str> = kept.iter().map(|&column| head[column]).collect();
    let cells = rows.iter().map(|row| kept.iter().map(|&column| row[column].clone()).collect());
    output::table(&head, cells)
}

/// Characters of a command line that are shown; `dapr list` shows as many.
const COMMAND_LENGTH_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Row> {
        let mut entry = Entry::sample("orders", "1");
        entry.created = Timestamp(1_000_000_000);
        entry.note("appCommand", "python3 \"a long name.py\"");
        entry.note("cliPID", "7");
        entry.pid = 8;
        entry.metrics_port = 9;
        vec![row(entry, Timestamp(3_700_000_000_000))]
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, want) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (200_000, "2d")]
        {
            assert_eq!(age(seconds), want);
        }
    }

    #[test]
    fn nothing_to_list_is_said() {
        assert_eq!(table(&[]), "No Dapr instances found.\n");
        assert_eq!(output::json::<Row>(&[]), "[]\n");
        assert_eq!(output::yaml::<Row>(&[]), "[]\n");
    }

    #[test]
    fn columns_line_up() {
        let want = concat!(
            "APP ID  HTTP PORT  GRPC PORT  APP PORT  COMMAND               AGE  ",
            "CREATED              DAPRD PID  CLI PID  APP PID\n",
            "orders  3500       0          0         python3 \"a long n...  1h   ",
            "1970-01-01 00:00.01  8          7        0\n",
        );
        assert_eq!(table(&sample()), want);
        let mut rows = sample();
        rows[0].app_log_path = "a.log".into();
        assert!(table(&rows).starts_with("APP ID") && table(&rows).contains("0        a.log\n"));
    }

    #[test]
    fn every_format_has_the_fields_of_dapr() {
        let value: serde_json::Value = serde_json::from_str(&output::json(&sample())).unwrap();
        for (field, want) in [
            ("appId", serde_json::json!("orders")),
            ("httpPort", 3500.into()),
            ("metricsEnabled", true.into()),
            ("command", "python3 \"a long n...".into()),
            ("daprdPid", 8.into()),
            ("cliPid", 7.into()),
            ("appPid", 0.into()),
            ("runTemplateName", "".into()),
        ] {
            assert_eq!(value[0][field], want, "{field}");
        }
        let yaml = output::yaml(&sample());
        assert!(yaml.starts_with("- "), "{yaml}");
        assert!(yaml.contains("  command: \"python3 \\\"a long n...\"\n"), "{yaml}");
    }
}

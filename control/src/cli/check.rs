//! `ringcar check`: whether a sidecar with these flags would run well here, and what to do where it
//! would not.

#![forbid(unsafe_code)]

use super::{
    block_on,
    config::Output,
    dataplane, fail, output, print,
    sidecar::{configure, environment},
};
use crate::{
    config::{
        Config,
        flags::{self, Values},
    },
    node::Files,
    preflight::{self, Finding, State},
};
use clap::{Arg, ArgMatches, Command, builder::EnumValueParser};
use std::{fmt::Write as _, process::ExitCode, sync::Arc};

pub(super) const NAME: &str = "check";

pub(super) fn command() -> Command {
    let output = Arg::new("output").short('o').long("output").default_value("table");
    let output = output.value_parser(EnumValueParser::<Output>::new());
    let about = "Check whether a sidecar with these flags would run well here";
    let node = Arg::new(NODE)
        .long(NODE)
        .value_name("FILE")
        .help("A node's file: whether the node would run well here, instead of a sidecar");
    flags::with_flags(Command::new(NAME).about(about)).arg(output).arg(node)
}

pub(super) fn main(matches: &ArgMatches) -> ExitCode {
    block_on(async {
        let findings = findings(matches).await;
        tell(matches, &findings)
    })
}

fn tell(matches: &ArgMatches, findings: &[Finding]) -> ExitCode {
    print(match matches.get_one::<Output>("output") {
        Some(Output::Json) => output::json(findings),
        Some(Output::Yaml) => output::yaml(findings),
        Some(Output::Table) | None => lines(findings),
    });
    match findings.iter().filter(|finding| finding.state == State::Failure).count() {
        0 => ExitCode::SUCCESS,
        1 => fail("1 check failed"),
        count => fail(format_args!("{count} checks failed")),
    }
}

async fn findings(matches: &ArgMatches) -> Vec<Finding> {
    let read = match matches.get_one::<String>(NODE) {
        Some(path) => of_node(path),
        None => of_sidecar(matches),
    };
    let Subject { base, apps, sound } = match read {
        Ok(subject) => subject,
        Err(findings) => return findings,
    };
    let engine = match dataplane::engine(environment("RINGCAR_ENGINE")) {
        Ok(engine) => engine,
        Err(e) => return vec![refused(&e)],
    };
    let warnings = base.warnings.iter();
    let mut findings: Vec<Finding> =
        warnings.map(|warning| Finding::warning(CHECK, warning, REMEDY)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, sound));
    }
    findings.extend(preflight::findings(&base, &apps, engine).await);
    findings
}

/// What would be run.
struct Subject {
    base: Config,
    apps: Vec<Arc<Config>>,
    /// What is said when nothing is wrong with it.
    sound: String,
}

fn of_sidecar(matches: &ArgMatches) -> Result<Subject, Vec<Finding>> {
    let mut values = Values::new(matches, &environment).map_err(|e| vec![refused(&e)])?;
    // The machine can be looked at before there is an app.
    values.default_to("app-id", "app");
    let base = configure(&mut values).map_err(|e| vec![refused(&e)])?;
    let apps = vec![Arc::new(base.clone())];
    Ok(Subject { base, apps, sound: "flags, variables and files are sound".to_owned() })
}

fn of_node(path: &str) -> Result<Subject, Vec<Finding>> {
    let files = Files { path: Some(path.into()), name: None, accelerate: None };
    let config = files.read(&environment);
    let config =
        config.map_err(|problems| problems.iter().map(|p| refused(p)).collect::<Vec<_>>())?;
    let sound = format!("{path} is sound: node {} with {} apps", config.name, config.apps.len());
    Ok(Subject { base: config.base, apps: config.apps, sound })
}

fn refused(reason: &dyn std::fmt::Display) -> Finding {
    Finding::failure(CHECK, reason.to_string(), REMEDY)
}

fn lines(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, state, found, remedy } in findings {
        let _ = writeln!(text, "{:<7}  {check:<width$}  {found}", state.name());
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<7}  {:<width$}  → {remedy}", "", "");
        }
    }
    text
}

const CHECK: &str = "configuration";
const REMEDY: &str = "ringcar config check and ringcar config show tell more";
const NODE: &str = "node";

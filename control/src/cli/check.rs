//! `ringcar check`: whether a sidecar with these flags would run well here, and what to do where it
//! would not.

#![forbid(unsafe_code)]

use super::{
    config::Output,
    dataplane, fail, output, print,
    sidecar::{configure, environment},
};
use crate::{
    config::flags::{self, Values},
    preflight::{self, Finding, State},
};
use clap::{Arg, ArgMatches, Command, builder::EnumValueParser};
use std::{fmt::Write as _, process::ExitCode};

pub(super) const NAME: &str = "check";

pub(super) fn command() -> Command {
    let output = Arg::new("output").short('o').long("output").default_value("table");
    let output = output.value_parser(EnumValueParser::<Output>::new());
    let about = "Check whether a sidecar with these flags would run well here";
    flags::with_flags(Command::new(NAME).about(about)).arg(output)
}

pub(super) fn main(matches: &ArgMatches) -> ExitCode {
    let findings = findings(matches);
    print(match matches.get_one::<Output>("output") {
        Some(Output::Json) => output::json(&findings),
        Some(Output::Yaml) => output::yaml(&findings),
        Some(Output::Table) | None => lines(&findings),
    });
    match findings.iter().filter(|finding| finding.state == State::Failure).count() {
        0 => ExitCode::SUCCESS,
        1 => fail("1 check failed"),
        count => fail(format_args!("{count} checks failed")),
    }
}

fn findings(matches: &ArgMatches) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    const REMEDY: &str = "ringcar config check and ringcar config show tell more";
    let refused = |reason: String| vec![Finding::failure(CHECK, reason, REMEDY)];
    let mut values = match Values::new(matches, &environment) {
        Ok(values) => values,
        Err(e) => return refused(e.to_string()),
    };
    // The machine can be looked at before there is an app.
    values.default_to("app-id", "app");
    let config = match configure(&mut values) {
        Ok(config) => config,
        Err(e) => return refused(e.to_string()),
    };
    let engine = match dataplane::engine(environment("RINGCAR_ENGINE")) {
        Ok(engine) => engine,
        Err(e) => return refused(e.to_string()),
    };
    let warnings = config.warnings.iter();
    let mut findings: Vec<Finding> =
        warnings.map(|warning| Finding::warning(CHECK, warning, REMEDY)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "flags, variables and files are sound"));
    }
    findings.extend(preflight::findings(&config, engine));
    findings
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

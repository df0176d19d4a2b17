//! Flags, refusals and exit codes: what happens before anything is served.

#![forbid(unsafe_code)]

use crate::support::{Place, Process, free_port};
use std::{net::TcpListener, os::unix::fs::symlink, path::Path};

#[test]
fn refuses_what_it_does_not_understand_with_code_2() {
    let place = Place::new();
    for (case, arguments, want) in [
        ("nothing", &[][..], "Usage:"),
        ("unknown command", &["sidecart"], "sidecar"),
        ("unknown flag", &["sidecar", "--app-idd", "x"], "--app-id"),
        ("unknown flag of run", &["run", "--app-idd", "x", "--", "true"], "--app-id"),
        ("bad bool", &["sidecar", "--app-id=x", "--enable-mtls=maybe"], "--enable-mtls"),
        ("no method", &["invoke", "--app-id", "x"], "--method"),
        ("no app to stop", &["stop"], "APP_ID"),
        ("data twice", &["invoke", "-a", "x", "-m", "y", "-d", "1", "-f", "z"], "--data"),
        ("data plane without a link", &["dataplane"], "--link-stdin"),
    ] {
        let finished = place.finish(arguments);
        assert_eq!(finished.code, 2, "{case}: {}", finished.output);
        assert!(finished.output.contains(want), "{case}: {}", finished.output);
    }
}

#[test]
fn refuses_in_the_words_of_daprd_with_code_1() {
    let place = Place::new();
    for (arguments, want) in [
        (&["sidecar"][..], "parameter app-id cannot be empty"),
        (&["sidecar", "--app-id", "a.b"], "parameter app-id cannot contain dots"),
        (
            &["sidecar", "--app-id", "a", "--app-port", "3500"],
            "the 'dapr-http-port' argument value 3500 conflicts with 'app-port'",
        ),
        (&["sidecar", "-app-id=a", "-app-protocol=ftp"], "invalid value for 'app-protocol': ftp"),
    ] {
        let finished = place.finish(arguments);
        assert_eq!(finished.code, 1, "{arguments:?}: {}", finished.output);
        assert!(finished.output.contains("level=fatal"), "{}", finished.output);
        assert!(finished.output.contains(want), "{arguments:?}: {}", finished.output);
    }
    assert!(place.files("apps").is_empty());
}

#[test]
fn does_not_serve_an_api_with_a_token_that_nobody_could_send() {
    let place = Place::new();
    let mut command = place.ringcar(&["sidecar", "--app-id", "a"]);
    let finished = Process::start(command.env("DAPR_API_TOKEN", "secret\n")).wait();
    assert_eq!(finished.code, 1);
    assert!(finished.output.contains("DAPR_API_TOKEN: it has"), "{}", finished.output);
    assert!(!finished.output.contains("secret"), "{}", finished.output);
}

#[test]
fn tells_its_version() {
    let place = Place::new();
    for (arguments, want) in [
        (&["sidecar", "--version"][..], "1.18.3\n"),
        (&["sidecar", "-version"], "1.18.3\n"),
        (&["--version"], concat!("ringcar ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let finished = place.finish(arguments);
        assert_eq!((finished.code, finished.output.as_str()), (0, want), "{arguments:?}");
    }
    let info = place.finish(&["sidecar", "--build-info"]);
    assert!(info.output.starts_with("Version: 1.18.3\nGit Commit: "), "{}", info.output);
}

#[test]
fn is_the_sidecar_under_the_name_daprd() {
    let place = Place::new();
    let daprd = place.path().join("daprd");
    symlink(env!("CARGO_BIN_EXE_ringcar"), &daprd).unwrap();
    let finish =
        |arguments: &[&str]| Process::start(&mut place.executable(&daprd, arguments)).wait();
    assert_eq!(finish(&["--version"]).output, "1.18.3\n");
    assert_eq!(finish(&["-no-such-flag"]).code, 2);

    let port = free_port().to_string();
    let arguments = ["-app-id", "a", "-dapr-http-port", &port, "-enable-metrics=false"];
    let mut process = Process::start(&mut place.executable(Path::new(&daprd), &arguments));
    process.wait_for("dapr initialized. Status: Running.");
    assert_eq!(crate::support::get(port.parse().unwrap(), "/v1.0/healthz").status, 204);
}

#[test]
fn commands_say_when_there_is_no_such_app() {
    let place = Place::new();
    for (arguments, code, want) in [
        (&["list"][..], 0, "No Dapr instances found."),
        (&["list", "-o", "json"], 0, "[]"),
        (&["invoke", "-a", "nope", "-m", "x"], 1, "app ID nope not found"),
        (&["stop", "-a", "nope"], 1, "failed to stop app id nope: couldn't find app id nope"),
    ] {
        let finished = place.finish(arguments);
        assert_eq!(finished.code, code, "{arguments:?}");
        assert!(finished.output.contains(want), "{arguments:?}: {}", finished.output);
    }
}

#[test]
fn warns_once_of_each_flag_without_effect() {
    let place = Place::new();
    let more = ["--enable-mtls", "--sentry-address", "s", "--app-max-concurrency", "-1"];
    let (mut process, _) = place.start_sidecar("a", None, &more);
    process.wait_for("--enable-mtls is accepted, but has no effect in this version");
    let line = process.wait_for("level=warning");
    assert!(line.contains("--sentry-address is accepted"), "{line}");
    process.wait_for("dapr initialized");
    drop(process);
}

#[test]
fn a_taken_port_is_named_with_its_owner_and_taken_once_it_is_free() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let arguments =
        ["sidecar", "--app-id", "a", "--dapr-http-port", &port, "--enable-metrics=false"];
    let mut process = place.start(&arguments);
    process.wait_for("Starting Dapr Runtime -- version 1.18.3 -- commit");
    let line = process.wait_for("level=warning");
    assert!(line.contains(&format!("held by process {} (", std::process::id())), "{line}");
    drop(listener);
    process.wait_for("dapr initialized");
}

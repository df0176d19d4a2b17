//! The two tools against each other, as a measurement uses them.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

struct Origin {
    process: Child,
    address: String,
}

impl Origin {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ringcar-origin"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned() }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn load(origin: &Origin, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringcar-load"))
        .args(["--target", &origin.address, "--warmup", "0.02", "--duration", "10"])
        .args(arguments)
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn counts_what_was_answered() {
    let path = std::env::temp_dir().join(format!("origin-{}", std::process::id()));
    let unix = format!("unix:{}", path.display());
    for (case, listen, more) in [
        ("GET over TCP", "127.0.0.1:0", &["--expect-bytes", "5"][..]),
        ("GET over a Unix socket", &unix, &["--expect-bytes", "5"]),
        ("POST with a large body", "127.0.0.1:0", &["--method", "POST", "--body-bytes", "3000000"]),
        ("HEAD", "127.0.0.1:0", &["--method", "HEAD", "--expect-bytes", "0"]),
        ("connection closed after each", "127.0.0.1:0", &["--header", "Connection: close"]),
    ] {
        let origin = Origin::start(&["--listen", listen, "--body-bytes", "5"]);
        let pid = origin.process.id().to_string();
        let common = ["--requests", "20", "--connections", "3", "--watch-pid", &pid];
        let report = report(&load(&origin, &[&common[..], more].concat()));
        let closes = case.starts_with("connection closed");
        // Each of the three connections may have an answer ready in the last turn.
        let requests = report["requests"].as_u64().unwrap();
        assert!((20..23).contains(&requests), "{case}: {report}");
        assert_eq!(report["errors"], 0, "{case}: {report}");
        assert_eq!(report["reconnects"].as_u64() > Some(0), closes, "{case}: {report}");
        let p50 = report["p50_us"].as_f64().unwrap();
        assert!(p50 > 0.0 && p50 <= report["p99_us"].as_f64().unwrap(), "{case}: {report}");
        assert!(report["watched"][0]["resident_kib"].as_u64() > Some(100), "{case}: {report}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn counts_wrong_answers_as_errors() {
    let origin = Origin::start(&["--status", "503", "--body-bytes", "7"]);
    for (case, arguments) in [
        ("status", &["--expect-status", "200"][..]),
        ("size", &["--expect-status", "503", "--expect-bytes", "8"]),
    ] {
        let output = load(&origin, arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && words.contains("1000 requests failed"),
            "{case}: {words}"
        );
    }
    let right = ["--expect-status", "503", "--expect-bytes", "7", "--requests", "1"];
    assert_eq!(report(&load(&origin, &right))["errors"], 0);
}

#[test]
fn keeps_the_rate_of_an_open_loop() {
    let origin = Origin::start(&[]);
    let arguments = ["--rate", "2000", "--requests", "400", "--connections", "4"];
    let report = report(&load(&origin, &arguments));
    let seconds = report["seconds"].as_f64().unwrap();
    // 400 requests at 2,000 a second are due within 0.2 s; never earlier, and later only if the
    // machine is busy.
    assert!(seconds > 0.19, "{report}");
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn holds_idle_connections() {
    let origin = Origin::start(&[]);
    let report = report(&load(&origin, &["--connections-idle", "50", "--requests", "5"]));
    assert_eq!(report["connections_idle"], 50, "{report}");
    assert_eq!(report["errors"], 0, "{report}");
}

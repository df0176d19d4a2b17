//! `ringcar explain`: says beforehand what a call then does.

#![forbid(unsafe_code)]

use crate::support::{App, Place, eventually, status_of};
use std::process::Command;

#[test]
fn tells_what_the_call_does_and_how_to_make_it() {
    let place = Place::new();
    let app = App::start();
    let (_caller, port) = place.sidecar("checkout", None, &[]);
    let (_callee, _) = place.sidecar("orders", Some(app.port), &[]);
    let path = "/v1.0/invoke/orders/method/x";
    eventually("the route is known", || status_of(port, path) == 200);
    let call = ["explain", "orders/POST", "/a/../b//c?x=1", "--as", "checkout"];
    let finished = place.finish(&call);
    assert_eq!(finished.code, 0, "{}", finished.output);
    for want in [
        "caller    checkout in namespace default",
        "app       orders in namespace default",
        "method    \"b/c\"",
        "row       registry local, instance ",
        ".peer: ready",
        "retries   3 more times, 1s apart",
        "dialled   POST /b/c?x=1 at ",
        &format!("app gets  POST /b/c?x=1 at 127.0.0.1:{}", app.port),
    ] {
        assert!(finished.output.contains(want), "{want} in\n{}", finished.output);
    }
    let json = place.finish(&[&call[..], &["-o", "json"]].concat());
    let steps: serde_json::Value = serde_json::from_str(&json.output).unwrap();
    let steps = steps.as_array().unwrap();
    let by_hand = steps.iter().find(|step| step["step"] == "by hand").unwrap();
    let command = by_hand["found"].as_str().unwrap();
    match Command::new("sh").args(["-c", command]).output() {
        Ok(output) if output.status.code() != Some(127) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
            assert!(app.request_for("/b/c?x=1").starts_with("POST "));
        }
        _ => eprintln!("skipped: there is no curl"),
    }
}

#[test]
fn tells_why_a_call_would_fail() {
    let place = Place::new();
    let (_caller, _) = place.sidecar("checkout", None, &[]);
    for (arguments, want) in [
        (&["nope/GET", "/a"][..], "500 ERR_DIRECT_INVOKE"),
        (&["checkout/GET", "/a%0Ab"], "control character"),
        (&["checkout/GET", "/", "--as", "other"], "no sidecar of app other runs"),
        (&["checkout/GET", "/a b"], "write it as %20"),
    ] {
        let finished = place.finish(&[&["explain"], arguments].concat());
        assert_eq!(finished.code, 1, "{arguments:?}: {}", finished.output);
        assert!(finished.output.contains(want), "{arguments:?}: {}", finished.output);
    }
}

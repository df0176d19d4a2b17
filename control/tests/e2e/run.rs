//! `run`, `invoke`, `list` and `stop`, as on a developer's machine.

#![forbid(unsafe_code)]

use crate::support::{Connection, Place, Process, eventually, free_port, get, status_of};
use rustix::process::{Pid, Signal, kill_process};

/// Answers every request with its path and body. Python, since an app of `run` is a process of its
/// own.
const APP: &str = "
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get('content-length', 0)))
        answer = (self.command + ' ' + self.path + ' ' + body.decode()).encode()
        self.send_response(404 if self.path == '/missing' else 200)
        self.send_header('content-length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_PUT = do_GET
    def log_message(self, *arguments):
        pass
print('serving as ' + os.environ['APP_ID'], flush=True)
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['APP_PORT'])), Handler).serve_forever()
";

fn run_app(place: &Place, id: &str) -> (Process, u16) {
    let (http_port, app_port) = (free_port(), free_port().to_string());
    let port = http_port.to_string();
    let arguments = ["run", "-a", id, "-p", &app_port, "-H", &port, "--", "python3", "-c", APP];
    let mut process = place.start(&arguments);
    process.wait_for("You're up and running! Both Dapr and your app logs will appear here.");
    eventually("the app answers", || status_of(http_port, "/v1.0/healthz") == 204);
    (process, http_port)
}

#[test]
fn an_app_is_run_invoked_listed_and_stopped() {
    let place = Place::new();
    let (process, http_port) = run_app(&place, "checkout");

    let invoke = |arguments: &[&str]| {
        let all: Vec<&str> =
            ["invoke", "-a", "checkout"].iter().chain(arguments).copied().collect();
        place.finish(&all)
    };
    let posted = invoke(&["--method", "checkout/100?x=1", "--data", "{\"n\":1}"]);
    assert_eq!(posted.code, 0, "{}", posted.output);
    let told = "POST /checkout/100?x=1 {\"n\":1}\n✅  App invoked successfully\n";
    assert_eq!(posted.output, told);
    let got = invoke(&["-m", "/checkout", "-v", "get"]);
    assert!(got.output.contains("GET /checkout \n"), "{}", got.output);
    let missing = invoke(&["-m", "missing"]);
    assert_eq!(missing.code, 1);
    assert!(missing.output.contains("404 Not Found: POST /missing"), "{}", missing.output);
    std::fs::write(place.path().join("data"), "from a file").unwrap();
    let data = invoke(&["-m", "m", "-f", "data", "-v", "PUT"]);
    assert!(data.output.contains("PUT /m from a file\n"), "{}", data.output);

    let list = place.finish(&["list", "-o", "json"]).output;
    let value: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(value[0]["appId"], "checkout");
    assert_eq!(value[0]["httpPort"], http_port);
    assert_eq!(value[0]["cliPid"], process.pid());
    assert!(value[0]["command"].as_str().unwrap().starts_with("python3 -c"), "{list}");
    let table = place.finish(&["list"]).output;
    assert!(table.starts_with("APP ID    HTTP PORT  GRPC PORT"), "{table}");

    let stop = place.finish(&["stop", "--app-id", "checkout"]);
    assert_eq!(stop.code, 0, "{}", stop.output);
    assert!(stop.output.contains("app stopped successfully: checkout"), "{}", stop.output);
    let finished = process.wait();
    assert_eq!(finished.code, 143, "{}", finished.output);
    for want in [
        "Starting Dapr with id checkout. HTTP Port: ",
        "== APP == serving as checkout\n",
        "== DAPR == time=",
        "Exited App successfully",
        "Exited Dapr successfully",
    ] {
        assert!(finished.output.contains(want), "{want}: {}", finished.output);
    }
    assert!(place.files("apps").is_empty());
}

#[test]
fn apps_call_each_other_through_their_sidecars() {
    let place = Place::new();
    let (_orders, orders_port) = run_app(&place, "orders");
    let (_checkout, _) = run_app(&place, "checkout");
    eventually("the route is known", || {
        status_of(orders_port, "/v1.0/invoke/checkout/method/pay/1") == 200
    });
    let answer = get(orders_port, "/v1.0/invoke/checkout/method/pay/1");
    assert_eq!(answer.body, "GET /pay/1 ");
}

#[test]
fn the_exit_code_is_the_apps() {
    let place = Place::new();
    for (case, script, want) in
        [("success", "exit 0", 0), ("failure", "exit 7", 7), ("killed", "kill -KILL $$", 137)]
    {
        let finished = place.finish(&["run", "--app-id", "a", "--", "sh", "-c", script]);
        assert_eq!(finished.code, want, "{case}: {}", finished.output);
    }
    let missing = place.finish(&["run", "--app-id", "a", "--", "/no/such/app"]);
    assert_eq!(missing.code, 1);
    assert!(missing.output.contains("cannot start \"/no/such/app\""), "{}", missing.output);
    let refused = place.finish(&["run", "--app-id", "a.b", "--", "true"]);
    assert_eq!(refused.code, 1);
    assert!(refused.output.contains("parameter app-id cannot contain dots"), "{}", refused.output);
    assert!(place.files("apps").is_empty());
}

#[test]
fn the_app_finds_its_sidecar_in_its_environment() {
    let place = Place::new();
    let script = "echo $APP_ID $APP_PORT $APP_PROTOCOL $APP_CHANNEL_ADDRESS $DAPR_HTTP_PORT \
                  $DAPR_GRPC_PORT ${DAPR_METRICS_PORT:+metrics}";
    let (app_port, http_port, grpc_port) = (free_port(), free_port(), free_port());
    let ports = [app_port, http_port, grpc_port].map(|port| port.to_string());
    let finished = place.finish(&[
        "run",
        "--app-id",
        "a",
        "--app-port",
        &ports[0],
        "--dapr-http-port",
        &ports[1],
        "--dapr-grpc-port",
        &ports[2],
        "sh",
        "-c",
        script,
    ]);
    let want = format!("== APP == a {app_port} http 127.0.0.1 {http_port} {grpc_port} metrics\n");
    assert!(finished.output.contains(&want), "{}", finished.output);
}

#[test]
fn signals_reach_the_app_and_end_both() {
    let place = Place::new();
    let script = "trap 'echo user signal' USR1; trap 'echo interrupted; exit 3' INT; echo ready; \
                  while :; do sleep 0.01; done";
    let mut process = place.start(&["run", "--app-id", "a", "--", "sh", "-c", script]);
    process.wait_for("== APP == ready");
    process.wait_for("You're up and running!");
    process.signal(Signal::USR1);
    process.wait_for("== APP == user signal");
    process.signal(Signal::INT);
    let finished = process.wait();
    assert_eq!(finished.code, 3, "{}", finished.output);
    assert!(finished.output.contains("interrupt signal received: shutting down"));
    assert!(finished.output.contains("== APP == interrupted"), "{}", finished.output);
    assert!(finished.output.contains("Daprd shutdown gracefully"), "{}", finished.output);
}

#[test]
fn an_app_ends_with_its_sidecar() {
    let place = Place::new();
    let port = free_port();
    let arguments = ["run", "-a", "a", "-H", &port.to_string(), "--", "sleep", "60"];
    let mut process = place.start(&arguments);
    process.wait_for("You're up and running!");
    let list = place.finish(&["list", "-o", "json"]).output;
    let value: serde_json::Value = serde_json::from_str(&list).unwrap();
    let sidecar = i32::try_from(value[0]["daprdPid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(sidecar).unwrap(), Signal::TERM).unwrap();
    let finished = process.wait();
    assert_eq!(finished.code, 143, "{}", finished.output);
    assert!(finished.output.contains("The daprd process ended: exit"), "{}", finished.output);
}

#[test]
fn a_killed_sidecar_is_started_anew_beside_its_app() {
    let place = Place::new();
    let port = free_port();
    let arguments = ["run", "-a", "a", "-H", &port.to_string(), "--", "sleep", "60"];
    let mut process = place.start(&arguments);
    process.wait_for("You're up and running!");
    let row = || {
        let list = place.finish(&["list", "-o", "json"]).output;
        let value: serde_json::Value = serde_json::from_str(&list).unwrap();
        ["daprdPid", "cliPid", "appPid"].map(|key| value[0][key].as_i64().unwrap())
    };
    let before = row();
    let mut connection = Connection::open(port).unwrap();
    for _ in 0..3 {
        let sidecar = i32::try_from(row()[0]).unwrap();
        kill_process(Pid::from_raw(sidecar).unwrap(), Signal::KILL).unwrap();
        assert_eq!(connection.get("/v1.0/healthz").unwrap().0, 204, "without control");
        process.wait_for_each([
            "The daprd process ended: signal: 9 (SIGKILL); starting it anew",
            "Adopted the running data plane",
        ]);
        eventually("the new one is known", || row()[0] != i64::from(sidecar));
    }
    assert_eq!(connection.get("/v1.0/healthz").unwrap().0, 204);
    assert_eq!(row()[1..], before[1..], "what run had told of itself and the app");
    process.signal(Signal::TERM);
    let finished = process.wait();
    assert!(finished.output.contains("Exited Dapr successfully"), "{}", finished.output);
}

#[test]
fn runs_a_sidecar_alone() {
    let place = Place::new();
    let port = free_port();
    let mut process = place.start(&["run", "--app-id", "a", "-H", &port.to_string()]);
    process.wait_for("You're up and running! Dapr logs will appear here.");
    assert_eq!(get(port, "/v1.0/healthz").status, 204);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, 0);
}

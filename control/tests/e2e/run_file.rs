//! `run -f` and `stop -f`: several apps of one file, as on a developer's machine.

#![forbid(unsafe_code)]

use crate::support::{Place, eventually, free_port, get, status_of};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// Says where it runs and answers every request with that.
const APP: &str = "\
import http.server, os
seen = ' '.join([os.environ['APP_ID'], os.path.basename(os.getcwd()), os.environ['SHARED']])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('content-length', str(len(seen)))
        self.end_headers()
        self.wfile.write(seen.encode())
    def log_message(self, *arguments):
        pass
print('serving as ' + seen, flush=True)
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['APP_PORT'])), Handler).serve_forever()
";

/// Two apps; the ports of their APIs.
fn shop(place: &Place) -> [u16; 2] {
    let ports = [free_port(), free_port()];
    for name in ["orders", "stock"] {
        fs::create_dir(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("app.py"), APP).unwrap();
    }
    let [orders, stock] = ports;
    let [orders_app, stock_app] = [free_port(), free_port()];
    let text = format!(
        "version: 1
name: shop
common:
  env: {{ SHARED: of-all }}
apps:
- appDirPath: orders
  appPort: {orders_app}
  daprHTTPPort: {orders}
  command: [python3, app.py]
- appDirPath: ./stock
  appID: stocked
  appPort: {stock_app}
  daprHTTPPort: {stock}
  daprdLogDestination: fileAndConsole
  appLogDestination: file
  env: {{ SHARED: own }}
  command: [python3, app.py]
"
    );
    fs::write(place.path().join("dapr.yaml"), text).unwrap();
    ports
}

fn rows(place: &Place) -> Vec<serde_json::Value> {
    let list = place.finish(&["list", "-o", "json"]).output;
    serde_json::from_str(&list).unwrap()
}

#[test]
fn apps_of_a_file_run_side_by_side_until_stop() {
    let place = Place::new();
    let [orders, stock] = shop(&place);
    let mut process = place.start(&["run", "-f", "."]);
    process.wait_for("Started Dapr with app id \"stocked\"");
    eventually("both are healthy", || {
        [orders, stock].iter().all(|port| status_of(*port, "/v1.0/healthz") == 204)
    });
    let seen = get(orders, "/v1.0/invoke/stocked/method/x");
    assert_eq!((seen.status, &*seen.body), (200, "stocked stock own"), "they call each other");

    eventually("all is told", || rows(&place).iter().all(|row| row["appLogPath"] != ""));
    let file = fs::canonicalize(place.path().join("dapr.yaml")).unwrap();
    for row in rows(&place) {
        assert_eq!(row["runTemplatePath"], file.to_str().unwrap());
        assert_eq!(row["runTemplateName"], "shop");
        let log = |key: &str| fs::read_to_string(row[key].as_str().unwrap()).unwrap();
        assert!(log("appLogPath").starts_with("serving as "), "{}", log("appLogPath"));
        assert!(log("daprdLogPath").contains("dapr initialized"), "{}", log("daprdLogPath"));
    }

    let stopped = place.finish(&["stop", "-f", "dapr.yaml"]);
    assert_eq!(stopped.code, 0, "{}", stopped.output);
    let finished = process.wait();
    assert!(finished.output.contains("Exited App orders successfully"), "{}", finished.output);
    assert!(finished.output.contains("Exited Dapr stocked successfully"), "{}", finished.output);
    let of_orders = "== APP - orders == serving as orders orders of-all";
    assert!(finished.output.contains(of_orders), "{}", finished.output);
    assert!(!finished.output.contains("serving as stocked"), "to its file only");
    assert!(finished.output.contains("== DAPR - stocked == "), "{}", finished.output);
    assert!(!finished.output.contains("== DAPR - orders == "), "{}", finished.output);
    let nobody = place.finish(&["stop", "-f", "."]);
    assert_eq!(nobody.code, 1);
    assert!(nobody.output.contains("couldn't find apps with run file"), "{}", nobody.output);
}

#[test]
fn an_app_that_ends_takes_only_its_own_sidecar_along() {
    let place = Place::new();
    let [orders, stock] = shop(&place);
    let mut process = place.start(&["run", "-f", "dapr.yaml"]);
    process.wait_for("Started Dapr with app id \"stocked\"");
    eventually("both are healthy", || {
        [orders, stock].iter().all(|port| status_of(*port, "/v1.0/healthz") == 204)
    });
    let stopped = place.finish(&["stop", "stocked"]);
    assert_eq!(stopped.code, 0, "{}", stopped.output);
    process.wait_for("Exited Dapr stocked successfully");
    assert_eq!(get(orders, "/v1.0/invoke/orders/method/x").body, "orders orders of-all");

    eventually("one is left", || rows(&place).len() == 1);
    let app = i32::try_from(rows(&place)[0]["appPid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(app).unwrap(), Signal::KILL).unwrap();
    let finished = process.wait();
    assert_eq!(finished.code, 143, "the largest; 143 is that of the app that was stopped");
    assert!(
        finished.output.contains("The App process orders exited with error code: 137"),
        "{}",
        finished.output
    );
}

#[test]
fn nothing_is_started_with_a_file_that_has_mistakes() {
    let place = Place::new();
    shop(&place);
    let path = place.path().join("dapr.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("appID: stocked", "appId: stocked\n  appProtocl: http")).unwrap();
    let finished = place.finish(&["run", "-f", "dapr.yaml"]);
    assert_eq!(finished.code, 1);
    for want in [
        "dapr.yaml:11:3: appId: there is no such key; is it \"appID\"?",
        "dapr.yaml:12:3: appProtocl: there is no such key; is it \"appProtocol\"?",
    ] {
        assert!(finished.output.contains(want), "{want}: {}", finished.output);
    }
    assert!(!finished.output.contains("Starting Dapr"), "{}", finished.output);
    let missing = place.finish(&["run", "-f", "nowhere"]);
    assert!(missing.output.contains("cannot read the run file nowhere"), "{}", missing.output);
}

#[test]
fn an_app_that_cannot_be_started_ends_all() {
    let place = Place::new();
    shop(&place);
    let path = place.path().join("dapr.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let broken =
        text.replacen("command: [python3, app.py]\n- ", "command: [no-such-program]\n- ", 1);
    assert_ne!(broken, text);
    fs::write(&path, broken).unwrap();
    let finished = place.finish(&["run", "-f", "dapr.yaml"]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert!(finished.output.contains("App orders: cannot start"), "{}", finished.output);
    assert!(!finished.output.contains("id stocked"), "the next was not started");
    assert!(rows(&place).is_empty());
}

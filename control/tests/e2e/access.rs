//! What requests must pass, as operators set it: Configuration files, variables, a node's file, and
//! changes of them while calls go on.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, free_port, get, replace, status_of};
use rustix::process::Signal;
use std::fs;

fn public_for(caller: &str) -> String {
    format!(
        "kind: Configuration
spec:
  accessControl:
    defaultAction: deny
    policies:
    - appId: {caller}
      namespace: default
      trustDomain: public
      defaultAction: deny
      operations:
      - {{name: /public, httpVerb: ['*'], action: allow}}
"
    )
}

fn invoke(method: &str) -> String {
    format!("/v1.0/invoke/checkout/method/{method}")
}

#[test]
fn callers_on_this_machine_are_known_by_the_kernel() {
    let place = Place::new();
    let app = App::start();
    let path = place.path().join("c.yaml");
    replace(&path, &public_for("orders"));
    let (mut callee, own) = place.sidecar("checkout", Some(app.port), &["--config=c.yaml"]);
    let (_orders, orders) = place.sidecar("orders", None, &[]);
    let (_other, other) = place.sidecar("other", None, &[]);
    for port in [orders, other] {
        eventually("the callee is known", || status_of(port, &invoke("public")) != 500);
    }
    assert_eq!(get(orders, &invoke("public/extra")).body, "/public/extra ");
    let denied = |id: &str, method: &str| {
        format!(
            "{{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: checkout, \
             err: rpc error: code = PermissionDenied desc = access control policy has denied \
             access to id: spiffe://public/ns/default/{id} operation: {method} verb: GET\"}}"
        )
    };
    for (port, id, method) in [(orders, "orders", "admin"), (other, "other", "public")] {
        let forged = ["dapr-caller-app-id: orders", "dapr-caller-namespace: default"];
        let answer = call(port, &format!("GET {}", invoke(method)), &forged, "");
        assert_eq!((answer.status, answer.body), (403, denied(id, method)));
    }
    assert_eq!(get(own, &invoke("admin")).status, 200, "an app may call itself");

    replace(&path, &public_for("other"));
    callee.wait_for("Configuration reloaded");
    eventually("the other one may", || status_of(other, &invoke("public")) == 200);
    assert_eq!(get(orders, &invoke("public")).status, 403);
    replace(&path, &public_for("''"));
    let line = callee.wait_for("Configuration is not reloaded");
    assert!(line.contains("c.yaml:6:7: spec.accessControl.policies: invalid access control"));
    assert!(line.contains("missing app name on at least one of the app policies: true"), "{line}");
    assert_eq!(get(orders, &invoke("public")).status, 403, "what was in force stays");
    replace(&path, "spec: {}\n");
    callee.wait_for("Configuration reloaded");
    eventually("everybody may", || status_of(orders, &invoke("admin")) == 200);
}

#[test]
fn apis_that_are_not_allowed_are_not_there() {
    let place = Place::new();
    let app = App::start();
    let path = place.path().join("c.yaml");
    let rules = |name: &str| {
        format!("spec: {{api: {{denied: [{{name: {name}, version: v1, protocol: http}}]}}}}\n")
    };
    replace(&path, &rules("metadata"));
    let (mut sidecar, port) = place.sidecar("checkout", Some(app.port), &["--config=c.yaml"]);
    let metadata = get(port, "/v1.0/metadata");
    assert_eq!(metadata.status, 404);
    assert!(metadata.body.contains("ERR_DIRECT_INVOKE"), "{}", metadata.body);
    replace(&path, &rules("invoke"));
    sidecar.wait_for("Configuration reloaded");
    eventually("metadata is there", || status_of(port, "/v1.0/metadata") == 200);
    assert_eq!(get(port, &invoke("x")).body, "404 page not found\n");
    replace(&path, &rules("metdata"));
    sidecar.wait_for("Configuration reloaded");
    eventually("both are there", || status_of(port, &invoke("x")) == 200);
    let checked = place.finish(&["config", "check", "c.yaml"]);
    assert!(checked.output.contains("there is no API \"v1\"/\"metdata\""), "{}", checked.output);
}

#[test]
fn tokens_are_asked_for_and_sent_and_never_shown() {
    let place = Place::new();
    let app = App::start();
    let (port, app_port) = (free_port().to_string(), app.port.to_string());
    let mut command = place.ringcar(&[
        "sidecar",
        "--app-id=checkout",
        "--dapr-http-port",
        &port,
        "--app-port",
        &app_port,
        "--dapr-listen-addresses=127.0.0.1",
        "--enable-metrics=false",
        "--log-level=debug",
    ]);
    command.env("DAPR_API_TOKEN", "hush-api").env("APP_API_TOKEN", "hush-app");
    let mut process = Process::start(&mut command);
    process.wait_for("Enabled token authentication on HTTP server");
    process.wait_for("dapr initialized. Status: Running.");
    let port: u16 = port.parse().unwrap();
    assert_eq!(get(port, "/v1.0/healthz").status, 204);
    for headers in [&[][..], &["dapr-api-token: wrong"]] {
        let answer = call(port, &format!("GET {}", invoke("x")), headers, "");
        assert_eq!((answer.status, answer.body.as_str()), (401, "invalid api token\n"));
    }
    let question = app.request_for("/dapr/config").to_ascii_lowercase();
    assert!(question.contains("dapr-api-token: hush-app\r\n"), "{question}");
    let headers = ["dapr-api-token: hush-api"];
    assert_eq!(call(port, &format!("GET {}", invoke("x")), &headers, "").status, 200);
    let seen = app.request_for("/x").to_ascii_lowercase();
    assert_eq!(seen.matches("dapr-api-token").count(), 1, "{seen}");
    assert!(seen.contains("dapr-api-token: hush-app\r\n"), "{seen}");

    let arguments = ["invoke", "--app-id=checkout", "--method=y", "--verb=GET"];
    let refused = place.finish(&arguments);
    assert!(refused.code != 0 && refused.output.contains("401"), "{}", refused.output);
    let mut invoke = place.ringcar(&arguments);
    let invoked = Process::start(invoke.env("DAPR_API_TOKEN", "hush-api")).wait();
    assert_eq!(invoked.code, 0, "{}", invoked.output);

    let mut show = place.ringcar(&["config", "show", "--app-id=checkout"]);
    let shown = Process::start(show.env("DAPR_API_TOKEN", "hush-api")).wait().output;
    let listed = place.finish(&["list", "-o", "json"]).output;
    process.signal(Signal::TERM);
    let said = process.wait().output;
    for text in [&shown, &listed, &said] {
        assert!(!text.contains("hush-"), "{text}");
    }
    assert!(shown.contains("DAPR_API_TOKEN") && listed.contains("checkout"), "{shown}{listed}");
}

#[test]
fn browsers_of_allowed_origins_are_answered() {
    let place = Place::new();
    let more = ["--allowed-origins=https://shop.example"];
    let (_sidecar, port) = place.sidecar("checkout", None, &more);
    for (origin, is_allowed) in [("https://shop.example", true), ("https://other", false)] {
        let headers = [&format!("Origin: {origin}"), "Access-Control-Request-Method: GET"];
        let answer = call(port, "OPTIONS /v1.0/metadata", &headers, "");
        assert_eq!(answer.status, 200);
        let line = format!("Access-Control-Allow-Origin: {origin}");
        assert_eq!(answer.head.contains(&line), is_allowed, "{}", answer.head);
    }
}

#[test]
fn each_app_of_a_node_has_its_own_guards() {
    let place = Place::new();
    let app = App::start();
    let ports = [free_port(), free_port(), free_port()];
    let (token, policy) = (place.path().join("token"), place.path().join("policy.yaml"));
    fs::write(&token, "hush-first\n").unwrap();
    fs::write(&policy, public_for("orders")).unwrap();
    let file = place.path().join("node.yaml");
    let text = format!(
        "name: shop
enable-metrics: false
defaults: {{listen-addresses: 127.0.0.1}}
apps:
- {{id: orders, http-port: {}, token: {{file: {}}}}}
- {{id: other, http-port: {}, token: {{env: OF_OTHER}}}}
- id: checkout
  http-port: {}
  address: {}
  app-token: {{env: OF_APP}}
  configuration: {}
",
        ports[0],
        token.display(),
        ports[1],
        ports[2],
        app.port,
        policy.display()
    );
    fs::write(&file, text).unwrap();
    let mut command = place.ringcar(&["node", "--config", file.to_str().unwrap()]);
    let mut node = Process::start(command.env("OF_OTHER", "hush-other").env("OF_APP", "hush-app"));
    node.wait_for("Node shop serves 3 apps");
    eventually("ready", || status_of(ports[2], "/v1.0/healthz") == 204);
    let ask = |port: u16, token: &str, method: &str| {
        let headers = [&*format!("dapr-api-token: {token}")];
        call(port, &format!("GET {}", invoke(method)), &headers, "").status
    };
    for (port, token, method, want) in [
        (ports[0], "hush-other", "public", 401),
        (ports[0], "hush-first", "admin", 403),
        (ports[1], "hush-other", "public", 403),
        (ports[0], "hush-first", "public", 200),
        (ports[2], "", "admin", 200),
    ] {
        assert_eq!(ask(port, token, method), want, "{port} {token} {method}");
    }
    let seen = app.request_for("/public").to_ascii_lowercase();
    assert!(seen.contains("dapr-api-token: hush-app\r\n"), "{seen}");
    assert!(!seen.contains("hush-first"), "{seen}");

    fs::write(&token, "hush-second\n").unwrap();
    fs::write(&policy, public_for("other")).unwrap();
    node.signal(Signal::HUP);
    eventually("the new token counts", || ask(ports[0], "hush-second", "public") == 403);
    assert_eq!(ask(ports[0], "hush-first", "public"), 401);
    assert_eq!(ask(ports[1], "hush-other", "public"), 200);
    let listed = place.finish(&["node", "list", "-o", "json"]).output;
    node.signal(Signal::TERM);
    let said = node.wait().output;
    assert!(!listed.contains("hush-") && !said.contains("hush-"), "{listed}{said}");
}

#[test]
fn callers_of_other_machines_are_known_by_networks_that_are_trusted() {
    // What sidecars of one machine share is a directory; these two share a database alone.
    let (here, there) = (Place::new(), Place::new());
    let app = App::start();
    let hosts = here.path().join("hosts.db");
    let options = format!("configuration: {{connectionString: '{}'}}", hosts.display());
    let registry = format!("  nameResolution: {{component: sqlite, {options}}}\n");
    let text = format!("{}{registry}", public_for("orders"));
    let config = there.path().join("c.yaml");
    replace(&config, &text);
    fs::write(here.path().join("c.yaml"), format!("spec:\n{registry}")).unwrap();
    let more = ["--config=c.yaml", "--dapr-internal-grpc-listen-address=127.0.0.1"];
    let (mut callee, _) = there.sidecar("checkout", Some(app.port), &more);
    let (_caller, port) = here.sidecar("orders", None, &more);
    eventually("the callee is known", || status_of(port, &invoke("public")) != 500);
    let answer = get(port, &invoke("public"));
    assert!(answer.status == 403 && answer.body.contains("to id:  operation"), "{}", answer.body);
    replace(&config, &format!("{text}  ringcar: {{trustedPeerNetworks: 127.0.0.0/8}}\n"));
    callee.wait_for("Configuration reloaded");
    eventually("its name counts", || status_of(port, &invoke("public")) == 200);
    assert_eq!(get(port, &invoke("admin")).status, 403);
}

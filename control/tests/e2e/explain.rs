//! `ringcar explain`: says beforehand what a call then does.

#![forbid(unsafe_code)]

use crate::support::{
    App, Place, Server, call, eventually, free_port, replace, skipped, status_of,
};
use std::{fs, process::Command};

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
        "caller    checkout in namespace default, process ",
        "asked     its control, whose state ",
        "registry  local: up",
        "app       orders in namespace default",
        "method    \"b/c\"",
        ", by local, process ",
        "access    the app that is called has no access control",
        "takes     any number of calls at a time; its health is not checked",
        "policy    none of the caller is about \"orders\"",
        ".peer: ready; the only one",
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
        _ => skipped("there is no curl, for the call by hand"),
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

/// All that is found in a step of this name.
fn steps(place: &Place, arguments: &[&str], name: &str) -> Vec<String> {
    let finished = place.finish(&[&["explain", "-o", "json"], arguments].concat());
    let steps: serde_json::Value = serde_json::from_str(&finished.output)
        .unwrap_or_else(|e| panic!("{e}: {}", finished.output));
    let of_name = steps.as_array().unwrap().iter().filter(|step| step["step"] == name);
    of_name.map(|step| step["found"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn tells_what_the_workers_think_of_each_endpoint() {
    let place = Place::new();
    let (first, second) = (App::start(), App::start());
    let (_caller, port) = place.sidecar("checkout", None, &[]);
    let (_one, _) = place.sidecar("orders", Some(first.port), &[]);
    let (_two, _) = place.sidecar("orders", Some(second.port), &[]);
    let arguments = ["orders/GET", "/x", "--as", "checkout"];
    eventually("both are known", || steps(&place, &arguments, "endpoint").len() == 2);
    let endpoints = steps(&place, &arguments, "endpoint");
    assert!(endpoints[0].contains("no worker has called the app"), "{endpoints:?}");
    for _ in 0..40 {
        assert_eq!(call(port, "GET /v1.0/invoke/orders/method/x", &[], "").status, 200);
    }
    for endpoint in steps(&place, &arguments, "endpoint") {
        assert!(endpoint.contains(".peer: ready; worker "), "{endpoint}");
        assert!(endpoint.contains(": 0 under way, ") && endpoint.contains(", in"), "{endpoint}");
        assert!(endpoint.contains(" ms, in"), "{endpoint}");
    }
}

#[test]
fn tells_which_rule_of_the_callee_decides() {
    let place = Place::new();
    let app = App::start();
    let path = place.path().join("c.yaml");
    let allowing = |name: &str| {
        format!(
            "kind: Configuration\nspec:\n  accessControl:\n    defaultAction: deny\n    policies:\n    \
             - appId: orders\n      namespace: default\n      trustDomain: public\n      \
             defaultAction: deny\n      operations:\n      \
             - {{name: {name}, httpVerb: [GET], action: allow}}\n"
        )
    };
    replace(&path, &allowing("/public"));
    let flags = ["--config=c.yaml", "--app-max-concurrency=7"];
    let (mut callee, _) = place.sidecar("checkout", Some(app.port), &flags);
    let (_orders, orders) = place.sidecar("orders", None, &[]);
    let (_other, _) = place.sidecar("other", None, &[]);
    let invoke =
        |method: &str| status_of(orders, &format!("/v1.0/invoke/checkout/method/{method}"));
    eventually("the callee is known", || invoke("public") == 200);
    let of_orders = "of spiffe://public/ns/default/orders, proven by the kernel: it runs as user ";
    for (caller, call, method, code, wants) in [
        (
            "orders",
            "checkout/GET",
            "/admin%2F..%2Fpublic/x",
            0,
            [
                "allowed: \"public/x\" with verb GET ",
                of_orders,
                "; by operation \"/public\" (GET: allow)",
            ],
        ),
        (
            "orders",
            "checkout/GET",
            "/public/..%2Fadmin",
            1,
            [
                "refused with 403: \"admin\" with verb GET ",
                of_orders,
                "no operation is about it with this verb",
            ],
        ),
        (
            "orders",
            "checkout/PUT",
            "/public",
            1,
            [
                "refused with 403: \"public\" with verb PUT ",
                "defaultAction deny of the caller's policy",
                "",
            ],
        ),
        (
            "other",
            "checkout/GET",
            "/public",
            1,
            [
                "refused with 403: ",
                "/ns/default/other, ",
                "by the global defaultAction deny: no policy",
            ],
        ),
    ] {
        let arguments = [call, method, "--as", caller];
        let finished = place.finish(&[&["explain"], &arguments[..]].concat());
        assert_eq!(finished.code, code, "{caller} {method}: {}", finished.output);
        let access = steps(&place, &arguments, "access");
        assert_eq!(access.len(), 1, "{access:?}");
        for want in wants {
            assert!(access[0].contains(want), "{want} in {access:?}");
        }
        let takes = steps(&place, &arguments, "takes");
        assert_eq!(
            takes,
            ["7 calls at a time, and more wait their turn; its health is not checked"]
        );
    }
    let own = steps(&place, &["checkout/GET", "/admin", "--as", "checkout"], "access");
    assert_eq!(own, ["allowed: an app may always call itself"]);

    // The rules are those in force.
    replace(&path, &allowing("/admin"));
    callee.wait_for("Configuration reloaded");
    eventually("the new rules are in force", || invoke("admin") == 200);
    let access = steps(&place, &["checkout/GET", "/admin", "--as", "orders"], "access");
    assert!(access[0].contains("by operation \"/admin\""), "{access:?}");
}

#[test]
fn tells_what_the_callers_policies_do_and_how_the_breaker_stands() {
    let place = Place::new();
    let app = App::start();
    fs::create_dir(place.path().join("resources")).unwrap();
    let text = "\
kind: Resiliency
metadata: {name: calls}
spec:
  policies:
    timeouts: {quick: 5s}
    retries: {again: {duration: 1ms, maxRetries: 1, matching: {httpStatusCodes: \"429,500-502\"}}}
    circuitBreakers: {careful: {trip: \"consecutiveFailures >= 2 && requests < 100\", timeout: 1h}}
  targets:
    apps: {orders: {timeout: quick, retry: again, circuitBreaker: careful}}
";
    fs::write(place.path().join("resources/r.yaml"), text).unwrap();
    let metrics_port = format!("--metrics-port={}", free_port());
    let flags = ["--resources-path=resources", &metrics_port];
    let (_callee, _) = place.sidecar("orders", Some(app.port), &[]);

    // One that does not run would have them, too.
    let planned = ["orders/GET", "/x", "--as", "checkout", "--app-port=1"];
    let policy = steps(&place, &planned, "policy");
    assert_eq!(policy, ["none of the caller is about \"orders\""]);

    let (_caller, port) = place.sidecar("checkout", None, &flags);
    let running = ["orders/GET", "/x", "--as", "checkout"];
    eventually("the callee is known", || !steps(&place, &running, "endpoint").is_empty());
    for (step, want) in [
        ("policy", "the caller's, by an entry for \"orders\" (resources: calls)"),
        ("timeout", "5s for each attempt (policy \"quick\")"),
        (
            "retry",
            "1 more times at the most, 1ms apart, after no answer or status 429,500-502 (policy \
             \"again\")",
        ),
        (
            "breaker",
            "one for each method, opens when consecutiveFailures >= 2 && requests < 100, counted for \
             as long as it is closed; after 3600s it is tried with 1 at a time (policy \"careful\"); no \
             call under it was counted yet, so it is closed",
        ),
    ] {
        assert_eq!(steps(&place, &running, step), [want]);
    }
    let retries = steps(&place, &running, "retries");
    assert!(retries[0].starts_with("once more at once when a kept connection"), "{retries:?}");
    let timeouts = steps(&place, &running, "timeouts");
    assert!(timeouts[0].ends_with(", each attempt as above"), "{timeouts:?}");

    let path = "/v1.0/invoke/orders/method/status/500";
    eventually("the breaker opens", || {
        call(port, &format!("GET {path}"), &[], "").body.contains("circuit breaker is open")
    });
    eventually("it is told", || {
        steps(&place, &running, "breaker")[0].ends_with("; of the method called last it is open")
    });
}

#[test]
fn tells_registry_and_revision_of_each_row_and_which_of_them_count() {
    let Some(mut etcd) = Server::etcd() else { return };
    etcd.start();
    let (here, there) = (Place::new(), Place::new());
    let app = App::start();
    let loopback = "--dapr-internal-grpc-listen-address=127.0.0.1";
    let etcd_at =
        format!("{{component: etcd, configuration: {{endpoints: '127.0.0.1:{}'}}}}", etcd.port);
    let write = |place: &Place, components: &str| {
        let text = format!("kind: Configuration\nspec: {{nameResolution: [{components}]}}\n");
        fs::write(place.path().join("c.yaml"), text).unwrap();
    };
    write(&there, &etcd_at);
    let flags = ["--config=c.yaml", loopback];
    let (_callee, _) = there.sidecar("orders", Some(app.port), &flags);
    let closed = free_port();
    fs::write(
        here.path().join("apps.yaml"),
        format!("- {{id: other, endpoints: ['10.0.0.1:1']}}\n- {{id: orders, endpoints: ['127.0.0.1:{closed}']}}\n"),
    )
    .unwrap();
    let file = "{component: file, configuration: {path: apps.yaml}}";
    write(&here, &format!("{file}, {etcd_at}"));

    // Nobody runs here: what would be known is read.
    let planned = ["orders/GET", "/x", "--as", "checkout", "--config=c.yaml"];
    let asked = steps(&here, &planned, "asked");
    assert_eq!(asked, ["the registries of its configuration, read now"]);
    let expect = |arguments: &[&str]| {
        let rows = steps(&here, arguments, "row");
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows[0].contains(", by file, line 2, written 20"), "{rows:?}");
        assert!(rows[1].contains(", by etcd, mod revision "), "{rows:?}");
        assert!(rows[1].ends_with("does not count: file knows the app, which counts for more"));
        let endpoints = steps(&here, arguments, "endpoint");
        let want = format!("127.0.0.1:{closed}: its sidecar does not answer (");
        assert!(endpoints[0].starts_with(&want) && endpoints.len() == 1, "{endpoints:?}");
    };
    expect(&planned);
    let (_caller, port) = here.sidecar("checkout", None, &flags);
    let running = ["orders/GET", "/x", "--as", "checkout"];
    eventually("etcd is read", || steps(&here, &running, "row").len() == 2);
    assert!(steps(&here, &running, "asked")[0].starts_with("its control, whose state "));
    expect(&running);

    // Without the file the other row counts, and the call arrives.
    fs::write(here.path().join("apps.yaml"), "[]\n").unwrap();
    eventually("the call arrives", || status_of(port, "/v1.0/invoke/orders/method/x") == 200);
    let finished = here.finish(&[&["explain"], &running[..]].concat());
    assert_eq!(finished.code, 0, "{}", finished.output);
    assert!(finished.output.contains(": takes connections; the only one"), "{}", finished.output);
}

#[test]
fn tells_of_neighbours_on_a_node() {
    let place = Place::new();
    let app = App::start();
    let ports = [free_port(), free_port()];
    let file = format!(
        "name: shop\nenable-metrics: false\ndefaults: {{listen-addresses: 127.0.0.1}}\n\
         apps: [{{id: orders, http-port: {}, address: {}}}, {{id: caller, http-port: {}}}]\n",
        ports[0], app.port, ports[1]
    );
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let mut node = place.start(&["node", "--config", "node.yaml"]);
    node.wait_for("Node shop serves 2 apps");
    eventually("it is ready", || status_of(ports[0], "/v1.0/healthz") == 204);
    let finished = place.finish(&["explain", "orders/GET", "/x", "--as=caller", "--node=shop"]);
    assert_eq!(finished.code, 0, "{}", finished.output);
    for want in [
        "caller    caller in namespace default, node shop, process ",
        "does not count: the app is served here",
        "in the caller's own data plane, without another sidecar: ready",
        &format!("app gets  GET /x at 127.0.0.1:{}", app.port),
    ] {
        assert!(finished.output.contains(want), "{want} in\n{}", finished.output);
    }
    // Sidecars that answer questions are no nodes.
    let (_sidecar, _) = place.sidecar("outside", None, &[]);
    let list = place.finish(&["node", "list"]);
    assert_eq!(list.code, 0, "{}", list.output);
}

#[test]
fn tells_of_servers_outside_of_dapr() {
    let place = Place::new();
    let server = App::start();
    let closed = free_port();
    fs::create_dir(place.path().join("resources")).unwrap();
    let resource = format!(
        "kind: HTTPEndpoint\nmetadata: {{name: shop}}\nspec: {{baseUrl: 'http://localhost:{}/v2', \
         headers: [{{name: X-Key, value: s3cret}}]}}\n",
        server.port
    );
    fs::write(place.path().join("resources/shop.yaml"), resource).unwrap();
    let (_caller, port) = place.sidecar("orders", None, &["--resources-path=resources"]);
    let path = "/v1.0/invoke/shop/method/pay";
    eventually("the endpoint is known", || status_of(port, path) == 200);
    let finished = place.finish(&["explain", "shop/PUT", "/a/../pay?x=1"]);
    assert_eq!(finished.code, 0, "{}", finished.output);
    for want in [
        &*format!(
            "server    http://localhost:{}/v2, by the HTTPEndpoint \"shop\": sets X-Key",
            server.port
        ),
        "access    nobody's is asked",
        "method    \"pay\"",
        &*format!("127.0.0.1:{}: it listens", server.port),
        "policy    none of the caller is about \"shop\"",
        &*format!("dialled   PUT /v2/pay?x=1 at localhost:{}", server.port),
        "by hand   curl",
    ] {
        assert!(finished.output.contains(want), "{want} in\n{}", finished.output);
    }
    assert!(!finished.output.contains("s3cret"), "{}", finished.output);
    let url = |url: &str| place.finish(&["explain", &format!("{url}/GET"), "/pay"]);
    let found = url(&format!("http://127.0.0.1:{}", server.port));
    assert_eq!(found.code, 0, "{}", found.output);
    assert!(found.output.contains(", by its URL: nothing of Dapr goes there"), "{}", found.output);
    for (target, want) in [
        (format!("http://127.0.0.1:{closed}"), "Connection refused"),
        ("https://h".to_owned(), "500: parse \"https://h\": https needs TLS"),
    ] {
        let found = url(&target);
        assert_eq!(found.code, 1, "{target}: {}", found.output);
        assert!(found.output.contains(want), "{want} in\n{}", found.output);
    }
}

//! What a sidecar tells of its calls: daprd's metrics, API log and trace headers, as flags and
//! files want them.

#![forbid(unsafe_code)]

use crate::support::{App, Connection, Place, Process, call, eventually, free_port, get, replace};
use rustix::process::Signal;
use std::fs;

/// A sidecar with a metrics page; its ports, of the API and of the page.
fn sidecar(place: &Place, app: &App, more: &[&str]) -> (Process, u16, u16) {
    let metrics_port = free_port();
    let port = format!("--metrics-port={metrics_port}");
    let (process, http_port) =
        place.sidecar("orders", Some(app.port), &[&[port.as_str()], more].concat());
    (process, http_port, metrics_port)
}

#[track_caller]
fn await_sample(metrics_port: u16, sample: &str) -> String {
    let mut page = String::new();
    eventually(sample, || {
        page = get(metrics_port, "/metrics").body;
        page.lines().any(|line| line == sample)
    });
    page
}

#[test]
fn the_page_has_the_metrics_of_daprd() {
    let place = Place::new();
    let app = App::start();
    let (_process, port, metrics_port) = sidecar(&place, &app, &[]);
    let path = "/v1.0/invoke/orders/method/pay";
    assert_eq!(call(port, &format!("POST {path}"), &[], "abc").status, 200);
    assert_eq!(get(port, "/v1.0/invoke/nobody/method/x").status, 500);
    let labels = format!("app_id=\"orders\",method=\"POST\",path=\"{path}\",status=\"200\"");
    let sample = format!("dapr_http_server_request_count{{{labels}}} 1");
    let page = await_sample(metrics_port, &sample);
    let client = "app_id=\"orders\",method=\"POST\",path=\"/pay\",status=\"200\"";
    for want in [
        "# TYPE dapr_http_server_request_count counter".to_owned(),
        "# TYPE dapr_http_server_latency histogram".to_owned(),
        format!("dapr_http_server_response_count{{{labels}}} 1"),
        format!("dapr_http_server_latency_bucket{{{labels},le=\"100000\"}} 1"),
        format!("dapr_http_server_latency_bucket{{{labels},le=\"+Inf\"}} 1"),
        format!("dapr_http_server_latency_count{{{labels}}} 1"),
        "dapr_http_server_request_bytes_bucket{app_id=\"orders\",le=\"1024\"} 2".to_owned(),
        format!("dapr_http_client_completed_count{{{client}}} 1"),
        format!("dapr_http_client_roundtrip_latency_count{{{client}}} 1"),
        "dapr_http_client_sent_bytes_sum{app_id=\"orders\",method=\"POST\",path=\"/pay\",status=\"\"} 3"
            .to_owned(),
        "dapr_runtime_component_loaded{app_id=\"orders\"} 0".to_owned(),
        "dapr_runtime_mtls_init_total{app_id=\"orders\"} 0".to_owned(),
        "# TYPE process_cpu_seconds_total counter".to_owned(),
        "# TYPE ringcar_added_latency_seconds histogram".to_owned(),
    ] {
        assert!(page.lines().any(|line| line == want), "{want} in:\n{page}");
    }
    let resident = |process: &str| {
        let start = format!("process_resident_memory_bytes{{process=\"{process}\"}} ");
        page.lines().any(|line| line.starts_with(&start))
    };
    assert!(resident("control") && resident("dataplane"), "{page}");
    assert!(!page.contains("\ngo_"), "{page}");
    assert!(!page.contains("service_invocation_req_sent"), "to itself, not over a network: {page}");
}

/// The list is our own; rows that say `absent` are checked as well, so that none outlives its
/// reason.
#[test]
fn daprs_dashboards_find_their_series() {
    let place = Place::new();
    let app = App::start();
    let (_process, port, metrics_port) = sidecar(&place, &app, &[]);
    let path = "/v1.0/invoke/orders/method/pay";
    assert_eq!(get(port, path).status, 200);
    let counted = "app_id=\"orders\",method=\"GET\"";
    let sample =
        format!("dapr_http_server_response_count{{{counted},path=\"{path}\",status=\"200\"}} 1");
    let page = await_sample(metrics_port, &sample);
    let has = |metric: &str, labels: &[&str]| {
        page.lines().any(|line| {
            let Some(rest) = line.strip_prefix(metric) else { return false };
            let is_it = rest.starts_with(['{', ' ']);
            is_it && labels.iter().all(|label| rest.contains(&format!("{label}=\"")))
        })
    };
    let rows = include_str!("dashboards.txt").lines().filter(|line| !line.starts_with('#'));
    let mut shown = 0;
    for row in rows {
        let (series, verdict) = row.split_once(": ").expect(row);
        let (metric, labels) = series.split_once(' ').expect(row);
        let labels: Vec<&str> = labels.split(',').filter(|label| !label.is_empty()).collect();
        let is_shown = verdict == "shown";
        assert!(is_shown || verdict.starts_with("absent, "), "{row}");
        assert_eq!(has(metric, &labels), is_shown, "{row}\nin:\n{page}");
        assert!(is_shown || !has(metric, &[]), "{row}\nin:\n{page}");
        shown += usize::from(is_shown);
    }
    assert_eq!(shown, 13, "panels that show something");
}

#[test]
fn options_decide_which_series_there_are_and_change_live() {
    let place = Place::new();
    let app = App::start();
    let write = |text: &str| replace(&place.path().join("c.yaml"), text);
    write(
        "spec:\n  metrics:\n    latencyDistributionBuckets: [7, 70]\n    recordErrorCodes: true\n    \
         http: {increasedCardinality: false, excludeVerbs: true, pathMatching: ['/orders/{id}']}\n",
    );
    let (mut process, port, metrics_port) = sidecar(&place, &app, &["--config=c.yaml"]);
    for path in ["orders/1", "orders/2", "x"] {
        assert_eq!(get(port, &format!("/v1.0/invoke/orders/method/{path}")).status, 200);
    }
    assert_eq!(get(port, "/v1.0/invoke/nobody/method/x").status, 500);
    let template = "/v1.0/invoke/{app_id}/method/orders/{id}";
    let of = |path: &str, status| {
        format!("{{app_id=\"orders\",method=\"\",path=\"{path}\",status=\"{status}\"}}")
    };
    let sample = format!("dapr_http_server_request_count{} 2", of(template, 200));
    let page = await_sample(metrics_port, &sample);
    for want in [
        format!("dapr_http_server_request_count{} 1", of("", 500)),
        format!("dapr_http_server_latency_count{} 2", of(template, 200)),
        "dapr_error_code_total{app_id=\"orders\",category=\"service-invocation\",\
         error_code=\"ERR_DIRECT_INVOKE\"} 1"
            .to_owned(),
    ] {
        assert!(page.lines().any(|line| line == want), "{want} in:\n{page}");
    }
    let bounds: Vec<&str> = page
        .lines()
        .filter(|line| {
            line.starts_with("dapr_http_server_latency_bucket") && line.contains(template)
        })
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(bounds, ["7", "70", "+Inf"]);
    assert!(!page.contains("response_count"), "daprd has it with raw paths only:\n{page}");

    write(
        "spec:\n  metric:\n    rules:\n    - name: dapr_http_server_request_count\n      labels:\n      \
         - {name: path, regex: {'/any': '/v1.0/invoke/.*'}}\n",
    );
    process.wait_for("Configuration reloaded");
    eventually("the rule is in force", || {
        get(port, "/v1.0/invoke/orders/method/a");
        get(port, "/v1.0/invoke/orders/method/b");
        let page = get(metrics_port, "/").body;
        let count = "dapr_http_server_request_count{app_id=\"orders\",method=\"GET\",path=\"/any\"";
        page.lines().filter(|line| line.starts_with(count)).count() == 1
            && page.contains(
                "dapr_http_server_latency_count{app_id=\"orders\",method=\"GET\",\
                path=\"/v1.0/invoke/orders/method/a\"",
            )
    });
}

#[test]
fn resources_are_told_and_what_they_did() {
    let place = Place::new();
    let app = App::start();
    fs::create_dir(place.path().join("resources")).unwrap();
    let write = |name: &str, scope: &str, timeout: &str| {
        let text = format!(
            "kind: Resiliency\nmetadata: {{name: {name}, namespace: shop}}\nscopes: [{scope}]\n\
             spec: {{policies: {{timeouts: {{t: {timeout}}}}}, targets: {{apps: {{orders: {{timeout: \
             t}}}}}}}}\n"
        );
        fs::write(place.path().join(format!("resources/{name}.yaml")), text).unwrap();
    };
    write("first", "orders", "1s");
    write("last", "orders", "50s");
    write("other", "somebody", "1s");
    let (_process, port, metrics_port) = sidecar(&place, &app, &["--resources-path=resources"]);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200);
    let applied = "dapr_resiliency_count{app_id=\"orders\",name=\"last\",policy=\"timeout\",\
        namespace=\"shop\",flow_direction=\"outbound\",target=\"app_orders\",status=\"\"} 1";
    let page = await_sample(metrics_port, applied);
    for name in ["first", "last"] {
        let want = format!(
            "dapr_resiliency_loaded{{app_id=\"orders\",name=\"{name}\",namespace=\"shop\"}} 1"
        );
        assert!(page.lines().any(|line| line == want), "{want} in:\n{page}");
    }
    assert!(!page.contains("name=\"other\""), "{page}");
}

#[test]
fn without_the_page_there_is_nothing_to_count() {
    let place = Place::new();
    let app = App::start();
    let file = "spec: {metrics: {enabled: false}}\n";
    fs::write(place.path().join("c.yaml"), file).unwrap();
    let (_process, port, metrics_port) = sidecar(&place, &app, &["--config=c.yaml"]);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200);
    assert_eq!(crate::support::status_of(metrics_port, "/"), 0);
}

#[test]
fn paths_without_end_are_named_in_the_log_once() {
    let place = Place::new();
    let app = App::start();
    let (mut process, port, metrics_port) = sidecar(&place, &app, &[]);
    let mut client = Connection::open(port).unwrap();
    for number in 0..2100 {
        client.get(&format!("/v1.0/invoke/nobody/method/{number}")).unwrap();
    }
    let line = process.wait_for("paths or ids have more values");
    assert!(line.contains("level=warning") && line.contains("pathMatching"), "{line}");
    let page = get(metrics_port, "/").body;
    let count = page.lines().filter(|l| l.starts_with("dapr_http_server_request_count")).count();
    assert!(count < 2060, "{count} series");
    let others = "dapr_http_server_request_count{app_id=\"orders\",method=\"\",path=\"{other}\"";
    let raw = "dapr_http_server_request_count{app_id=\"orders\",method=\"GET\",path=\"{other}\"";
    assert!(page.contains(others) || page.contains(raw), "no series of all others");
}

#[test]
fn calls_are_logged_when_wished() {
    let place = Place::new();
    let app = App::start();
    let more = ["--enable-api-logging"];
    let (mut process, port) = place.sidecar("orders", Some(app.port), &more);
    let path = "/v1.0/invoke/orders/method/pay";
    call(port, &format!("POST {path}?secret=1"), &["User-Agent: curl/8 \"x\""], "abc");
    let line = process.wait_for("HTTP API Called");
    for want in [
        "level=info",
        "msg=\"HTTP API Called\"",
        "app_id=orders",
        "code=200",
        "duration=",
        &format!("method=\"POST {path}\""),
        "size=17",
        "scope=dapr.runtime.http-info",
        "type=log",
        "useragent=\"curl/8 \\\"x\\\"\"",
    ] {
        assert!(line.contains(want), "{want} in: {line}");
    }
    assert!(!line.contains("secret"), "{line}");
    get(port, "/v1.0/invoke/orders/method/last");
    process.signal(Signal::TERM);
    let said = process.wait().output;
    assert!(said.contains("method/last\""), "the last calls are in the log, too:\n{said}");

    let file = "spec: {logging: {apiLogging: {enabled: true, obfuscateURLs: true, \
        omitHealthChecks: true}}}\n";
    fs::write(place.path().join("c.yaml"), file).unwrap();
    let more = ["--config=c.yaml", "--log-as-json"];
    let (mut process, port) = place.sidecar("billing", Some(app.port), &more);
    get(port, "/v1.0/healthz");
    get(port, "/v1.0/invoke/nobody/method/pay");
    let line = process.wait_for("HTTP API Called");
    assert!(line.contains("InvokeService/nobody") && !line.contains("pay"), "{line}");
    get(port, "/v1.0/invoke/billing/method/pay");
    let line = process.wait_for("HTTP API Called");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["method"], "InvokeService/billing", "the health check is left out: {line}");
    assert_eq!((&value["code"], &value["level"]), (&200.into(), &"info".into()));
    assert!(value["duration"].is_u64() && value["size"].is_u64(), "{line}");
    assert_eq!(value["scope"], "dapr.runtime.http-info");
}

#[test]
fn calls_carry_a_trace_unless_it_is_turned_off() {
    let header = |head: &str, name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    for (case, file, is_traced, flags) in [
        ("by default", "spec: {}\n", true, "-00"),
        ("all", "spec: {tracing: {samplingRate: '1', stdout: true}}\n", true, "-01"),
        ("off", "spec: {tracing: {samplingRate: '0'}}\n", false, ""),
    ] {
        let place = Place::new();
        let app = App::start();
        fs::write(place.path().join("c.yaml"), file).unwrap();
        let (mut process, port) =
            place.sidecar("orders", Some(app.port), &["--config=c.yaml", "--log-level=debug"]);
        let answer = get(port, "/v1.0/invoke/orders/method/pay");
        let seen = app.request_for("/pay");
        let (at_app, at_client) =
            (header(&seen, "traceparent"), header(&answer.head, "traceparent"));
        assert_eq!(at_app.is_some(), is_traced, "{case}: {seen}");
        assert_eq!(at_app, at_client, "{case}: one hop, one span");
        assert!(at_app.unwrap_or_default().ends_with(flags), "{case}: {seen}");
        if flags == "-01" {
            let line = process.wait_for("scope=dapr.runtime.trace");
            assert!(line.contains("[CallLocal/orders/pay]"), "{line}");
        }
        let refused = call(port, "GET /v1.0/metadata", &["baggage: nonsense"], "");
        assert_eq!(refused.status == 400, is_traced, "{case}: {refused:?}");
    }
}

//! Spans leave the sidecar as daprd's do: to Zipkin, to an OpenTelemetry collector, to its output.

#![forbid(unsafe_code)]

use crate::support::{
    App, Batch, Collector, Finished, Manner, Place, Process, call, eventually, free_port, get,
    replace,
};
use prost::Message;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn zipkin(port: u16) -> String {
    format!(
        "spec: {{tracing: {{samplingRate: '1', zipkin: {{endpointAddress: \
         'http://127.0.0.1:{port}/api/v2/spans'}}}}}}\n"
    )
}

fn otel(protocol: &str, port: u16, more: &str) -> String {
    format!(
        "spec: {{tracing: {{samplingRate: '1', otel: {{endpointAddress: 'localhost:{port}', \
         protocol: {protocol}, isSecure: false{more}}}}}}}\n"
    )
}

fn sidecar(place: &Place, id: &str, app: &App, file: &str, more: &[&str]) -> (Process, u16) {
    replace(&place.path().join("c.yaml"), file);
    place.sidecar(id, Some(app.port), &[&["--config=c.yaml"], more].concat())
}

/// The next spans that come, and in how many batches.
#[track_caller]
fn zipkin_spans(collector: &Collector, count: usize) -> (Vec<Value>, usize) {
    let (mut spans, mut batches) = (Vec::new(), 0);
    while spans.len() < count {
        let Batch { path, headers, body } = collector.next();
        assert_eq!(path, "/api/v2/spans");
        assert_eq!(headers["content-type"], "application/json");
        spans.extend(serde_json::from_slice::<Vec<Value>>(&body).unwrap());
        batches += 1;
    }
    assert_eq!(spans.len(), count, "{spans:?}");
    (spans, batches)
}

fn of_kind<'a>(spans: &'a [Value], kind: &str) -> &'a Value {
    spans.iter().find(|span| span["kind"] == kind).unwrap()
}

/// A number of the metrics page.
fn number(metrics_port: u16, sample: &str) -> u64 {
    let page = get(metrics_port, "/metrics").body;
    let found = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.map_or(0, |number| number.parse().unwrap())
}

#[test]
fn zipkin_sees_a_call_and_both_its_hops() {
    let place = Place::new();
    let (app, collector) = (App::start(), Collector::start(Manner::Posts(202)));
    let file = zipkin(collector.port);
    let (_orders, port) = sidecar(&place, "orders", &app, &file, &[]);
    let (_checkout, _) = sidecar(&place, "Checkout", &app, &file, &[]);
    let traceparent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let path = "/v1.0/invoke/Checkout/method/status/404";
    eventually("the apps know each other", || {
        get(port, "/v1.0/invoke/Checkout/method/warm").status == 200
    });
    let headers = [&*traceparent, "Dapr-Order: 7", "dapr-api-token: s3cret"];
    let answer = call(port, &format!("POST {path}"), &headers, "abc");
    assert_eq!(answer.status, 404, "{answer:?}");
    let mut spans = Vec::new();
    while spans.len() < 2 {
        let batch = serde_json::from_slice::<Vec<Value>>(&collector.next().body).unwrap();
        spans.extend(batch.into_iter().filter(|span| span["traceId"] == TRACE));
    }
    let (client, server) = (of_kind(&spans, "CLIENT"), of_kind(&spans, "SERVER"));
    assert_eq!((&client["parentId"], &server["parentId"]), (&PARENT.into(), &client["id"]));
    for span in [client, server] {
        assert_eq!(span["name"], "calllocal/checkout/status/404");
        assert!(span["timestamp"].as_u64().unwrap() > 1_600_000_000_000_000, "{span}");
        assert!(span["duration"].as_u64().unwrap() >= 1, "{span}");
        for (tag, want) in [
            ("rpc.service", "ServiceInvocation"),
            ("dapr.protocol", "http"),
            ("dapr.status_code", "404"),
            ("http.request.method", "POST"),
            ("dapr-order", "7"),
            ("otel.scope.name", "dapr-diagnostics"),
        ] {
            assert_eq!(span["tags"][tag], want, "{tag} of {span}");
        }
        assert!(!span.to_string().contains("s3cret"));
    }
    assert_eq!(client["localEndpoint"]["serviceName"], "orders");
    assert_eq!(client["remoteEndpoint"]["serviceName"], "checkout");
    assert_eq!(client["tags"]["net.peer.name"], "Checkout");
    assert_eq!(client["tags"]["dapr.api"], format!("POST {path}"));
    assert_eq!(client["tags"]["url.full"], path);
    assert_eq!(client["tags"]["server.address"], "127.0.0.1");
    assert_eq!(client["tags"]["error"], "Code(404): Not Found");
    assert_eq!(server["localEndpoint"]["serviceName"], "checkout");
    assert_eq!(server["tags"]["dapr.invoke_method"], "status/404");
    assert!(server["tags"].get("error").is_none(), "the app said so: {server}");
}

#[test]
fn spans_go_in_batches_and_the_last_ones_before_the_end() {
    let place = Place::new();
    let (app, collector) = (App::start(), Collector::start(Manner::Posts(202)));
    let (process, port) = sidecar(&place, "orders", &app, &zipkin(collector.port), &[]);
    for _ in 0..50 {
        get(port, "/v1.0/invoke/orders/method/x");
    }
    let (_, batches) = zipkin_spans(&collector, 50);
    assert!(batches < 10, "{batches} batches");
    get(port, "/v1.0/invoke/orders/method/last");
    process.signal(Signal::TERM);
    let Finished { code, output } = process.wait();
    assert_eq!(code, 0, "{output}");
    let last = collector.try_next().expect("sent before the end");
    assert!(String::from_utf8_lossy(&last.body).contains("calllocal/orders/last"));
}

/// OpenTelemetry's messages, as far as the test looks, with the numbers of `trace.proto`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Attributes>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|found| found.value.as_ref()).map_or("", |value| &value.text)
}

/// The only span of a batch, and what its app is called.
#[track_caller]
fn only_span(message: &[u8]) -> (String, Span) {
    let request = Request::decode(message).unwrap();
    let [ResourceSpans { resource, scope_spans }] = &request.resource_spans[..] else {
        panic!("{request:?}")
    };
    let [ScopeSpans { spans }] = &scope_spans[..] else { panic!("{request:?}") };
    let [span] = &spans[..] else { panic!("{request:?}") };
    let service = value(&resource.as_ref().unwrap().attributes, "service.name");
    (service.to_owned(), span.clone())
}

fn check_failed_call(service: &str, span: &Span) {
    assert_eq!((service, &*span.name, span.kind), ("orders", "CallLocal/nobody/pay", 3));
    let hex: String = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&*hex, span.parent_span_id.len()), (TRACE, 8));
    assert_eq!(value(&span.attributes, "dapr.api"), "GET /v1.0/invoke/nobody/method/pay");
    let status = Status { message: "Code(500): Internal Server Error".to_owned(), code: 2 };
    assert_eq!(span.status, Some(status));
}

#[test]
fn a_collector_is_told_over_http_and_over_grpc() {
    let traceparent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    for (protocol, manner, path, content_type) in [
        ("http", Manner::Posts(200), "/v1/traces", "application/x-protobuf"),
        (
            "grpc",
            Manner::Calls,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "application/grpc",
        ),
    ] {
        let place = Place::new();
        let (app, collector) = (App::start(), Collector::start(manner));
        let file = otel(protocol, collector.port, ", headers: ['x-key=v=1'], timeout: 5s");
        let metrics_port = free_port();
        let metrics = format!("--metrics-port={metrics_port}");
        let (_process, port) = sidecar(&place, "orders", &app, &file, &[&metrics]);
        call(port, "GET /v1.0/invoke/nobody/method/pay", &[&traceparent], "");
        let batch = collector.next();
        assert_eq!(batch.path, path);
        assert_eq!(batch.headers["x-key"], "v=1");
        assert_eq!(batch.headers["content-type"], content_type, "{protocol}");
        // gRPC puts a flag and a length before each message.
        let skipped = if manner == Manner::Calls { 5 } else { 0 };
        let (service, span) = only_span(&batch.body[skipped..]);
        check_failed_call(&service, &span);
        let sent = format!("ringcar_spans_sent_total{{exporter=\"otlp_{protocol}\"}}");
        eventually(&sent, || number(metrics_port, &sent) == 1);
    }
}

#[test]
fn the_environment_names_a_collector_where_no_file_does() {
    let place = Place::new();
    let (app, collector) = (App::start(), Collector::start(Manner::Posts(200)));
    let port = free_port();
    let mut command = place.ringcar(&["sidecar", "--app-id=orders", "--metrics-port=0"]);
    command.arg(format!("--app-port={}", app.port)).arg(format!("--dapr-http-port={port}"));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", collector.port));
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    command.env("OTEL_EXPORTER_OTLP_INSECURE", "true").env("OTEL_SERVICE_NAME", "shop");
    let mut process = Process::start(&mut command);
    process.wait_for("dapr initialized");
    get(port, "/v1.0/metadata");
    let (service, span) = only_span(&collector.next().body);
    assert_eq!((&*service, &*span.name), ("shop", "/v1.0/metadata"));
    assert_eq!(value(&span.attributes, "dapr.api"), "GET /v1.0/metadata");
}

#[test]
fn a_collector_that_is_away_costs_one_line_and_gets_its_spans_later() {
    let place = Place::new();
    let (app, away) = (App::start(), free_port());
    let (mut process, port) = sidecar(&place, "orders", &app, &zipkin(away), &[]);
    get(port, "/v1.0/invoke/orders/method/first");
    let line = process.wait_for("Spans cannot be sent to");
    assert!(line.contains("level=warning") && line.contains(&away.to_string()), "{line}");
    assert_eq!(get(port, "/v1.0/invoke/orders/method/second").status, 200);
    let collector = Collector::start_on(away, Manner::Posts(202));
    let (spans, _) = zipkin_spans(&collector, 2);
    assert_eq!(spans[0]["name"], "calllocal/orders/first");
    assert_eq!(spans[1]["name"], "calllocal/orders/second");
    process.wait_for("Spans are taken by");
    collector.stop();
    get(port, "/v1.0/invoke/orders/method/third");
    process.wait_for("Spans cannot be sent to");
    let collector = Collector::start_on(away, Manner::Posts(202));
    assert_eq!(zipkin_spans(&collector, 1).0[0]["name"], "calllocal/orders/third");
    process.signal(Signal::TERM);
    let said = process.wait().output;
    assert_eq!(said.matches("Spans cannot be sent to").count(), 2, "{said}");
}

#[test]
fn what_nobody_takes_is_dropped_and_counted() {
    let dropped = |reason| format!("ringcar_spans_dropped_total{{reason=\"{reason}\"}}");
    let place = Place::new();
    let (app, collector) = (App::start(), Collector::start(Manner::Posts(413)));
    let metrics_port = free_port();
    let metrics = format!("--metrics-port={metrics_port}");
    let (mut process, port) = sidecar(&place, "orders", &app, &zipkin(collector.port), &[&metrics]);
    get(port, "/v1.0/invoke/orders/method/x");
    let line = process.wait_for("Spans cannot be sent to");
    assert!(line.contains("it refuses them: 413"), "{line}");
    eventually("a refused span", || number(metrics_port, &dropped("refused")) == 1);

    let silent = Collector::start(Manner::Silent);
    replace(&place.path().join("c.yaml"), &otel("http", silent.port, ", timeout: 1m"));
    process.wait_for("Configuration reloaded");
    let path = "/v1.0/invoke/orders/method/x";
    let mut client = crate::support::Connection::open(port).unwrap();
    eventually("the new collector has a batch", || {
        client.get(path).unwrap();
        silent.try_next().is_some()
    });
    eventually("a full queue", || {
        for _ in 0..200 {
            client.get(path).unwrap();
        }
        number(metrics_port, &dropped("queue_full")) > 0
    });
    assert_eq!(client.get(path).unwrap().0, 200, "calls go on");
}

#[test]
fn another_place_counts_from_the_moment_the_file_says_so() {
    let place = Place::new();
    let app = App::start();
    let (first, second) =
        (Collector::start(Manner::Posts(202)), Collector::start(Manner::Posts(202)));
    let (mut process, port) = sidecar(&place, "orders", &app, &zipkin(first.port), &[]);
    get(port, "/v1.0/invoke/orders/method/x");
    zipkin_spans(&first, 1);
    replace(&place.path().join("c.yaml"), &zipkin(second.port));
    process.wait_for("Configuration reloaded");
    get(port, "/v1.0/invoke/orders/method/y");
    zipkin_spans(&second, 1);
    assert!(first.try_next().is_none(), "it gets no more");
    let file = "spec: {tracing: {samplingRate: '1', stdout: true}}\n";
    replace(&place.path().join("c.yaml"), file);
    process.wait_for("Configuration reloaded");
    let traceparent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    call(port, "GET /v1.0/invoke/orders/method/z", &[&traceparent], "");
    let line = process.wait_for("scope=dapr.runtime.trace");
    let start = format!("msg=\"[CallLocal/orders/z] Trace: {TRACE} Span: {PARENT}/");
    assert!(line.contains(&start) && line.contains("app_id=orders"), "{line}");
    assert!(line.contains("+0000 UTC] Annotations: []\""), "{line}");
    assert!(second.try_next().is_none(), "it gets no more");
}

#[test]
fn what_needs_tls_is_named_and_the_app_is_served() {
    let place = Place::new();
    let app = App::start();
    let file = "spec:\n  tracing:\n    samplingRate: '1'\n    otel:\n      endpointAddress: c:4317\n      \
                protocol: grpc\n";
    let (process, port) = sidecar(&place, "orders", &app, file, &[]);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200);
    process.signal(Signal::TERM);
    let said = process.wait().output;
    let want = "c.yaml:5:7: spec.tracing.otel c:4317 is reached over TLS";
    assert!(said.contains(want) && said.contains("isSecure: false"), "{said}");
}

#[test]
fn apps_of_a_node_have_each_their_own_place() {
    let place = Place::new();
    let (app, first, second) =
        (App::start(), Collector::start(Manner::Posts(202)), Collector::start(Manner::Calls));
    fs::write(place.path().join("a.yaml"), zipkin(first.port)).unwrap();
    fs::write(place.path().join("b.yaml"), otel("grpc", second.port, "")).unwrap();
    let (a, b) = (free_port(), free_port());
    let file = format!(
        "name: shop\nenable-metrics: false\ndefaults: {{listen-addresses: 127.0.0.1}}\napps:\n\
         - {{id: a, http-port: {a}, address: {port}, configuration: a.yaml}}\n\
         - {{id: b, http-port: {b}, address: {port}, configuration: b.yaml}}\n",
        port = app.port
    );
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let mut process = place.start(&["node", "--config", "node.yaml"]);
    process.wait_for("Node shop serves 2 apps");
    eventually("it is served", || crate::support::status_of(a, "/v1.0/healthz") == 204);
    assert_eq!(get(a, "/v1.0/invoke/b/method/x").status, 200);
    let (spans, _) = zipkin_spans(&first, 1);
    let (service, span) = only_span(&second.next().body[5..]);
    assert_eq!((&spans[0]["localEndpoint"]["serviceName"], &*service), (&"a".into(), "b"));
    let parent: String = span.parent_span_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(spans[0]["id"], parent, "one call, two hops, two collectors");
}

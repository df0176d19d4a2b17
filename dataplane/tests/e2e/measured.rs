//! What is measured and logged of calls: daprd's series with their labels, and the records for the
//! log. No worker waits for whoever reads them.

#![forbid(unsafe_code)]

use crate::{
    X, get, request,
    support::{DEADLINE, Plane, ServedApp, Wire, on_both_engines},
};
use dataplane::{clock, engine::Choice};
use snapshot::{
    ApiLog, ListenerKind, Metrics, PathPattern, State, Telemetry,
    policy::Token,
    wire::{ApiCall, Counter, FromDataPlane, Histogram, ToDataPlane},
};
use std::sync::Arc;

pub(crate) fn metrics(patterns: &[&str]) -> Metrics {
    Metrics {
        has_raw_paths: patterns.is_empty(),
        patterns: patterns.iter().map(|text| PathPattern::parse(text).unwrap()).collect(),
        excludes_verbs: false,
        counts_error_codes: true,
        latency_bounds_ms: vec![1, 100],
    }
}

pub(crate) fn told(telemetry: &Telemetry) -> impl Fn(&mut State) + use<> {
    let telemetry = Arc::new(telemetry.clone());
    move |state| state.apps.iter_mut().for_each(|app| app.telemetry = Arc::clone(&telemetry))
}

pub(crate) fn measured(metrics: Metrics) -> Telemetry {
    Telemetry { metrics: Some(metrics), ..Telemetry::default() }
}

pub(crate) struct Page {
    counters: Vec<Counter>,
    histograms: Vec<Histogram>,
}

impl Page {
    /// The data plane's numbers, once `is_there`: a worker tells a new series when its turn ends.
    pub(crate) fn once(plane: &mut Plane, is_there: impl Fn(&Self) -> bool) -> Self {
        let give_up = clock::now() + DEADLINE;
        loop {
            plane.link.send(&ToDataPlane::Stats { query: 1 }, &[]);
            let FromDataPlane::Stats { counters, histograms, .. } = plane.link.receive() else {
                panic!("no numbers");
            };
            let page = Self { counters, histograms };
            if is_there(&page) {
                return page;
            }
            assert!(clock::now() < give_up, "{:?} {:?}", page.counters, page.histograms);
            std::thread::yield_now();
        }
    }

    pub(crate) fn count(&self, name: &str, labels: &str) -> f64 {
        let is_it = |c: &&Counter| c.name == name && text(&c.labels) == labels;
        self.counters.iter().find(is_it).map_or(0.0, |counter| counter.value)
    }

    fn histogram(&self, name: &str, labels: &str) -> Option<&Histogram> {
        self.histograms.iter().find(|h| h.name == name && text(&h.labels) == labels)
    }

    /// All labels of a metric.
    pub(crate) fn labels(&self, name: &str) -> Vec<String> {
        let counters = self.counters.iter().filter(|c| c.name == name);
        counters.map(|counter| text(&counter.labels)).collect()
    }
}

fn text(labels: &[(String, String)]) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// The next calls that a data plane tells for the log.
fn calls(plane: &mut Plane, count: usize) -> Vec<ApiCall> {
    let mut calls = Vec::new();
    while calls.len() < count {
        match plane.link.receive() {
            FromDataPlane::ApiCalls(more) => calls.extend(more),
            other => panic!("no calls, but {other:?}"),
        }
    }
    assert_eq!(calls.len(), count, "{calls:?}");
    calls
}

const COUNT: &str = "dapr_http_server_request_count";

on_both_engines! {
    fn a_call_between_neighbours_is_counted_on_both_sides(engine: Choice) {
        let app = ServedApp::answering(|_| b"HTTP/1.1 201 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .edit(told(&measured(metrics(&[]))))
            .start();
        let mut client = plane.client();
        for _ in 0..3 {
            client.send("POST /v1.0//invoke/checkout/method/pay%2F1?x=1 HTTP/1.1\r\nHost: a\r\n\
                Content-Length: 3\r\n\r\nabc");
            assert_eq!(client.read_response().status(), 201);
        }
        let server = "app_id=orders,method=POST,path=/v1.0/invoke/checkout/method/pay/1,status=201";
        let page = Page::once(&mut plane, |page| page.count(COUNT, server) == 3.0);
        let app = "app_id=checkout,method=POST,path=/pay/1,status=201";
        for (name, labels) in [
            ("dapr_http_server_response_count", server),
            ("dapr_http_client_completed_count", app),
            (
                "dapr_runtime_service_invocation_req_sent_total",
                "app_id=orders,dst_app_id=checkout,type=unary",
            ),
            (
                "dapr_runtime_service_invocation_req_recv_total",
                "app_id=checkout,src_app_id=orders",
            ),
            (
                "dapr_runtime_service_invocation_res_sent_total",
                "app_id=checkout,dst_app_id=orders,status=201",
            ),
            (
                "dapr_runtime_service_invocation_res_recv_total",
                "app_id=orders,src_app_id=checkout,status=201,type=unary",
            ),
        ] {
            assert_eq!(page.count(name, labels), 3.0, "{name} {labels}");
        }
        for (name, labels, sum) in [
            ("dapr_http_server_latency", server, None),
            ("dapr_http_client_roundtrip_latency", app, None),
            (
                "dapr_runtime_service_invocation_res_recv_latency_ms",
                "app_id=orders,src_app_id=checkout,status=201",
                None,
            ),
            ("dapr_http_server_request_bytes", "app_id=orders", Some(9.0)),
            ("dapr_http_server_response_bytes", "app_id=orders", Some(6.0)),
            (
                "dapr_http_client_sent_bytes",
                "app_id=checkout,method=POST,path=/pay/1,status=",
                Some(9.0),
            ),
            ("dapr_http_client_received_bytes", "app_id=checkout", Some(6.0)),
            (
                "ringcar_added_latency_seconds",
                "app_id=orders,direction=outbound,route=/v1.0/invoke/{app_id}/method/{method...}",
                None,
            ),
        ] {
            let histogram = page.histogram(name, labels).unwrap_or_else(|| panic!("{name} {labels}"));
            assert_eq!(histogram.counts.iter().sum::<u64>(), 3, "{name}");
            assert_eq!(histogram.counts.len(), histogram.bounds.len() + 1, "{name}");
            if let Some(sum) = sum {
                assert_eq!(histogram.sum, sum, "{name}");
            }
        }
        let added = page.histograms.iter().find(|h| h.name == "ringcar_added_latency_seconds");
        let added = added.unwrap();
        assert!(added.sum > 0.0 && added.sum < 3.0, "{added:?}");
        assert!(added.bounds[0] < 1e-5 && added.bounds.is_sorted(), "{added:?}");
    }

    fn calls_to_and_from_other_sidecars_are_counted_at_their_end(engine: Choice) {
        let app = ServedApp::echoing();
        let edit = told(&measured(metrics(&[])));
        let mut callee =
            Plane::on(engine).app("checkout", Some(app.address())).edit(&edit).start();
        let mut caller = Plane::on(engine)
            .app("orders", None)
            .knows("checkout", &[callee.peer()])
            .edit(&edit)
            .start();
        let mut client = caller.client();
        client.send(get(X));
        assert_eq!(client.read_response().status(), 200);
        let sent = "dapr_runtime_service_invocation_req_sent_total";
        let labels = "app_id=orders,dst_app_id=checkout,type=unary";
        let page = Page::once(&mut caller, |page| page.count(sent, labels) == 1.0);
        assert!(page.labels("dapr_http_client_completed_count").is_empty(), "that is the callee's");
        let received = "dapr_runtime_service_invocation_req_recv_total";
        let labels = "app_id=checkout,src_app_id=orders";
        let page = Page::once(&mut callee, |page| page.count(received, labels) == 1.0);
        assert!(page.labels(COUNT).is_empty(), "no request to its API");
        let app = "app_id=checkout,method=GET,path=/x,status=200";
        assert_eq!(page.count("dapr_http_client_completed_count", app), 1.0);
        let added = "app_id=checkout,direction=inbound,route=/{method...}";
        assert!(page.histogram("ringcar_added_latency_seconds", added).is_some());
    }

    fn failures_and_own_answers_are_counted_with_their_status(engine: Choice) {
        let mut plane =
            Plane::on(engine).app("orders", None).edit(told(&measured(metrics(&[])))).start();
        let mut client = plane.client();
        for (path, status) in [
            ("/v1.0/healthz", 204),
            ("/v1.0/metadata", 200),
            ("/nowhere", 404),
            ("/v1.0/invoke/nobody/method/x", 500),
        ] {
            client.send(get(path));
            assert_eq!(client.read_response().status(), status, "{path}");
        }
        client.send("BREW /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_response();
        let last = "app_id=orders,method=UNKNOWN,path=/nowhere,status=404";
        let page = Page::once(&mut plane, |page| page.count(COUNT, last) == 1.0);
        for labels in [
            "app_id=orders,method=GET,path=/v1.0/healthz,status=204",
            "app_id=orders,method=GET,path=/v1.0/metadata,status=200",
            "app_id=orders,method=GET,path=/nowhere,status=404",
            "app_id=orders,method=GET,path=/v1.0/invoke/nobody/method/x,status=500",
        ] {
            assert_eq!(page.count(COUNT, labels), 1.0, "{labels}");
        }
        let code = "app_id=orders,category=service-invocation,error_code=ERR_DIRECT_INVOKE";
        assert_eq!(page.count("dapr_error_code_total", code), 3.0);
        assert!(page.labels("dapr_runtime_service_invocation_req_sent_total").is_empty());
    }

    fn patterns_keep_paths_few(engine: Choice) {
        let app = ServedApp::echoing();
        let told = told(&measured(metrics(&["/orders/{id}"])));
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).edit(told).start();
        let mut client = plane.client();
        for number in 0..20 {
            client.send(get(&format!("/v1.0/invoke/checkout/method/orders/{number}")));
            client.read_response();
            client.send(get(&format!("/v1.0/invoke/checkout/method/other/{number}")));
            client.read_response();
        }
        let of = |path: &str| format!("app_id=checkout,method=GET,path={path},status=200");
        let matched = of("/v1.0/invoke/{app_id}/method/orders/{id}");
        let page = Page::once(&mut plane, |page| {
            page.count(COUNT, &matched) == 20.0 && page.count(COUNT, &of("")) == 20.0
        });
        assert_eq!(page.labels(COUNT).len(), 2);
        let client = "dapr_http_client_completed_count";
        assert_eq!(page.count(client, &of("/orders/{id}")), 20.0);
        let route = "app_id=checkout,direction=outbound,route=/v1.0/invoke/{app_id}/method/orders/{id}";
        assert!(page.histogram("ringcar_added_latency_seconds", route).is_some());
    }

    fn paths_without_end_end_in_one_series(engine: Choice) {
        let mut plane =
            Plane::on(engine).app("orders", None).edit(told(&measured(metrics(&[])))).start();
        let mut client = plane.client();
        for number in 0..2100 {
            client.send(get(&format!("/v1.0/state/s{number}/key")));
            client.read_response();
        }
        let overflow = "ringcar_metric_series_overflowed_total";
        let page = Page::once(&mut plane, |page| page.count(overflow, "") >= 50.0);
        let others: Vec<String> =
            page.labels(COUNT).into_iter().filter(|labels| labels.contains("{other}")).collect();
        assert!(!others.is_empty());
        assert!(page.labels(COUNT).len() <= 2050, "{}", page.labels(COUNT).len());
        let total: f64 =
            page.counters.iter().filter(|c| c.name == COUNT).map(|c| c.value).sum();
        assert_eq!(total, 2100.0, "no call is lost");
    }

    fn an_app_that_goes_takes_its_series_along(engine: Choice) {
        let told = told(&measured(metrics(&[])));
        let mut plane = Plane::on(engine).app("orders", None).edit(&told).start();
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        client.read_response();
        Page::once(&mut plane, |page| !page.labels(COUNT).is_empty());
        plane.publish(|state| {
            state.apps[0].telemetry = Arc::new(measured(metrics(&["/new/{x}"])));
        });
        Page::once(&mut plane, |page| {
            page.labels(COUNT).is_empty() && page.histograms.is_empty()
        });
        plane.publish(|state| state.apps[0].telemetry = Arc::default());
        client.send(get("/v1.0/metadata"));
        client.read_response();
        plane.settle();
        Page::once(&mut plane, |page| page.labels(COUNT).is_empty());
    }

    fn calls_are_told_for_the_log(engine: Choice) {
        let app = ServedApp::echoing();
        let log = |log| Telemetry { api_log: Some(log), ..Telemetry::default() };
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(told(&log(ApiLog::default())))
            .start();
        let mut client = plane.client();
        let path = format!("{X}?secret=1");
        client.send(request("GET", &path, "User-Agent: curl/8\r\n"));
        let body_bytes = client.read_response().text().len() as u64;
        let [call] = &calls(&mut plane, 1)[..] else { unreachable!() };
        assert_eq!((call.app, call.status, call.response_bytes), (0, 200, body_bytes));
        assert_eq!(call.method, format!("GET {X}"), "without the query");
        assert_eq!(call.user_agent, "curl/8");
        assert!(call.ended > 1_600_000_000_000_000_000, "{call:?}");
        client.send(get("/v1.0/healthz"));
        client.read_response();
        let [call] = &calls(&mut plane, 1)[..] else { unreachable!() };
        assert_eq!((&*call.method, call.status), ("GET /v1.0/healthz", 204));

        let mut public = Wire::connect(plane.address_of(0, ListenerKind::Public));
        public.send(get("/v1.0/healthz"));
        public.read_response();
        plane.publish(|state| {
            let guards = Arc::make_mut(&mut state.apps[0].guards);
            guards.api_token = Some(Token::new("t").unwrap());
        });
        client.send(get(X));
        assert_eq!(client.read_response().status(), 401);
        plane.publish(|state| state.apps[0].guards = Arc::default());

        // Neither the public port nor who lacks the token is in it.
        let shy = log(ApiLog { obfuscates_urls: true, omits_health_checks: true });
        plane.publish(told(&shy));
        client.send(get("/v1.0/healthz"));
        client.read_response();
        client.send(get(X));
        client.read_response();
        client.send(get("/v1.0/metadata"));
        client.read_response();
        let methods: Vec<String> =
            calls(&mut plane, 2).into_iter().map(|call| call.method).collect();
        assert_eq!(methods, ["InvokeService/checkout", "GetMetadata"]);
    }

    fn what_the_link_does_not_take_is_dropped_and_counted(engine: Choice) {
        let log = Telemetry { api_log: Some(ApiLog::default()), ..Telemetry::default() };
        let on_control_lost = snapshot::OnControlLost::Serve;
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .edit(told(&log))
            .edit(|state| state.on_control_lost = on_control_lost)
            .start();
        // A control that has not told anything yet is not told anything.
        plane.relink();
        let mut client = plane.client();
        for _ in 0..600 {
            client.send(get("/v1.0/metadata"));
            client.read_response();
        }
        plane.send_state(|_| {});
        let (mut count, mut is_live) = (0, false);
        while count < 512 || !is_live {
            match plane.link.receive() {
                FromDataPlane::ApiCalls(calls) => count += calls.len(),
                FromDataPlane::Live { .. } => is_live = true,
                other => panic!("no calls, but {other:?}"),
            }
        }
        assert_eq!(count, 512);
        let dropped = "ringcar_log_records_dropped_total";
        Page::once(&mut plane, |page| page.count(dropped, "") == 88.0);
    }
}

//! What telling of a call costs the worker that carries it, from its head to its end, with series
//! that exist: nothing told, daprd's defaults, and everything.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a bench ends where its set-up fails")]

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::{
    http::{Parsed, RequestHead, parse_request},
    telemetry::Probe,
};
use snapshot::{
    ApiLog, App, AppHealth, AppId, Balance, Metrics, Namespace, OnControlLost, Origin, PathPattern,
    Sampling, Snapshot, State, Telemetry, Tracing, Version,
};
use std::{hint::black_box, sync::Arc, time::Duration};

const REQUEST: &[u8] = b"POST /v1.0/invoke/checkoutservice/method/checkout/100 HTTP/1.1\r\n\
    Host: localhost:3602\r\nUser-Agent: dapr-sdk-go/v1.11.0\r\nAccept: */*\r\n\
    Content-Type: application/json\r\nContent-Length: 15\r\nAccept-Encoding: gzip\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";

fn probe(telemetry: Telemetry) -> Probe {
    let telemetry = Arc::new(telemetry);
    let app = |number, id: &str| App {
        outbound: Default::default(),
        resiliency: None,
        number,
        id: AppId::new(id).unwrap(),
        namespace: Namespace::default(),
        guards: Arc::default(),
        channel: None,
        origin: Origin::default(),
        telemetry: Arc::clone(&telemetry),
        balance: Balance::default(),
        zone: None,
        body_bytes_max: None,
        head_bytes_max: 8192,
        health: AppHealth::default(),
        metadata_json: "".into(),
    };
    let state = State {
        version: Version(1),
        apps: vec![app(0, "orderprocessingservice"), app(1, "checkoutservice")],
        routes: Vec::new(),
        listeners: Vec::new(),
        on_control_lost: OnControlLost::Exit,
    };
    Probe::new(&Snapshot::build(state).unwrap())
}

fn metrics(patterns: &[&str]) -> Option<Metrics> {
    Some(Metrics {
        has_raw_paths: patterns.is_empty(),
        patterns: patterns.iter().map(|text| PathPattern::parse(text).unwrap()).collect(),
        excludes_verbs: false,
        counts_error_codes: false,
        latency_bounds_ms: vec![1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000],
    })
}

fn observing(criterion: &mut Criterion) {
    let mut head = RequestHead::new();
    assert_eq!(parse_request(REQUEST, 16 * 1024, &mut head), Ok(Parsed::Complete));
    let recording = Some(Tracing::Recording(Sampling::of_ratio(1.0)));
    let mut group = criterion.benchmark_group("telemetry");
    for (name, telemetry) in [
        ("nothing", Telemetry::default()),
        ("metrics", Telemetry { metrics: metrics(&[]), ..Telemetry::default() }),
        (
            "metrics by pattern",
            Telemetry { metrics: metrics(&["/checkout/{id}", "/orders/"]), ..Telemetry::default() },
        ),
        (
            "metrics and trace context, daprd's defaults",
            Telemetry {
                metrics: metrics(&[]),
                tracing: Some(Tracing::PassThrough),
                ..Telemetry::default()
            },
        ),
        (
            "everything, two spans and a line",
            Telemetry {
                metrics: metrics(&[]),
                api_log: Some(ApiLog::default()),
                tracing: recording,
            },
        ),
    ] {
        let mut probe = probe(telemetry);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let added = probe.call(black_box(&head), black_box(REQUEST));
                probe.drain();
                added
            });
        });
    }
    group.finish();
}

/// Nanoseconds at a time need no five seconds.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

criterion_group! {
    name = telemetry;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASURED);
    targets = observing
}
criterion_main!(telemetry);

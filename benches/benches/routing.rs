//! What finding the target costs per request: read the call out of the request, look the app up in
//! the snapshot.
//!
//! With one app elsewhere and with a million: what grows is only the time the memory takes. Ids are
//! asked for in random order, so that neither the table nor the route is in a cache because of its
//! neighbour.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a bench ends where its set-up fails")]

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::{
    dapr::{
        CallNotes, Request, interpret,
        method::{app_path, encode_for_peer, normalise},
        target::split_id,
    },
    route,
};
use snapshot::{
    Address, App, AppHealth, AppId, Balance, Endpoint, InstanceId, Namespace, OnControlLost,
    Origin, Route, Snapshot, State, Version,
};
use std::{hint::black_box, sync::Arc, time::Duration};

fn snapshot_of(routes: usize) -> Snapshot {
    let app = App {
        number: 0,
        id: AppId::new("orderprocessingservice").unwrap(),
        namespace: Namespace::default(),
        guards: Default::default(),
        channel: None,
        origin: Origin::default(),
        telemetry: Arc::default(),
        balance: Balance::default(),
        resiliency: None,
        zone: None,
        body_bytes_max: None,
        head_bytes_max: 8192,
        health: AppHealth::default(),
        outbound: Default::default(),
        metadata_json: "".into(),
    };
    let route = |number: usize| Route {
        id: AppId::new(&format!("checkout-{number}")).unwrap(),
        namespace: Namespace::default(),
        endpoints: Arc::new([Endpoint {
            instance: InstanceId(format!("instance-{number}").into()),
            address: Address::Unix(format!("/run/ringcar/{number}").into()),
            zone: None,
        }]),
    };
    Snapshot::build(State {
        version: Version(1),
        apps: vec![app],
        routes: (0..routes).map(route).collect(),
        listeners: Vec::new(),
        on_control_lost: OnControlLost::Exit,
    })
    .unwrap()
}

fn interpreting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("interpret");
    let path: &[u8] = b"/v1.0/invoke/checkout-0/method/checkout/100?a=b";
    for (name, target, app_id_header, authorization) in [
        ("path", path, None, None),
        ("header", b"/checkout/100", Some(&b"checkout-0"[..]), None),
        // dapr-app-id:checkout-0
        (
            "basic auth",
            b"/checkout/100",
            None,
            Some(&b"Basic ZGFwci1hcHAtaWQ6Y2hlY2tvdXQtMA=="[..]),
        ),
    ] {
        let request = Request { method: b"GET", target, app_id_header, authorization };
        group.bench_function(name, |bencher| {
            let mut notes = CallNotes::default();
            bencher.iter(|| {
                let asked = interpret(black_box(&request), &mut notes);
                normalise(&mut notes.method).unwrap();
                asked
            });
        });
    }
    group.finish();
}

fn finding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find");
    for (name, routes) in
        [("of 1 app", 1), ("of 100,000 apps", 100_000), ("of 1,000,000 apps", 1_000_000)]
    {
        let snapshot = snapshot_of(routes);
        // Multiples of a large prime visit all of them once before any comes again. They lie in
        // place, one after the other, so that reading them is not what is measured.
        let id = |n: usize| AppId::new(&format!("checkout-{}", n * 982_451_653 % routes)).unwrap();
        let ids: Vec<AppId> = (0..routes).map(id).collect();
        group.bench_function(name, |bencher| {
            let mut next = ids.iter().cycle();
            bencher.iter(|| {
                let id = next.next().map_or(&b""[..], AppId::as_bytes);
                route::find(&snapshot, 0, black_box(id), b"default").is_ok()
            });
        });
    }
    group.finish();
}

fn splitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split id");
    for (name, target) in [("id", &b"checkout-100"[..]), ("id and namespace", b"checkout-100.prod")]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| split_id(black_box(target), "default").is_ok());
        });
    }
    group.finish();
}

fn path_writing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write path");
    let method = b"checkout/100";
    let mut out = Vec::new();
    group.bench_function("for the app", |bencher| {
        bencher.iter(|| {
            out.clear();
            app_path(black_box(method), &mut out).is_ok()
        });
    });
    group.bench_function("for a sidecar", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_for_peer(black_box(method), &mut out);
            out.len()
        });
    });
    group.finish();
}

/// Nanoseconds at a time need no five seconds.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

criterion_group! {
    name = routing;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASURED);
    targets = interpreting, splitting, finding, path_writing
}
criterion_main!(routing);

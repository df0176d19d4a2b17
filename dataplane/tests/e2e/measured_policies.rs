//! What is counted of policies, under daprd's names: access control by its caller, timeouts,
//! retries and circuit breakers by their target.

#![forbid(unsafe_code)]

use crate::{
    X, get,
    measured::{Page, measured, metrics, told},
    support::{App, Plane, ServedApp, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    ListenerKind, State,
    policy::{
        AccessPolicy, Action, CallerPolicy, Operation,
        resiliency::{Breaker, Pause, Policy, Resiliency, Retry, Source},
        trip::{Count, Step, Trip},
    },
};
use std::{sync::Arc, time::Duration};

const MS: Duration = Duration::from_millis(1);

/// `orders` may call `/public`, by a policy of its own; strangers nothing.
fn access() -> AccessPolicy {
    let operation =
        Operation { name: "/public".into(), verbs: vec!["*".into()], action: Action::Allow };
    let caller = CallerPolicy {
        app_id: "orders".into(),
        namespace: "default".into(),
        trust_domain: "public".into(),
        default_action: Some(Action::Deny),
        operations: vec![operation],
    };
    AccessPolicy {
        trust_domain: "public".into(),
        default_action: Action::Deny,
        callers: vec![caller],
        trusted_networks: Vec::new(),
    }
}

fn breaker(failures: i64) -> Breaker {
    let steps = vec![Step::Int(failures), Step::Count(Count::ConsecutiveFailures)];
    let trip = Trip::new([steps, vec![Step::LessOrEqual]].concat()).unwrap();
    let open_time = Duration::from_secs(1000);
    Breaker { probes_max: 1, interval: None, open_time, trip, methods_max: 10 }
}

/// `orders` calls `checkout` under this policy of the last of two resources.
fn under(policy: Policy) -> impl Fn(&mut State) {
    move |state| {
        told(&measured(metrics(&[])))(state);
        let source = |name: &str| Arc::new(Source { name: name.into(), namespace: "prod".into() });
        state.apps[0].resiliency = Some(Arc::new(Resiliency {
            targets: [("checkout".into(), Arc::new(policy.clone()))].into(),
            default: None,
            sources: vec![source("first"), source("calls")],
        }));
    }
}

fn labels(policy: &str, status: &str) -> String {
    format!(
        "app_id=orders,name=calls,policy={policy},namespace=prod,flow_direction=outbound,\
         target=app_checkout,status={status}"
    )
}

const APPLIED: &str = "dapr_resiliency_count";
const ACTIVATED: &str = "dapr_resiliency_activations_total";

on_both_engines! {
    fn access_control_is_counted_by_its_caller(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .app("other", None)
            .edit(|state| {
                told(&measured(metrics(&[])))(state);
                Arc::make_mut(&mut state.apps[1].guards).access = Some(Arc::new(access()));
            })
            .start();
        for (app, method, status) in
            [(0, "public", 200), (0, "public/more", 200), (0, "admin", 403), (2, "public", 403)]
        {
            let mut client = Wire::connect(plane.address_of(app, ListenerKind::Api));
            client.send(get(&format!("/v1.0/invoke/checkout/method/{method}")));
            assert_eq!(client.read_response().status(), status, "{method}");
        }
        let mut nobody = Wire::connect(plane.address_of(1, ListenerKind::Peer));
        nobody.send("GET /public HTTP/1.1\r\nHost: a\r\nDestination-App-Id: checkout\r\n\r\n");
        assert_eq!(nobody.read_response().status(), 403);
        let of = |id: &str| format!("app_id={id},trustDomain=public,namespace=default");
        let nobody = "app_id=,trustDomain=,namespace=".to_owned();
        let app_allowed = "dapr_runtime_acl_app_policy_action_allowed_total";
        let global_blocked = "dapr_runtime_acl_global_policy_action_blocked_total";
        let page = Page::once(&mut plane, |page| page.count(global_blocked, &nobody) == 1.0);
        for (name, labels, want) in [
            (app_allowed, of("orders"), 2.0),
            ("dapr_runtime_acl_app_policy_action_blocked_total", of("orders"), 1.0),
            (global_blocked, of("other"), 1.0),
            (
                "dapr_runtime_service_invocation_req_sent_total",
                "app_id=orders,dst_app_id=checkout,type=unary".to_owned(),
                3.0,
            ),
        ] {
            assert_eq!(page.count(name, &labels), want, "{name} {labels}");
        }
        assert!(page.labels("dapr_runtime_acl_global_policy_action_allowed_total").is_empty());
        assert_eq!(page.labels(app_allowed).len(), 1);
    }

    fn a_breaker_is_counted_and_shown_by_its_target(engine: Choice) {
        let app = ServedApp::answering(|_| b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n".to_vec());
        let policy = Policy {
            timeout: Some(Duration::from_secs(100)),
            breaker: Some(breaker(2)),
            ..Policy::default()
        };
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .edit(under(policy))
            .start();
        let mut client = plane.client();
        client.send(get(X));
        assert_eq!(client.read_response().status(), 500);
        let position = |page: &Page, name: &str| {
            page.count("dapr_resiliency_cb_state", &labels("circuitbreaker", name))
        };
        let page = Page::once(&mut plane, |page| position(page, "closed") == 1.0);
        assert_eq!(["half-open", "open", "unknown"].map(|name| position(&page, name)), [0.0; 3]);
        for _ in 0..2 {
            client.send(get(X));
            assert_eq!(client.read_response().status(), 500);
        }
        let page = Page::once(&mut plane, |page| position(page, "open") == 1.0
            && page.count(APPLIED, &labels("circuitbreaker", "open")) == 1.0);
        assert_eq!(position(&page, "closed"), 0.0);
        assert_eq!(page.labels("dapr_resiliency_cb_state").len(), 4);
        for (name, labels, want) in [
            (APPLIED, labels("circuitbreaker", "closed"), 2.0),
            (APPLIED, labels("timeout", ""), 3.0),
            (ACTIVATED, labels("circuitbreaker", "open"), 1.0),
        ] {
            assert_eq!(page.count(name, &labels), want, "{name} {labels}");
        }
        assert_eq!((page.labels(APPLIED).len(), page.labels(ACTIVATED).len()), (3, 1));
        let sent = "dapr_runtime_service_invocation_req_sent_total";
        let labels = "app_id=orders,dst_app_id=checkout,type=unary";
        assert_eq!(page.count(sent, labels), 2.0, "what the breaker refuses is not sent");
    }

    fn retries_and_timeouts_are_counted_by_their_target(engine: Choice) {
        let app = App::listen();
        let retry = Retry { pause: Pause::Constant(MS), count_max: Some(2), statuses: None };
        let policy = Policy { timeout: Some(30 * MS), retry: Some(retry), ..Policy::default() };
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .edit(under(policy))
            .start();
        let mut client = plane.client();
        client.send(get(X));
        assert_eq!(client.read_response().status(), 500);
        let page = Page::once(&mut plane, |page| page.count(ACTIVATED, &labels("retry", "")) > 0.0);
        for (name, labels, want) in [
            (APPLIED, labels("retry", ""), 1.0),
            (APPLIED, labels("timeout", ""), 1.0),
            (ACTIVATED, labels("retry", ""), 2.0),
            // daprd counts the first one of a call.
            (ACTIVATED, labels("timeout", ""), 1.0),
        ] {
            assert_eq!(page.count(name, &labels), want, "{name} {labels}");
        }
        assert!(page.labels("dapr_resiliency_cb_state").is_empty());
    }
}

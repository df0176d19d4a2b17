//! Which trace a call belongs to: what the app sees, what the client gets back, what is recorded.
//! Dapr 1.18's rules, W3C Trace Context level 1.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, get, request,
    support::{App, Hop, Mesh, Message, Plane, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    Sampling, State, Telemetry, Tracing,
    wire::{FromDataPlane, Span, SpanKind},
};
use std::sync::Arc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const PASS: Option<Tracing> = Some(Tracing::PassThrough);

fn recording(ratio: f64) -> Option<Tracing> {
    Some(Tracing::Recording(Sampling::of_ratio(ratio)))
}

fn traced(tracing: Option<Tracing>) -> impl Fn(&mut State) {
    move |state| {
        for app in &mut state.apps {
            app.telemetry = Arc::new(Telemetry { tracing, ..Telemetry::default() });
        }
    }
}

/// What the app saw of a request with these lines, and what the client got for an answer with
/// those.
fn exchange(
    engine: Choice,
    hop: Hop,
    tracing: Option<Tracing>,
    lines: &str,
    answer_lines: &str,
) -> (Message, Message) {
    let app = App::listen();
    let mesh = Mesh::start_with(engine, hop, app.address(), traced(tracing));
    let mut client = mesh.client();
    client.send(request("GET", X, lines));
    let mut upstream = app.accept();
    let seen = upstream.read_request();
    upstream.send(answer("200 OK", answer_lines, "ok"));
    (seen, client.read_response())
}

/// Trace, span and flags of a valid `traceparent`.
fn parts(message: &Message) -> (String, String, String) {
    let line = message.one("traceparent").unwrap_or_else(|| panic!("no traceparent: {message}"));
    let parts: Vec<&str> = line.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{line}") };
    assert_eq!((version, trace.len(), span.len(), flags.len()), ("00", 32, 16, 2), "{line}");
    assert!(trace.contains(|c| c != '0') && span.contains(|c| c != '0'), "{line}");
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

/// The next spans that a data plane tells.
fn spans(plane: &mut Plane, count: usize) -> Vec<Span> {
    let mut spans = Vec::new();
    while spans.len() < count {
        match plane.link.receive() {
            FromDataPlane::Spans(more) => spans.extend(more),
            other => panic!("no spans, but {other:?}"),
        }
    }
    assert_eq!(spans.len(), count, "{spans:?}");
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

on_both_engines! {
    fn nothing_is_added_when_tracing_is_off(engine: Choice) {
        for hop in Hop::BOTH {
            let (seen, got) = exchange(engine, hop, None, "", "");
            assert!(!seen.has("traceparent") && !got.has("traceparent"), "{hop:?}");
            let lines = "traceparent: nonsense\r\ntracestate: A\r\nbaggage: nonsense\r\n";
            let (seen, got) = exchange(engine, hop, None, lines, "");
            assert_eq!(seen.one("traceparent"), Some("nonsense"), "{hop:?}");
            assert_eq!(seen.one("tracestate"), Some("A"), "{hop:?}");
            assert!(!got.has("traceparent") && !got.has("baggage"), "{hop:?}");
        }
    }

    fn a_callers_trace_goes_on_as_it_is_without_a_sampling_rate(engine: Choice) {
        for hop in Hop::BOTH {
            let lines = format!("traceparent: {SAMPLED}\r\ntracestate: a=1,b=2\r\n");
            let (seen, got) = exchange(engine, hop, PASS, &lines, "");
            for (whose, message) in [("the app's", &seen), ("the client's", &got)] {
                assert_eq!(message.all("traceparent"), [SAMPLED], "{whose} {hop:?}");
                assert_eq!(message.all("tracestate"), ["a=1,b=2"], "{whose} {hop:?}");
            }
        }
    }

    fn flags_that_are_not_ours_go_on(engine: Choice) {
        for hop in Hop::BOTH {
            let random = SAMPLED.strip_suffix("01").unwrap().to_owned() + "03";
            let lines = format!("traceparent: {random}\r\n");
            let (seen, got) = exchange(engine, hop, PASS, &lines, "");
            assert_eq!((seen.all("traceparent"), got.all("traceparent")), (vec![&*random], vec![&*random]));
            let (seen, got) = exchange(engine, hop, recording(0.0), &lines, "");
            assert_eq!((&*parts(&seen).2, &*parts(&got).2), ("03", "03"), "{hop:?}");
        }
    }

    fn a_call_without_a_trace_gets_one(engine: Choice) {
        for hop in Hop::BOTH {
            let (seen, got) = exchange(engine, hop, PASS, "", "");
            assert_eq!(parts(&seen), parts(&got), "{hop:?}");
            assert_eq!(parts(&seen).2, "00", "{hop:?}: nobody records it");
            let (other, _) = exchange(engine, hop, PASS, "", "");
            assert_ne!(parts(&seen).0, parts(&other).0, "{hop:?}: each its own");
        }
    }

    fn what_is_malformed_reaches_nobody(engine: Choice) {
        for (case, lines) in [
            ("nonsense", "traceparent: 00-x-y-01\r\n".to_owned()),
            ("zeros", format!("traceparent: 00-{}-{}-00\r\n", "0".repeat(32), "0".repeat(16))),
            ("capitals", format!("traceparent: {}\r\n", SAMPLED.to_uppercase())),
            ("two of them", format!("traceparent: {SAMPLED}\r\ntraceparent: {UNSAMPLED}\r\n")),
            ("huge", format!("traceparent: {}\r\n", "0".repeat(4000))),
            ("empty", "traceparent:\r\n".to_owned()),
        ] {
            let lines = format!("{lines}tracestate: a=1\r\n");
            let (seen, got) = exchange(engine, Hop::Peer, PASS, &lines, "");
            assert_eq!(seen.all("traceparent").len(), 1, "{case}: {seen}");
            assert_ne!(parts(&seen).0, TRACE, "{case}");
            assert!(!seen.has("tracestate") && !got.has("tracestate"), "{case}: {seen}");
        }
        for (case, state) in [
            ("nonsense", "=".to_owned()),
            ("too long", format!("a={}", "x".repeat(600))),
        ] {
            let lines = format!("traceparent: {SAMPLED}\r\ntracestate: {state}\r\n");
            let (seen, got) = exchange(engine, Hop::Peer, PASS, &lines, "");
            assert_eq!(seen.one("traceparent"), Some(SAMPLED), "{case}");
            assert!(!seen.has("tracestate") && !got.has("tracestate"), "{case}: {seen}");
        }
    }

    fn an_apps_own_trace_is_the_clients(engine: Choice) {
        for hop in Hop::BOTH {
            let lines = "traceparent: 00-11111111111111111111111111111111-2222222222222222-01\r\n";
            let (_, got) = exchange(engine, hop, PASS, "baggage: a=b\r\n", lines);
            assert_eq!(
                got.all("traceparent"),
                ["00-11111111111111111111111111111111-2222222222222222-01"],
                "{hop:?}"
            );
            assert_eq!(got.all("baggage"), ["a=b"], "{hop:?}");
        }
    }

    fn health_checks_belong_to_no_trace(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start_with(engine, Hop::Own, app.address(), traced(recording(1.0)));
        let mut client = mesh.client();
        client.send(get("/v1.0/healthz"));
        assert!(!client.read_response().has("traceparent"));
        client.send(get("/v1.0/invoke/checkout/method/healthz/deep"));
        let mut upstream = app.accept();
        assert!(!upstream.read_request().has("traceparent"));
        upstream.send(OK);
        assert!(!client.read_response().has("traceparent"));
        client.send(get("/v1.0/metadata"));
        parts(&client.read_response());
        client.send(get("/v1.0/invoke/nobody/method/x"));
        let refused = client.read_response();
        assert_eq!(refused.status(), 500);
        parts(&refused);
    }

    fn every_hop_is_a_span_of_its_callers(engine: Choice) {
        let app = App::listen();
        let mut mesh = Mesh::start_with(engine, Hop::Peer, app.address(), traced(recording(1.0)));
        let mut client = mesh.client();
        client.send(request("GET", X, &format!("traceparent: {SAMPLED}\r\n")));
        let mut upstream = app.accept();
        let seen = upstream.read_request();
        upstream.send(OK);
        let got = client.read_response();
        let [first] = &spans(&mut mesh.caller, 1)[..] else { unreachable!() };
        let [second] = &spans(mesh.callee.as_mut().unwrap(), 1)[..] else { unreachable!() };
        assert_eq!((first.kind, second.kind), (SpanKind::Client, SpanKind::Server));
        for span in [first, second] {
            assert_eq!(hex(&span.trace), TRACE);
            assert_eq!((span.name.as_str(), span.status), ("CallLocal/checkout/x", 200));
            assert!(span.began <= span.ended && span.began > 1_600_000_000_000_000_000);
        }
        assert_eq!(hex(&first.parent), "00f067aa0ba902b7");
        assert_eq!(second.parent, first.span, "the callee's hop is a child of the caller's");
        assert_eq!(parts(&seen), (TRACE.to_owned(), hex(&second.span), "01".to_owned()));
        assert_eq!(parts(&got), (TRACE.to_owned(), hex(&first.span), "01".to_owned()));
    }

    fn a_span_tells_what_was_asked_and_no_secret(engine: Choice) {
        let app = App::listen();
        let mut mesh = Mesh::start_with(engine, Hop::Peer, app.address(), traced(recording(1.0)));
        let mut client = mesh.client();
        let long = "v".repeat(300);
        let lines = format!(
            "Dapr-Order: 7: red\r\ndapr-api-token: s3cret\r\nx-dapr-no: 1\r\ndapr-long: {long}\r\n"
        );
        client.send(request("DELETE", &format!("{X}?a=b%20c"), &lines));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(answer("404 Not Found", "", "no"));
        client.read_response();
        let [first] = &spans(&mut mesh.caller, 1)[..] else { unreachable!() };
        let [second] = &spans(mesh.callee.as_mut().unwrap(), 1)[..] else { unreachable!() };
        assert_eq!((&*first.verb, &*first.target), ("DELETE", &*format!("{X}?a=b%20c")));
        let own = ("dapr-order".to_owned(), "7: red".to_owned());
        assert_eq!(first.headers, std::slice::from_ref(&own));
        assert!(first.client.is_some_and(|client| client.ip().is_loopback()), "{first:?}");
        assert_eq!((first.status, first.is_answered), (404, true));
        assert_eq!((&*second.verb, second.client), ("DELETE", None));
        assert!(second.headers.contains(&own), "{second:?}");
        assert!(!format!("{first:?}{second:?}").contains("s3cret"));

        client.send(get("/v1.0/invoke/nobody/method/x"));
        client.read_response();
        let [third] = &spans(&mut mesh.caller, 1)[..] else { unreachable!() };
        assert_eq!((third.status, third.is_answered, &third.headers[..]), (500, false, &[][..]));
    }

    fn neighbours_are_two_hops_in_one_pass(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .edit(traced(recording(1.0)))
            .start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        let seen = upstream.read_request();
        upstream.send(OK);
        let got = client.read_response();
        let spans = spans(&mut plane, 2);
        let find = |kind| spans.iter().find(|span| span.kind == kind).unwrap();
        let (caller, callee) = (find(SpanKind::Client), find(SpanKind::Server));
        assert_eq!((caller.app, callee.app), (0, 1));
        assert_eq!((caller.parent, callee.parent), ([0; 8], caller.span));
        assert_eq!(parts(&seen).1, hex(&callee.span));
        assert_eq!(parts(&got).1, hex(&caller.span));
    }

    fn who_calls_decides_whether_it_is_recorded(engine: Choice) {
        for (case, tracing, lines, want) in [
            ("told not to", recording(1.0), format!("traceparent: {UNSAMPLED}\r\n"), "00"),
            ("told to", recording(0.0), format!("traceparent: {SAMPLED}\r\n"), "01"),
            ("not told, none", recording(0.0), String::new(), "00"),
            ("not told, all", recording(1.0), String::new(), "01"),
        ] {
            let (seen, got) = exchange(engine, Hop::Peer, tracing, &lines, "");
            assert_eq!((&*parts(&seen).2, &*parts(&got).2), (want, want), "{case}");
            assert_ne!(parts(&seen).1, parts(&got).1, "{case}: a hop of its own");
        }
    }

    fn baggage_is_echoed_or_refused(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start_with(engine, Hop::Own, app.address(), traced(PASS));
        let mut client = mesh.client();
        for (lines, want) in [
            ("baggage: nonsense\r\n", "invalid baggage list-member: \"nonsense\""),
            ("baggage: a=b\r\nbaggage: a b=c\r\n", "invalid key: \"a b\""),
        ] {
            client.send(request("GET", X, lines));
            let refused = client.read_response();
            assert_eq!(refused.status(), 400, "{lines}");
            assert_eq!(refused.one("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(refused.text(), format!("invalid baggage header: {want}\n"));
            assert!(!refused.has("baggage"), "{lines}");
        }
        app.assert_untouched();
        client.send(request("GET", X, "baggage: a=b;p=1\r\nbaggage: c=%20d\r\n"));
        let mut upstream = app.accept();
        assert_eq!(upstream.read_request().one("baggage"), Some("a=b;p=1"), "the first counts");
        upstream.send(OK);
        assert_eq!(client.read_response().all("baggage"), ["a=b;p=1,c=%20d"]);
        client.send(request("GET", "/v1.0/metadata", "baggage: a=b\r\n"));
        assert_eq!(client.read_response().one("baggage"), Some("a=b"));
    }
}

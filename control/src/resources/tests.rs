//! What resources mean and which mistakes in them are told, without any directory but for the last
//! tests.

use super::*;
use crate::test_dir::TestDir;
use snapshot::policy::resiliency::{Pause, Policy, Retry};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn load(files: &[(&str, &str)]) -> (Resources, Vec<String>) {
    let (mut found, mut problems) = (Resources::default(), Vec::new());
    for (path, text) in files {
        found.read_text(path, text, &environment, &mut problems);
    }
    (found, problems.iter().map(ToString::to_string).collect())
}

fn environment(name: &str) -> Option<String> {
    (name == "SHOP_KEY").then(|| "k3y".to_owned())
}

fn problems_of(text: &str) -> Vec<String> {
    let (found, mut problems) = load(&[("r.yaml", text)]);
    if let Err(more) = found.resiliency_of("a") {
        problems.extend(more.iter().map(ToString::to_string));
    }
    problems
}

fn compiled(app_id: &str, files: &[(&str, &str)]) -> policy::resiliency::Resiliency {
    let (found, problems) = load(files);
    assert!(problems.is_empty(), "{problems:?}");
    Arc::unwrap_or_clone(found.resiliency_of(app_id).unwrap().expect("policies"))
}

fn policy_of(target: &str, text: &str) -> Policy {
    let compiled = compiled("a", &[("r.yaml", text)]);
    Policy::clone(compiled.find(target.as_bytes()).expect("a policy"))
}

const HEAD: &str = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n";

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = "\
kind: Resiliency
spec:
  policies:
    timeouts: {t: 5x, u: -1}
    retries:
      endless: {duration: 1ns}
      still: {policy: exponential, maxInterval: 0}
      kind: {policy: random}
      codes: {maxRetries: 1, matching: {httpStatusCodes: \"500-499\", gRPCStatusCodes: 17}}
      count: {maxRetries: many, durration: 1s}
      twice: {duration: 1s, Duration: 2s}
    circuitBreakers:
      zero: {trip: totalFailures / 0 > 1}
      no: {trip: requests, maxRequests: -1}
  targets:
    apps:
      x: {timeout: t, retry: endles, circuitBreaker: none, circuitBreakerCacheSize: 1000000}
    actors: {}
";
    let want = [
        "r.yaml:4:19: spec.policies.timeouts.t: \"5x\" is not a duration",
        "r.yaml:4:26: spec.policies.timeouts.u: \"-1\" is not a duration",
        "r.yaml:6:16: spec.policies.retries.endless: is tried again for ever and almost without a \
         pause (1ns); give it a maxRetries, or at least 1ms",
        "r.yaml:7:14: spec.policies.retries.still: is tried again for ever",
        "r.yaml:8:22: spec.policies.retries.kind.policy: \"random\" is neither constant nor \
         exponential",
        "r.yaml:9:58: spec.policies.retries.codes.matching.httpStatusCodes: \"500-499\" ends before",
        "r.yaml:9:86: spec.policies.retries.codes.matching.gRPCStatusCodes: \"17\" is no status \
         code; write 0 to 16",
        "r.yaml:10:33: spec.policies.retries.count.durration: there is no such key; it is ignored, \
         as with daprd; is it \"duration\"?",
        "r.yaml:10:27: spec.policies.retries.count.maxRetries: \"many\" is no whole number",
        "r.yaml:11:29: spec.policies.retries.twice.Duration: stands here a second time",
        "r.yaml:13:20: spec.policies.circuitBreakers.zero.trip: \"totalFailures / 0 > 1\" divides by \
         zero",
        "r.yaml:14:18: spec.policies.circuitBreakers.no.trip: \"requests\" is a whole number",
        "r.yaml:14:41: spec.policies.circuitBreakers.no.maxRequests: \"-1\" is no whole number from 0",
        "r.yaml:17:85: spec.targets.apps.x.circuitBreakerCacheSize: is larger than 5000",
        "r.yaml:18:13: spec.targets.actors: is passed over",
        "r.yaml:17:20: spec.targets.apps.x.timeout: there is no timeout policy \"t\"",
        "r.yaml:17:30: spec.targets.apps.x.retry: there is no retry policy \"endles\"; is it \
         \"endless\"?",
        "r.yaml:17:54: spec.targets.apps.x.circuitBreaker: there is no circuit breaker policy \
         \"none\"",
    ];
    let problems = problems_of(text);
    for (problem, want) in problems.iter().zip(want) {
        assert!(problem.starts_with(want), "{problem}\n{want}");
    }
    assert_eq!(problems.len(), want.len(), "{problems:#?}");
}

#[test]
fn files_that_cannot_be_understood_are_refused() {
    let bomb: String = (1..10).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let alias = vec![format!("*a{}", n - 1); 10].join(",");
        format!("{text}a{n}: &a{n} [{alias}]\n")
    });
    let many = "kind: X\n---\n".repeat(DOCUMENTS_MAX + 1);
    for (case, text, want) in [
        ("no YAML", "kind: [", "r.yaml:"),
        ("a bomb", &*bomb, "r.yaml:6:"),
        ("documents without end", &many, "has more than 1000 documents"),
        ("a list", "kind: Resiliency\nspec: []", "r.yaml:2:7: spec: must be a mapping, not a list"),
    ] {
        let problems = problems_of(text);
        assert_eq!(problems.len(), 1, "{case}: {problems:?}");
        assert!(problems[0].contains(want), "{case}: {}", problems[0]);
    }
}

#[test]
fn what_is_not_needed_is_skipped_with_a_line() {
    let text = "\
kind: Component
metadata: {name: state}
spec: {type: state.redis}
---
kind: Resiliency
metadata: {name: late}
---
kind: Configuration
---
just: this
---
kind: Subscription
";
    let (found, problems) = load(&[("r.yaml", text)]);
    assert_eq!(problems, Vec::<String>::new());
    let want = [
        "r.yaml:1:1: Component \"state\" (state.redis) is skipped",
        "r.yaml:5:1: Resiliency \"late\" is passed over, as with daprd: it is not the first",
        "r.yaml:8:1: Configuration \"\" is passed over",
        "r.yaml:10:1: document has no kind and is skipped",
        "r.yaml:12:1: Subscription \"\" is skipped",
    ];
    for (note, want) in found.notes.iter().zip(want) {
        assert!(note.starts_with(want), "{note}\n{want}");
    }
    assert_eq!(found.notes.len(), want.len(), "{:#?}", found.notes);
    assert_eq!(found.resiliency_of("a").unwrap(), None);
}

#[test]
fn policies_have_the_defaults_of_daprd() {
    let text = format!(
        "{HEAD}Spec:
  Policies:
    timeouts: {{general: 5s, plain: 500, none: 0}}
    retries:
      plain: {{}}
      grown: {{policy: exponential, maxRetries: 7}}
      list: {{duration: 10, maxRetries: 0, matching: {{httpStatusCodes: \"429,500-599\"}}}}
    circuitBreakers:
      plain:
      full: {{maxRequests: 3, interval: 8s, timeout: 45s, trip: consecutiveFailures > 8}}
  targets:
    apps:
      a: {{timeout: general, retry: plain, circuitBreaker: plain}}
      b: {{timeout: plain, retry: grown, circuitBreaker: full, circuitBreakerCacheSize: 9}}
      c.prod: {{timeout: none, retry: list}}
      empty:
"
    );
    let policy = |target| policy_of(target, &text);
    let (a, b, c) = (policy("a"), policy("b"), policy("c.prod"));
    assert_eq!([a.timeout, b.timeout, c.timeout], [Some(5000 * MS), Some(500 * MS), None]);
    let retry = |p: &Policy| p.retry.clone().map(|retry| (retry.pause, retry.count_max));
    assert_eq!(retry(&a), Some((Pause::Constant(5000 * MS), None)));
    assert_eq!(retry(&b), Some((Pause::Exponential { max: 60_000 * MS }, Some(7))));
    assert_eq!(retry(&c), Some((Pause::Constant(10 * MS), Some(0))));
    let listed = |status| c.retry.as_ref().unwrap().is_wanted_for(status);
    assert_eq!([428, 429, 499, 500, 599].map(listed), [false, true, false, true, true]);
    let breaker = |p: &Policy| {
        let b = p.breaker.clone().unwrap();
        (b.probes_max, b.interval, b.open_time, b.methods_max)
    };
    assert_eq!(breaker(&a), (1, None, 60_000 * MS, 100));
    assert_eq!(breaker(&b), (3, Some(8000 * MS), 45_000 * MS, 9));
    assert_eq!(policy("empty"), Policy::default(), "an entry, if an empty one, has no built-in");
    assert_eq!([a.built_in, b.built_in, c.built_in], [None, None, None]);
}

#[test]
fn defaults_hold_for_targets_without_an_entry() {
    let text = |policies: &str| {
        format!("{HEAD}spec:\n  policies: {policies}\n  targets: {{apps: {{x: {{}}}}}}\n")
    };
    let of_app = "{retries: {DefaultRetryPolicy: {duration: 1s}, DefaultAppRetryPolicy: {duration: \
                  2s}}, timeouts: {DefaultTimeoutPolicy: 3s}}";
    let found = policy_of("y", &text(of_app));
    assert_eq!(found.retry.unwrap().pause, Pause::Constant(2000 * MS));
    assert_eq!(found.timeout, Some(3000 * MS));
    assert_eq!(found.built_in, Some(Retry::BUILT_IN), "which stays inside");
    let compiled = compiled("a", &[("r.yaml", &text("{}"))]);
    assert_eq!(compiled.find(b"y"), None, "nothing but the built-in retry, as ever");
    for (retries, want) in [("maxRetries: 1", 3), ("maxRetries: 8", 8), ("maxRetries: -1", 3)] {
        let built_in = format!("{{retries: {{DaprBuiltInServiceRetries: {{{retries}}}}}}}");
        let found = policy_of("y", &text(&built_in)).built_in.unwrap();
        assert_eq!((found.pause, found.count_max), (Pause::Constant(5000 * MS), Some(want)));
    }
    let named =
        format!("{HEAD}spec: {{targets: {{apps: {{x: {{retry: DaprBuiltInServiceRetries}}}}}}}}");
    assert_eq!(policy_of("x", &named).retry, Some(Retry::BUILT_IN));
}

#[test]
fn resources_in_scope_are_put_together() {
    let one = format!(
        "{HEAD}spec: {{policies: {{timeouts: {{t: 1s, u: 2s}}}}, targets: {{apps: {{x: {{timeout: t}}, \
         y: {{timeout: u}}}}}}}}"
    );
    let two = format!("{HEAD}scopes: [b]\nspec: {{policies: {{timeouts: {{t: 3s}}}}}}");
    let three = format!("{HEAD}spec: {{targets: {{apps: {{y: {{timeout: t}}}}}}}}");
    let files = [("1.yaml", &*one), ("2.yaml", &*two), ("3.yaml", &*three)];
    for (app, want) in [("a", 1000), ("b", 3000)] {
        let compiled = compiled(app, &files);
        for target in [&b"x"[..], b"y"] {
            let timeout = compiled.find(target).unwrap().timeout;
            assert_eq!(timeout, Some(want * MS), "{app} calls {target:?}");
        }
    }
    let missing = [("2.yaml", &*two), ("3.yaml", &*three)];
    let (found, _) = load(&missing);
    assert!(found.resiliency_of("b").is_ok() && found.resiliency_of("a").is_err());
}

#[test]
fn directories_are_read_in_order_and_not_deeper() {
    let dir = TestDir::new();
    let write = |name: &str, timeout: &str| {
        let text =
            format!("{HEAD}spec: {{policies: {{timeouts: {{DefaultTimeoutPolicy: {timeout}}}}}}}");
        fs::write(dir.path().join(name), text).unwrap();
    };
    write("a.yaml", "1s");
    write("b.YML", "2s");
    write("c.json", "3s");
    fs::create_dir(dir.path().join("d.yaml")).unwrap();
    write("d.yaml/e.yaml", "4s");
    let paths = [dir.path().display().to_string()];
    let found = Resources::load(&paths, &environment).unwrap().resiliency_of("a").unwrap().unwrap();
    assert_eq!(found.find(b"x").unwrap().timeout, Some(2000 * MS));

    fs::write(dir.path().join("big.yaml"), vec![b'#'; 1024 * 1024 + 1]).unwrap();
    let file = dir.path().join("a.yaml").display().to_string();
    let problems = Resources::load(&[paths[0].clone(), "/no/such".to_owned(), file], &environment)
        .unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for (problem, want) in problems.iter().zip([
        "big.yaml: is larger than 1048576 bytes",
        "/no/such: no such directory",
        "a.yaml: is no directory",
    ]) {
        assert!(problem.ends_with(want), "{problem}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}

//! What policies say of the call: the callee's access control, asked as its data plane asks it, how
//! the callee takes calls, and the caller's timeouts, retries and circuit breakers.
//!
//! Rules come from the controls that have them in force. Those of another machine cannot be asked,
//! which is said.

#![forbid(unsafe_code)]

use super::{Explanation, Target, Way, caller::Caller, text};
use crate::{
    http_client,
    knowledge::{Knowledge, KnownApp},
    registry::{Entry, Table},
};
use dataplane::policy::access::{Access, Caller as Name, Ground, Level, Proof};
use hyper::{Method, body::Bytes};
use snapshot::{
    Address,
    policy::{
        AccessPolicy, Action, TRUST_DOMAIN_DEFAULT,
        resiliency::{Breaker, Pause, Policy, Retry},
    },
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

/// A sidecar of the callee, as far as it can be asked.
struct Callee<'t> {
    /// `None`: the caller's own data plane.
    entry: Option<&'t Entry>,
    app: KnownApp,
}

/// What the callee's side says. False: it lets the call not through.
pub(super) async fn of_callee(
    way: Way,
    target: &Target,
    caller: &Caller,
    own: Option<&KnownApp>,
    knowledge: &Knowledge,
    table: &Table,
    explanation: &mut Explanation,
) -> bool {
    let callees = callees(way, target, knowledge, table).await;
    if callees.is_empty() {
        explanation.add(
            "access",
            format!(
                "judges {:?} with verb {} where the app is served, whose rules cannot be asked \
                 from here",
                text(&target.method),
                target.verb
            ),
        );
        return true;
    }
    let mut is_let_through = false;
    let mut said = Vec::new();
    for callee in &callees {
        let (is_allowed, access) = access(way, target, caller, own, callee);
        let (is_taken, care) = care(&callee.app);
        is_let_through |= is_allowed && is_taken;
        // Instances with one configuration say the same.
        for (step, words) in [("access", access), ("takes", care)] {
            if !said.contains(&(step, words.clone())) {
                said.push((step, words));
            }
        }
    }
    let is_one = callees.len() == 1;
    said.sort_by_key(|(step, _)| *step);
    for (step, words) in said {
        explanation.add(step, if is_one { words } else { format!("an instance: {words}") });
    }
    is_let_through
}

async fn callees<'t>(
    way: Way,
    target: &Target,
    knowledge: &Knowledge,
    table: &'t Table,
) -> Vec<Callee<'t>> {
    if way == Way::App {
        return knowledge.app.clone().map(|app| Callee { entry: None, app }).into_iter().collect();
    }
    let mut callees = Vec::new();
    let is_called = |entry: &&Entry| {
        target.is_app_of(entry)
            && knowledge.endpoints.iter().any(|known| known.address == entry.peer)
    };
    for entry in table.iter().filter(is_called).take(INSTANCES_MAX) {
        let Some(socket) = &entry.control else { continue };
        let answer = super::caller::ask(socket, &target.question()).await;
        if let Some(app) = answer.ok().and_then(|knowledge| knowledge.app) {
            callees.push(Callee { entry: Some(entry), app });
        }
    }
    callees
}

fn access(
    way: Way,
    target: &Target,
    caller: &Caller,
    own: Option<&KnownApp>,
    callee: &Callee<'_>,
) -> (bool, String) {
    let Some(policy) = &callee.app.access else {
        return (true, "the app that is called has no access control".to_owned());
    };
    if way == Way::App && target.is_app_of(&caller.entry) {
        return (true, "allowed: an app may always call itself".to_owned());
    }
    let (proof, how) = match callee.entry {
        None => (Proof::SameUser, "by the data plane that serves both".to_owned()),
        Some(entry) => proof(&caller.entry, entry),
    };
    let own_domain = own.and_then(|app| app.access.as_ref());
    let name = Name {
        app_id: caller.entry.id.as_str(),
        namespace: caller.entry.namespace.as_str(),
        trust_domain: own_domain.map_or(TRUST_DOMAIN_DEFAULT, |policy| &policy.trust_domain),
    };
    judge(policy, name, proof, &how, target)
}

/// Of the app that is called, in the name that is proven.
fn judge(
    policy: &AccessPolicy,
    name: Name<'_>,
    proof: Proof,
    how: &str,
    target: &Target,
) -> (bool, String) {
    let access = Access::new(policy);
    let proven = access.believes(proof).then_some(name);
    let mut scratch = Vec::new();
    let (verdict, ground) = access.judge(proven, &target.method, Some(target.verb), &mut scratch);
    let Name { app_id, namespace, trust_domain } = name;
    let who = match proven {
        Some(_) => format!("spiffe://{trust_domain}/ns/{namespace}/{app_id}, proven {how}"),
        None => format!("a caller without a name, {how}"),
    };
    let rules = policy.callers.iter().rev();
    let rules = rules.into_iter().find(|it| it.app_id == app_id && it.namespace == namespace);
    let default = match (verdict.level, verdict.is_allowed) {
        (Level::App, true) => "defaultAction allow of the caller's policy",
        (Level::App, false) => "defaultAction deny of the caller's policy",
        (Level::Global, true) => "the global defaultAction allow",
        (Level::Global, false) => "the global defaultAction deny",
    };
    let why = match (ground, rules) {
        (Ground::Operation(index), Some(rules)) if index < rules.operations.len() => {
            let operation = &rules.operations[index];
            let verbs = operation.verbs.join(",");
            format!("operation {:?} ({verbs}: {})", operation.name, action(operation.action))
        }
        (Ground::Stranger, Some(rules)) if proven.is_some() => {
            format!(
                "{default}: the policy for the caller is about trust domain {}",
                rules.trust_domain
            )
        }
        (Ground::Stranger, _) => format!("{default}: no policy is about it"),
        (Ground::Default | Ground::Operation(_), _) => {
            format!("{default}: no operation is about it with this verb")
        }
    };
    let outcome = if verdict.is_allowed { "allowed" } else { "refused with 403" };
    let (method, verb) = (text(&target.method), target.verb);
    (verdict.is_allowed, format!("{outcome}: {method:?} with verb {verb} of {who}; by {why}"))
}

const fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}

/// What a peer socket proves to whoever listens there: the user of the one that connects.
fn proof(caller: &Entry, callee: &Entry) -> (Proof, String) {
    const ROOT: u32 = 0;
    match (user_of(caller), user_of(callee)) {
        (Some(from), Some(to)) if from == to || from == ROOT => {
            (Proof::SameUser, format!("by the kernel: it runs as user {from}"))
        }
        (Some(from), Some(to)) => {
            let how = format!("since its sidecar runs as user {from}, and the app's as {to}");
            (Proof::None, how)
        }
        _ => (Proof::None, "since nothing that runs could prove it".to_owned()),
    }
}

fn user_of(entry: &Entry) -> Option<u32> {
    std::fs::metadata(format!("/proc/{}", entry.pid)).ok().map(|metadata| metadata.uid())
}

/// How many calls the app takes, and whether it is well.
fn care(app: &KnownApp) -> (bool, String) {
    let count = match app.concurrency_max {
        None => "any number of calls at a time".to_owned(),
        Some(max) => format!("{max} calls at a time, and more wait their turn"),
    };
    match app.is_healthy {
        None => (true, format!("{count}; its health is not checked")),
        Some(true) => (true, format!("{count}; its health checks are good")),
        Some(false) => {
            (false, "no calls, since its health checks fail: they are refused with 500".to_owned())
        }
    }
}

/// The caller's own policy for the target as it is written, if it has one.
pub(super) fn of_caller<'a>(own: Option<&'a KnownApp>, target: &[u8]) -> Option<&'a Arc<Policy>> {
    own?.resiliency.as_ref()?.find(target)
}

/// What the caller's side does when the call fails.
pub(super) async fn add_resiliency(
    own: Option<&KnownApp>,
    caller: &Caller,
    target: &[u8],
    explanation: &mut Explanation,
) {
    let Some(own) = own else {
        return explanation.add("policy", "the caller's policies are not known");
    };
    let sources = own.resiliency.iter().flat_map(|resiliency| &resiliency.sources);
    let sources: Vec<&str> = sources.map(|source| &*source.name).collect();
    let written = text(target);
    let Some(policy) = of_caller(Some(own), target) else {
        return explanation.add("policy", format!("none of the caller is about {written:?}"));
    };
    let targets = own.resiliency.iter().flat_map(|it| it.targets.keys());
    let entry = if targets.into_iter().any(|name| **name == *written) {
        format!("an entry for {written:?}")
    } else {
        "the default policies".to_owned()
    };
    explanation
        .add("policy", format!("the caller's, by {entry} (resources: {})", sources.join(", ")));
    let Policy { timeout, retry, breaker, names, .. } = &**policy;
    if let Some(timeout) = timeout {
        let name = &names.timeout;
        explanation.add("timeout", format!("{timeout:?} for each attempt (policy {name:?})"));
    }
    if let Some(retry) = retry {
        let words = retry_words(retry);
        explanation.add("retry", format!("{words} (policy {:?})", names.retry));
    }
    if let Some(breaker) = breaker {
        let words = breaker_words(breaker);
        let position = position(caller, &written).await;
        explanation.add("breaker", format!("{words} (policy {:?}); {position}", names.breaker));
    }
}

pub(super) fn retry_words(retry: &Retry) -> String {
    let count = match retry.count_max {
        None => "for as long as the client waits".to_owned(),
        Some(count) => format!("{count} more times at the most"),
    };
    let pause = match retry.pause {
        Pause::Constant(pause) => format!("{pause:?} apart"),
        Pause::Exponential { max } => format!("{:?} to {max:?} apart, growing", Pause::FIRST),
    };
    let statuses = match statuses(retry) {
        None => "any status but 200 to 399".to_owned(),
        Some(list) => format!("status {list}"),
    };
    format!("{count}, {pause}, after no answer or {statuses}")
}

/// As an operator writes them; `None`: there is no list.
fn statuses(retry: &Retry) -> Option<String> {
    let listed = retry.statuses?;
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for status in (100..600).filter(|status| listed.contains(*status)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == status => *last = status,
            _ => ranges.push((status, status)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    Some(words.collect::<Vec<_>>().join(","))
}

fn breaker_words(breaker: &Breaker) -> String {
    let Breaker { probes_max, interval, open_time, trip, .. } = breaker;
    let counted = match interval {
        None => "counted for as long as it is closed".to_owned(),
        Some(interval) => format!("counted anew every {interval:?}"),
    };
    format!(
        "one for each method, opens when {trip}, {counted}; after {open_time:?} it is tried with \
         {probes_max} at a time"
    )
}

/// How the target's breaker stands, as the caller's metrics page shows it.
async fn position(caller: &Caller, target: &str) -> String {
    let port = caller.entry.metrics_port;
    if port == 0 || !caller.is_running() {
        return "how it stands cannot be had without the caller's metrics page".to_owned();
    }
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let Ok(request) = http_client::request(Method::GET, "/metrics", Bytes::new()) else {
        return UNKNOWN.to_owned();
    };
    let page = match http_client::call(&address, request, ASK_TIMEOUT).await {
        Ok(answer) => String::from_utf8_lossy(answer.body()).into_owned(),
        Err(e) => return format!("how it stands cannot be had: {e}"),
    };
    match position_in(&page, caller.entry.id.as_str(), target) {
        Some(position) => format!("of the method called last it is {position}"),
        None => UNKNOWN.to_owned(),
    }
}

fn position_in(page: &str, app_id: &str, target: &str) -> Option<String> {
    let (app, target) = (format!("app_id={app_id:?}"), format!("target=\"app_{target}\""));
    let is_it = |line: &&str| {
        let is_gauge = line.starts_with("dapr_resiliency_cb_state{") && line.ends_with(" 1");
        is_gauge && line.contains(&app) && line.contains(&target)
    };
    let line = page.lines().find(is_it)?;
    Some(line.split_once("status=\"")?.1.split_once('"')?.0.to_owned())
}

const UNKNOWN: &str = "no call under it was counted yet, so it is closed";

/// A page that takes longer is not waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Sidecars of an app on this machine that are asked; the others will not say much else.
const INSTANCES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::{CallerPolicy, Operation, resiliency::StatusSet};

    fn target(verb: &'static str, method: &str) -> Target {
        Target {
            id: snapshot::AppId::new("checkout").unwrap(),
            namespace: snapshot::Namespace::default(),
            written: b"checkout".to_vec(),
            verb,
            method: method.as_bytes().to_vec(),
            query: Vec::new(),
        }
    }

    #[test]
    fn tells_which_rule_decides_and_for_whom() {
        let operation = |name: &str, verb: &str, action| Operation {
            name: name.into(),
            verbs: vec![verb.into()],
            action,
        };
        let caller = |app_id: &str, default_action| CallerPolicy {
            app_id: app_id.into(),
            namespace: "default".into(),
            trust_domain: "public".into(),
            default_action,
            operations: vec![
                operation("/admin", "*", Action::Deny),
                operation("/items/*", "GET", Action::Allow),
            ],
        };
        let policy = AccessPolicy {
            trust_domain: "public".into(),
            default_action: Action::Deny,
            callers: vec![caller("orders", Some(Action::Allow)), caller("plain", None)],
            trusted_networks: Vec::new(),
        };
        let same = Proof::SameUser;
        for (case, (app_id, trust_domain), proof, verb, method, want) in [
            (
                "an operation",
                ("orders", "public"),
                same,
                "GET",
                "items/7",
                "allowed: \"items/7\" with verb GET of spiffe://public/ns/default/orders, proven \
                 so; by operation \"/items/*\" (GET: allow)",
            ),
            (
                "another operation",
                ("orders", "public"),
                same,
                "GET",
                "Admin/x",
                "refused with 403: \"Admin/x\" with verb GET of \
                 spiffe://public/ns/default/orders, proven so; by operation \"/admin\" (*: deny)",
            ),
            (
                "another verb",
                ("orders", "public"),
                same,
                "PUT",
                "items/7",
                "allowed: \"items/7\" with verb PUT of spiffe://public/ns/default/orders, proven \
                 so; by defaultAction allow of the caller's policy: no operation is about it with \
                 this verb",
            ),
            (
                "without a default of its own",
                ("plain", "public"),
                same,
                "GET",
                "x",
                "refused with 403: \"x\" with verb GET of spiffe://public/ns/default/plain, proven \
                 so; by the global defaultAction deny: no operation is about it with this verb",
            ),
            (
                "a stranger",
                ("other", "public"),
                same,
                "GET",
                "x",
                "refused with 403: \"x\" with verb GET of spiffe://public/ns/default/other, proven \
                 so; by the global defaultAction deny: no policy is about it",
            ),
            (
                "another domain",
                ("orders", "abroad"),
                same,
                "GET",
                "x",
                "refused with 403: \"x\" with verb GET of spiffe://abroad/ns/default/orders, proven \
                 so; by the global defaultAction deny: the policy for the caller is about trust \
                 domain public",
            ),
            (
                "not proven",
                ("orders", "public"),
                Proof::None,
                "GET",
                "items/7",
                "refused with 403: \"items/7\" with verb GET of a caller without a name, so; by the \
                 global defaultAction deny: no policy is about it",
            ),
        ] {
            let name = Name { app_id, namespace: "default", trust_domain };
            let (is_allowed, words) = judge(&policy, name, proof, "so", &target(verb, method));
            assert_eq!(words, want, "{case}");
            assert_eq!(is_allowed, want.starts_with("allowed"), "{case}");
        }
    }

    #[test]
    fn retries_are_told_as_they_are_written() {
        let mut listed = StatusSet::default();
        [429, 500, 501, 502, 599].into_iter().for_each(|status| listed.insert(status));
        let (ms, s) = (Duration::from_millis(5), Duration::from_secs(60));
        for (retry, want) in [
            (
                Retry { pause: Pause::Constant(ms), count_max: Some(3), statuses: Some(listed) },
                "3 more times at the most, 5ms apart, after no answer or status 429,500-502,599",
            ),
            (
                Retry { pause: Pause::Exponential { max: s }, count_max: None, statuses: None },
                "for as long as the client waits, 500ms to 60s apart, growing, after no answer or \
                 any status but 200 to 399",
            ),
        ] {
            assert_eq!(retry_words(&retry), want);
        }
    }

    #[test]
    fn finds_the_breaker_of_its_target_on_the_page() {
        let line = |app: &str, target: &str, status: &str, value: u8| {
            format!(
                "dapr_resiliency_cb_state{{app_id=\"{app}\",name=\"r\",policy=\"circuitbreaker\",\
                 target=\"app_{target}\",status=\"{status}\"}} {value}\n"
            )
        };
        let page = [
            line("other", "b", "half-open", 1),
            line("a", "bb", "half-open", 1),
            line("a", "b", "closed", 0),
            line("a", "b", "open", 1),
        ]
        .concat();
        assert_eq!(position_in(&page, "a", "b").as_deref(), Some("open"));
        assert_eq!(position_in(&page, "a", "c"), None);
    }

    #[test]
    fn an_app_that_is_not_well_takes_no_calls() {
        for (case, concurrency_max, is_healthy, want) in [
            ("unchecked", 0, None, "any number of calls at a time; its health is not checked"),
            (
                "well",
                3,
                Some(true),
                "3 calls at a time, and more wait their turn; its health checks are good",
            ),
            (
                "not well",
                3,
                Some(false),
                "no calls, since its health checks fail: they are refused with 500",
            ),
        ] {
            let concurrency_max = std::num::NonZeroU32::new(concurrency_max);
            let app = KnownApp { concurrency_max, is_healthy, ..KnownApp::default() };
            assert_eq!(care(&app), (is_healthy != Some(false), want.to_owned()), "{case}");
        }
    }
}

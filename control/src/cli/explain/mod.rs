//! `ringcar explain orders/GET /a/b --as checkout`: what would happen to one call, without making
//! it.
//!
//! Path, target, method and route are worked out by the data plane's own functions on what the
//! caller's control knows, so that this cannot tell anything else than what a call does. Where the
//! caller does not run, the registries it would have are read for the purpose.

#![forbid(unsafe_code)]

mod caller;
mod endpoint;
mod external;
mod policy;

use super::{block_on, config::Output, fail, output, print};
use crate::{
    knowledge::{Knowledge, KnownRow, Question},
    registry::{Entry, RegistryError, Table, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
};
use caller::{Caller, CallerError};
use dataplane::{
    dapr::{
        self, Asked, CallNotes,
        escape::EscapeError,
        method::{self, MethodError},
        target::{self, Named},
    },
    limits::{
        CONNECT_TIMEOUT, PEER_RETRY_INTERVAL, PEER_RETRY_MAX, REPLAY_BYTES_MAX, STALL_TIMEOUT,
    },
    route::{self, Destination},
};
use external::External;
use serde::Serialize;
use snapshot::{
    Address, App, AppHealth, AppId, Balance, Endpoint, InstanceId, Namespace, OnControlLost,
    Origin, Route, Snapshot, State, Version, policy::resiliency::Policy,
};
use std::{fmt::Write as _, process::ExitCode, sync::Arc};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Whom to call, and the verb: orders/GET, or orders.prod/POST
    #[arg(value_name = "APP/VERB")]
    call: String,
    /// The method, with its query
    #[arg(default_value = "/")]
    path: String,
    /// The app that calls; may be left out where only one runs on this machine
    #[arg(long = "as", value_name = "APP")]
    caller: Option<String>,
    /// The node that serves the caller, where the app runs more than once
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Configuration files of a caller that does not run
    #[arg(long, value_name = "FILE")]
    config: Vec<String>,
    /// Port of the app of a caller that does not run
    #[arg(long, value_name = "PORT")]
    app_port: Option<u16>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("{0}")]
    Caller(#[from] CallerError),
    #[error("a request line cannot contain {0:?}; write it as %{1:02X}")]
    Path(char, u32),
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    found: String,
}

/// What is found, and whether the call would get as far as an app.
#[derive(Debug, Default)]
struct Explanation {
    steps: Vec<Step>,
    is_delivered: bool,
}

impl Explanation {
    fn add(&mut self, step: &'static str, found: impl Into<String>) {
        self.steps.push(Step { step, found: found.into() });
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    block_on(async {
        match explain(arguments).await {
            Ok(Explanation { steps, is_delivered }) => {
                print(match arguments.output {
                    Output::Json => output::json(&steps),
                    Output::Table => lines(&steps),
                    Output::Yaml => output::yaml(&steps),
                });
                if is_delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(e) => fail(e),
        }
    })
}

async fn explain(arguments: &Arguments) -> Result<Explanation, ExplainError> {
    let dir = RuntimeDir::locate()?;
    let table = match LocalRegistry::new(dir.clone()).read() {
        // Nothing ever ran here.
        Err(_) if !dir.path().exists() => Table::new(),
        result => result?,
    };
    let caller = Caller::find(&table, arguments)?;
    let call = Call::new(&arguments.call, &arguments.path)?;
    let mut explanation = Explanation::default();
    explanation.add("caller", caller.words());
    explanation.add("request", format!("{} {}", call.verb, call.target));
    if let Some(asked) = External::find(&call, &caller).await {
        asked.explain(&caller, &mut explanation).await;
    } else if let Some(target) = Target::find(&call, &caller.entry, &mut explanation) {
        let (knowledge, source) = caller.learn(&target.question(), &table, &dir).await?;
        explanation.add("asked", source);
        explain_target(&target, &caller, &knowledge, &table, &mut explanation).await;
    }
    explanation.add("by hand", curl(&call, &caller.entry.api));
    Ok(explanation)
}

async fn explain_target(
    target: &Target,
    caller: &Caller,
    knowledge: &Knowledge,
    table: &Table,
    explanation: &mut Explanation,
) {
    let entry = &caller.entry;
    for state in &knowledge.registries {
        explanation.add("registry", format!("{}: {}", state.name, state.state));
    }
    knowledge.rows.iter().for_each(|known| explanation.add("row", row(known)));
    let Some(way) = way(target, entry, knowledge) else {
        explanation.add("route", "none: nobody registered such an app");
        explanation.add("answer", "500 ERR_DIRECT_INVOKE: the app cannot be found");
        return;
    };
    let own = caller.known().await;
    let is_let_through =
        policy::of_callee(way, target, caller, own.as_ref(), knowledge, table, explanation).await;
    let mut app_place = None;
    for endpoint in endpoint::look(way, target, entry, knowledge, table).await {
        explanation.is_delivered |= endpoint.is_reached && is_let_through;
        app_place = app_place.or(endpoint.app);
        explanation.add("endpoint", endpoint.words);
    }
    if way == Way::Peers && knowledge.endpoints.len() > 1 {
        let words = "each worker of the data plane takes the better of two at random, by its own \
            outstanding calls and latencies";
        explanation.add("choice", words);
    }
    policy::add_resiliency(own.as_ref(), caller, &target.written, explanation).await;
    let policy = policy::of_caller(own.as_ref(), &target.written).map(|policy| &**policy);
    add_limits(way, entry, policy, explanation);
    add_dialled(way, target, knowledge, app_place.as_deref(), explanation);
}

fn row(known: &KnownRow) -> String {
    let KnownRow { registry, revision, instance, address, zone, hidden } = known;
    let zone = zone.as_ref().map(|zone| format!(" in zone {zone}")).unwrap_or_default();
    let hidden = hidden.as_ref().map(|why| format!("; does not count: {why}")).unwrap_or_default();
    format!("{address} of instance {instance}{zone}, by {registry}, {revision}{hidden}")
}

/// What is asked about, as a client would send it.
struct Call {
    verb: String,
    /// Of the request line.
    target: String,
}

impl Call {
    fn new(call: &str, path: &str) -> Result<Self, ExplainError> {
        let (app, verb) = call.rsplit_once('/').unwrap_or((call, "GET"));
        let path = path.strip_prefix('/').unwrap_or(path);
        let target = format!("/v1.0/invoke/{app}/method/{path}");
        match target.chars().find(|c| !c.is_ascii_graphic()) {
            Some(c) => Err(ExplainError::Path(c, u32::from(c) & 0xff)),
            None => Ok(Self { verb: verb.to_owned(), target }),
        }
    }

    /// Who is asked for what; `None`: nobody.
    fn interpret(&self) -> Option<CallNotes> {
        let mut notes = CallNotes::default();
        let request = dapr::Request {
            method: self.verb.as_bytes(),
            target: self.target.as_bytes(),
            app_id_header: None,
            authorization: None,
        };
        let asked = dapr::interpret(&request, &mut notes);
        matches!(asked, Asked::Invoke { .. }).then_some(notes)
    }
}

/// Who is called, and with what.
struct Target {
    id: AppId,
    namespace: Namespace,
    /// As it was called, which is how policies know it.
    written: Vec<u8>,
    verb: &'static str,
    method: Vec<u8>,
    query: Vec<u8>,
}

/// How a call leaves the caller's data plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// To an app that the same one serves.
    App,
    /// To other sidecars.
    Peers,
}

impl Target {
    /// `None` where the call ends before anybody is looked for; the explanation says why.
    fn find(call: &Call, caller: &Entry, explanation: &mut Explanation) -> Option<Self> {
        let Some(notes) = call.interpret() else {
            explanation.add("answer", "404: the path names no app");
            return None;
        };
        let invalid = || format!("500: invalid app id {}", text(&notes.target));
        let named = target::split_id(&notes.target, caller.namespace.as_str());
        let (id, namespace) = match named {
            Ok(Named::App { id, namespace }) => (text(id), text(namespace)),
            // The one was found to be none, the other has been explained.
            Ok(Named::External(_)) | Err(_) => {
                explanation.add("answer", invalid());
                return None;
            }
        };
        let (Ok(app), Ok(namespace)) = (AppId::new(&id), Namespace::new(&namespace)) else {
            explanation.add("answer", invalid());
            return None;
        };
        let (verb, method) = match outgoing(&call.verb, &notes.method) {
            Ok(outgoing) => outgoing,
            Err(reason) => {
                explanation.add("answer", format!("500: {reason}"));
                return None;
            }
        };
        explanation.add("app", format!("{app} in namespace {namespace}"));
        explanation.add("method", format!("{:?}", text(&method)));
        let (written, query) = (notes.target, notes.query);
        Some(Self { id: app, namespace, written, verb, method, query })
    }

    fn question(&self) -> Question {
        Question { id: self.id.clone(), namespace: self.namespace.clone() }
    }

    fn is_app_of(&self, entry: &Entry) -> bool {
        entry.id == self.id && entry.namespace == self.namespace
    }
}

/// The verb and the method that go out.
fn outgoing(verb: &str, method: &[u8]) -> Result<(&'static str, Vec<u8>), Refusal> {
    let verb = method::verb(verb.as_bytes()).ok_or_else(|| Refusal::Verb(verb.to_owned()))?;
    let mut method = method.to_vec();
    method::normalise(&mut method)?;
    method::app_path(&method, &mut Vec::new())?;
    Ok((verb, method))
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("verb {0} is not carried")]
    Verb(String),
    #[error("invalid method: {0}")]
    Method(MethodError),
    #[error("{0}")]
    Escape(#[from] EscapeError),
}

impl From<MethodError> for Refusal {
    fn from(reason: MethodError) -> Self {
        Self::Method(reason)
    }
}

/// Where the data plane's own look-up leads, on what it has in hand as far as routing looks at it.
fn way(target: &Target, caller: &Entry, knowledge: &Knowledge) -> Option<Way> {
    let mut apps = vec![app(0, &caller.id, &caller.namespace)];
    if knowledge.is_here && !target.is_app_of(caller) {
        apps.push(app(1, &target.id, &target.namespace));
    }
    let endpoint = |address: &Address| Endpoint {
        instance: InstanceId(address.to_string().into()),
        address: address.clone(),
        zone: None,
    };
    let endpoints: Arc<[Endpoint]> =
        knowledge.endpoints.iter().map(|known| endpoint(&known.address)).collect();
    let route = Route { id: target.id.clone(), namespace: target.namespace.clone(), endpoints };
    let routes = if route.endpoints.is_empty() { Vec::new() } else { vec![route] };
    let listeners = Vec::new();
    let on_control_lost = OnControlLost::Exit;
    let state = State { version: Version(1), apps, routes, listeners, on_control_lost };
    let snapshot = Snapshot::build(state).ok()?;
    let (id, namespace) = (target.id.as_str(), target.namespace.as_str());
    match route::find(&snapshot, 0, id.as_bytes(), namespace.as_bytes()) {
        Ok(Destination::Local { .. }) => Some(Way::App),
        Ok(Destination::Remote { .. }) => Some(Way::Peers),
        Err(_) => None,
    }
}

fn app(number: u32, id: &AppId, namespace: &Namespace) -> App {
    App {
        number,
        id: id.clone(),
        namespace: namespace.clone(),
        resiliency: None,
        guards: Default::default(),
        telemetry: Default::default(),
        channel: None,
        origin: Origin::default(),
        balance: Balance::default(),
        zone: None,
        body_bytes_max: None,
        head_bytes_max: 0,
        health: AppHealth::default(),
        outbound: Default::default(),
        metadata_json: "".into(),
    }
}

fn add_limits(way: Way, caller: &Entry, policy: Option<&Policy>, explanation: &mut Explanation) {
    let limit = caller.body_bytes_max.map_or("unlimited".to_owned(), |max| format!("{max} bytes"));
    explanation.add("body", format!("request at most {limit}, response unlimited"));
    let whole = match policy.is_some_and(|policy| policy.timeout.is_some()) {
        true => "each attempt as above",
        false => "the whole call none",
    };
    explanation.add(
        "timeouts",
        format!(
            "connect {CONNECT_TIMEOUT:?}, a peer that takes no bytes {STALL_TIMEOUT:?}, {whole}"
        ),
    );
    let replay = format!(
        "once more at once when a kept connection dies before its answer (requests up to \
         {REPLAY_BYTES_MAX} bytes that are safe to repeat)"
    );
    let built_in = match policy {
        None => Some((PEER_RETRY_MAX, PEER_RETRY_INTERVAL)),
        Some(policy) => policy
            .built_in
            .as_ref()
            .map(|retry| (retry.count_max.unwrap_or(u32::MAX), retry.pause.first())),
    };
    let retries = match built_in.filter(|_| way == Way::Peers) {
        None => replay,
        Some((count, pause)) => format!(
            "{count} more times, {pause:?} apart, while the sidecar cannot be reached (requests of \
             known length); {replay}"
        ),
    };
    explanation.add("retries", retries);
}

fn add_dialled(
    way: Way,
    target: &Target,
    knowledge: &Knowledge,
    app: Option<&str>,
    explanation: &mut Explanation,
) {
    let Target { verb, method, query, .. } = target;
    let mut path = Vec::new();
    if let (Way::Peers, Some(endpoint)) = (way, knowledge.endpoints.first()) {
        method::encode_for_peer(method, &mut path);
        let path = request_target(&path, query);
        explanation.add("dialled", format!("{verb} {path} at {}", endpoint.address));
    }
    path.clear();
    // It was found encodable before.
    if method::app_path(method, &mut path).is_ok() {
        let app = app.unwrap_or("a place its sidecar does not tell");
        let path = request_target(&path, query);
        explanation.add("app gets", format!("{verb} {path} at {app}"));
    }
}

fn request_target(path: &[u8], query: &[u8]) -> String {
    if query.is_empty() { text(path) } else { format!("{}?{}", text(path), text(query)) }
}

/// The command that makes the call.
fn curl(call: &Call, api: &Address) -> String {
    let (socket, authority) = match api {
        Address::Tcp(address) => (String::new(), address.to_string()),
        Address::Unix(path) => {
            (format!("--unix-socket {} ", quoted(&path.to_string_lossy())), "localhost".to_owned())
        }
    };
    // Without --path-as-is curl would resolve dots itself.
    let url = quoted(&format!("http://{authority}{}", call.target));
    format!("curl -i --path-as-is {socket}-X {} {url}", quoted(&call.verb))
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lines(steps: &[Step]) -> String {
    let width = steps.iter().map(|step| step.step.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Step { step, found } in steps {
        let _ = writeln!(text, "{step:<width$}  {found}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        vec![
            Entry::sample("checkout", "1"),
            Entry::sample("orders", "2"),
            Entry::sample("orders", "3"),
        ]
    }

    fn found(call: &str, path: &str) -> (Option<String>, Explanation) {
        let table = table();
        let mut explanation = Explanation::default();
        let call = Call::new(call, path).unwrap();
        let found = Target::find(&call, &table[0], &mut explanation).and_then(|target| {
            let knowledge = caller::of_table(&table[0], &target.question(), &table);
            let way = way(&target, &table[0], &knowledge)?;
            let path = request_target(&target.method, &target.query);
            let count = knowledge.endpoints.len();
            Some(format!("{} {path} {way:?} {count}", target.verb))
        });
        (found, explanation)
    }

    #[test]
    fn ends_where_a_call_would_end() {
        for (case, call, path, want) in [
            ("two dots", "a.b.c/GET", "/", "500: invalid app id a.b.c"),
            ("no app", "/GET", "/x", "404: the path names no app"),
            ("forbidden", "orders/GET", "/a%23b", "500: invalid method: method contains forbidden"),
            ("a bare percent", "orders/GET", "/%25zz", "500: "),
            ("CONNECT", "orders/CONNECT", "/", "500: verb CONNECT is not carried"),
        ] {
            let (found, explanation) = found(call, path);
            assert_eq!(found, None, "{case}");
            let answer = explanation.steps.last().unwrap();
            assert_eq!(answer.step, "answer", "{case}");
            assert!(answer.found.starts_with(want), "{case}: {}", answer.found);
        }
    }

    #[test]
    fn apps_that_nobody_registered_are_not_found() {
        for (case, call) in [("unknown", "nope/GET"), ("other namespace", "orders.prod/GET")] {
            let (found, explanation) = found(call, "/");
            assert_eq!(found, None, "{case}");
            assert_eq!(explanation.steps.last().unwrap().step, "method", "{case}");
        }
    }

    #[test]
    fn goes_where_a_call_would_go() {
        for (case, call, path, want) in [
            ("other app", "orders/GET", "/a/b", "GET a/b Peers 2"),
            ("no verb", "orders", "a", "GET a Peers 2"),
            ("own app", "checkout/POST", "/a?x=1", "POST a?x=1 App 0"),
            ("own namespace by name", "orders.default/PUT", "/", "PUT  Peers 2"),
            ("dots", "orders/get", "/public%2F..%2Fadmin", "GET admin Peers 2"),
            ("a verb of others", "orders/PROPFIND", "/a", "POST a Peers 2"),
        ] {
            assert_eq!(found(call, path).0.as_deref(), Some(want), "{case}");
        }
    }

    #[test]
    fn refuses_what_no_client_could_send() {
        let error = Call::new("orders/GET", "/a b").map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "a request line cannot contain ' '; write it as %20");
    }

    #[test]
    fn the_command_can_be_pasted() {
        let call = Call::new("orders/POST", "/a?x=1&y='2'").unwrap();
        let tcp = curl(&call, &Address::Tcp(([127, 0, 0, 1], 3500).into()));
        assert_eq!(
            tcp,
            r"curl -i --path-as-is -X POST 'http://127.0.0.1:3500/v1.0/invoke/orders/method/a?x=1&y='\''2'\'''"
        );
        let unix = curl(&call, &Address::Unix("/tmp/a b".into()));
        assert!(unix.contains("--unix-socket '/tmp/a b' -X POST 'http://localhost/v1.0"), "{unix}");
    }
}

//! `ringcar explain orders/GET /a/b --as checkout`: what would happen to one call, without making
//! it.
//!
//! Path, target, method and route are worked out by the data plane's own functions on the table its
//! control reads, so that this cannot tell anything else than what a call does. What only the data
//! plane knows, such as the latency of each endpoint, is named as such.

#![forbid(unsafe_code)]

use super::{block_on, config::Output, fail, list::age, output, print};
use crate::{
    http_client,
    registry::{Entry, RegistryError, Table, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
    timestamp::Timestamp,
};
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
use hyper::{Method, body::Bytes};
use serde::Serialize;
use snapshot::{
    Address, App, AppHealth, Balance, Endpoint, OnControlLost, Origin, Route, Snapshot, State,
    Version,
};
use std::{fmt::Write as _, process::ExitCode, time::Duration};

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
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("no sidecar of app {wanted} runs on this machine; there are: {there}")]
    NoCaller { wanted: String, there: String },
    #[error("say who calls with --as; there are: {0}")]
    WhoCalls(String),
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
    let table = LocalRegistry::new(RuntimeDir::locate()?).read()?;
    let caller = caller(&table, arguments.caller.as_deref())?;
    let call = Call::new(&arguments.call, &arguments.path)?;
    let mut explanation = Explanation::default();
    if let Some(found) = find(&call, caller, &table, &mut explanation) {
        describe(&found, caller, &mut explanation).await;
    }
    explanation.add("by hand", curl(&call, &caller.api));
    Ok(explanation)
}

/// The row of the app that calls.
fn caller<'t>(table: &'t Table, wanted: Option<&str>) -> Result<&'t Entry, ExplainError> {
    let there = || {
        let ids: Vec<&str> = table.iter().map(|entry| entry.id.as_str()).collect();
        if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
    };
    match (wanted, &table[..]) {
        (Some(wanted), _) => {
            let found = table.iter().find(|entry| entry.id.as_str() == wanted);
            let no_caller = || ExplainError::NoCaller { wanted: wanted.to_owned(), there: there() };
            found.ok_or_else(no_caller)
        }
        (None, [only]) => Ok(only),
        (None, _) => Err(ExplainError::WhoCalls(there())),
    }
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
}

/// Where the call goes.
struct Found<'t> {
    verb: &'static str,
    method: Vec<u8>,
    query: Vec<u8>,
    rows: Vec<&'t Entry>,
    is_own: bool,
}

/// `None` where the call ends before it reaches anybody; the explanation says why.
fn find<'t>(
    call: &Call,
    caller: &Entry,
    table: &'t Table,
    explanation: &mut Explanation,
) -> Option<Found<'t>> {
    explanation.add("caller", format!("{} in namespace {}", caller.id, caller.namespace));
    explanation.add("request", format!("{} {}", call.verb, call.target));
    let mut notes = CallNotes::default();
    let request = dapr::Request {
        method: call.verb.as_bytes(),
        target: call.target.as_bytes(),
        app_id_header: None,
        authorization: None,
    };
    let Asked::Invoke { .. } = dapr::interpret(&request, &mut notes) else {
        explanation.add("answer", "404: the path names no app");
        return None;
    };
    let (id, namespace) = match target::split_id(&notes.target, caller.namespace.as_str()) {
        Ok(Named::App { id, namespace }) => (id, namespace),
        Ok(Named::External(url)) => {
            explanation.add(
                "answer",
                format!("500: {} is no app id, and this version calls no URLs", text(url)),
            );
            return None;
        }
        Err(_) => {
            explanation.add("answer", format!("500: invalid app id {}", text(&notes.target)));
            return None;
        }
    };
    let (verb, method) = match outgoing(&call.verb, &notes.method) {
        Ok(outgoing) => outgoing,
        Err(reason) => {
            explanation.add("answer", format!("500: {reason}"));
            return None;
        }
    };
    explanation.add("app", format!("{} in namespace {}", text(id), text(namespace)));
    explanation.add("method", format!("{:?}, which is what access control judges", text(&method)));
    let snapshot = snapshot(caller, table);
    let is_own = match route::find(&snapshot, 0, id, namespace) {
        Ok(Destination::Local { .. }) => true,
        Ok(Destination::Remote { .. }) => false,
        Err(_) => {
            explanation.add("route", "none: nobody registered such an app");
            explanation.add("answer", "500 ERR_DIRECT_INVOKE: the app cannot be found");
            return None;
        }
    };
    let is_it = |entry: &&Entry| {
        entry.id.as_str().as_bytes() == id && entry.namespace.as_str().as_bytes() == namespace
    };
    let rows = match is_own {
        true => table.iter().filter(|entry| entry.instance == caller.instance).collect(),
        false => table.iter().filter(is_it).collect(),
    };
    Some(Found { verb, method, query: notes.query, rows, is_own })
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

/// What the caller's data plane has in hand, as far as routing looks at it.
fn snapshot(caller: &Entry, table: &Table) -> Snapshot {
    let app = App {
        number: 0,
        id: caller.id.clone(),
        namespace: caller.namespace.clone(),
        guards: Default::default(),
        channel: None,
        origin: Origin::default(),
        balance: Balance::default(),
        resiliency: None,
        zone: None,
        body_bytes_max: None,
        head_bytes_max: 0,
        health: AppHealth::default(),
        metadata_json: String::new(),
    };
    let state = State {
        version: Version(1),
        apps: vec![app],
        routes: routes(table),
        listeners: Vec::new(),
        on_control_lost: OnControlLost::Exit,
    };
    Snapshot::build(state).expect("routes made of a table are joined by app and not empty")
}

/// One for each app, with the sidecars that registered it.
fn routes(table: &Table) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for entry in table {
        let endpoint =
            Endpoint { instance: entry.instance.clone(), address: entry.peer.clone(), zone: None };
        let is_it = |route: &&mut Route| route.id == entry.id && route.namespace == entry.namespace;
        match routes.iter_mut().find(is_it) {
            Some(route) => route.endpoints.push(endpoint),
            None => routes.push(Route {
                id: entry.id.clone(),
                namespace: entry.namespace.clone(),
                endpoints: vec![endpoint],
            }),
        }
    }
    routes
}

async fn describe(found: &Found<'_>, caller: &Entry, explanation: &mut Explanation) {
    let now = Timestamp::now();
    for row in &found.rows {
        let age = age(row.created.seconds_until(now));
        explanation.add(
            "row",
            format!("registry local, instance {}, process {}, {age} old", row.instance.0, row.pid),
        );
    }
    let mut is_any_reached = false;
    let mut app_place = None;
    for row in &found.rows {
        let (health, place) = ask(row).await;
        is_any_reached |= health.is_reached();
        app_place = app_place.or(place);
        explanation.add("endpoint", format!("{}: {}", endpoint(row, found.is_own), health.words()));
    }
    if found.rows.len() > 1 {
        let words = "each worker of the data plane takes the better of two at random, by its own \
            outstanding calls and latencies";
        explanation.add("choice", words);
    }
    add_limits(found, caller, explanation);
    add_dialled(found, app_place.as_deref(), explanation);
    explanation.is_delivered = is_any_reached;
}

fn endpoint(row: &Entry, is_own: bool) -> String {
    if is_own {
        "the caller's own app, without another sidecar".to_owned()
    } else {
        row.peer.to_string()
    }
}

fn add_limits(found: &Found<'_>, caller: &Entry, explanation: &mut Explanation) {
    let limit = caller.body_bytes_max.map_or("unlimited".to_owned(), |max| format!("{max} bytes"));
    explanation.add("body", format!("request at most {limit}, response unlimited"));
    explanation.add(
        "timeouts",
        format!(
            "connect {CONNECT_TIMEOUT:?}, a peer that takes no bytes {STALL_TIMEOUT:?}, the whole \
             call none"
        ),
    );
    let replay = format!(
        "once more at once when a kept connection dies before its answer (requests up to \
         {REPLAY_BYTES_MAX} bytes that are safe to repeat)"
    );
    let retries = if found.is_own {
        replay
    } else {
        format!(
            "{PEER_RETRY_MAX} more times, {PEER_RETRY_INTERVAL:?} apart, while the sidecar cannot be \
             reached (requests of known length); {replay}"
        )
    };
    explanation.add("retries", retries);
}

fn add_dialled(found: &Found<'_>, app: Option<&str>, explanation: &mut Explanation) {
    let mut path = Vec::new();
    if let (false, Some(row)) = (found.is_own, found.rows.first()) {
        method::encode_for_peer(&found.method, &mut path);
        explanation.add(
            "dialled",
            format!("{} {} at {}", found.verb, request_target(&path, &found.query), row.peer),
        );
    }
    path.clear();
    // It was found encodable before.
    if method::app_path(&found.method, &mut path).is_ok() {
        let app = app.unwrap_or("a place its sidecar does not tell");
        let target = request_target(&path, &found.query);
        explanation.add("app gets", format!("{} {target} at {app}", found.verb));
    }
}

fn request_target(path: &[u8], query: &[u8]) -> String {
    if query.is_empty() { text(path) } else { format!("{}?{}", text(path), text(query)) }
}

/// What a sidecar says of itself.
enum Health {
    Silent(String),
    Ready,
    Unready,
}

impl Health {
    /// A sidecar that does not think its app ready calls it all the same.
    const fn is_reached(&self) -> bool {
        !matches!(self, Self::Silent(_))
    }

    fn words(&self) -> String {
        match self {
            Self::Silent(reason) => format!("its sidecar does not answer ({reason})"),
            Self::Ready => "ready".to_owned(),
            Self::Unready => "its sidecar waits for the app".to_owned(),
        }
    }
}

/// Its health, and where its app is.
async fn ask(row: &Entry) -> (Health, Option<String>) {
    let get = async |path| {
        let request = http_client::api_request(Method::GET, path, Bytes::new()).ok()?;
        Some(http_client::call(&row.api, request, ASK_TIMEOUT).await)
    };
    let health = match get("/v1.0/healthz").await {
        Some(Ok(response)) if response.status().is_success() => Health::Ready,
        Some(Ok(_)) => Health::Unready,
        Some(Err(e)) => return (Health::Silent(e.to_string()), None),
        None => return (Health::Silent("no request".to_owned()), None),
    };
    let place = match get("/v1.0/metadata").await {
        Some(Ok(response)) => app_place(response.body()),
        _ => None,
    };
    (health, place)
}

/// From the document of `/v1.0/metadata`.
fn app_place(metadata: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(metadata).ok()?;
    let connection = &document["appConnectionProperties"];
    let address = connection["channelAddress"].as_str()?;
    if address.starts_with("unix:") {
        return Some(address.to_owned());
    }
    Some(format!("{address}:{}", connection["port"].as_u64()?))
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

/// A sidecar of this machine that takes longer is in trouble.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

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
        let found = find(&call, &table[0], &table, &mut explanation);
        let found = found.map(|found| {
            let instances: Vec<&str> = found.rows.iter().map(|row| &*row.instance.0).collect();
            let target = request_target(&found.method, &found.query);
            format!("{} {target} {} {}", found.verb, instances.join(","), found.is_own)
        });
        (found, explanation)
    }

    #[test]
    fn ends_where_a_call_would_end() {
        for (case, call, path, want) in [
            ("unknown app", "nope/GET", "/", "500 ERR_DIRECT_INVOKE: the app cannot be found"),
            ("other namespace", "orders.prod/GET", "/", "500 ERR_DIRECT_INVOKE"),
            ("two dots", "a.b.c/GET", "/", "500: invalid app id a.b.c"),
            ("no app", "/GET", "/x", "404: the path names no app"),
            ("a URL", "http%3A%2F%2Fh/GET", "/", "500: http://h is no app id"),
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
    fn goes_where_a_call_would_go() {
        for (case, call, path, want) in [
            ("other app", "orders/GET", "/a/b", "GET a/b 2,3 false"),
            ("no verb", "orders", "a", "GET a 2,3 false"),
            ("own app", "checkout/POST", "/a?x=1", "POST a?x=1 1 true"),
            ("own namespace by name", "orders.default/PUT", "/", "PUT  2,3 false"),
            ("dots", "orders/get", "/public%2F..%2Fadmin", "GET admin 2,3 false"),
            ("a verb of others", "orders/PROPFIND", "/a", "POST a 2,3 false"),
        ] {
            assert_eq!(found(call, path).0.as_deref(), Some(want), "{case}");
        }
    }

    #[test]
    fn refuses_what_no_client_could_send() {
        let error = Call::new("orders/GET", "/a b").map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "a request line cannot contain ' '; write it as %20");
        let table = table();
        let error = caller(&table, Some("nope")).unwrap_err().to_string();
        assert!(error.ends_with("there are: checkout, orders, orders"), "{error}");
        assert!(matches!(caller(&table, None), Err(ExplainError::WhoCalls(_))));
        assert_eq!(caller(&table[..1].to_vec(), None).unwrap().id.as_str(), "checkout");
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

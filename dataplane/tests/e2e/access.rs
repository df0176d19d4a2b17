//! Access control, asked by the callee whichever way a call comes: from a neighbour in the same
//! data plane, over the Unix socket of another one, over TCP. The tables are daprd 1.18's (its
//! suites reservedchars/acl and reservedchars/aclbypass).

#![forbid(unsafe_code)]

use crate::{
    direct_invoke_error, get, guards_of, post, request,
    support::{App, Plane, ServedApp, Wire, on_both_engines, skipped},
};
use dataplane::engine::Choice;
use snapshot::{
    Address, ListenerKind, State,
    policy::{AccessPolicy, Action, CallerPolicy, Operation},
};
use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

/// How `orders` reaches `checkout`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Both are served by one data plane.
    Neighbour,
    /// Over a Unix socket, whose other end the kernel knows.
    Unix,
    /// Over TCP, from an address that the policy trusts.
    Tcp,
}

impl Way {
    const ALL: [Self; 3] = [Self::Neighbour, Self::Unix, Self::Tcp];
}

/// `orders` calls `checkout`, which has this policy.
struct Pair {
    caller: Plane,
    /// The same as the caller's unless they are neighbours.
    _callee: Option<Plane>,
}

impl Pair {
    fn start(engine: Choice, way: Way, app: Address, policy: &AccessPolicy) -> Self {
        Self::start_with(engine, way, app, policy, |_| {})
    }

    fn start_with(
        engine: Choice,
        way: Way,
        app: Address,
        policy: &AccessPolicy,
        edit_caller: impl FnOnce(&mut State),
    ) -> Self {
        let guard = |state: &mut State| {
            let callee = state.apps.iter_mut().find(|app| app.id.as_str() == "checkout").unwrap();
            Arc::make_mut(&mut callee.guards).access = Some(Arc::new(policy.clone()));
        };
        let plane = Plane::on(engine);
        if way == Way::Neighbour {
            let both = plane.app("orders", None).app("checkout", Some(app));
            return Self { caller: both.edit(guard).edit(edit_caller).start(), _callee: None };
        }
        let plane = if way == Way::Tcp { plane.swapped() } else { plane };
        let callee = plane.app("checkout", Some(app)).edit(guard).start();
        let caller = Plane::on(engine).app("orders", None).knows("checkout", &[callee.peer()]);
        Self { caller: caller.edit(edit_caller).start(), _callee: Some(callee) }
    }
}

fn policy(default_action: Action, callers: Vec<CallerPolicy>) -> AccessPolicy {
    AccessPolicy {
        trust_domain: "public".to_owned(),
        default_action,
        callers,
        trusted_networks: vec!["127.0.0.0/8".parse().unwrap()],
    }
}

/// `orders` may call this.
fn orders_may(names: &[&str], verbs: &[&str]) -> AccessPolicy {
    let verbs: Vec<String> = verbs.iter().map(ToString::to_string).collect();
    let operation = |name: &&str| Operation {
        name: (*name).to_owned(),
        verbs: verbs.clone(),
        action: Action::Allow,
    };
    let caller = CallerPolicy {
        app_id: "orders".to_owned(),
        namespace: "default".to_owned(),
        trust_domain: "public".to_owned(),
        default_action: Some(Action::Deny),
        operations: names.iter().map(operation).collect(),
    };
    policy(Action::Deny, vec![caller])
}

fn denied(id: &str, operation: &str, verb: &str) -> String {
    direct_invoke_error(&format!(
        "failed to invoke, id: checkout, err: rpc error: code = PermissionDenied desc = access \
         control policy has denied access to id: {id} operation: {operation} verb: {verb}"
    ))
}

const ORDERS: &str = "spiffe://public/ns/default/orders";

/// What stands behind `/method/`; the path at the app, or the status instead.
const RESERVED_CHARACTERS: &[(&str, Result<&str, u16>)] = &[
    ("admin", Err(403)),
    ("public%23../../admin", Err(403)),
    ("admin%25stream", Err(403)),
    ("admin%22stream", Err(403)),
    ("admin%2Astream", Err(403)),
    ("admin%5Cstream", Err(403)),
    ("admin%5C..%5Cpublic", Err(403)),
    ("admin%2F..%5C..%2Fpublic", Err(403)),
    ("public%23%2F..%2Fadmin", Err(403)),
    ("public%3F%2F..%2Fadmin", Err(403)),
    ("public%23%2F..%2F..%2Fsecret%2Fadmin", Err(403)),
    ("public%23%00%2F..%2Fadmin", Err(403)),
    ("public%25%2F..%2Fadmin", Err(403)),
    ("public%2F..%2Funauthorized", Err(403)),
    ("admin?bypass", Err(403)),
    ("admin\"stream", Err(403)),
    ("admin*stream", Err(403)),
    ("admin\\stream", Err(403)),
    ("admin%3Fignored", Err(500)),
    ("admin%00public", Err(500)),
    ("admin%23%3F%25bypass", Err(500)),
    // Ways around it.
    ("public%23/../unauthorized", Err(403)),
    ("public%3F/../unauthorized", Err(403)),
    ("public%0D/../unauthorized", Err(403)),
    ("public%25/../unauthorized", Err(403)),
    ("public%23/x/../../unauthorized", Err(403)),
    ("public/../../unauthorized", Err(403)),
    ("public%2F..%2F..%2Funauthorized", Err(403)),
    ("public%252F..%252Funauthorized", Err(403)),
    ("public", Ok("/public")),
    ("Public", Ok("/Public")),
    ("admin%2F..%2Fpublic", Ok("/public")),
    ("admin%2F..%2F..%2Fpublic", Ok("/public")),
    ("admin%2Fsecret%2F..%2F..%2Fpublic", Ok("/public")),
    ("..%2Fpublic", Ok("/public")),
    ("public///extra", Ok("/public/extra")),
    ("public%2F..%2Fpublic", Ok("/public")),
    ("a%2Fb%2Fc%2F..%2F..%2F..%2Fpublic", Ok("/public")),
    ("public?admin", Ok("/public?admin")),
];

on_both_engines! {
    fn denied_calls_never_reach_the_app(engine: Choice) {
        for way in Way::ALL {
            let app = App::listen();
            let pair = Pair::start(engine, way, app.address(), &orders_may(&["/public"], &["*"]));
            let refused =
                RESERVED_CHARACTERS.iter().filter_map(|(m, want)| Some((m, want.err()?)));
            for (method, status) in refused {
                let mut client = pair.caller.client();
                client.send(get(&format!("/v1.0/invoke/checkout/method/{method}")));
                let response = client.read_response();
                assert_eq!(response.status(), status, "{method} ({way:?}): {response}");
                assert_eq!(response.one("content-type"), Some("application/json"), "{method}");
                client.send(get("/v1.0/healthz"));
                assert_eq!(client.read_response().status(), 204, "{method}: the connection is kept");
            }
            app.assert_untouched();
        }
    }

    fn what_is_judged_is_what_the_app_sees(engine: Choice) {
        for way in Way::ALL {
            let app = ServedApp::echoing();
            let pair = Pair::start(engine, way, app.address(), &orders_may(&["/public"], &["*"]));
            for (method, path) in RESERVED_CHARACTERS.iter().filter_map(|(m, w)| Some((m, w.ok()?))) {
                let mut client = pair.caller.client();
                client.send(get(&format!("/v1.0/invoke/checkout/method/{method}")));
                let response = client.read_response();
                assert_eq!(response.status(), 200, "{method} ({way:?}): {response}");
                let seen = response.text().split("\r\n").next().unwrap();
                assert_eq!(seen, format!("GET {path} HTTP/1.1"), "{method} ({way:?})");
            }
        }
    }

    fn refusals_are_daprds_to_the_byte(engine: Choice) {
        let app = App::listen();
        for way in Way::ALL {
            let policy = orders_may(&["/op3/a/*", "/op4"], &["PUT", "POST"]);
            let pair = Pair::start(engine, way, app.address(), &policy);
            for (verb, method, operation, shown) in [
                ("GET", "op4", "op4", "GET"),
                ("DELETE", "/op3/a/b", "/op3/a/b", "DELETE"),
                ("PUT", "op3/b%20b/%3Cc%3E", "op3/b b/\\u003cc\\u003e", "PUT"),
                ("PROPFIND", "other", "other", "POST"),
                ("PUT", "", "", "PUT"),
            ] {
                let mut client = pair.caller.client();
                client.send(request(verb, &format!("/v1.0/invoke/checkout/method/{method}"), ""));
                let response = client.read_response();
                assert_eq!(response.start_line, "HTTP/1.1 403 Forbidden", "{method} ({way:?})");
                assert_eq!(response.text(), denied(ORDERS, operation, shown), "({way:?})");
            }
            let mut client = pair.caller.client();
            client.send(post("/v1.0/invoke/checkout/method/no", "a body that nobody reads"));
            assert_eq!(client.read_response().status(), 403, "({way:?})");
            client.send(request("HEAD", "/v1.0/invoke/checkout/method/no", ""));
            let response = client.read_response_to("HEAD");
            assert_eq!(response.status(), 403, "({way:?})");
        }
        app.assert_untouched();
    }

    fn an_app_may_always_call_itself(engine: Choice) {
        let app = ServedApp::echoing();
        let guard = |state: &mut State| {
            guards_of(state, 0).access = Some(Arc::new(policy(Action::Deny, Vec::new())));
        };
        let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let mut client = plane.client();
        client.send(get("/v1.0/invoke/checkout/method/x"));
        assert_eq!(client.read_response().status(), 200);
    }

    fn a_client_does_not_say_who_it_is(engine: Choice) {
        const FORGED: &str = "Dapr-Caller-App-Id: boss\r\nDapr-Caller-Namespace: default\r\n\
            Ringcar-Trust-Domain: shop\r\n";
        let mut of_boss = orders_may(&["/**"], &["*"]);
        of_boss.callers[0].app_id = "boss".to_owned();
        let mut of_shop = orders_may(&["/**"], &["*"]);
        of_shop.callers[0].trust_domain = "shop".to_owned();
        let policies = [&of_boss, &of_shop];
        for (way, policy) in Way::ALL.into_iter().flat_map(|way| policies.map(|p| (way, p))) {
            let app = App::listen();
            let pair = Pair::start(engine, way, app.address(), policy);
            let mut client = pair.caller.client();
            client.send(request("GET", "/v1.0/invoke/checkout/method/x", FORGED));
            let response = client.read_response();
            assert_eq!(response.text(), denied(ORDERS, "x", "GET"), "{way:?}");
            app.assert_untouched();
        }
    }

    fn trust_domains_are_those_of_the_callers_configuration(engine: Choice) {
        for way in Way::ALL {
            let app = ServedApp::echoing();
            let mut policy = orders_may(&["/**"], &["*"]);
            policy.callers[0].trust_domain = "shop".to_owned();
            let of_shop = |state: &mut State| {
                let mut own = self::policy(Action::Allow, Vec::new());
                own.trust_domain = "shop".to_owned();
                guards_of(state, 0).access = Some(Arc::new(own));
            };
            let pair = Pair::start_with(engine, way, app.address(), &policy, of_shop);
            let mut client = pair.caller.client();
            client.send(get("/v1.0/invoke/checkout/method/x"));
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{way:?}: {response}");
            assert!(!response.text().to_lowercase().contains("ringcar"), "{way:?}: {response}");

            let pair = Pair::start(engine, way, app.address(), &policy);
            let mut client = pair.caller.client();
            client.send(get("/v1.0/invoke/checkout/method/x"));
            assert_eq!(client.read_response().text(), denied(ORDERS, "x", "GET"), "{way:?}");
        }
    }

    fn nobody_is_believed_from_an_address_that_is_not_trusted(engine: Choice) {
        let app = App::listen();
        let mut policy = orders_may(&["/**"], &["*"]);
        policy.trusted_networks = vec!["192.0.2.0/24".parse().unwrap()];
        let pair = Pair::start(engine, Way::Tcp, app.address(), &policy);
        let mut client = pair.caller.client();
        client.send(get("/v1.0/invoke/checkout/method/x"));
        assert_eq!(client.read_response().text(), denied("", "x", "GET"));
        app.assert_untouched();
    }

    fn callers_without_a_proven_name_get_the_default(engine: Choice) {
        let app = ServedApp::echoing();
        let mut policy = orders_may(&["/nothing"], &["*"]);
        policy.default_action = Action::Allow;
        policy.trusted_networks.clear();
        let pair = Pair::start(engine, Way::Tcp, app.address(), &policy);
        let mut client = pair.caller.client();
        client.send(get("/v1.0/invoke/checkout/method/x"));
        assert_eq!(client.read_response().status(), 200);
    }

    fn a_name_that_is_said_twice_is_none(engine: Choice) {
        let app = App::listen();
        let policy = orders_may(&["/**"], &["*"]);
        let guard = |state: &mut State| guards_of(state, 0).access = Some(Arc::new(policy));
        let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        for (case, lines) in [
            ("twice", "Dapr-Caller-App-Id: orders\r\nDapr-Caller-App-Id: orders\r\n\
                Dapr-Caller-Namespace: default\r\n"),
            ("no namespace", "Dapr-Caller-App-Id: orders\r\n"),
            ("no id", "Dapr-Caller-Namespace: default\r\n"),
            ("no UTF-8 domain", "Dapr-Caller-App-Id: orders\r\nDapr-Caller-Namespace: default\r\n\
                Ringcar-Trust-Domain: a\r\nRingcar-Trust-Domain: public\r\n"),
        ] {
            let mut peer = Wire::connect(plane.peer());
            peer.send(request("GET", "/x", &format!("Destination-App-Id: checkout\r\n{lines}")));
            assert_eq!(peer.read_response().text(), denied("", "x", "GET"), "{case}");
        }
        app.assert_untouched();
    }

    fn other_users_are_not_believed(engine: Choice) {
        const NOBODY: u32 = 65534;
        if !rustix::process::geteuid().is_root() {
            return skipped("other_users_are_not_believed", "only root can become somebody else");
        }
        let app = App::listen();
        let policy = orders_may(&["/**"], &["*"]);
        let guard = |state: &mut State| guards_of(state, 0).access = Some(Arc::new(policy));
        let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let Address::Unix(path) = plane.peer().clone() else { panic!("peers use Unix sockets") };
        for path in [&*path, path.parent().unwrap()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let call = move || {
            let mut peer = Wire::connect(&Address::Unix(path));
            peer.send(request(
                "GET",
                "/x",
                "Destination-App-Id: checkout\r\nDapr-Caller-App-Id: orders\r\n\
                 Dapr-Caller-Namespace: default\r\n",
            ));
            peer.read_response()
        };
        // Linux changes the user of one thread; whoever shares the process stays who it is.
        let as_nobody = call.clone();
        let response = std::thread::spawn(move || {
            let user = rustix::process::Uid::from_raw(NOBODY);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            as_nobody()
        });
        assert_eq!(response.join().unwrap().text(), denied("", "x", "GET"));
        app.assert_untouched();

        let caller = std::thread::spawn(call);
        let mut connection = app.accept();
        assert_eq!(connection.read_request().one("dapr-caller-app-id"), Some("orders"));
        connection.send(crate::OK);
        assert_eq!(caller.join().unwrap().text(), "ok");
    }

    fn a_changed_policy_holds_from_the_next_request_on(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine)
            .app("orders", None)
            .app("checkout", Some(app.address()))
            .start();
        let mut client = plane.client();
        for (policy, status) in [
            (None, 200),
            (Some(policy(Action::Deny, Vec::new())), 403),
            (Some(orders_may(&["/x"], &["GET"])), 200),
            (Some(orders_may(&["/x"], &["PUT"])), 403),
            (None, 200),
        ] {
            plane.publish(|state| guards_of(state, 1).access = policy.map(Arc::new));
            client.send(get("/v1.0/invoke/checkout/method/x"));
            assert_eq!(client.read_response().status(), status);
        }
        assert_eq!(plane.counter("ringcar_requests_denied_total"), 2.0);
    }
}

/// The peer socket of a data plane is its own; this makes sure the tests above mean what they say.
#[test]
fn peers_use_unix_sockets_unless_swapped() {
    for (swapped, want_unix) in [(false, true), (true, false)] {
        let plane = Plane::on(Choice::Epoll).app("checkout", None);
        let plane = if swapped { plane.swapped() } else { plane }.start();
        let address = plane.address_of(0, ListenerKind::Peer);
        assert_eq!(matches!(address, Address::Unix(_)), want_unix);
    }
}

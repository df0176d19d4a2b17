//! May this caller call this method? Asked by the callee's side of each call from another app, on
//! the very bytes that the app's path is made of.
//!
//! Who calls is what the transport proves, see [`Proof`]; what a caller only says of itself never
//! gets here. Without a proven name the default of the whole policy decides.

#![forbid(unsafe_code)]

use super::operations::Node;
use foldhash::{HashMap, HashMapExt};
use snapshot::policy::{AccessPolicy, Action, CallerPolicy, Network};
use std::net::IpAddr;

/// Who calls, proven.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller<'a> {
    pub app_id: &'a str,
    pub namespace: &'a str,
    pub trust_domain: &'a str,
}

/// How far the other end of a connection between sidecars may be believed when it names its app.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Proof {
    /// It calls from this address, which proves something where the network does.
    Address(IpAddr),
    #[default]
    None,
    /// The kernel says that its user is ours, or root: whoever is that could take our place anyway.
    SameUser,
}

/// What was decided, and by which default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    pub is_allowed: bool,
    pub level: Level,
}

/// daprd counts its decisions by these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// The caller has a default of its own.
    App,
    Global,
}

/// What made the decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ground {
    /// The caller's policy is about no such operation, or not with this verb.
    Default,
    /// This operation of [`CallerPolicy::operations`].
    Operation(usize),
    /// No policy is about the caller, or nobody is proven to call.
    Stranger,
}

/// A policy, ready to be asked.
#[derive(Clone, Debug)]
pub struct Access {
    default_action: Action,
    /// By app id; namespaces are few.
    callers: HashMap<Box<str>, Vec<Rules>>,
    trusted_networks: Box<[Network]>,
}

#[derive(Clone, Debug)]
struct Rules {
    namespace: Box<str>,
    trust_domain: Box<str>,
    default_action: Option<Action>,
    operations: Node<Verbs>,
}

/// The verbs of an operation, each of which leads to its action.
#[derive(Clone, Debug)]
struct Verbs {
    /// Of its operation in the policy.
    index: usize,
    names: Box<[Box<str>]>,
    action: Action,
}

impl Access {
    pub fn new(policy: &AccessPolicy) -> Self {
        let mut callers: HashMap<Box<str>, Vec<Rules>> = HashMap::new();
        let mut name = Vec::new();
        for caller in &policy.callers {
            let rules = Rules::new(caller, &mut name);
            let of_app = callers.entry(caller.app_id.as_str().into()).or_default();
            // A second policy for an app takes the place of the first, as in daprd's table.
            of_app.retain(|known| known.namespace != rules.namespace);
            of_app.push(rules);
        }
        let trusted_networks = policy.trusted_networks.clone().into();
        Self { default_action: policy.default_action, callers, trusted_networks }
    }

    /// Whether the name that comes over a connection is its caller's.
    pub fn believes(&self, proof: Proof) -> bool {
        match proof {
            Proof::Address(address) => {
                self.trusted_networks.iter().any(|network| network.contains(address))
            }
            Proof::None => false,
            Proof::SameUser => true,
        }
    }

    /// `operation` is a normalised method, `verb` in capitals, `None` where the protocol has none.
    /// `scratch` is overwritten.
    pub fn decide(
        &self,
        caller: Option<Caller<'_>>,
        operation: &[u8],
        verb: Option<&str>,
        scratch: &mut Vec<u8>,
    ) -> Verdict {
        self.judge(caller, operation, verb, scratch).0
    }

    /// As [`Self::decide`], with what made the decision.
    pub fn judge(
        &self,
        caller: Option<Caller<'_>>,
        operation: &[u8],
        verb: Option<&str>,
        scratch: &mut Vec<u8>,
    ) -> (Verdict, Ground) {
        let Some(rules) = caller.and_then(|caller| self.find(caller)) else {
            return (Verdict::of(self.default_action, Level::Global), Ground::Stranger);
        };
        let (default, level) = match rules.default_action {
            Some(action) => (action, Level::App),
            None => (self.default_action, Level::Global),
        };
        fold(operation, scratch);
        let (action, ground) = match (rules.operations.find(scratch), verb) {
            (None, _) => (default, Ground::Default),
            (Some(verbs), Some(verb)) => match verbs.find(verb) {
                Some(action) => (action, Ground::Operation(verbs.index)),
                None => (default, Ground::Default),
            },
            (Some(_), None) => (rules.default_action.unwrap_or(Action::Deny), Ground::Default),
        };
        (Verdict::of(action, level), ground)
    }

    fn find(&self, caller: Caller<'_>) -> Option<&Rules> {
        let rules = self.callers.get(caller.app_id)?;
        let rules = rules.iter().find(|rules| *rules.namespace == *caller.namespace)?;
        (*rules.trust_domain == *caller.trust_domain).then_some(rules)
    }
}

impl Rules {
    fn new(caller: &CallerPolicy, name: &mut Vec<u8>) -> Self {
        let mut operations = Node::root();
        for (index, operation) in caller.operations.iter().enumerate() {
            fold(operation.name.as_bytes(), name);
            let names = operation.verbs.iter().map(|verb| verb.as_str().into()).collect();
            operations.insert(name, Verbs { index, names, action: operation.action });
        }
        Self {
            namespace: caller.namespace.as_str().into(),
            trust_domain: caller.trust_domain.as_str().into(),
            default_action: caller.default_action,
            operations,
        }
    }
}

impl Verbs {
    /// Verbs of an operation all have its action, so it does not matter which one fits.
    fn find(&self, verb: &str) -> Option<Action> {
        self.names.iter().any(|name| **name == *verb || **name == *"*").then_some(self.action)
    }
}

impl Verdict {
    fn of(action: Action, level: Level) -> Self {
        Self { is_allowed: action == Action::Allow, level }
    }
}

/// Makes an operation what names are compared as: small letters, a slash in front. Policies for
/// HTTP do not tell capitals apart.
fn fold(operation: &[u8], out: &mut Vec<u8>) {
    out.clear();
    if operation.first() != Some(&b'/') {
        out.push(b'/');
    }
    if operation.is_ascii() {
        out.extend(operation.iter().map(u8::to_ascii_lowercase));
        return;
    }
    let mut utf8 = [0; 4];
    for piece in operation.utf8_chunks() {
        for letter in piece.valid().chars() {
            out.extend_from_slice(small(letter).encode_utf8(&mut utf8).as_bytes());
        }
        // Go's `ToLower` puts one of these in the place of each byte that is no UTF-8.
        for _ in piece.invalid() {
            let letter = char::REPLACEMENT_CHARACTER.encode_utf8(&mut utf8);
            out.extend_from_slice(letter.as_bytes());
        }
    }
}

/// One letter for one, as Go's `unicode.ToLower` does it: the only letter whose full mapping has
/// two, U+0130, becomes a plain `i` there as well.
fn small(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

/// Appends how errors name a caller; nothing for one without a proven name.
pub fn write_identity(caller: Option<Caller<'_>>, out: &mut Vec<u8>) {
    let Some(caller) = caller else { return };
    let parts = ["spiffe://", caller.trust_domain, "/ns/", caller.namespace, "/", caller.app_id];
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::Operation;

    fn operation(name: &str, verbs: &[&str], action: Action) -> Operation {
        let verbs = verbs.iter().map(ToString::to_string).collect();
        Operation { name: name.to_owned(), verbs, action }
    }

    fn caller_policy(
        app_id: &str,
        default_action: Option<Action>,
        operations: Vec<Operation>,
    ) -> CallerPolicy {
        CallerPolicy {
            app_id: app_id.to_owned(),
            namespace: "ns".to_owned(),
            trust_domain: "public".to_owned(),
            default_action,
            operations,
        }
    }

    fn policy(default_action: Action, callers: Vec<CallerPolicy>) -> AccessPolicy {
        let trust_domain = "public".to_owned();
        AccessPolicy { trust_domain, default_action, callers, trusted_networks: Vec::new() }
    }

    /// The policy of daprd's own unit tests (pkg/acl), as far as it is about HTTP.
    fn daprds_policy() -> AccessPolicy {
        use Action::{Allow, Deny};
        let app1 =
            vec![operation("/op1", &["POST", "GET"], Allow), operation("/op2", &["*"], Deny)];
        let app2 = vec![
            operation("/op3/a/*", &["PUT", "GET"], Allow),
            operation("/op4", &["POST"], Allow),
        ];
        let app3 = vec![operation("/op5", &["POST", "PUT"], Allow)];
        let mut elsewhere = caller_policy("app1", Some(Deny), app3.clone());
        elsewhere.namespace = "ns2".to_owned();
        let mut stranger = caller_policy("app5", Some(Allow), Vec::new());
        stranger.trust_domain = "other".to_owned();
        policy(
            Deny,
            vec![
                caller_policy("app1", Some(Allow), app1),
                caller_policy("app2", Some(Deny), app2),
                elsewhere,
                caller_policy("app3", None, app3),
                stranger,
            ],
        )
    }

    fn decide(
        policy: &AccessPolicy,
        caller: Option<(&str, &str)>,
        operation: &str,
        verb: Option<&str>,
    ) -> (bool, Level) {
        let caller =
            caller.map(|(app_id, namespace)| Caller { app_id, namespace, trust_domain: "public" });
        let mut scratch = b"left over".to_vec();
        let verdict = Access::new(policy).decide(caller, operation.as_bytes(), verb, &mut scratch);
        (verdict.is_allowed, verdict.level)
    }

    #[test]
    fn decides_as_daprd_1_18() {
        let policy = daprds_policy();
        let (app1, app2) = (Some(("app1", "ns")), Some(("app2", "ns")));
        for (case, caller, operation, verb, want) in [
            ("nobody", None, "op1", Some("GET"), (false, Level::Global)),
            ("unknown app", Some(("appX", "ns")), "op1", Some("GET"), (false, Level::Global)),
            ("unknown namespace", Some(("app1", "x")), "op1", Some("GET"), (false, Level::Global)),
            (
                "ids keep their case",
                Some(("APP1", "ns")),
                "op1",
                Some("GET"),
                (false, Level::Global),
            ),
            ("other domain", Some(("app5", "ns")), "op1", Some("GET"), (false, Level::Global)),
            ("denied for any verb", app1, "op2", Some("POST"), (false, Level::App)),
            ("whatever its case", app1, "Op2", Some("POST"), (false, Level::App)),
            ("other namespace", Some(("app1", "ns2")), "op1", Some("GET"), (false, Level::App)),
            ("below another", app2, "/op3/b/b", Some("PUT"), (false, Level::App)),
            ("other verb", app2, "op4", Some("PUT"), (false, Level::App)),
            ("no verb", app2, "op4", None, (false, Level::App)),
            ("verbs keep their case", app2, "op4", Some("post"), (false, Level::App)),
            ("no default, no verb", Some(("app3", "ns")), "op5", None, (false, Level::Global)),
            ("two below a star", app2, "/op3/a/b/c", Some("PUT"), (false, Level::App)),
            ("not below, only alike", app2, "op4x", Some("POST"), (false, Level::App)),
            ("in the policy", app1, "op1", Some("POST"), (true, Level::App)),
            ("of another verb, by default", app1, "op1", Some("PUT"), (true, Level::App)),
            ("in no policy, by default", app1, "opX", Some("POST"), (true, Level::App)),
            ("no verb, by default", app1, "op2", None, (true, Level::App)),
            ("the star's place is empty", app2, "/op3/a", Some("PUT"), (true, Level::App)),
            ("a star", app2, "/op3/a/b", Some("PUT"), (true, Level::App)),
            ("without a slash", app2, "op3/a/b", Some("GET"), (true, Level::App)),
            ("with one", app2, "/op4", Some("POST"), (true, Level::App)),
            ("what is below", app2, "op4/x/y", Some("POST"), (true, Level::App)),
            (
                "the whole policy's default",
                Some(("app3", "ns")),
                "op5",
                Some("PUT"),
                (true, Level::Global),
            ),
        ] {
            assert_eq!(decide(&policy, caller, operation, verb), want, "{case}");
        }
    }

    #[test]
    fn decides_by_wildcards_as_daprd_1_18() {
        use Action::{Allow, Deny};
        let names = ["/op6", "/op7/a/b/*", "/op7/a/b/c/f", "/op7/a/b*", "/op7/c/**"];
        let operations = names.iter().map(|name| operation(name, &["*"], Allow)).collect();
        let policy = policy(Allow, vec![caller_policy("app4", Some(Deny), operations)]);
        for (operation, want) in [
            ("op7/a/b/c/d", false),
            ("op7", false),
            ("op7/a", false),
            ("op7/b", false),
            ("op6", true),
            ("op6/x", true),
            ("op7/a/b", true),
            ("op7/a/b/c", true),
            ("op7/a/b/c/f", true),
            ("op7/a/bc", true),
            ("op7/c", true),
            ("op7/c/d/e", true),
        ] {
            let got = decide(&policy, Some(("app4", "ns")), operation, Some("GET"));
            assert_eq!(got, (want, Level::App), "{operation}");
        }
    }

    #[test]
    fn the_last_policy_of_an_app_counts_and_the_first_operation_of_a_name() {
        use Action::{Allow, Deny};
        let operations = vec![operation("a", &["GET"], Allow), operation("/A", &["GET"], Deny)];
        let policy = policy(
            Deny,
            vec![
                caller_policy("app", Some(Allow), Vec::new()),
                caller_policy("app", Some(Deny), operations),
            ],
        );
        let app = Some(("app", "ns"));
        assert!(!decide(&policy, app, "b", Some("GET")).0);
        assert!(decide(&policy, app, "a", Some("GET")).0);
    }

    #[test]
    fn folds_letters_as_go_does() {
        for (case, operation, want) in [
            ("nothing", b"".as_slice(), "/"),
            ("small", b"a/b", "/a/b"),
            ("capitals", b"/A/B%C3", "/a/b%c3"),
            ("beyond ASCII", "Ä/Ω".as_bytes(), "/ä/ω"),
            ("no sigma of its own at the end", "ΑΣ".as_bytes(), "/ας".replace('ς', "σ").as_str()),
            ("a dotted I", "İ".as_bytes(), "/i"),
            ("no UTF-8", b"A\xff\xfeb", "/a\u{fffd}\u{fffd}b"),
        ] {
            let mut out = b"left over".to_vec();
            fold(operation, &mut out);
            assert_eq!(str::from_utf8(&out).unwrap(), want, "{case}");
        }
    }

    #[test]
    fn believes_what_the_transport_proves() {
        let mut policy = policy(Action::Deny, Vec::new());
        let address = |text: &str| Proof::Address(text.parse().unwrap());
        let untrusting = Access::new(&policy);
        assert!(untrusting.believes(Proof::SameUser));
        assert!(!untrusting.believes(Proof::None));
        assert!(!untrusting.believes(address("127.0.0.1")));
        policy.trusted_networks = vec!["10.0.0.0/8".parse().unwrap()];
        let trusting = Access::new(&policy);
        assert!(trusting.believes(address("10.1.1.1")));
        assert!(!trusting.believes(address("11.1.1.1")));
        assert!(!trusting.believes(Proof::None));
    }

    #[test]
    fn names_the_caller_as_daprd_1_18() {
        let mut out = Vec::new();
        write_identity(None, &mut out);
        assert!(out.is_empty());
        let caller = Caller { app_id: "a", namespace: "prod", trust_domain: "public" };
        write_identity(Some(caller), &mut out);
        assert_eq!(out, b"spiffe://public/ns/prod/a");
    }
}

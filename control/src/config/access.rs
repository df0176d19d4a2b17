//! `spec.accessControl`: who may call what of the app, by daprd 1.18's rules of reading it.
//!
//! Files are read on top of `{defaultAction: allow, trustDomain: public}` and of each other: a key
//! that is not there leaves what was there, and a list takes the place of the one before it.

#![forbid(unsafe_code)]

use super::{
    file::{FilePlace, Problem, Weight},
    section::Section,
};
use crate::yaml::Node;
use snapshot::policy::{AccessPolicy, Action, CallerPolicy, Operation, TRUST_DOMAIN_DEFAULT};

/// What the files say so far.
#[derive(Clone, Debug)]
pub(super) struct AccessSpec {
    default_action: String,
    trust_domain: String,
    policies: Option<Policies>,
    is_given: bool,
}

#[derive(Clone, Debug)]
struct Policies {
    callers: Vec<CallerPolicy>,
    place: FilePlace,
}

impl Default for AccessSpec {
    fn default() -> Self {
        let (default_action, trust_domain) = ("allow".to_owned(), TRUST_DOMAIN_DEFAULT.to_owned());
        Self { default_action, trust_domain, policies: None, is_given: false }
    }
}

impl AccessSpec {
    /// What an explicit `null` leaves behind: even daprd's defaults are gone then.
    fn empty() -> Self {
        let (default_action, trust_domain) = (String::new(), String::new());
        Self { default_action, trust_domain, policies: None, is_given: false }
    }

    pub(super) fn read(&mut self, node: &Node, section: &mut Section<'_>) {
        if node.is_null() {
            *self = Self::empty();
            return;
        }
        self.is_given = true;
        for (name, child) in
            section.entries(node, KEY, &["defaultAction", "trustDomain", "policies"])
        {
            let key = format!("{KEY}.{name}");
            match name {
                "defaultAction" => self.default_action = action_text(child, &key, section),
                "trustDomain" => self.trust_domain = section.text(child, &key),
                _ => {
                    let items = section.items(child, &key).iter();
                    let callers = items.map(|item| caller(item, &key, section)).collect();
                    let place = section.place(child.place);
                    self.policies = Some(Policies { callers, place });
                }
            }
        }
    }

    /// `None`: everybody may call everything.
    ///
    /// # Errors
    /// In daprd's words, when policies leave out whom they are about.
    pub(super) fn finish(self) -> Result<Option<AccessPolicy>, Problem> {
        let has_policies = self.policies.as_ref().is_some_and(|list| !list.callers.is_empty());
        let says_nothing = self.default_action.is_empty() && self.trust_domain.is_empty();
        if !self.is_given || (says_nothing && !has_policies) {
            return Ok(None);
        }
        let default_action = match (&*self.default_action, &self.policies) {
            // Not a list is less than an empty one.
            ("", Some(list)) if list.callers.is_empty() => Action::Allow,
            ("", _) => Action::Deny,
            (text, _) => Action::parse(text),
        };
        let trust_domain = match self.trust_domain {
            empty if empty.is_empty() => TRUST_DOMAIN_DEFAULT.to_owned(),
            text => text,
        };
        let callers = self.policies.map(checked).transpose()?.unwrap_or_default();
        let trusted_networks = Vec::new();
        Ok(Some(AccessPolicy { trust_domain, default_action, callers, trusted_networks }))
    }
}

/// A policy about nobody in particular would be about nobody at all.
fn checked(policies: Policies) -> Result<Vec<CallerPolicy>, Problem> {
    let Policies { callers, place } = policies;
    let without = |part: fn(&CallerPolicy) -> &str| {
        let names = callers.iter().filter(|caller| part(caller).is_empty());
        names.map(|caller| caller.app_id.as_str()).collect::<Vec<_>>()
    };
    let domains = without(|caller| &caller.trust_domain);
    let namespaces = without(|caller| &caller.namespace);
    let has_nameless = callers.iter().any(|caller| caller.app_id.is_empty());
    if domains.is_empty() && namespaces.is_empty() && !has_nameless {
        return Ok(callers);
    }
    let message = format!(
        "invalid access control spec. missing trustdomain for apps: [{}], missing namespace for \
         apps: [{}], missing app name on at least one of the app policies: {has_nameless}",
        domains.join(" "),
        namespaces.join(" ")
    );
    let suggestion =
        Some("give each policy appId, namespace and trustDomain, such as \"public\"".to_owned());
    let key = format!("{KEY}.policies");
    Err(Problem { place, key, message, suggestion, weight: Weight::Refused })
}

fn caller(node: &Node, key: &str, section: &mut Section<'_>) -> CallerPolicy {
    let mut caller = CallerPolicy {
        app_id: String::new(),
        namespace: String::new(),
        trust_domain: String::new(),
        default_action: None,
        operations: Vec::new(),
    };
    const KEYS: [&str; 5] = ["appId", "namespace", "trustDomain", "defaultAction", "operations"];
    for (name, child) in section.entries(node, key, &KEYS) {
        let key = format!("{key}.{name}");
        match name {
            "appId" => caller.app_id = section.text(child, &key),
            "namespace" => caller.namespace = section.text(child, &key),
            "trustDomain" => caller.trust_domain = section.text(child, &key),
            "defaultAction" => {
                let text = action_text(child, &key, section);
                caller.default_action = (!text.is_empty()).then(|| Action::parse(&text));
            }
            _ => {
                let items = section.items(child, &key).iter();
                caller.operations = items.map(|item| operation(item, &key, section)).collect();
            }
        }
    }
    caller
}

fn operation(node: &Node, key: &str, section: &mut Section<'_>) -> Operation {
    let mut operation = Operation { name: String::new(), verbs: Vec::new(), action: Action::Deny };
    for (name, child) in section.entries(node, key, &["name", "httpVerb", "action"]) {
        let key = format!("{key}.{name}");
        match name {
            "name" => operation.name = section.text(child, &key),
            "httpVerb" => {
                for item in section.items(child, &key) {
                    let verb = section.text(item, &key);
                    if !VERBS.contains(&verb.as_str()) {
                        let message =
                            format!("{verb:?} fits no call; write \"*\", or {VERBS_TEXT}");
                        section.doubt(item.place, &key, message);
                    }
                    operation.verbs.push(verb);
                }
            }
            _ => operation.action = Action::parse(&action_text(child, &key, section)),
        }
    }
    operation
}

fn action_text(node: &Node, key: &str, section: &mut Section<'_>) -> String {
    let text = section.text(node, key);
    let is_known = ["", "allow", "deny"].iter().any(|known| text.eq_ignore_ascii_case(known));
    if !is_known {
        let message = format!("{text:?} is neither allow nor deny, and so denies, as with daprd");
        section.doubt(node.place, key, message);
    }
    text
}

const KEY: &str = "spec.accessControl";

const VERBS: [&str; 9] = ["*", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"];
const VERBS_TEXT: &str = "a verb in capitals, such as GET";

#[cfg(test)]
mod tests {
    use crate::config::{ConfigError, file::Configuration};
    use snapshot::policy::{AccessPolicy, Action};

    fn configuration(specs: &[&str]) -> Configuration {
        let texts = specs.iter().map(|spec| format!("spec:\n  accessControl: {spec}\n"));
        let files: Vec<(String, String)> =
            (1..).zip(texts).map(|(number, text)| (format!("{number}.yaml"), text)).collect();
        Configuration::parse_all(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    fn read(specs: &[&str]) -> Option<AccessPolicy> {
        let configuration = configuration(specs);
        assert_eq!(configuration.problems, [], "{specs:?}");
        configuration.access
    }

    #[test]
    fn names_every_problem_with_its_place() {
        let spec = "
    defaultAction: alow
    trustdomain: x
    policies:
    - appId: a
      namespace: default
      operations:
      - {name: [x], httpVerb: GET, action: deny}
      - {name: /x, httpVerb: [get, '*'], action: maybe}
      - 7
    - {namespace: default, trustDomain: public}
    - {appId: b, trustDomain: public, defaultAction: {}}
    - {appId: c}";
        let configuration = configuration(&[spec]);
        let problems: Vec<String> =
            configuration.problems.iter().map(ToString::to_string).collect();
        let policies = "spec.accessControl.policies";
        let operations = format!("{policies}.operations");
        assert_eq!(
            problems,
            [
                "1.yaml:4:5: spec.accessControl.trustdomain: there is no such key; it is ignored, \
                 as with daprd; is it \"trustDomain\"?"
                    .to_owned(),
                "1.yaml:3:20: spec.accessControl.defaultAction: \"alow\" is neither allow nor \
                 deny, and so denies, as with daprd"
                    .to_owned(),
                format!("1.yaml:9:16: {operations}.name: must be a single value, not a list"),
                format!("1.yaml:9:31: {operations}.httpVerb: must be a list, not a single value"),
                format!(
                    "1.yaml:10:31: {operations}.httpVerb: \"get\" fits no call; write \"*\", or a \
                     verb in capitals, such as GET"
                ),
                format!(
                    "1.yaml:10:50: {operations}.action: \"maybe\" is neither allow nor deny, and \
                     so denies, as with daprd"
                ),
                format!("1.yaml:11:9: {operations}: must be a mapping, not a single value"),
                format!(
                    "1.yaml:13:54: {policies}.defaultAction: must be a single value, not a mapping"
                ),
                format!(
                    "1.yaml:6:7: {policies}: invalid access control spec. missing trustdomain for \
                     apps: [a c], missing namespace for apps: [b c], missing app name on at least \
                     one of the app policies: true; give each policy appId, namespace and \
                     trustDomain, such as \"public\""
                ),
            ]
        );
        assert!(configuration.is_refused());
        let error = ConfigError::Files(configuration.problems).to_string();
        assert!(error.contains("missing trustdomain for apps: [a c]"), "{error}");
    }

    #[test]
    fn has_the_defaults_of_daprd() {
        use Action::{Allow, Deny};
        for (case, spec, want) in [
            ("nothing of it", "{}", Some((Allow, "public"))),
            ("null", "null", None),
            ("empty texts", "{defaultAction: '', trustDomain: ''}", None),
            ("no action but a domain", "{defaultAction: '', trustDomain: a}", Some((Deny, "a"))),
            ("a domain alone", "{trustDomain: helloworld}", Some((Allow, "helloworld"))),
            ("no action, no policies", "{defaultAction: ''}", Some((Deny, "public"))),
            (
                "no action, an empty list",
                "{defaultAction: '', policies: []}",
                Some((Allow, "public")),
            ),
            ("deny", "{defaultAction: DENY}", Some((Deny, "public"))),
            ("allow", "{defaultAction: Allow, trustDomain: ''}", Some((Allow, "public"))),
        ] {
            let policy = read(&[spec]);
            let found = policy.as_ref().map(|p| (p.default_action, p.trust_domain.as_str()));
            assert_eq!(found, want, "{case}");
        }
        assert_eq!(Configuration::parse("c.yaml", "spec: {}").access, None);
    }

    #[test]
    fn later_files_are_read_on_top_of_earlier_ones() {
        let caller = |id: &str| {
            format!("{{policies: [{{appId: {id}, namespace: n, trustDomain: public}}]}}")
        };
        let (a, b) = (caller("a"), caller("b"));
        let policy = read(&["{defaultAction: deny}", &a, &b]).unwrap();
        assert_eq!(policy.default_action, Action::Deny);
        let ids: Vec<&str> = policy.callers.iter().map(|c| c.app_id.as_str()).collect();
        assert_eq!(ids, ["b"]);
        let nobody = "{policies: [{}]}";
        assert!(configuration(&[nobody]).is_refused());
        assert_eq!(read(&[nobody, &a]).unwrap().callers.len(), 1);
        assert_eq!(read(&["{defaultAction: deny}", "null"]), None);
        assert_eq!(read(&["null", "{trustDomain: x}"]).unwrap().default_action, Action::Deny);
    }

    #[test]
    fn reads_policies_in_their_order() {
        let spec = "
    defaultAction: deny
    policies:
    - appId: app1
      defaultAction: Allow
      trustDomain: public
      namespace: ns
      operations:
      - {name: /op1, httpVerb: [POST, GET], action: deny}
      - {name: 'op2/*', action: allow}";
        let policy = read(&[spec]).unwrap();
        let [caller] = &policy.callers[..] else { panic!("one caller") };
        assert_eq!(caller.default_action, Some(Action::Allow));
        let operations: Vec<_> = caller
            .operations
            .iter()
            .map(|op| (op.name.as_str(), op.verbs.join(" "), op.action))
            .collect();
        assert_eq!(
            operations,
            [
                ("/op1", "POST GET".to_owned(), Action::Deny),
                ("op2/*", String::new(), Action::Allow)
            ]
        );
    }
}

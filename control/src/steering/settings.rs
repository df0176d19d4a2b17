//! What a node's file says of steering: for the node, and for each app.

#![forbid(unsafe_code)]

use super::names::{Named, Range};
use ebpf_loader::common::{Action, Capture, WhenDead};
use std::path::PathBuf;

/// For the whole node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeSteering {
    pub(crate) mode: Mode,
    /// Where apps look for their sidecar.
    pub(crate) port: u16,
    /// The control group whose processes are steered, those of groups within it included.
    pub(crate) cgroup: String,
    pub(crate) when_dead: WhenDead,
    /// Where addresses that stand for apps come from.
    pub(crate) range: Range,
    /// The hosts file that gives their names.
    pub(crate) hosts: Option<PathBuf>,
    /// Apps elsewhere that have names here.
    pub(crate) named: Vec<Named>,
    /// Of apps that do not say it themselves.
    pub(crate) accelerate: Accelerate,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Mode {
    /// Where an app has a control group; without the means for it, everything else works.
    #[default]
    Auto,
    Off,
    /// The node does not start without it.
    On,
}

/// Whether bytes between an app and the data plane go past TCP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Accelerate {
    /// Where this was tried for long on the kernel, and works on this one.
    Auto,
    #[default]
    Off,
    /// Where it works on this kernel; of a node: it does not start without.
    On,
}

impl Accelerate {
    /// # Errors
    /// Says what the value must be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" | "false" => Ok(Self::Off),
            "on" | "true" => Ok(Self::On),
            _ => Err(format!("{text:?} is none of auto, on and off")),
        }
    }
}

/// For one app.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AppSteering {
    /// Of the app's processes.
    pub(crate) cgroup: Option<String>,
    /// What becomes of connections to the app that go round its sidecar.
    pub(crate) direct: Option<Action>,
    /// Exceptions: apps by `id` or `namespace/id`, and [`OTHERS`].
    pub(crate) direct_allow: Vec<String>,
    pub(crate) direct_deny: Vec<String>,
    /// What becomes of its connects to addresses that stand for apps.
    pub(crate) capture: Capture,
    /// `None`: as the node says.
    pub(crate) accelerate: Option<Accelerate>,
}

/// A key of the file that is about steering.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Key {
    Accelerate,
    Capture,
    Cgroup,
    Direct,
    DirectAllow,
    DirectDeny,
    NodeAccelerate,
    NodeCaptureHosts,
    NodeCaptureNames,
    NodeCaptureRange,
    NodeCgroup,
    NodeMode,
    NodePort,
    NodeWithoutDataPlane,
}

impl Default for NodeSteering {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            port: SIDECAR_PORT,
            cgroup: "/".to_owned(),
            when_dead: WhenDead::default(),
            range: Range::default(),
            hosts: None,
            named: Vec::new(),
            accelerate: Accelerate::default(),
        }
    }
}

impl NodeSteering {
    /// # Errors
    /// Says what the value must be.
    pub(crate) fn set(&mut self, key: Key, text: &str) -> Result<(), String> {
        match key {
            Key::NodeAccelerate => self.accelerate = Accelerate::parse(text)?,
            Key::NodeCaptureHosts => {
                if !text.starts_with('/') {
                    return Err(format!("{text:?} is no path of a file, such as /etc/hosts"));
                }
                self.hosts = Some(PathBuf::from(text));
            }
            Key::NodeCaptureNames => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.named = names.map(Named::parse).collect::<Result<_, _>>()?;
            }
            Key::NodeCaptureRange => self.range = Range::parse(text)?,
            Key::NodeCgroup => self.cgroup = group(text)?,
            Key::NodeMode => {
                self.mode = match text {
                    "auto" => Mode::Auto,
                    "off" | "false" => Mode::Off,
                    "on" | "true" => Mode::On,
                    _ => return Err(format!("{text:?} is none of auto, on and off")),
                }
            }
            Key::NodePort => {
                let port = text.parse::<u16>().ok().filter(|port| *port != 0);
                self.port = port.ok_or_else(|| format!("{text:?} is not a port"))?;
            }
            Key::NodeWithoutDataPlane => {
                self.when_dead = match text {
                    "refuse" => WhenDead::Closed,
                    "pass" => WhenDead::Open,
                    _ => return Err(format!("{text:?} is neither refuse nor pass")),
                }
            }
            Key::Accelerate
            | Key::Capture
            | Key::Cgroup
            | Key::Direct
            | Key::DirectAllow
            | Key::DirectDeny => {}
        }
        Ok(())
    }
}

impl AppSteering {
    /// # Errors
    /// Says what the values must be.
    pub(crate) fn set(&mut self, key: Key, texts: Vec<String>) -> Result<(), String> {
        match key {
            Key::Accelerate => self.accelerate = Some(Accelerate::parse(&one(texts)?)?),
            Key::Capture => {
                self.capture = match one(texts)?.as_str() {
                    "off" | "false" => Capture::Off,
                    "on" | "true" => Capture::On,
                    "shadow" => Capture::Shadow,
                    other => return Err(format!("{other:?} is none of off, shadow and on")),
                }
            }
            Key::Cgroup => {
                let path = group(&one(texts)?)?;
                if path == "/" {
                    return Err("the root group has every process of the machine in it".to_owned());
                }
                self.cgroup = Some(path);
            }
            Key::Direct => {
                self.direct = Some(match one(texts)?.as_str() {
                    "allow" => Action::Allow,
                    "deny" => Action::Deny,
                    "redirect" => Action::Redirect,
                    other => return Err(format!("{other:?} is none of allow, redirect and deny")),
                });
            }
            Key::DirectAllow => self.direct_allow = callers(texts)?,
            Key::DirectDeny => self.direct_deny = callers(texts)?,
            Key::NodeAccelerate
            | Key::NodeCaptureHosts
            | Key::NodeCaptureNames
            | Key::NodeCaptureRange
            | Key::NodeCgroup
            | Key::NodeMode
            | Key::NodePort
            | Key::NodeWithoutDataPlane => {}
        }
        let both = self.direct_allow.iter().find(|name| self.direct_deny.contains(name));
        match both {
            Some(name) => Err(format!("{name:?} is both allowed and denied")),
            None => Ok(()),
        }
    }

    /// Whether the data plane takes connections to the app's port.
    pub(crate) fn wants_inbound(&self) -> bool {
        self.direct == Some(Action::Redirect)
    }

    /// `otherwise` is what the node says.
    pub(crate) fn accelerates(&self, otherwise: Accelerate) -> bool {
        self.accelerate.unwrap_or(otherwise) != Accelerate::Off
    }

    /// Whether the kernel has anything to do for this app.
    pub(crate) fn is_any(&self) -> bool {
        let accelerate = self.accelerate.filter(|wish| *wish != Accelerate::Off);
        Self { accelerate, ..self.clone() } != Self::default()
    }
}

fn one(texts: Vec<String>) -> Result<String, String> {
    let [text] = <[String; 1]>::try_from(texts).map_err(|_| "must be a single value".to_owned())?;
    Ok(text)
}

fn group(text: &str) -> Result<String, String> {
    let is_clean = !text.split('/').any(|part| part == "." || part == "..");
    if text.starts_with('/') && is_clean {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no path of a control group, such as /shop/orders"))
    }
}

fn callers(texts: Vec<String>) -> Result<Vec<String>, String> {
    let split = texts.iter().flat_map(|text| text.split(','));
    let names: Vec<String> =
        split.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    match names.iter().find(|name| name.matches('/').count() > 1) {
        Some(name) => Err(format!("{name:?} is neither an id, namespace/id, nor {OTHERS:?}")),
        None => Ok(names),
    }
}

/// Where Dapr's SDKs look for the sidecar.
const SIDECAR_PORT: u16 = 3500;

/// In a list of callers: processes that belong to no app of the node.
pub(crate) const OTHERS: &str = "*others*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_judged() {
        for (key, text, want) in [
            (Key::NodeCgroup, "shop", false),
            (Key::NodeCgroup, "/a/../b", false),
            (Key::NodeAccelerate, "fast", false),
            (Key::NodeMode, "maybe", false),
            (Key::NodePort, "0", false),
            (Key::NodePort, "70000", false),
            (Key::NodeWithoutDataPlane, "open", false),
            (Key::NodeCaptureHosts, "hosts", false),
            (Key::NodeCaptureNames, "a.b.c", false),
            (Key::NodeCaptureRange, "240.0.0.0", false),
            (Key::NodeCaptureHosts, "/etc/hosts", true),
            (Key::NodeCaptureNames, "a, b.prod,c=10.0.0.1:80", true),
            (Key::NodeCaptureRange, "240.0.0.0/16", true),
            (Key::NodeAccelerate, "auto", true),
            (Key::NodeCgroup, "/", true),
            (Key::NodeMode, "on", true),
            (Key::NodePort, "3500", true),
            (Key::NodeWithoutDataPlane, "pass", true),
        ] {
            assert_eq!(NodeSteering::default().set(key, text).is_ok(), want, "{key:?} {text}");
        }
        for (key, texts, want) in [
            (Key::Cgroup, &["orders"][..], false),
            (Key::Cgroup, &["/"], false),
            (Key::Cgroup, &["/a", "/b"], false),
            (Key::Accelerate, &["sometimes"], false),
            (Key::Direct, &["perhaps"], false),
            (Key::DirectAllow, &["a/b/c"], false),
            (Key::Capture, &["maybe"], false),
            (Key::Capture, &["shadow"], true),
            (Key::Cgroup, &["/shop/orders"], true),
            (Key::Accelerate, &["on"], true),
            (Key::Direct, &["deny"], true),
            (Key::DirectAllow, &["a, prod/b", OTHERS], true),
        ] {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let mut steering = AppSteering::default();
            assert_eq!(steering.set(key, texts.clone()).is_ok(), want, "{key:?} {texts:?}");
            assert_eq!(steering.is_any(), want, "{key:?} {texts:?}");
        }
        let mut steering = AppSteering::default();
        steering.set(Key::DirectAllow, vec!["a,b".to_owned()]).unwrap();
        assert_eq!(steering.direct_allow, ["a", "b"]);
        assert!(steering.set(Key::DirectDeny, vec!["b".to_owned()]).is_err(), "both");
    }
}

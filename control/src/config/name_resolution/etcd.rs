//! The component `etcd`: where it is, who we are there, and how long an entry outlives its sidecar.

#![forbid(unsafe_code)]

use super::{Reader, options::Options};
use crate::{
    registry::etcd::{self, Password, Tls},
    yaml::Node,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

impl Reader {
    pub(super) fn etcd(&mut self, options: &mut Options<'_>) -> Option<etcd::Settings> {
        let endpoints = options.take("endpoints");
        let endpoints = match endpoints {
            Some(node) => self.endpoints(node),
            None => {
                self.problem(options.place, "etcd: endpoints is missing");
                Vec::new()
            }
        };
        let mut prefix = self.text(options, "prefix").unwrap_or_else(|| ETCD_PREFIX.to_owned());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let lease_ttl = self.seconds(options, "leaseTTL", LEASE_TTL);
        if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&lease_ttl) {
            self.problem(options.place, "etcd: leaseTTL must be between 2s and 1h");
        }
        let user = self.user(options);
        let certificate = self.text(options, "certFile").map(PathBuf::from);
        let key = self.text(options, "keyFile").map(PathBuf::from);
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                self.problem(options.place, "etcd: certFile and keyFile belong together");
                None
            }
        };
        let tls = Tls {
            ca: self.text(options, "caFile").map(PathBuf::from),
            identity,
            server_name: self.text(options, "serverName"),
        };
        let is_plain = endpoints.iter().any(|uri| uri.starts_with("http://"));
        if is_plain && tls != Tls::default() {
            self.problem(
                options.place,
                "etcd: certificates are for https:// endpoints, and one is http://",
            );
        }
        Some(etcd::Settings { endpoints, prefix, lease_ttl, user, tls })
    }

    /// With or without a scheme; without one it is plain HTTP, as with etcdctl.
    fn endpoints(&mut self, node: &Node) -> Vec<String> {
        let mut endpoints = Vec::new();
        for (text, place) in self.texts(node, "etcd: endpoints") {
            let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            let authority = rest.unwrap_or(&text).trim_end_matches('/');
            let is_sound = authority
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
                && !authority.contains('/');
            if is_sound {
                let scheme = if text.starts_with("https://") { "https" } else { "http" };
                endpoints.push(format!("{scheme}://{authority}"));
            } else {
                self.problem(
                    place,
                    format_args!("etcd: endpoint {text:?} is no address; write https://host:2379"),
                );
            }
        }
        if endpoints.is_empty() && self.problems.is_empty() {
            self.problem(node.place, "etcd: endpoints is empty");
        }
        endpoints
    }

    /// The password may stand in a file of its own, which is where it belongs.
    fn user(&mut self, options: &mut Options<'_>) -> Option<(String, Password)> {
        let name = self.text(options, "username");
        let password = self.text(options, "password");
        let file = options.take("passwordFile");
        let password = match (password, file) {
            (Some(_), Some(node)) => {
                self.problem(node.place, "etcd: write password or passwordFile, not both");
                None
            }
            (None, Some(node)) => self.password_file(node),
            (password, None) => password,
        };
        match (name, password) {
            (Some(name), Some(password)) => Some((name, Password(password))),
            (None, None) => None,
            _ => {
                self.problem(options.place, "etcd: username and password belong together");
                None
            }
        }
    }

    fn password_file(&mut self, node: &Node) -> Option<String> {
        let path = Path::new(node.text()?);
        match fs::read_to_string(path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(e) => {
                let message = format!("etcd: passwordFile {}: {}", path.display(), read_error(&e));
                self.problem(node.place, message);
                None
            }
        }
    }
}

fn read_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

const ETCD_PREFIX: &str = "/ringcar/apps/";

/// How long the row of a sidecar that was killed stays.
const LEASE_TTL: Duration = Duration::from_secs(10);
const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
const LEASE_TTL_MAX: Duration = Duration::from_secs(3600);

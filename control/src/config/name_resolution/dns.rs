//! The components over DNS: `dns`, `nameformat` and `kubernetes`.

#![forbid(unsafe_code)]

use super::{Reader, options::Options};
use crate::{
    registry::dns::{self, Names, Template},
    yaml::{Node, Place},
};
use snapshot::{AppId, Namespace};
use std::net::{IpAddr, SocketAddr};

pub(super) fn kubernetes_names(domain: &str) -> Result<Names, dns::TemplateError> {
    // The closing dot spares the resolver its search list.
    let text = format!("{{id}}-dapr.{{namespace}}.svc.{}.:{{port}}", domain.trim_matches('.'));
    Template::parse_host_port(&text).map(|(host, port)| Names::Host { host, port })
}

impl Reader {
    pub(super) fn dns(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let (format, service) = (options.take("format"), options.take("service"));
        let names = match (format, service) {
            (Some(node), None) => self.host_template(node, options.component),
            (None, Some(node)) => {
                let parsed = Template::parse(node.text().unwrap_or_default());
                let parsed =
                    parsed.map_err(|e| self.problem(node.place, format_args!("dns: service: {e}")));
                parsed.ok().map(|name| Names::Service { name })
            }
            _ => {
                self.problem(
                    options.place,
                    "dns: write either format (host:port) or service (SRV records)",
                );
                None
            }
        };
        self.dns_settings(options, names)
    }

    pub(super) fn nameformat(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let names = match options.take("format") {
            Some(node) => self.host_template(node, options.component),
            None => {
                self.problem(options.place, "nameformat: format is missing");
                None
            }
        };
        self.dns_settings(options, names)
    }

    pub(super) fn kubernetes(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let domain = self.text(options, "clusterDomain").unwrap_or_else(|| "cluster.local".into());
        let names = match options.take("template") {
            Some(node) => self.go_template(node),
            None => {
                let names = kubernetes_names(&domain).map_err(|e| {
                    self.problem(options.place, format_args!("kubernetes: clusterDomain: {e}"))
                });
                names.ok()
            }
        };
        self.dns_settings(options, names)
    }

    /// `{{.ID}}` and its like; other actions of Go's template language cannot be followed.
    fn go_template(&mut self, node: &Node) -> Option<Names> {
        let mut text = String::new();
        let mut rest = node.text().unwrap_or_default();
        while let Some((before, after)) = rest.split_once("{{") {
            text.push_str(before);
            let (action, after) = after.split_once("}}").unwrap_or((after, ""));
            match action.trim_matches(|c: char| c == '-' || c.is_whitespace()) {
                ".ID" => text.push_str("{id}"),
                ".Namespace" => text.push_str("{namespace}"),
                ".Port" => text.push_str("{port}"),
                other => {
                    self.problem(node.place, format_args!("kubernetes: template: {{{{{other}}}}} is not understood; there are {{{{.ID}}}}, {{{{.Namespace}}}} and {{{{.Port}}}}"));
                    return None;
                }
            }
            rest = after;
        }
        text.push_str(rest);
        self.host_port(&text, node.place, "kubernetes: template")
    }

    fn host_template(&mut self, node: &Node, component: &str) -> Option<Names> {
        self.host_port(node.text().unwrap_or_default(), node.place, &format!("{component}: format"))
    }

    fn host_port(&mut self, text: &str, place: Place, what: &str) -> Option<Names> {
        match Template::parse_host_port(text) {
            Ok((host, port)) => Some(Names::Host { host, port }),
            Err(e) => {
                self.problem(place, format_args!("{what} {text:?}: {e}"));
                None
            }
        }
    }

    /// What all components over DNS share.
    fn dns_settings(
        &mut self,
        options: &mut Options<'_>,
        names: Option<Names>,
    ) -> Option<dns::Settings> {
        let component = options.component;
        let apps = options.take("apps").map(|node| self.apps(node, component));
        let servers = options.take("servers").map(|node| self.servers(node, component));
        Some(dns::Settings {
            names: names?,
            apps: apps.unwrap_or_default(),
            servers: servers.unwrap_or_default(),
        })
    }

    /// `id` or `namespace/id`.
    fn apps(&mut self, node: &Node, component: &str) -> Vec<(AppId, Namespace)> {
        let mut apps = Vec::new();
        for (text, place) in self.texts(node, &format!("{component}: apps")) {
            let (namespace, id) = match text.split_once('/') {
                Some((namespace, id)) => (Namespace::new(namespace), id),
                None => (Ok(Namespace::default()), text.as_str()),
            };
            match (AppId::new(id), namespace) {
                (Ok(id), Ok(namespace)) => apps.push((id, namespace)),
                (Err(e), _) | (_, Err(e)) => {
                    self.problem(place, format_args!("{component}: app {text:?}: {e}"));
                }
            }
        }
        apps
    }

    fn servers(&mut self, node: &Node, component: &str) -> Vec<SocketAddr> {
        let mut servers = Vec::new();
        for (text, place) in self.texts(node, &format!("{component}: servers")) {
            let with_port = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
            match with_port.or_else(|_| text.parse()) {
                Ok(server) => servers.push(server),
                Err(_) => {
                    self.problem(
                        place,
                        format_args!("{component}: server {text:?} is no IP address"),
                    );
                }
            }
        }
        servers
    }
}

const DNS_PORT: u16 = 53;

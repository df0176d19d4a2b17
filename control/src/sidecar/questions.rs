//! What operators ask a running control: where an app can be called, by what the registries say, by
//! what the data plane was told, and by what its workers think of it.

#![forbid(unsafe_code)]

use super::Sidecar;
use crate::{
    claim::PlaneName,
    knowledge::{Knowledge, KnownApp, KnownEndpoint, KnownServer, Question},
    listen::ListenError,
    log::Log,
    node::admin::{self, Answer, Order},
    runtime_dir::RuntimeDir,
};
use snapshot::{
    App,
    wire::{Score, ToDataPlane},
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};
use tokio::sync::mpsc;

/// Where operators come in.
pub(super) struct Operators {
    orders: Option<mpsc::Receiver<Order>>,
    socket: Arc<Path>,
}

impl Operators {
    /// Must be called within the runtime, by whoever has the claim. A sidecar gets along without
    /// them.
    pub(super) fn meet(
        name: &PlaneName,
        is_node: bool,
        dir: &RuntimeDir,
        log: &Log,
    ) -> Result<Self, ListenError> {
        let socket = if is_node { dir.admin_socket(name) } else { dir.question_socket(name) };
        let socket = Arc::from(socket);
        match admin::serve(&socket) {
            Ok(orders) => Ok(Self { orders: Some(orders), socket }),
            Err(e) if is_node => Err(e),
            Err(e) => {
                log.warning(format_args!("ringcar explain cannot ask this sidecar: {e}"));
                Ok(Self { orders: None, socket })
            }
        }
    }

    pub(super) fn socket(&self) -> Option<&Arc<Path>> {
        self.orders.as_ref().map(|_| &self.socket)
    }

    /// The next order. Dropping the future before it is ready loses nothing.
    pub(super) async fn next(&mut self) -> Order {
        let next = async { self.orders.as_mut()?.recv().await };
        match next.await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    pub(super) fn end(&self) {
        if self.orders.is_some() {
            let _ = fs::remove_file(&self.socket);
        }
    }
}

/// Questions that wait for what the workers think.
#[derive(Default)]
pub(super) struct Questions {
    waiting: BTreeMap<u64, (Answer, Knowledge)>,
    count: u64,
}

impl Questions {
    /// The query to put to the data plane.
    fn add(&mut self, answer: Answer, knowledge: Knowledge) -> u64 {
        self.count += 1;
        self.waiting.insert(self.count, (answer, knowledge));
        self.count
    }

    pub(super) fn answer(&mut self, query: u64, scores: Vec<Score>) {
        if let Some((answer, knowledge)) = self.waiting.remove(&query) {
            send(answer, &Knowledge { scores, ..knowledge });
        }
    }

    /// There is nobody who thinks anything.
    pub(super) fn on_lost(&mut self) {
        for (answer, knowledge) in std::mem::take(&mut self.waiting).into_values() {
            send(answer, &knowledge);
        }
    }
}

impl Sidecar {
    pub(super) fn explain(&mut self, question: Question, answer: Answer) {
        let Question { id, namespace } = question;
        let is_it = |app: &snapshot::App| app.id == id && app.namespace == namespace;
        let told = self.supervisor.told();
        let route = told.find_route(id.as_str(), namespace.as_str());
        let endpoints = route.into_iter().flat_map(|route| route.endpoints.iter());
        let knowledge = Knowledge {
            version: self.live.0,
            is_here: told.apps.iter().any(is_it),
            registries: self.registries.states(),
            rows: self.registries.known(&id, &namespace),
            endpoints: endpoints
                .map(|endpoint| KnownEndpoint {
                    address: endpoint.address.clone(),
                    zone: endpoint.zone.as_deref().map(str::to_owned),
                })
                .collect(),
            scores: Vec::new(),
            app: told.apps.iter().find(|app| is_it(app)).map(|app| self.known_app(app)),
        };
        if !self.supervisor.is_up() || self.questions.waiting.len() >= QUESTIONS_MAX {
            return send(answer, &knowledge);
        }
        let query = self.questions.add(answer, knowledge);
        self.supervisor.send(&ToDataPlane::Scores { query, id, namespace });
    }
}

impl Sidecar {
    fn known_app(&self, app: &App) -> KnownApp {
        let channel = app.channel.as_ref();
        let served = self.apps.get(&app.number);
        let is_checked = served.is_some_and(|served| served.config.care.health_check.is_some());
        KnownApp {
            access: app.guards.access.clone(),
            resiliency: app.resiliency.clone(),
            concurrency_max: channel.and_then(|channel| channel.concurrency_max),
            is_healthy: channel.filter(|_| is_checked).map(|channel| channel.is_healthy),
            http_endpoints: KnownServer::all(&app.outbound.http_endpoints),
        }
    }
}

fn send(answer: Answer, knowledge: &Knowledge) {
    match serde_json::to_string(knowledge) {
        Ok(text) => answer.send(200, text),
        Err(e) => answer.send(500, format!("what is known cannot be told: {e}")),
    }
}

/// Operators at once; as many as can be connected.
const QUESTIONS_MAX: usize = 16;

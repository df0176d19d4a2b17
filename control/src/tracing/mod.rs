//! Spans on their way out of control: to standard output, to Zipkin, to an OpenTelemetry collector,
//! as each app's Configuration says.
//!
//! Apps with the same destination share its exporter, which ends with the last of them. Nothing
//! here makes the control loop wait, and nothing at all reaches a worker.

#![forbid(unsafe_code)]

mod exporter;
mod otlp;
mod send;
mod span;
mod totals;
mod zipkin;

use crate::{
    config::{Common, Config, otel_variables::Variables, telemetry::Options, tracing::Destination},
    log::{Field, Level, Log},
    timestamp::Timestamp,
};
use exporter::Exporter;
use snapshot::wire::{Counter, Span};
use span::{Service, Told, hex};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::task::JoinSet;
use totals::Totals;

pub(crate) struct Exporters {
    known: HashMap<Destination, Weak<Exporter>>,
    tasks: JoinSet<()>,
    totals: Arc<Totals>,
    /// Spans of apps that want them nowhere, or are gone.
    unwanted: u64,
    log: Log,
}

/// Where the spans of one app go; made for the first of them.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Boxed, since a node has one of these for each of its apps, and most are never asked.
    made: Option<Box<Made>>,
}

#[derive(Debug)]
struct Made {
    /// It holds as long as these are the app's.
    options: Arc<Options>,
    variables: Arc<Variables>,
    service: Arc<Service>,
    exporters: Vec<Arc<Exporter>>,
}

impl Exporters {
    pub(crate) fn new(log: &Log) -> Self {
        let (known, tasks, totals) = Default::default();
        Self { known, tasks, totals, unwanted: 0, log: log.scoped("dapr.runtime.trace") }
    }

    /// A span of an app that has this configuration.
    pub(crate) fn put(&mut self, way: &mut Way, config: &Config, span: Span) {
        let Common { telemetry: options, otel: variables, .. } = &*config.common;
        let is_made = way.made.as_ref().is_some_and(|made| {
            Arc::ptr_eq(&made.options, options) && Arc::ptr_eq(&made.variables, variables)
        });
        if !is_made {
            // What it had goes only then, so that an exporter that stays is not made anew.
            way.made = Some(Box::new(self.make(config)));
        }
        let Some(made) = &way.made else { return };
        if options.exporters.to_stdout {
            self.print(config, &span);
        } else if made.exporters.is_empty() {
            self.unwanted += 1;
        }
        let told = Told { service: Arc::clone(&made.service), span: Arc::new(span) };
        for exporter in &made.exporters {
            exporter.put(told.clone());
        }
    }

    pub(crate) const fn put_unwanted(&mut self) {
        self.unwanted += 1;
    }

    fn make(&mut self, config: &Config) -> Made {
        let Common { telemetry: options, otel: variables, .. } = &*config.common;
        let name = variables.service_name.as_deref().unwrap_or(config.app_id.as_str());
        let service = Service { name: name.to_owned(), resource: variables.resource.clone() };
        let destinations = options.exporters.destinations(variables);
        Made {
            options: Arc::clone(options),
            variables: Arc::clone(variables),
            service: Arc::new(service),
            exporters: destinations.into_iter().map(|to| self.exporter(to)).collect(),
        }
    }

    fn exporter(&mut self, destination: Destination) -> Arc<Exporter> {
        if let Some(exporter) = self.known.get(&destination).and_then(Weak::upgrade) {
            return exporter;
        }
        self.known.retain(|_, exporter| exporter.strong_count() > 0);
        while self.tasks.try_join_next().is_some() {}
        let (exporter, task) = exporter::new(destination.clone(), &self.totals, &self.log);
        self.tasks.spawn(task.run());
        let exporter = Arc::new(exporter);
        self.known.insert(destination, Arc::downgrade(&exporter));
        exporter
    }

    /// As daprd's exporter prints them, with Go's times.
    fn print(&self, config: &Config, span: &Span) {
        self.totals.print();
        let parent = if span.parent == [0; 8] { "0".repeat(16) } else { hex(&span.parent) };
        let message = format!(
            "[{}] Trace: {} Span: {parent}/{} Time: [{} ->  {}] Annotations: []",
            span.name,
            hex(&span.trace),
            hex(&span.span),
            Timestamp(span.began).as_go(),
            Timestamp(span.ended).as_go(),
        );
        let app = [("app_id", Field::Text(config.app_id.as_str()))];
        self.log.write_fields(Timestamp::now(), Level::Info, &message, &app);
    }

    pub(crate) fn counters(&self) -> Vec<Counter> {
        let mut counters = self.totals.counters();
        counters.push(totals::counter("ringcar_spans_not_exported_total", &[], self.unwanted));
        counters
    }

    /// Sends what waits, if it is taken soon. The apps' ways are gone by now.
    pub(crate) async fn end(&mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END, all).await.is_err() {
            self.log.warning("The last spans were not taken in time");
        }
    }
}

/// For the last batches when a control ends; a sidecar's end is waited for by its app's.
const END: Duration = Duration::from_secs(2);

//! Scrapes of the metrics page: those that wait for the data plane's counters, and what control
//! knows itself.

#![forbid(unsafe_code)]

use crate::admin::{
    metrics::{self, Facts, Measured},
    page::Scrape,
    process,
    rules::Rules,
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::mpsc;

pub(super) struct Scrapes {
    /// `None` without a metrics page.
    incoming: Option<mpsc::Receiver<Scrape>>,
    /// By query, in order.
    waiting: VecDeque<(u64, Scrape)>,
    query_count: u64,
    facts: Facts,
    /// Of control, as they were at the last scrape.
    own: Measured,
    rules: Arc<Rules>,
}

impl Scrapes {
    pub(super) fn new(incoming: Option<mpsc::Receiver<Scrape>>) -> Self {
        Self {
            incoming,
            waiting: VecDeque::new(),
            query_count: 0,
            facts: Facts::default(),
            own: Measured::default(),
            rules: Arc::default(),
        }
    }

    pub(super) fn set_rules(&mut self, rules: &Arc<Rules>) {
        self.rules = Arc::clone(rules);
    }

    /// Dropping the future before it is ready loses nothing.
    pub(super) async fn next(&mut self) -> Scrape {
        if let Some(incoming) = &mut self.incoming
            && let Some(scrape) = incoming.recv().await
        {
            return scrape;
        }
        std::future::pending().await
    }

    pub(super) fn on_greeted(
        &mut self,
        pid: u32,
        workers: u32,
        engine: String,
        engine_reason: String,
    ) {
        let restarts = self.facts.restarts;
        self.facts = Facts { engine, engine_reason, workers, data_plane_pid: Some(pid), restarts };
    }

    /// The process that was asked is gone; the page then lacks its counters.
    pub(super) fn on_lost(&mut self) {
        self.facts.data_plane_pid = None;
        self.facts.restarts += 1;
        self.answer(self.query_count, &Measured::default());
    }

    /// The query to put to the data plane; without one the page is answered at once.
    pub(super) fn ask(&mut self, scrape: Scrape, own: Measured) -> Option<u64> {
        self.own = own;
        if self.facts.data_plane_pid.is_none() || self.waiting.len() >= WAITING_MAX {
            self.answer_one(scrape, &Measured::default());
            return None;
        }
        self.query_count += 1;
        self.waiting.push_back((self.query_count, scrape));
        Some(self.query_count)
    }

    /// Counters that answer a query are recent enough for those before it.
    pub(super) fn answer(&mut self, query: u64, measured: &Measured) {
        let due = self.waiting.iter().take_while(|(waiting, _)| *waiting <= query).count();
        let scrapes: Vec<Scrape> = self.waiting.drain(..due).map(|(_, scrape)| scrape).collect();
        scrapes.into_iter().for_each(|scrape| self.answer_one(scrape, measured));
    }

    fn answer_one(&self, scrape: Scrape, measured: &Measured) {
        let processes =
            [("control", Some(std::process::id())), ("dataplane", self.facts.data_plane_pid)];
        let of_processes =
            processes.into_iter().filter_map(|(name, pid)| Some(process::counters(name, pid?)));
        let mut own = self.own.clone();
        own.counters.extend(of_processes.flatten());
        // The scraper may have left meanwhile.
        let _ = scrape.send(metrics::emit(&self.facts, measured, own, &self.rules));
    }
}

const WAITING_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn ask(scrapes: &mut Scrapes) -> (Option<u64>, oneshot::Receiver<String>) {
        let (scrape, page) = oneshot::channel();
        (scrapes.ask(scrape, Measured::default()), page)
    }

    #[test]
    fn scrapes_wait_for_the_counters_of_a_living_process_only() {
        let mut scrapes = Scrapes::new(None);
        let (query, mut page) = ask(&mut scrapes);
        assert_eq!(query, None);
        assert!(page.try_recv().unwrap().contains("process=\"control\""));

        scrapes.on_greeted(std::process::id(), 2, "epoll".into(), "told".into());
        let (first, mut first_page) = ask(&mut scrapes);
        let (second, mut second_page) = ask(&mut scrapes);
        assert_eq!((first, second), (Some(1), Some(2)));
        assert!(first_page.try_recv().is_err());
        scrapes.answer(1, &Measured::default());
        assert!(first_page.try_recv().unwrap().contains("engine=\"epoll\""));
        assert!(second_page.try_recv().is_err());
        scrapes.on_lost();
        let page = second_page.try_recv().unwrap();
        assert!(page.contains("ringcar_data_plane_restarts_total 1\n"), "{page}");
    }
}

//! The data plane as a process: choose an engine, start the workers, serve the link until it ends.

#![forbid(unsafe_code)]

use crate::{
    engine::{self, Backend, Choice, Engine, EngineError, Waker},
    link::{End, Introduction, Link, Workers},
    mailbox::{FromWorker, Mailbox, ToWorker, WorkerId},
    policy::{pipeline::RateLimits, resiliency::Breakers},
    resolver::Resolver,
    telemetry::{Counters, Journal},
    worker::{Surroundings, Worker},
};
use rustix::io::Errno;
use std::{
    num::NonZeroUsize,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

/// Workers unless told otherwise: more than four cores of a node are its apps'.
const WORKERS_DEFAULT_MAX: usize = 4;

/// A worker's deepest path is shallow and allocates on no stack; the default 2 MiB would only be
/// address space.
const WORKER_STACK_BYTES: usize = 512 * 1024;

pub struct Options {
    /// A listening Unix socket, to which control connects.
    pub link: OwnedFd,
    /// `None`: one per CPU that this process may use (cgroup quota and affinity counted), four at
    /// the most.
    pub workers: Option<NonZeroUsize>,
    pub engine: Choice,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("engine: {0}")]
    Engine(String),
    #[error("cannot start worker {worker}: {error}")]
    Start { worker: usize, error: String },
    #[error("the link failed: {0}")]
    Link(Errno),
    #[error("{0}")]
    Worker(String),
}

/// Serves until control says `Exit`, or leaves and had wished it so.
///
/// # Errors
/// When no engine works here, a worker fails, or the link cannot be waited for.
pub fn run(options: Options) -> Result<(), RunError> {
    let selected = engine::probe(options.engine).map_err(|e| RunError::Engine(e.to_string()))?;
    let count = options.workers.map_or_else(default_workers, NonZeroUsize::get);
    let mailboxes: Arc<[Mailbox<ToWorker>]> = (0..count).map(|_| Mailbox::default()).collect();
    let inbox = Arc::new(Mailbox::default());
    let resolver = Resolver::new(Arc::clone(&mailboxes));
    let bell = Waker::new().map_err(RunError::Link)?;
    inbox.attach(bell.clone());

    let breakers = Arc::new(Breakers::default());
    let rate_limits = Arc::new(RateLimits::default());
    let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
    let journals: Vec<Arc<Journal>> = (0..count).map(|_| Arc::default()).collect();
    let mut threads = Vec::with_capacity(count);
    for (index, counters) in counters.iter().enumerate() {
        let id = WorkerId(u32::try_from(index).expect("workers are few"));
        let surroundings = Surroundings {
            id,
            mailboxes: Arc::clone(&mailboxes),
            link: Arc::clone(&inbox),
            breakers: Arc::clone(&breakers),
            rate_limits: Arc::clone(&rate_limits),
            resolver: Arc::clone(&resolver),
            journal: Arc::clone(&journals[index]),
        };
        let counters = Arc::clone(counters);
        match start_worker(selected.backend, surroundings, counters) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop(&mailboxes, threads);
                return Err(RunError::Start { worker: index, error });
            }
        }
    }
    let introduction =
        Introduction { engine: selected.backend.name().to_owned(), engine_reason: selected.reason };
    let link = Link::new(
        options.link,
        introduction,
        bell,
        inbox,
        Arc::clone(&mailboxes),
        Workers { counters, journals, breakers },
    );
    let end = link.run();
    stop(&mailboxes, threads);
    match end {
        Ok(End::Told) => Ok(()),
        Ok(End::WorkerFailed(problem)) => Err(RunError::Worker(problem)),
        Err(error) => Err(RunError::Link(error)),
    }
}

fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS_DEFAULT_MAX)
}

/// Returns once the worker has its engine: a ring belongs to the thread that made it.
fn start_worker(
    backend: Backend,
    surroundings: Surroundings,
    counters: Arc<Counters>,
) -> Result<JoinHandle<()>, String> {
    let (started, starting) = mpsc::channel();
    let name = format!("worker-{}", surroundings.id.0);
    let body = move || match backend {
        Backend::Epoll => serve(engine::epoll(), surroundings, counters, &started),
        Backend::Uring => serve(engine::uring(), surroundings, counters, &started),
    };
    let thread = thread::Builder::new().name(name).stack_size(WORKER_STACK_BYTES).spawn(body);
    let thread = thread.map_err(|error| error.to_string())?;
    match starting.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err("it ended before it started".to_owned()),
    }
}

fn serve<E: Engine>(
    engine: Result<E, EngineError>,
    surroundings: Surroundings,
    counters: Arc<Counters>,
    started: &mpsc::Sender<Result<(), String>>,
) {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            // The starter waits for exactly this.
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    let (worker, link) = (surroundings.id, Arc::clone(&surroundings.link));
    surroundings.mailboxes[worker.index()].attach(engine.waker());
    let _ = started.send(Ok(()));
    let ended = Worker::new(engine, counters, surroundings).run();
    link.put(FromWorker::Ended { worker, error: ended.err().map(|error| error.to_string()) });
}

fn stop(mailboxes: &[Mailbox<ToWorker>], threads: Vec<JoinHandle<()>>) {
    for mailbox in mailboxes {
        mailbox.put(ToWorker::Exit);
    }
    for thread in threads {
        // A worker that panicked has said so on standard error.
        let _ = thread.join();
    }
}

//! Looks up names of hosts outside of Dapr, on threads that may block.
//!
//! `getaddrinfo` knows /etc/hosts, nsswitch and search domains, as Go's resolver does, and waits
//! for servers that do not answer. So it runs beside the workers: a few threads at the most, which
//! end when there is nothing left to ask. The data plane needs no control for it.

#![forbid(unsafe_code)]

use crate::{
    dapr::external::LookupError,
    limits::{HOST_QUESTIONS_MAX, RESOLVER_THREADS_MAX},
    mailbox::{Mailbox, ToWorker, WorkerId},
};
use crossbeam_queue::ArrayQueue;
use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Shared by all workers.
pub(crate) struct Resolver {
    questions: ArrayQueue<Question>,
    threads: AtomicUsize,
    workers: Arc<[Mailbox<ToWorker>]>,
}

struct Question {
    worker: WorkerId,
    name: Box<str>,
}

impl Resolver {
    pub(crate) fn new(workers: Arc<[Mailbox<ToWorker>]>) -> Arc<Self> {
        let questions = ArrayQueue::new(HOST_QUESTIONS_MAX);
        Arc::new(Self { questions, threads: AtomicUsize::new(0), workers })
    }

    /// The answer comes as [`ToWorker::Host`].
    ///
    /// # Errors
    /// The name, when so many are waiting that this one would wait too long, or no thread can be
    /// had.
    pub(crate) fn ask(self: &Arc<Self>, worker: WorkerId, name: Box<str>) -> Result<(), Box<str>> {
        self.questions.push(Question { worker, name }).map_err(|question| question.name)?;
        if self.take_thread() {
            let resolver = Arc::clone(self);
            let builder = thread::Builder::new().name("resolver".to_owned());
            if builder.spawn(move || resolver.run()).is_err() {
                let left = self.threads.fetch_sub(1, SeqCst) - 1;
                // Whoever runs will come to it; if nobody does, nobody may wait.
                if left == 0 {
                    while let Some(Question { worker, name }) = self.questions.pop() {
                        self.answer(worker, name, Err(LookupError::Busy));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the caller may be one more. In one order with pushes and pops, so that no question
    /// is left behind.
    fn take_thread(&self) -> bool {
        let more = |count| (count < RESOLVER_THREADS_MAX).then_some(count + 1);
        self.threads.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    fn run(&self) {
        loop {
            while let Some(Question { worker, name }) = self.questions.pop() {
                let found = look_up(&name);
                self.answer(worker, name, found);
            }
            self.threads.fetch_sub(1, SeqCst);
            // A question that came in between may have found all places taken.
            if self.questions.is_empty() || !self.take_thread() {
                return;
            }
        }
    }

    fn answer(&self, worker: WorkerId, name: Box<str>, found: Result<Vec<IpAddr>, LookupError>) {
        // A worker that is so far behind is not helped by waiting; its calls have a deadline.
        let _ = self.workers[worker.index()].try_put(ToWorker::Host { name, found });
    }
}

fn look_up(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => {
            let mut found: Vec<IpAddr> = Vec::new();
            for address in addresses.map(|address| address.ip()) {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
            if found.is_empty() { Err(LookupError::NoSuchHost) } else { Ok(found) }
        }
        Err(error) => Err(reason_of(&error)),
    }
}

/// The standard library tells `EAI_AGAIN` from `EAI_NONAME` in words only.
fn reason_of(error: &io::Error) -> LookupError {
    if error.to_string().contains("Temporary failure") {
        LookupError::Temporary
    } else {
        LookupError::NoSuchHost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn every_question_has_an_answer_from_a_few_threads() {
        let workers: Arc<[Mailbox<ToWorker>]> = (0..2).map(|_| Mailbox::default()).collect();
        let resolver = Resolver::new(Arc::clone(&workers));
        for _ in 0..20 {
            for worker in 0..2 {
                resolver.ask(WorkerId(worker), "127.0.0.1".into()).unwrap();
                assert!(
                    resolver.threads.load(std::sync::atomic::Ordering::Acquire)
                        <= RESOLVER_THREADS_MAX
                );
            }
        }
        let give_up = clock::now() + Duration::from_secs(20);
        let mut answers = 0;
        while answers < 40 {
            assert!(clock::now() < give_up, "{answers} answers");
            for mailbox in workers.iter() {
                let Some(message) = mailbox.take() else { continue };
                let ToWorker::Host { name, found } = message else { panic!("{message:?}") };
                assert_eq!((&*name, found), ("127.0.0.1", Ok(vec!["127.0.0.1".parse().unwrap()])));
                answers += 1;
            }
            thread::yield_now();
        }
    }
}

//! The submission and completion rings: entries go in, one enter a turn, completions come out.
//!
//! Entries leave in the order in which they were pushed, however many there are. A full submission
//! ring is not an error: what does not fit waits here and leaves in the same enter's wake.

use super::Completion;
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue, types};
use rustix::io::Errno;
use std::{collections::VecDeque, io, ptr::NonNull, time::Duration};

use crate::limits::{COMPLETION_ENTRIES, RING_ENTRIES};

pub(super) struct Ring {
    /// Keeps the registered index of the ring's descriptor, so there is one for the ring's whole
    /// life.
    submitter: Submitter<'static>,
    ring: NonNull<IoUring>,
    waiting: VecDeque<squeue::Entry>,
    flags: EnterFlags,
    mode: TaskMode,
}

/// When the kernel runs the second half of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TaskMode {
    /// Inside our enter only (kernel 6.1): no interruption, batches by itself.
    Deferred,
    /// At our next system call (kernel 5.19).
    Cooperative,
}

impl Ring {
    /// # Errors
    /// The kernel's word on why there is no ring.
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self::around(set_up()?))
    }

    /// A ring as a kernel before 6.1 gives it.
    #[cfg(test)]
    pub(super) fn cooperative() -> Result<Self, Errno> {
        Ok(Self::around(try_set_up(TaskMode::Cooperative, false)?))
    }

    fn around((ring, mode): (IoUring, TaskMode)) -> Self {
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box was just leaked, so the ring stays where it is until `drop` takes it
        // back, and it is only ever borrowed shared. `submitter` lives no longer: `drop` uses it
        // last.
        let shared: &'static IoUring = unsafe { ring.as_ref() };
        let mut submitter = shared.submitter();
        // Saves the kernel a look-up a turn; a sandbox may refuse it, and then the plain descriptor
        // does.
        let _ = submitter.register_ring_fd();
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if shared.params().is_feature_no_iowait() {
            // Else a waiting worker shows as 100 % I/O wait (kernel 6.15).
            flags |= EnterFlags::NO_IOWAIT;
        }
        Self { submitter, ring, waiting: VecDeque::new(), flags, mode }
    }

    pub(super) const fn mode(&self) -> TaskMode {
        self.mode
    }

    pub(super) const fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// What the engine is built on and the kernel does not have, if anything.
    pub(super) fn missing_feature(&self) -> Option<&'static str> {
        let parameters = self.ring().params();
        [
            ("CQE_SKIP", parameters.is_feature_skip_cqe_on_success()),
            ("EXT_ARG", parameters.is_feature_ext_arg()),
            ("FAST_POLL", parameters.is_feature_fast_poll()),
            ("NODROP", parameters.is_feature_nodrop()),
            ("SUBMIT_STABLE", parameters.is_feature_submit_stable()),
        ]
        .into_iter()
        .find_map(|(name, present)| if present { None } else { Some(name) })
    }

    /// Adds an entry to what the next enter submits.
    ///
    /// # Safety All memory that the entry points to stays, unmoved and unwritten, until the
    /// operation's last completion.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(entry);
            return;
        }
        // SAFETY: no other view of the submission ring exists: each is dropped by the method that
        // took it.
        let mut submission = unsafe { self.ring().submission_shared() };
        // SAFETY: the caller keeps what the entry points to.
        let pushed = unsafe { submission.push(&entry) };
        drop(submission);
        if pushed.is_err() {
            self.waiting.push_back(entry);
        }
    }

    /// Whether the kernel has taken every entry that was pushed.
    pub(super) fn is_submitted(&self) -> bool {
        // SAFETY: no other view of the submission ring exists: each is dropped by the method that
        // took it.
        self.waiting.is_empty() && unsafe { self.ring().submission_shared() }.is_empty()
    }

    /// Whether completions wait inside the kernel for room in the ring.
    pub(super) fn is_overflown(&self) -> bool {
        // SAFETY: no other view of the submission ring exists: each is dropped by the method that
        // took it.
        unsafe { self.ring().submission_shared() }.cq_overflow()
    }

    /// Submits what was pushed, and waits for a completion unless `timeout` is zero (`None`:
    /// without limit). One system call, as long as the entries fit the ring.
    ///
    /// # Errors
    /// Only when the ring itself is unusable.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        loop {
            let count = self.refill();
            let last = self.waiting.is_empty();
            let taken =
                self.enter_once(count, if last { timeout } else { Some(Duration::ZERO) })?;
            if last || taken == 0 {
                return Ok(());
            }
        }
    }

    fn enter_once(&self, count: u32, timeout: Option<Duration>) -> Result<usize, Errno> {
        let time = timeout.map(types::Timespec::from);
        let mut arguments = types::SubmitArgs::new();
        let mut want = 1;
        match &time {
            Some(_) if timeout == Some(Duration::ZERO) => want = 0,
            Some(time) => arguments = arguments.timespec(time),
            None => {}
        }
        // SAFETY: `arguments` and the time it points to live on this stack frame, which the call
        // does not outlive, and EXT_ARG says which structure it is.
        let entered =
            unsafe { self.submitter.enter(count, want, self.flags.bits(), Some(&arguments)) };
        match entered {
            Ok(taken) => Ok(taken),
            Err(error) => match errno(&error) {
                // Time over, a signal, or no memory or room for completions just now: the caller
                // drains and the next turn submits again.
                Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY => Ok(0),
                error => Err(error),
            },
        }
    }

    /// Moves waiting entries into the ring; returns how many are to be submitted.
    fn refill(&mut self) -> u32 {
        // SAFETY: no other view of the submission ring exists: each is dropped by the method that
        // took it.
        let mut submission = unsafe { self.ring.as_ref().submission_shared() };
        while let Some(entry) = self.waiting.front() {
            // SAFETY: the entry's pusher promised to keep what it points to until its last
            // completion.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
        u32::try_from(submission.len()).unwrap_or(RING_ENTRIES)
    }

    /// Takes all completions out of the ring.
    pub(super) fn drain(&mut self, completions: &mut Vec<Completion>) {
        // SAFETY: no other view of the completion ring exists: this method is the only one to take
        // it.
        let completion: cqueue::CompletionQueue<'_> = unsafe { self.ring().completion_shared() };
        completions.extend(completion.map(|entry| Completion {
            bits: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    const fn ring(&self) -> &IoUring {
        // SAFETY: `ring` came from a leaked box that only `drop` takes back, and no `&mut` to it is
        // ever made.
        unsafe { self.ring.as_ref() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // An index of the registered descriptor that stays would keep the ring alive.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: `ring` came from `Box::leak` in `new` and is taken back this once; the submitter
        // that borrows it has no destructor and is not used again.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

/// The best ring that the kernel gives. Never one with default flags: those interrupt us for each
/// completion, and cost more than epoll does.
fn set_up() -> Result<(IoUring, TaskMode), Errno> {
    let mut outcome = try_set_up(TaskMode::Deferred, true);
    // EINVAL means a flag the kernel does not know: first NO_SQARRAY (6.6), then DEFER_TASKRUN
    // (6.1).
    if outcome.as_ref().is_err_and(|error| *error == Errno::INVAL) {
        outcome = try_set_up(TaskMode::Deferred, false);
    }
    if outcome.as_ref().is_err_and(|error| *error == Errno::INVAL) {
        outcome = try_set_up(TaskMode::Cooperative, false);
    }
    outcome
}

fn try_set_up(mode: TaskMode, without_index_array: bool) -> Result<(IoUring, TaskMode), Errno> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETION_ENTRIES);
    match mode {
        TaskMode::Deferred => builder.setup_defer_taskrun(),
        TaskMode::Cooperative => builder.setup_coop_taskrun(),
    };
    if without_index_array {
        builder.setup_no_sqarray();
    }
    builder.dontfork();
    let ring = builder.build(RING_ENTRIES).map_err(|error| errno(&error))?;
    Ok((ring, mode))
}

pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

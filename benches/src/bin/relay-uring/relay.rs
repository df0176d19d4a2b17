//! The loop: submit sends, wait, take completions, queue what arrived.
//!
//! A send is submitted with MSG_DONTWAIT and IOSQE_CQE_SKIP_SUCCESS: the kernel executes it during
//! the submission, and only a short or failed one posts a completion. So one wait for one event
//! ends a turn, and none ends at once because of a send that merely worked. The price: what must
//! follow a send (FIN, more of the queue, its buffers where somebody lacks one) may not wait for an
//! event, since none may come; such a turn only submits.

use crate::{
    buffers::{Buffers, GROUP, Slice},
    pair::{GATHER_SLICES, Pair, Sending},
    token::{Side, Token},
};
use anyhow::{Context, Result};
use io_uring::{
    CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types,
};
use loadtests::socket;
use snapshot::Address;
use socket2::Socket;
use std::{
    io,
    net::Shutdown,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const ENTRIES: u32 = 512;
/// Receives that found no buffer are armed again when this many are free: at one or two they would
/// fail again at once.
const RESUME_BUFFERS: u16 = 32;
/// MSG_WAITALL makes a short send a failed one, which posts its completion in spite of
/// IOSQE_CQE_SKIP_SUCCESS.
const INLINE_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
/// Without MSG_WAITALL, since the kernel moves a request to a worker thread after it polled for it
/// 128 times (`APOLL_MAX_RETRY`), and a slow reader takes a large send in more pieces than that.
const WAITING_FLAGS: i32 = libc::MSG_NOSIGNAL;

struct Relay<'a> {
    submitter: Submitter<'a>,
    submission: SubmissionQueue<'a>,
    buffers: Buffers,
    pairs: Vec<Option<Pair>>,
    free: Vec<u32>,
    /// Ends whose queue may be sent in this turn.
    dirty: Vec<Side>,
    /// Ends with a send submitted that is settled when the turn's completions have been seen.
    inline: Vec<Side>,
    /// Something must follow one of these sends: the turn may not wait.
    settles_at_once: bool,
    /// Ends that could not receive for want of a buffer.
    starved: Vec<Side>,
    listener: &'a Socket,
    bound: &'a Address,
    upstream: Address,
}

pub(crate) fn run(listener: &Socket, bound: &Address, upstream: Address) -> Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(8 * ENTRIES)
        .build(ENTRIES)
        .context("this yardstick needs io_uring with DEFER_TASKRUN (Linux 6.1)")?;
    let (mut submitter, submission, mut completion) = ring.split();
    submitter.register_ring_fd()?;
    let mut relay = Relay {
        buffers: Buffers::register(&submitter)?,
        submitter,
        submission,
        pairs: Vec::new(),
        free: Vec::new(),
        dirty: Vec::new(),
        inline: Vec::new(),
        settles_at_once: false,
        starved: Vec::new(),
        listener,
        bound,
        upstream,
    };
    relay.accept()?;
    loop {
        relay.turn(&mut completion)?;
    }
}

impl Relay<'_> {
    fn turn(&mut self, completion: &mut CompletionQueue<'_>) -> Result<()> {
        self.resume_starved()?;
        self.submit_sends()?;
        self.buffers.publish();
        self.submission.sync();
        let want = usize::from(!self.settles_at_once);
        match self.submitter.submit_and_wait(want) {
            Ok(_) => {}
            // Interrupted, or completions must be taken first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error.into()),
        }
        self.submission.sync();
        let submitted = self.submission.is_empty();
        completion.sync();
        for entry in completion.by_ref() {
            self.on_completion(&entry)?;
        }
        // The kernel counts what it sees as not taken towards the next wait.
        completion.sync();
        if submitted {
            self.settle_sends();
        }
        Ok(())
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> Result<()> {
        match Token::unpack(entry.user_data()) {
            Token::Accept => self.on_accepted(entry),
            Token::Receive(side) => self.on_received(side, entry),
            Token::Send(side) => self.on_sent(side, entry.result()),
        }
    }

    fn accept(&mut self) -> Result<()> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(Token::Accept.pack()))
    }

    fn on_accepted(&mut self, entry: &cqueue::Entry) -> Result<()> {
        if let Ok(fd) = result_of(entry.result()) {
            // SAFETY: the kernel made this descriptor for this completion, and nobody else has seen
            // its number.
            let client = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
            self.start_pair(client.into())?;
        }
        if cqueue::more(entry.flags()) { Ok(()) } else { self.accept() }
    }

    fn start_pair(&mut self, client: Socket) -> Result<()> {
        socket::set_no_delay(&client, self.bound)?;
        let upstream = match socket::connect(&self.upstream) {
            Ok(upstream) => upstream,
            Err(error) => {
                eprintln!("{error:#}");
                return Ok(());
            }
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.pairs.push(None);
                u32::try_from(self.pairs.len() - 1)?
            }
        };
        self.pairs[index as usize] = Some(Pair::new(client, upstream));
        self.receive(Side { pair: index, end: 0 })?;
        self.receive(Side { pair: index, end: 1 })
    }

    fn pair(&mut self, side: Side) -> &mut Pair {
        self.pairs[side.pair as usize].as_mut().expect("a pair outlives its operations")
    }

    fn receive(&mut self, side: Side) -> Result<()> {
        let pair = self.pair(side);
        pair.outstanding += 1;
        let fd = types::Fd(pair.ends[side.end].socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        self.push(&entry.user_data(Token::Receive(side).pack()))
    }

    fn on_received(&mut self, side: Side, entry: &cqueue::Entry) -> Result<()> {
        let ended = !cqueue::more(entry.flags());
        if ended {
            self.pair(side).outstanding -= 1;
        }
        if let Some(buffer) = cqueue::buffer_select(entry.flags()) {
            self.buffers.on_filled();
            let len = u32::try_from(entry.result()).unwrap_or(0);
            let pair = self.pair(side);
            if len == 0 || pair.broken {
                self.buffers.give_back(buffer);
            } else {
                pair.ends[side.other().end].queue.push_back(Slice { buffer, start: 0, len });
                self.dirty.push(side.other());
            }
        }
        match result_of(entry.result()) {
            Ok(0) => self.on_read_closed(side),
            Ok(_) if ended && !self.pair(side).broken => return self.receive(side),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.starved.push(side),
            Err(_) => self.fail(side),
        }
        self.drop_finished(side);
        Ok(())
    }

    fn on_read_closed(&mut self, side: Side) {
        self.pair(side).ends[side.end].read_closed = true;
        self.pass_fin(side.other());
    }

    /// FIN follows the last byte.
    fn pass_fin(&mut self, to: Side) {
        let pair = self.pair(to);
        let read_closed = pair.ends[to.other().end].read_closed;
        let end = &mut pair.ends[to.end];
        let sent = end.queue.is_empty() && end.sending == Sending::Idle;
        if read_closed && sent && !end.write_closed {
            end.write_closed = true;
            // A peer that is gone already has nothing to shut down.
            let _ = end.socket.shutdown(Shutdown::Write);
        }
    }

    fn submit_sends(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for side in dirty.drain(..) {
            // A pair may have ended since its queue grew.
            let Some(pair) = self.pairs[side.pair as usize].as_ref() else { continue };
            let end = &pair.ends[side.end];
            if !pair.broken && end.sending == Sending::Idle && !end.queue.is_empty() {
                self.send(side, INLINE_FLAGS)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn send(&mut self, side: Side, flags: i32) -> Result<()> {
        let pair = self.pairs[side.pair as usize].as_mut().context("a pair that ended sends")?;
        let end = &mut pair.ends[side.end];
        let fd = types::Fd(end.socket.as_raw_fd());
        let (entry, bytes) = match end.queue.len() {
            1 => {
                let slice = end.queue[0];
                let address = self.buffers.address(slice);
                let entry = opcode::Send::new(fd, address, slice.len).flags(flags).build();
                (entry, slice.len as usize)
            }
            _ => {
                let (message, bytes) = end.gather.fill(&end.queue, &self.buffers);
                let flags = flags.cast_unsigned();
                (opcode::SendMsg::new(fd, message).flags(flags).build(), bytes)
            }
        };
        let entry = entry.user_data(Token::Send(side).pack());
        if flags & libc::MSG_DONTWAIT != 0 {
            let sends_all = end.queue.len() <= GATHER_SLICES;
            let fin_follows = pair.ends[side.other().end].read_closed;
            self.settles_at_once |= !sends_all || fin_follows || !self.starved.is_empty();
            let end = &mut pair.ends[side.end];
            end.sending = Sending::Inline { bytes };
            self.inline.push(side);
            return self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS));
        }
        end.sending = Sending::Waiting;
        pair.outstanding += 1;
        self.push(&entry)
    }

    /// A send that waited, or an inline one that fell short or failed.
    fn on_sent(&mut self, side: Side, result: i32) -> Result<()> {
        let pair = self.pairs[side.pair as usize].as_mut().context("a send outlived its pair")?;
        let end = &mut pair.ends[side.end];
        let waited = end.sending == Sending::Waiting;
        end.sending = Sending::Idle;
        if waited {
            pair.outstanding -= 1;
        }
        match result_of(result) {
            Ok(bytes) => pair.ends[side.end].on_sent(bytes, &mut self.buffers),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.fail(side);
                self.drop_finished(side);
                return Ok(());
            }
        }
        if self.pair(side).broken {
            self.drop_finished(side);
        } else if self.pair(side).ends[side.end].queue.is_empty() {
            self.pass_fin(side);
            self.drop_finished(side);
        } else if waited {
            self.dirty.push(side);
        } else {
            return self.send(side, WAITING_FLAGS);
        }
        Ok(())
    }

    /// All completions of the turn were seen: an inline send without one was taken whole.
    fn settle_sends(&mut self) {
        self.settles_at_once = false;
        let mut inline = std::mem::take(&mut self.inline);
        for side in inline.drain(..) {
            let Some(pair) = self.pairs[side.pair as usize].as_mut() else { continue };
            let end = &mut pair.ends[side.end];
            let Sending::Inline { bytes } = end.sending else { continue };
            end.sending = Sending::Idle;
            end.on_sent(bytes, &mut self.buffers);
            if !end.queue.is_empty() {
                self.dirty.push(side);
            }
            self.pass_fin(side);
            self.drop_finished(side);
        }
        self.inline = inline;
    }

    fn resume_starved(&mut self) -> Result<()> {
        if self.starved.is_empty() || self.buffers.with_kernel() < RESUME_BUFFERS {
            return Ok(());
        }
        self.buffers.publish();
        for side in std::mem::take(&mut self.starved) {
            let alive = self.pairs[side.pair as usize].as_ref().is_some_and(|pair| !pair.broken);
            if alive {
                self.receive(side)?;
            }
        }
        Ok(())
    }

    /// Ends both connections: their multishot receives complete, and the last completion drops the
    /// pair.
    fn fail(&mut self, side: Side) {
        let pair = self.pair(side);
        pair.broken = true;
        for end in &pair.ends {
            // The one that failed may be gone already.
            let _ = end.socket.shutdown(Shutdown::Both);
        }
    }

    fn drop_finished(&mut self, side: Side) {
        let slot = &mut self.pairs[side.pair as usize];
        if !slot.as_ref().is_some_and(Pair::is_finished) {
            return;
        }
        for slice in slot.take().into_iter().flat_map(|pair| pair.ends).flat_map(|end| end.queue) {
            self.buffers.give_back(slice.buffer);
        }
        self.starved.retain(|starved| starved.pair != side.pair);
        self.free.push(side.pair);
    }

    /// Submits in between when the queue is full; what completes meanwhile waits in the completion
    /// queue.
    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        loop {
            // SAFETY: the socket, buffers and message that `entry` names live until its last
            // completion: a pair is dropped only when nothing is outstanding, buffers are given
            // back after the send, the gather is boxed.
            if unsafe { self.submission.push(entry) }.is_ok() {
                return Ok(());
            }
            self.submission.sync();
            self.submitter.submit()?;
            self.submission.sync();
        }
    }
}

fn result_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

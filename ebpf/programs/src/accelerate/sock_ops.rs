//! sockops: finds the connections between an app and the data plane, and puts both ends into the
//! map before either can send.
//!
//! ```text
//!   TCP_CONNECT          who dials where, in the task that does: a Direction at the socket
//!   ACTIVE_ESTABLISHED   the caller's end into SOCKETS; HALF_OPEN[namespace, 4-tuple] = ticket
//!   PASSIVE_ESTABLISHED  the callee's end into SOCKETS, before accept can see it
//!   HDR_OPT_LEN          where an app's first bytes by TCP end, and where the counted ones
//!   STATE, to CLOSE      whatever stayed half open
//! ```

use crate::{
    maps::{ACCELERATION, DIRECTIONS, HALF_OPEN, HOPS, PARTIES, SOCKETS, count},
    storage,
};
use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
        bpf_get_socket_cookie,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use core::ptr::read_volatile;
use ebpf_common::{
    Endpoint, Flow, Ip,
    accelerate::{DATA_PLANE, Direction, End, Hop, Pace, Side, Ticket},
};

#[sock_ops]
pub fn ringcar_accelerate(context: SockOpsContext) -> u32 {
    match context.op() {
        TCP_CONNECT => on_dial(&context),
        ACTIVE_ESTABLISHED => on_dialed(&context),
        PASSIVE_ESTABLISHED => on_accepted(&context),
        STATE => on_state(&context),
        HDR_OPT_LEN => on_transmit(&context),
        _ => {}
    }
    1
}

#[inline(always)]
fn on_dial(context: &SockOpsContext) {
    let socket = socket(context);
    if let Some(direction) = storage::find(&DIRECTIONS, socket) {
        // A socket that connects anew has its cookie, and somebody may still hold what is told by
        // it: all goes by TCP from now on.
        // SAFETY: the value is this socket's, which its connect has locked.
        unsafe { *direction = Direction::of_nobody() };
        return;
    }
    let Some(remote) = remote(context) else { return };
    let Some(hop) = find_hop(context, remote) else { return };
    let Some(side) = dialer(&hop) else { return };
    // SAFETY: the context is this program's own.
    let ticket = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(direction) = storage::find_or_create(&DIRECTIONS, socket) else {
        return count(Pace::Full);
    };
    // SAFETY: the value is this socket's, which its connect has locked.
    unsafe { *direction = Direction::new(ticket, side, true) };
}

#[inline(always)]
fn on_dialed(context: &SockOpsContext) {
    let socket = socket(context);
    let Some(direction) = storage::find(&DIRECTIONS, socket) else { return };
    // SAFETY: the value is this socket's, which is locked in this callback.
    let direction = unsafe { &mut *direction };
    if direction.is_nobodys() {
        return;
    }
    direction.first = next(context);
    let Some(flow) = flow(context) else { return };
    let watched = if direction.is_apps() { STATE_FLAG | WRITE_HDR_FLAG } else { STATE_FLAG };
    // Without them an entry could stay, or bytes go uncounted.
    if context.set_cb_flags(context.cb_flags() as i32 | watched).is_err() {
        return direction.miss();
    }
    if !insert(context, End { ticket: direction.ticket, side: u64::from(direction.side) }) {
        return direction.miss();
    }
    if HALF_OPEN.insert(flow, direction.ticket, 0).is_err() {
        count(Pace::Full);
    }
}

#[inline(always)]
fn on_accepted(context: &SockOpsContext) {
    let Some(flow) = flow(context) else { return };
    let dialed = Flow { netns: flow.netns, local: flow.remote, remote: flow.local };
    // SAFETY: the value is copied at once, and stays readable until the program ends (RCU).
    let Some(ticket) = (unsafe { HALF_OPEN.get(dialed) }).copied() else { return };
    let _ = HALF_OPEN.remove(dialed);
    let Some(hop) = find_hop(context, flow.local) else { return };
    let side = if hop.listener == Side::App as u64 { Side::App } else { Side::DataPlane };
    let socket = socket(context);
    let Some(direction) = storage::find_or_create(&DIRECTIONS, socket) else {
        return count(Pace::Full);
    };
    let ticket: Ticket = ticket;
    // SAFETY: the value is this socket's, which nobody else has yet.
    let direction = unsafe { &mut *direction };
    *direction = Direction::new(ticket, side, false);
    if insert(context, End { ticket, side: side as u64 }) {
        count(Pace::Connections);
    } else {
        direction.miss();
    }
}

#[inline(always)]
fn on_state(context: &SockOpsContext) {
    if context.arg(1) == CLOSE
        && storage::find(&DIRECTIONS, socket(context)).is_some()
        && let Some(flow) = flow(context)
    {
        // Most were taken long ago.
        let _ = HALF_OPEN.remove(flow);
    }
}

/// Also asked when the size of segments is computed; there is no packet then, and no bytes.
#[inline(always)]
fn on_transmit(context: &SockOpsContext) {
    let Some(direction) = storage::find(&DIRECTIONS, socket(context)) else { return };
    // SAFETY: the value is this socket's, which is locked in this callback.
    let direction = unsafe { &mut *direction };
    // SAFETY: a field of the program's own context.
    let bytes = unsafe { read_volatile(&raw const (*context.ops).skb_len) };
    // A FIN has a sequence number of its own, which is no byte.
    if direction.on_transmit(next(context), u64::from(bytes)) && bytes > 0 {
        count(Pace::Doubt);
    }
    if direction.is_settled() {
        let _ = context.set_cb_flags(context.cb_flags() as i32 & !WRITE_HDR_FLAG);
    }
}

/// Sequence number of the next new byte.
#[inline(always)]
fn next(context: &SockOpsContext) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { read_volatile(&raw const (*context.ops).snd_nxt) }
}

#[inline(always)]
fn insert(context: &SockOpsContext, end: End) -> bool {
    // SAFETY: the context is this program's own, and nothing else of it is borrowed.
    let is_in = SOCKETS.update(end, unsafe { &mut *context.ops }, 0).is_ok();
    if !is_in {
        count(Pace::Full);
    }
    is_in
}

/// What is dialled, if connections to it are accelerated.
#[inline(always)]
fn find_hop(context: &SockOpsContext, at: Endpoint) -> Option<Hop> {
    if !at.ip.is_loopback() {
        return None;
    }
    // SAFETY: the value is copied at once, and stays readable until the program ends (RCU).
    let hop = *unsafe { HOPS.get(Endpoint::new(Ip::ANY_LOCAL, at.port)) }?;
    let settings = ACCELERATION.get(0)?;
    (netns(context) == settings.netns).then_some(hop)
}

/// The side that dials, if it is the app or the data plane that this connection is for. Runs in the
/// task that connects.
#[inline(always)]
fn dialer(hop: &Hop) -> Option<Side> {
    let listener_is_app = hop.listener == Side::App as u64;
    let wanted = if listener_is_app { DATA_PLANE } else { hop.app };
    // SAFETY: the helpers read the current task; the value is one word, copied at once.
    let own = unsafe { PARTIES.get(bpf_get_current_cgroup_id()) }.copied();
    let party = own.or_else(party_above)?;
    (party == wanted).then_some(if listener_is_app { Side::DataPlane } else { Side::App })
}

/// Of the innermost registered cgroup above the task's own.
#[inline(always)]
fn party_above() -> Option<u64> {
    let mut found = None;
    let mut level = 1;
    while level < CGROUP_DEPTH_MAX {
        // SAFETY: the helper reads the current task.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is one word, copied at once.
        if let Some(party) = unsafe { PARTIES.get(id) } {
            found = Some(*party);
        }
        level += 1;
    }
    found
}

#[inline(always)]
fn flow(context: &SockOpsContext) -> Option<Flow> {
    let remote = remote(context)?;
    let local = match context.family() {
        AF_INET => Ip::v4(context.local_ip4()),
        _ => Ip(words(context, true)),
    };
    let local = Endpoint::new(local, context.local_port() as u16);
    Some(Flow { netns: netns(context), local, remote })
}

/// IPv4 in its one form whatever the socket's family.
#[inline(always)]
fn remote(context: &SockOpsContext) -> Option<Endpoint> {
    let ip = match context.family() {
        AF_INET => Ip::v4(context.remote_ip4()),
        AF_INET6 => Ip(words(context, false)),
        _ => return None,
    };
    // The kernel gives the remote port as the upper half of a word in network byte order.
    Some(Endpoint::new(ip, u32::from_be(context.remote_port()) as u16))
}

#[inline(always)]
fn words(context: &SockOpsContext, is_local: bool) -> [u32; 4] {
    let ops = context.ops;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    unsafe {
        let from = if is_local {
            (&raw const (*ops).local_ip6).cast::<u32>()
        } else {
            (&raw const (*ops).remote_ip6).cast::<u32>()
        };
        [
            read_volatile(from),
            read_volatile(from.add(1)),
            read_volatile(from.add(2)),
            read_volatile(from.add(3)),
        ]
    }
}

#[inline(always)]
fn socket(context: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: a field of the program's own context.
    unsafe { (*context.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn netns(context: &SockOpsContext) -> u64 {
    // SAFETY: the context is this program's own.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) }
}

/// As for steering: an app's cgroup, or one above it, is at most this deep.
const CGROUP_DEPTH_MAX: i32 = 12;

// From linux/bpf.h: enum of callbacks, their flags, and TCP's states.
const TCP_CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
const HDR_OPT_LEN: u32 = 14;
const STATE_FLAG: i32 = 1 << 2;
const WRITE_HDR_FLAG: i32 = 1 << 6;
const CLOSE: u32 = 7;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

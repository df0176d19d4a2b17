//! sockops: hands the identity from the socket that dials to the one that accepts, and tells
//! control of apps that begin and cease to listen.
//!
//! ```text
//!   connect4/6         at the caller's socket: DIALED
//!   TCP_CONNECT        before the SYN, ports chosen: DIALED ──► FLOWS[namespace, 4-tuple]
//!   PASSIVE_ESTABLISHED before accept can see it:    FLOWS ──► PEERS, at the callee's socket
//!   STATE, to CLOSE    the caller gave up before:    FLOWS entry removed
//! ```
//! The entry between the two exists only while the caller's socket has its 4-tuple, which no other
//! socket can have meanwhile, so it cannot be taken for another connection's.

use crate::{
    maps::{DIALED, EVENTS, FLOWS, PEERS, PLACES, count},
    storage,
};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use ebpf_common::{Counter, Endpoint, Event, EventKind, Flow, Identity, Ip, PlaceKind};

#[sock_ops]
pub fn ringcar_sock_ops(context: SockOpsContext) -> u32 {
    match context.op() {
        TCP_CONNECT => on_dial(&context),
        PASSIVE_ESTABLISHED => on_accepted(&context),
        TCP_LISTEN => on_listen(&context),
        STATE => on_state(&context),
        _ => {}
    }
    1
}

#[inline(always)]
fn on_dial(context: &SockOpsContext) {
    let Some(identity) = identity_of(context) else { return };
    let Some((local, remote)) = ends(context) else { return };
    let flow = Flow { netns: netns(context), local, remote };
    if FLOWS.insert(flow, identity, 0).is_err() {
        return count(Counter::FlowsFull);
    }
    // Without it, an entry of a connection that never came about would stay.
    if context.set_cb_flags(context.cb_flags() as i32 | STATE_FLAG).is_err() {
        let _ = FLOWS.remove(flow);
    }
}

#[inline(always)]
fn on_accepted(context: &SockOpsContext) {
    let Some((local, remote)) = ends(context) else { return };
    let flow = Flow { netns: netns(context), local: remote, remote: local };
    // SAFETY: the value is copied at once, and stays readable until the program ends (RCU).
    let Some(identity) = (unsafe { FLOWS.get(flow) }).copied() else { return };
    let _ = FLOWS.remove(flow);
    // SAFETY: a field of the program's own context.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    let Some(peer) = storage::find_or_create(&PEERS, socket) else {
        return count(Counter::StorageFull);
    };
    // SAFETY: the value is this socket's, which nobody else has yet.
    unsafe { *peer = identity };
    count(Counter::Identified);
}

#[inline(always)]
fn on_listen(context: &SockOpsContext) {
    if tell(context, EventKind::Listening) {
        let _ = context.set_cb_flags(context.cb_flags() as i32 | STATE_FLAG);
    }
}

#[inline(always)]
fn on_state(context: &SockOpsContext) {
    if context.arg(1) != CLOSE {
        return;
    }
    if context.arg(0) == LISTEN {
        tell(context, EventKind::NotListening);
        return;
    }
    if identity_of(context).is_some()
        && let Some((local, remote)) = ends(context)
    {
        // Most were taken long ago.
        let _ = FLOWS.remove(Flow { netns: netns(context), local, remote });
    }
}

/// Whether the socket listens where an app is expected.
#[inline(always)]
fn tell(context: &SockOpsContext, kind: EventKind) -> bool {
    let port = context.local_port() as u16;
    let Some(ip) = local_ip(context) else { return false };
    // An app that listens at every address, or at another one than it is called at, is found by
    // its port; control looks before it believes.
    let any = Endpoint::new(Ip::ANY_LOCAL, port);
    // SAFETY: values stay readable until the program ends (RCU).
    let place = unsafe { PLACES.get(Endpoint::new(ip, port)).or_else(|| PLACES.get(any)) };
    let Some(place) = place else { return false };
    if place.kind != PlaceKind::App as u16 {
        return false;
    }
    let event = Event {
        kind: kind as u32,
        // SAFETY: reads a clock.
        at_ns: unsafe { bpf_ktime_get_ns() },
        callee: place.app,
        endpoint: Endpoint::new(ip, port),
        ..Event::default()
    };
    if EVENTS.output::<Event>(event, 0).is_err() {
        count(Counter::EventsLost);
    }
    true
}

#[inline(always)]
fn identity_of(context: &SockOpsContext) -> Option<Identity> {
    // SAFETY: a field of the program's own context.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    let dialed = storage::find(&DIALED, socket)?;
    // SAFETY: the value is this socket's, which is locked in all three callbacks.
    let (is_identified, identity) = unsafe { ((*dialed).is_identified, (*dialed).identity) };
    (is_identified == 1).then_some(identity)
}

/// Both ends, IPv4 in its one form whatever the socket's family.
#[inline(always)]
fn ends(context: &SockOpsContext) -> Option<(Endpoint, Endpoint)> {
    let local = local_ip(context)?;
    let remote = match context.family() {
        AF_INET => Ip::v4(context.remote_ip4()),
        _ => Ip(words(context, false)),
    };
    // The kernel gives the remote port as the upper half of a word in network byte order.
    let remote_port = u32::from_be(context.remote_port()) as u16;
    Some((Endpoint::new(local, context.local_port() as u16), Endpoint::new(remote, remote_port)))
}

#[inline(always)]
fn local_ip(context: &SockOpsContext) -> Option<Ip> {
    match context.family() {
        AF_INET => Some(Ip::v4(context.local_ip4())),
        AF_INET6 => Some(Ip(words(context, true))),
        _ => None,
    }
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
            core::ptr::read_volatile(from),
            core::ptr::read_volatile(from.add(1)),
            core::ptr::read_volatile(from.add(2)),
            core::ptr::read_volatile(from.add(3)),
        ]
    }
}

#[inline(always)]
fn netns(context: &SockOpsContext) -> u64 {
    // SAFETY: the context is this program's own.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) }
}

// From linux/bpf.h: enum of callbacks, their flags, and TCP's states.
const TCP_CONNECT: u32 = 3;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
const TCP_LISTEN: u32 = 11;
const STATE_FLAG: i32 = 1 << 2;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

//! A connect: who dials, what is decided, and what is noted at its socket.
//!
//! Runs in the task that connects, for every TCP connect under the cgroup. The way of one that is
//! none of our business is short: two lookups that find nothing.

use crate::{
    maps::{
        DIALED, EVENTS, GENERATION, LOCAL_IPS, MEMBERS, Outcome, PLACES, RULES, SETTINGS, VIRTUALS,
        count, count_pair,
    },
    storage,
};
use aya_ebpf::{
    EbpfContext,
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
        bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_set_retval,
        generated::{bpf_sk_lookup_tcp, bpf_sk_release},
    },
    programs::SockAddrContext,
};
use ebpf_common::{
    ANYBODY, Action, Capture, Counter, Decision, Dialed, Endpoint, Event, EventKind, Facts, Identity, Ip,
    Member, Place, Role, RuleKey, STRANGER, Settings, WhenDead, decide,
};

/// What the program does with the address that was asked for.
pub enum Verdict {
    Leave,
    /// On 127.0.0.1.
    Rewrite {
        port: u16,
    },
    /// With the error that is set.
    Refuse,
}

/// A connect to `asked` by a socket of TCP.
#[inline(always)]
pub fn on_connect(context: &SockAddrContext, asked: Endpoint) -> Verdict {
    count(Counter::Connects);
    let Some(settings) = SETTINGS.get(0) else { return Verdict::Leave };
    // SAFETY: the context is this program's own.
    let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: as above.
    let is_elsewhere = unsafe { bpf_get_netns_cookie(context.as_ptr()) } != settings.netns;
    // Another namespace's loopback is another one; the machine's other addresses are what they are.
    if is_elsewhere && asked.ip.is_loopback() {
        count(Counter::Elsewhere);
        return forget(socket);
    }
    let place = find_place(asked);
    let (cgroup, member) = find_member();
    if member.role == Role::DataPlane as u16 {
        return Verdict::Leave;
    }
    let mut identity = Identity { cgroup, app: member.app, pid: pid(), target: 0 };
    if is_ours(socket, asked, identity) {
        return Verdict::Leave;
    }
    let mut facts = facts(settings, asked, &member, place);
    // From another namespace there is no way to the data plane's loopback.
    if member.capture != Capture::Off as u16
        && !is_elsewhere
        && let Some(target) = find_target(asked)
    {
        let is_captured = member.capture == Capture::On as u16 && member.api_port != 0;
        facts.asks_app = is_captured;
        identity.target = if is_captured { target } else { 0 };
        let outcome = if is_captured { Outcome::Captured } else { Outcome::Shadowed };
        count_pair(member.app, u64::from(target), outcome);
    }
    let dial = Dial { context, settings, socket, asked, identity };
    match decide(&facts) {
        Decision::Ignore => forget(socket),
        Decision::Pass => {
            dial.count_pair(place, Outcome::Passed);
            forget(socket)
        }
        Decision::Identify => match note(socket, identity, asked, 0) {
            true => Verdict::Leave,
            false => Verdict::Refuse,
        },
        Decision::ToApi => dial.redirect(member.api_port, Counter::Steered),
        Decision::Capture => dial.redirect(member.api_port, Counter::Captured),
        Decision::ToInbound if !is_elsewhere => {
            dial.count_pair(place, Outcome::Redirected);
            dial.redirect(place.map_or(0, |place| place.inbound_port), Counter::Redirected)
        }
        // From another namespace there is no way to the data plane's loopback.
        Decision::DenyRule | Decision::ToInbound => {
            dial.count_pair(place, Outcome::Denied);
            dial.deny(EventKind::DeniedByRule, place)
        }
        Decision::DenyApi => dial.deny(EventKind::DeniedAtApi, place),
    }
}

struct Dial<'a> {
    context: &'a SockAddrContext,
    settings: &'a Settings,
    socket: *mut bpf_sock,
    asked: Endpoint,
    identity: Identity,
}

impl Dial<'_> {
    #[inline(always)]
    fn redirect(&self, port: u16, counter: Counter) -> Verdict {
        if !listens(self.context, port) {
            count(Counter::PlaneDead);
            if self.settings.when_dead == WhenDead::Open as u16 {
                return forget(self.socket);
            }
            self.tell(EventKind::DeniedPlaneDead, None);
            forget(self.socket);
            // SAFETY: takes a number.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            return Verdict::Refuse;
        }
        if !note(self.socket, self.identity, self.asked, port) {
            return Verdict::Refuse;
        }
        count(counter);
        Verdict::Rewrite { port }
    }

    #[inline(always)]
    fn deny(&self, kind: EventKind, place: Option<Place>) -> Verdict {
        count(Counter::Denied);
        self.tell(kind, place);
        forget(self.socket);
        Verdict::Refuse
    }

    #[inline(always)]
    fn count_pair(&self, place: Option<Place>, outcome: Outcome) {
        let callee = place.map_or(STRANGER, |place| place.app);
        if self.identity.app != callee {
            count_pair(self.identity.app, callee, outcome);
        }
    }

    #[inline(always)]
    fn tell(&self, kind: EventKind, place: Option<Place>) {
        let event = Event {
            kind: kind as u32,
            pid: self.identity.pid,
            // SAFETY: reads a clock.
            at_ns: unsafe { bpf_ktime_get_ns() },
            caller: self.identity.app,
            callee: place.map_or(STRANGER, |place| place.app),
            endpoint: self.asked,
            reserved: 0,
            comm: bpf_get_current_comm().unwrap_or_default(),
        };
        if EVENTS.output::<Event>(event, 0).is_err() {
            count(Counter::EventsLost);
        }
    }
}

#[inline(always)]
fn facts(settings: &Settings, asked: Endpoint, member: &Member, place: Option<Place>) -> Facts {
    let is_sidecar = asked.port == settings.sidecar_port && asked.ip.is_loopback();
    let asks_sidecar = is_sidecar && settings.sidecar_port != 0 && member.api_port != 0;
    let mut facts = Facts { caller: member.app, asks_sidecar, place, ..Facts::default() };
    let callee = place.map_or(STRANGER, |place| place.app);
    if !asks_sidecar && callee != STRANGER && callee != member.app {
        // Both lookups are of one generation: it is read once.
        let generation = GENERATION.get_ptr(0).map_or(0, |word| {
            // SAFETY: one aligned word, which control may write meanwhile.
            unsafe { core::ptr::read_volatile(word) }
        });
        facts.rule = find_rule(RuleKey { generation, caller: member.app, callee });
        facts.rule_of_anybody = find_rule(RuleKey { generation, caller: ANYBODY, callee });
    }
    facts
}

#[inline(always)]
fn find_rule(key: RuleKey) -> Option<Action> {
    // SAFETY: the value is one word; whoever writes it writes it whole.
    let number = unsafe { RULES.get(key) }?;
    Some(Action::from_number(*number))
}

/// Who listens there: at this very address, or at this port of whichever address is this machine's.
#[inline(always)]
fn find_place(asked: Endpoint) -> Option<Place> {
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    if let Some(place) = unsafe { PLACES.get(asked) } {
        return Some(*place);
    }
    let is_local = asked.ip.is_loopback() || LOCAL_IPS.get_ptr(asked.ip).is_some();
    if !is_local {
        return None;
    }
    // SAFETY: as above.
    unsafe { PLACES.get(Endpoint::new(Ip::ANY_LOCAL, asked.port)) }.copied()
}

/// The number of the name that this address stands for, at this port or at all.
#[inline(always)]
fn find_target(asked: Endpoint) -> Option<u32> {
    // SAFETY: the value is one word; whoever writes it writes it whole.
    if let Some(target) = unsafe { VIRTUALS.get(asked) } {
        return Some(*target);
    }
    // SAFETY: as above.
    unsafe { VIRTUALS.get(Endpoint::new(asked.ip, 0)) }.copied()
}

/// The registered cgroup that the task is in, or the innermost one above it; zeros where there is
/// none.
#[inline(always)]
fn find_member() -> (u64, Member) {
    // SAFETY: the helpers read the current task.
    let own = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: a value that is replaced meanwhile stays readable until the program ends (RCU).
    if let Some(member) = unsafe { MEMBERS.get(own) } {
        return (own, *member);
    }
    let mut found = (0, Member::default());
    let mut level = 1;
    while level < CGROUP_DEPTH_MAX {
        // SAFETY: as above.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: as above.
        if let Some(member) = unsafe { MEMBERS.get(id) } {
            found = (id, *member);
        }
        level += 1;
    }
    found
}

#[inline(always)]
fn pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether somebody listens on 127.0.0.1 at this port: the data plane, or a control that starts
/// one.
#[inline(always)]
fn listens(context: &SockAddrContext, port: u16) -> bool {
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: Ip::LOOPBACK_V4.0[3],
                daddr: Ip::LOOPBACK_V4.0[3],
                sport: 0,
                dport: port.to_be(),
            },
        },
    };
    let bytes = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
    // SAFETY: the tuple is on the stack and at least as long as told.
    let found =
        unsafe { bpf_sk_lookup_tcp(context.as_ptr(), &raw mut tuple, bytes, CURRENT_NETNS, 0) };
    if found.is_null() {
        return false;
    }
    // SAFETY: the lookup gave us this reference, and it is not used any more.
    unsafe { bpf_sk_release(found.cast()) };
    true
}

/// Whether the socket keeps it; a redirected socket that does not know what it asked for would tell
/// its app another peer.
#[inline(always)]
fn note(socket: *mut bpf_sock, identity: Identity, asked: Endpoint, sent_to: u16) -> bool {
    let Some(dialed) = storage::find_or_create(&DIALED, socket) else {
        count(Counter::StorageFull);
        return false;
    };
    // SAFETY: the value is this socket's, which its connect has locked.
    unsafe {
        *dialed = Dialed { identity, asked, is_identified: 1, sent_to };
    }
    true
}

/// Whether the address is the one that this socket was sent to: while one build of the programs
/// takes over from another, both judge each connect, and the second one sees what the first one
/// wrote. An app that goes there by itself, with a socket that was sent there before, is known all
/// the same: who dials is noted anew.
#[inline(always)]
fn is_ours(socket: *mut bpf_sock, asked: Endpoint, identity: Identity) -> bool {
    let Some(dialed) = storage::find(&DIALED, socket) else { return false };
    // SAFETY: as in `note`.
    let sent_to = unsafe { (*dialed).sent_to };
    let is_ours = sent_to != 0 && asked.port == sent_to && asked.ip == Ip::LOOPBACK_V4;
    if is_ours {
        // SAFETY: as in `note`. What the address stood for, the first of the two has noted.
        unsafe {
            let target = (*dialed).identity.target;
            (*dialed).identity = Identity { target, ..identity };
        }
    }
    is_ours
}

/// A socket that is connected anew forgets what it was.
#[inline(always)]
fn forget(socket: *mut bpf_sock) -> Verdict {
    if let Some(dialed) = storage::find(&DIALED, socket) {
        // SAFETY: as in `note`.
        unsafe { *dialed = Dialed::default() };
    }
    Verdict::Leave
}

/// An app's cgroup, or one above it, is at most this deep. A loop in the kernel needs a bound; a
/// pod's container on a systemd host is at depth 5.
const CGROUP_DEPTH_MAX: i32 = 12;

/// BPF_F_CURRENT_NETNS.
const CURRENT_NETNS: u64 = u64::MAX;

const ECONNREFUSED: i32 = 111;

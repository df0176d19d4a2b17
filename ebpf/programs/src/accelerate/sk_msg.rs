//! sk_msg: what an accelerated socket sends, one message at a time, while its owner has it locked.
//!
//! `SK_PASS` always: with a target set the message is queued at the other socket, without one it
//! goes by TCP. A helper that finds nobody sets none.

use crate::{
    maps::{ACCELERATION, DIRECTIONS, SOCKETS, SPOKEN, TAKEN, add, count},
    storage,
};
use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action},
    macros::sk_msg,
    programs::SkMsgContext,
};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::accelerate::{Direction, Pace, Way, slot_of, word};

#[sk_msg]
pub fn ringcar_sk_msg(context: SkMsgContext) -> u32 {
    send(&context);
    sk_action::SK_PASS
}

#[inline(always)]
fn send(context: &SkMsgContext) {
    let message = context.msg;
    // SAFETY: fields of the program's own context.
    let (socket, bytes) = unsafe { ((*message).__bindgen_anon_3.sk, (*message).size) };
    let Some(direction) = storage::find(&DIRECTIONS, socket) else { return };
    // SAFETY: the value is this socket's, which its sender has locked.
    let direction = unsafe { &mut *direction };
    let Some(settings) = ACCELERATION.get(0) else { return };
    let bytes = u64::from(bytes);
    let way = direction.judge(bytes, told(direction), settings.window_bytes);
    if direction.is_apps() {
        speak(direction);
    }
    match way {
        Way::Tcp => return,
        Way::Window => return count(Pace::Window),
        Way::Budget => return count(Pace::Budget),
        Way::Resumed => count(Pace::Resumed),
        Way::Straight => {}
    }
    let found = SOCKETS.redirect_msg(context, direction.target(), u64::from(BPF_F_INGRESS));
    if found == i64::from(sk_action::SK_PASS) {
        count(Pace::Messages);
        add(Pace::Bytes, bytes);
    } else {
        direction.miss();
        count(Pace::Miss);
    }
}

/// What the other side tells of itself.
#[inline(always)]
fn told(direction: &Direction) -> u64 {
    let slot = slot_of(direction.ticket);
    let word = if direction.is_apps() { TAKEN.get_ptr(slot) } else { SPOKEN.get_ptr(slot) };
    // SAFETY: one aligned word of a map, which others may write meanwhile.
    word.map_or(0, |word| unsafe { read_volatile(word) })
}

/// An app that sends has begun to read what was sent to it.
#[inline(always)]
fn speak(direction: &Direction) {
    if let Some(place) = SPOKEN.get_ptr_mut(slot_of(direction.ticket)) {
        // SAFETY: one aligned word of a map; whoever writes it writes it whole.
        unsafe { write_volatile(place, word(direction.ticket, u64::from(direction.spoken))) };
    }
}

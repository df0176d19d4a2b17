//! Names drawn at random: of a running sidecar, and of an app that was given none.

#![forbid(unsafe_code)]

use rustix::rand::{GetRandomFlags, getrandom};
use snapshot::InstanceId;

/// A name no other sidecar of this machine has: the process id for its reader, chance for the rest,
/// since process ids repeat, and containers that share the directory count them anew.
pub(crate) fn draw() -> InstanceId {
    InstanceId(format!("{}-{}", std::process::id(), random_hex()).into())
}

pub(crate) fn random_hex() -> String {
    format!("{:016x}", u64::from_ne_bytes(random_bytes()))
}

/// An app id for `ringcar run` without `--app-id`.
pub(crate) fn silly_app_id() -> String {
    let [first, second, third, fourth, ..] = random_bytes();
    let pick = |words: &[&'static str; 16], byte: u8| words[usize::from(byte) % words.len()];
    let number = u16::from_be_bytes([third, fourth]) % 10_000;
    format!("{}-{}-{number}", pick(&ADJECTIVES, first), pick(&ANIMALS, second))
}

/// Falls back to the clock where the kernel has no random bytes yet: uniqueness is wanted here, not
/// secrecy.
fn random_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(8) => bytes,
        _ => crate::timestamp::Timestamp::now().0.to_ne_bytes(),
    }
}

const ADJECTIVES: [&str; 16] = [
    "amber", "brisk", "calm", "dapper", "eager", "fuzzy", "gentle", "humble", "jolly", "keen",
    "lucky", "mellow", "nimble", "proud", "quiet", "swift",
];

const ANIMALS: [&str; 16] = [
    "badger", "crane", "dolphin", "falcon", "gecko", "heron", "ibex", "jackal", "koala", "lemur",
    "marten", "newt", "otter", "puffin", "raven", "stoat",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_are_valid() {
        assert_ne!(draw(), draw());
        snapshot::AppId::new(&silly_app_id()).unwrap();
    }
}

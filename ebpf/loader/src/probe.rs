//! What this kernel and this process can do, as values.

#![forbid(unsafe_code)]

use crate::error::text;
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};

/// Something that steering needs of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ability {
    pub name: &'static str,
    pub since: &'static str,
    pub state: State,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    There,
    Missing,
    /// It could not be tried, and why: usually a missing capability.
    Unknown(String),
}

/// Asks the kernel; takes CAP_BPF and CAP_NET_ADMIN.
pub fn abilities() -> Vec<Ability> {
    let programs = [
        ("programs at connect and getpeername", "5.8", ProgramType::CgroupSockAddr),
        ("programs at getsockopt", "5.3", ProgramType::CgroupSockopt),
        ("programs at a connection's states", "4.13", ProgramType::SockOps),
    ];
    let maps = [
        ("values at sockets", "5.2", MapType::SkStorage),
        ("event rings", "5.8", MapType::RingBuf),
        ("hashes per CPU with eviction", "4.10", MapType::LruPerCpuHash),
    ];
    let programs = programs.into_iter().map(|(name, since, kind)| {
        let state = state(is_program_supported(kind).map_err(|e| text(&e)));
        Ability { name, since, state }
    });
    let maps = maps.into_iter().map(|(name, since, kind)| {
        let state = state(is_map_supported(kind).map_err(|e| text(&e)));
        Ability { name, since, state }
    });
    programs.chain(maps).collect()
}

fn state(answer: Result<bool, String>) -> State {
    match answer {
        Ok(true) => State::There,
        Ok(false) => State::Missing,
        Err(reason) => State::Unknown(reason),
    }
}

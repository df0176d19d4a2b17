//! Acceleration: the second object, its maps, and what control says in them.
//!
//! Programs and maps are one build's together: another build begins with maps of its own, and
//! connections that are under way keep those they began with. So a change of layout is no change to
//! any connection.

#![forbid(unsafe_code)]

use crate::{
    KernelError, Start,
    error::text,
    kernel::open,
    link::{self, AttachType},
    netns,
    object::{self, ACCELERATE},
    pins::{self, Pins},
    raw::Raw,
    tables::Table,
};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData, PerCpuArray, SockHash},
    programs::Program,
};
use ebpf_common::{
    Endpoint, Ip,
    accelerate::{Acceleration, End, Hop, Pace, WINDOW_BYTES},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

pub struct Accelerator {
    hops: Table<Raw<Endpoint>, Raw<Hop>>,
    parties: Table<u64, u64>,
    pub(crate) taken: Array<MapData, u64>,
    /// The same map, to be given away.
    credits: MapData,
    settings: Array<MapData, Raw<Acceleration>>,
    paces: PerCpuArray<MapData, u64>,
    netns: u64,
}

impl Accelerator {
    /// Brings the programs in, or finds those of an earlier control. Nothing is accelerated before
    /// [`Self::set`].
    ///
    /// # Errors
    /// When the kernel refuses, or what it takes is missing.
    pub fn start(start: &Start) -> Result<Self, KernelError> {
        pins::ensure_file_system(&start.file_system)?;
        let pins = Pins::new(&start.file_system, &start.name);
        let cgroup = fs::metadata(&start.cgroup)
            .map_err(|reason| KernelError::Pin { path: start.cgroup.clone(), reason })?;
        let object = object::name_of([ACCELERATE]);
        let (maps, links) = pins.acceleration(&object, cgroup.ino());
        if !CGROUP_PROGRAMS.iter().all(|(program, _)| links.join(program).exists()) {
            pins.remove_acceleration()?;
            pins.create()?;
            pins::make_directory(&maps)?;
            let loaded = pins::make_directory(&links)
                .and_then(|()| load(&maps))
                .and_then(|mut ebpf| attach_all(&mut ebpf, &start.cgroup, &links));
            if let Err(e) = loaded {
                // What was attached of it is taken off again.
                let _ = pins.remove_acceleration();
                return Err(e);
            }
        }
        let mut accelerator = Self {
            hops: Table::open(&maps, "HOPS")?,
            parties: Table::open(&maps, "PARTIES")?,
            taken: open(&maps, "TAKEN", Map::Array)?,
            credits: MapData::from_pin(maps.join("TAKEN"))
                .map_err(|e| KernelError::Map { map: "TAKEN", reason: text(&e) })?,
            settings: open(&maps, "ACCELERATION", Map::Array)?,
            paces: open(&maps, "PACES", Map::PerCpuArray)?,
            netns: netns::cookie().map_err(KernelError::Namespace)?,
        };
        accelerator.set_window(WINDOW_BYTES)?;
        Ok(accelerator)
    }

    /// Takes off what an earlier control brought.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(file_system: &Path, name: &str) -> Result<(), KernelError> {
        Pins::new(file_system, name).remove_acceleration()
    }

    /// Connections to these ports of loopback, by these control groups, are accelerated from now
    /// on. Those under way stay as they are.
    ///
    /// # Errors
    /// When there is no room.
    pub fn set(
        &mut self,
        hops: &BTreeMap<u16, Hop>,
        parties: &BTreeMap<u64, u64>,
    ) -> Result<(), KernelError> {
        let at = |port| Raw(Endpoint::new(Ip::ANY_LOCAL, port));
        // Who dials is known before it matters.
        self.parties.set(parties.iter().map(|(group, party)| (*group, *party)))?;
        self.hops.set(hops.iter().map(|(port, hop)| (at(*port), Raw(*hop))))
    }

    /// Of each direction of each connection, from the next message on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_window(&mut self, window_bytes: u64) -> Result<(), KernelError> {
        let settings = Raw(Acceleration { netns: self.netns, window_bytes });
        let failed = |e| KernelError::Map { map: "ACCELERATION", reason: text(&e) };
        self.settings.set(0, settings, 0).map_err(failed)
    }

    /// The map that the data plane tells in what it has read: its only one.
    ///
    /// # Errors
    /// When descriptors are short.
    pub fn credits(&self) -> io::Result<OwnedFd> {
        self.credits.fd().as_fd().try_clone_to_owned()
    }

    /// Over all CPUs, since the maps were made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self, pace: Pace) -> Result<u64, KernelError> {
        sum(&self.paces, pace)
    }
}

/// What the acceleration of each name has done, from its pinned maps.
pub fn counts(file_system: &Path, name: &str) -> Option<Vec<(Pace, u64)>> {
    let maps = Pins::new(file_system, name).acceleration_maps()?;
    let paces = open(&maps, "PACES", Map::PerCpuArray).ok()?;
    Some(Pace::ALL.into_iter().filter_map(|pace| Some((pace, sum(&paces, pace).ok()?))).collect())
}

fn sum(paces: &PerCpuArray<MapData, u64>, pace: Pace) -> Result<u64, KernelError> {
    let failed = |e| KernelError::Map { map: "PACES", reason: text(&e) };
    let values = paces.get(&(pace as u32), 0).map_err(failed)?;
    Ok(values.iter().sum())
}

fn load(maps: &Path) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::DISABLE);
    for name in MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    loader.load(ACCELERATE).map_err(|e| KernelError::Maps { reason: text(&e) })
}

/// The way of messages is known before a socket gets into the map.
fn attach_all(ebpf: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<(), KernelError> {
    load_programs(ebpf)?;
    let refused = |e: &dyn std::error::Error| KernelError::Attach {
        program: MESSAGES,
        cgroup: cgroup.into(),
        reason: text(e),
    };
    let sockets = ebpf.map("SOCKETS").ok_or_else(|| missing("SOCKETS"))?;
    let sockets: SockHash<_, Raw<End>> = SockHash::try_from(sockets).map_err(|e| refused(&e))?;
    let sockets = sockets.fd().as_fd().try_clone_to_owned().map_err(|e| refused(&e))?;
    let program = ebpf.program(MESSAGES).ok_or_else(|| missing(MESSAGES))?;
    let program = program.fd().map_err(|e| refused(&e))?;
    link::attach_to_map(program, sockets).map_err(|e| refused(&e))?;
    let directory = File::open(cgroup)
        .map_err(|reason| KernelError::Pin { path: cgroup.to_owned(), reason })?;
    for (symbol, to) in CGROUP_PROGRAMS {
        let program = ebpf.program(symbol).ok_or_else(|| missing(symbol))?;
        let program =
            program.fd().map_err(|e| KernelError::Program { program: symbol, reason: text(&e) })?;
        link::attach(program, &directory, to, &links.join(symbol)).map_err(|reason| {
            KernelError::Attach {
                program: symbol,
                cgroup: cgroup.into(),
                reason: reason.to_string(),
            }
        })?;
    }
    Ok(())
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let all = [MESSAGES, CGROUP_PROGRAMS[0].0, CGROUP_PROGRAMS[1].0];
    for symbol in all {
        let program = ebpf.program_mut(symbol).ok_or_else(|| missing(symbol))?;
        match program {
            Program::CgroupSockopt(found) => found.load(),
            Program::SkMsg(found) => found.load(),
            Program::SockOps(found) => found.load(),
            _ => return Err(KernelError::Object(format!("{symbol} is of another kind"))),
        }
        .map_err(|e| KernelError::Program { program: symbol, reason: text(&e) })?;
    }
    Ok(())
}

fn missing(name: &str) -> KernelError {
    KernelError::Object(format!("there is no {name}"))
}

const MESSAGES: &str = "ringcar_sk_msg";

/// In the order in which they are attached: the data plane can ask before anything is accelerated.
const CGROUP_PROGRAMS: [(&str, AttachType); 2] =
    [("ringcar_ticket", AttachType::Getsockopt), ("ringcar_accelerate", AttachType::SockOps)];

const MAPS: [&str; 9] = [
    "ACCELERATION",
    "DIRECTIONS",
    "HALF_OPEN",
    "HOPS",
    "PACES",
    "PARTIES",
    "SOCKETS",
    "SPOKEN",
    "TAKEN",
];

//! Programs and maps: found where an earlier control pinned them, or loaded, pinned and attached.
//!
//! ```text
//!   links of this build there ──► open their maps ─────────────────────────────► write
//!   none, or of another build ──► load ──► fill ──► attach, pin ──► take the others off
//! ```
//! Maps of an earlier layout that are the same in ours are handed on with what is in them, so that
//! connections which were dialled under the old programs are known to the new ones.
//! Nothing is steered by half: maps are filled before programs are attached, and connects are
//! judged from the moment that all programs that hand over identities are in place.

#![forbid(unsafe_code)]

use crate::{
    KernelError, Rules, Tables,
    error::text,
    events::Events,
    link::{self, AttachType},
    netns,
    object::Build,
    pins::{self, Pins},
    raw::Raw,
};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapData},
    programs::{Program, ProgramError},
};
use ebpf_common::{Settings, WhenDead};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What to bring in, and where.
#[derive(Clone, Debug)]
pub struct Start {
    /// Where bpf is mounted.
    pub file_system: PathBuf,
    /// Of the node.
    pub name: String,
    /// Directory of the cgroup whose processes are steered, those of groups within it included. The
    /// data plane's sockets must be made within it, too.
    pub cgroup: PathBuf,
    pub sidecar_port: u16,
    pub when_dead: WhenDead,
}

pub struct Kernel {
    pub tables: Tables,
    pub rules: Rules,
    pub events: Events,
    settings: Array<MapData, Raw<Settings>>,
    wanted: Settings,
    /// Another build's, or none were there.
    is_new: bool,
    pins: Pins,
    cgroup: PathBuf,
    build: Build,
}

impl Kernel {
    /// Opens what is there or makes it; nothing is attached yet that was not before.
    ///
    /// # Errors
    /// When the kernel refuses, or what it takes is missing.
    pub fn start(start: &Start) -> Result<Self, KernelError> {
        Self::start_build(start, Build::THIS)
    }

    /// The same with another build of the programs than this executable's.
    ///
    /// # Errors
    /// When the kernel refuses, or what it takes is missing.
    pub fn start_build(start: &Start, build: Build) -> Result<Self, KernelError> {
        pins::ensure_file_system(&start.file_system)?;
        let pins = Pins::of_layout(&start.file_system, &start.name, build.layout);
        pins.create()?;
        let is_new = !is_attached(&pins.links(&build.name(), cgroup_id(&start.cgroup)?));
        let maps = pins.maps();
        if !build.maps.iter().all(|(name, _)| maps.join(name).exists()) {
            pins.hand_on(build.maps)?;
            // All that is missing is made and pinned; the programs are not kept.
            load(&build, &maps)?;
        }
        let settings = open(&maps, "SETTINGS", Map::Array)?;
        let wanted = Settings {
            netns: netns::cookie().map_err(KernelError::Namespace)?,
            sidecar_port: start.sidecar_port,
            when_dead: start.when_dead as u16,
            reserved: 0,
        };
        let tables = Tables::open(&maps, &build)?;
        let rules = Rules::open(&maps)?;
        let events = Events::open(&maps)?;
        let cgroup = start.cgroup.clone();
        Ok(Self { tables, rules, events, settings, wanted, is_new, pins, cgroup, build })
    }

    /// From here on connects are steered and judged by what the maps say. Call it once they are
    /// filled.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        let failed = |e| KernelError::Map { map: "SETTINGS", reason: text(&e) };
        self.settings.set(0, Raw(self.wanted), 0).map_err(failed)?;
        let links = self.pins.links(&self.build.name(), cgroup_id(&self.cgroup)?);
        if self.is_new {
            let result = load(&self.build, &self.pins.maps()).and_then(|mut ebpf| {
                pins::make_directory(&links)?;
                attach_all(&mut ebpf, &self.cgroup, &links)
            });
            if let Err(e) = result {
                // What was attached of it is taken off again.
                let _ = pins::remove_directory(&links);
                return Err(e);
            }
            self.is_new = false;
        }
        self.pins.remove_others(&links)
    }

    /// Whether programs of an earlier control serve on.
    pub fn is_adopted(&self) -> bool {
        !self.is_new
    }

    /// Detaches everything.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn detach(self) -> Result<(), KernelError> {
        self.pins.remove().map(|_| ())
    }
}

fn cgroup_id(cgroup: &Path) -> Result<u64, KernelError> {
    let failed = |reason| KernelError::Pin { path: cgroup.to_owned(), reason };
    fs::metadata(cgroup).map(|metadata| metadata.ino()).map_err(failed)
}

fn is_attached(links: &Path) -> bool {
    PROGRAMS.iter().all(|program| links.join(pin_name(program.symbol)).exists())
}

fn load(build: &Build, maps: &Path) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::DISABLE);
    for (name, _) in build.maps {
        loader.map_pin_path(name, maps.join(name));
    }
    loader.load(build.object).map_err(|e| KernelError::Maps { reason: text(&e) })
}

pub(crate) fn open<T>(
    maps: &Path,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<T, KernelError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error,
{
    let failed = |reason| KernelError::Map { map: name, reason };
    let data = MapData::from_pin(maps.join(name)).map_err(|e| failed(text(&e)))?;
    T::try_from(kind(data)).map_err(|e| failed(text(&e)))
}

fn attach_all(ebpf: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<(), KernelError> {
    let directory = File::open(cgroup)
        .map_err(|reason| KernelError::Pin { path: cgroup.to_owned(), reason })?;
    for Attached { symbol, to } in PROGRAMS {
        let refused = |e: ProgramError| KernelError::Program { program: symbol, reason: text(&e) };
        let program = ebpf
            .program_mut(symbol)
            .ok_or_else(|| KernelError::Object(format!("there is no {symbol}")))?;
        match program {
            Program::CgroupSockAddr(found) => found.load(),
            Program::CgroupSockopt(found) => found.load(),
            Program::SockOps(found) => found.load(),
            _ => return Err(KernelError::Object(format!("{symbol} is of another kind"))),
        }
        .map_err(refused)?;
        let fd = program.fd().map_err(refused)?;
        let pin = links.join(pin_name(symbol));
        link::attach(fd, &directory, to, &pin).map_err(|reason| KernelError::Attach {
            program: symbol,
            cgroup: cgroup.into(),
            reason: reason.to_string(),
        })?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Attached {
    symbol: &'static str,
    to: AttachType,
}

impl Attached {
    const fn new(symbol: &'static str, to: AttachType) -> Self {
        Self { symbol, to }
    }
}

fn pin_name(symbol: &str) -> &str {
    symbol.trim_start_matches("ringcar_")
}

/// In the order in which they are attached: what hands over identities before what steers.
const PROGRAMS: [Attached; 6] = [
    Attached::new("ringcar_getsockopt", AttachType::Getsockopt),
    Attached::new("ringcar_sock_ops", AttachType::SockOps),
    Attached::new("ringcar_getpeername4", AttachType::Getpeername4),
    Attached::new("ringcar_getpeername6", AttachType::Getpeername6),
    Attached::new("ringcar_connect4", AttachType::Connect4),
    Attached::new("ringcar_connect6", AttachType::Connect6),
];

//! Bytes past TCP between apps and the data plane: brought in where it is wanted and proven on this
//! kernel, and told which apps it is for.
//!
//! It is a matter of speed alone. Where it cannot be had all goes by TCP, which nobody notices but
//! by the clock.

#![forbid(unsafe_code)]

use super::{
    SteeringError,
    compile::{Steered, is_reached_by_loopback, number_of},
    label, sample,
    settings::Accelerate,
};
use crate::log::Log;
use ebpf_loader::{
    Accelerator, Cgroups, Start,
    common::{
        WhenDead,
        accelerate::{DATA_PLANE, Hop, Pace, Side},
    },
    pins::{self, Pins},
};
use snapshot::wire::Counter;
use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd};

pub(super) struct Acceleration {
    kernel: Accelerator,
    /// Of apps that say nothing.
    otherwise: Accelerate,
}

/// What a start takes.
pub(super) struct Probe<'a> {
    pub(super) start: &'a Start,
    /// The control group of this process.
    pub(super) group: u64,
    /// Of the node.
    pub(super) wish: Accelerate,
}

impl Acceleration {
    /// `None`: all goes by TCP, and the log says why where somebody asked for more.
    ///
    /// # Errors
    /// When it must be on and cannot be.
    pub(super) fn of_node(
        probe: Probe<'_>,
        is_wanted: bool,
        log: &Log,
    ) -> Result<Option<Self>, SteeringError> {
        let Start { file_system, name, .. } = probe.start;
        if !is_wanted {
            // Of an earlier control that was told otherwise.
            Accelerator::remove(file_system, name)?;
            return Ok(None);
        }
        match Self::start(&probe) {
            Ok(acceleration) => {
                log.info(
                    "Acceleration: the self-test passed; bytes between apps and the data plane go \
                     past TCP",
                );
                Ok(Some(acceleration))
            }
            Err(reason) => {
                Accelerator::remove(file_system, name)?;
                if probe.wish == Accelerate::On {
                    return Err(SteeringError::Acceleration(reason));
                }
                log.warning(format_args!("Acceleration is off, all goes by TCP: {reason}"));
                Ok(None)
            }
        }
    }

    fn start(probe: &Probe<'_>) -> Result<Self, String> {
        let release = rustix::system::uname();
        check_kernel(&release.release().to_string_lossy(), probe.wish)?;
        let mut kernel = Accelerator::start(probe.start).map_err(|e| e.to_string())?;
        kernel.prove(probe.group).map_err(|e| format!("the self-test failed: {e}"))?;
        Ok(Self { kernel, otherwise: probe.wish })
    }

    /// Connections from now on; those under way stay as they are.
    pub(super) fn set(&mut self, apps: &[Steered<'_>], planes: [Option<u64>; 2], log: &Log) {
        let mut parties: BTreeMap<u64, u64> =
            planes.into_iter().flatten().map(|id| (id, DATA_PLANE)).collect();
        let mut hops = BTreeMap::new();
        for app in apps.iter().filter(|app| app.settings.accelerates(self.otherwise)) {
            let number = number_of(&format!("{}/{}", app.namespace, app.id));
            let mut add = |address: &SocketAddr, listener| {
                let ip = address.ip();
                if ip.is_loopback() || is_reached_by_loopback(ip) {
                    hops.insert(address.port(), Hop { app: number, listener: listener as u64 });
                }
            };
            app.address.iter().for_each(|address| add(address, Side::App));
            if let Some(group) = app.group {
                parties.insert(group, number);
                app.apis.iter().for_each(|api| add(api, Side::DataPlane));
            }
        }
        if let Err(e) = self.kernel.set(&hops, &parties) {
            log.error(format_args!("Not all apps are accelerated: {e}"));
        }
    }

    pub(super) fn credits(&self, log: &Log) -> Option<OwnedFd> {
        self.kernel
            .credits()
            .inspect_err(|e| {
                log.error(format_args!("The data plane cannot tell what it reads past TCP: {e}"));
            })
            .ok()
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = Counter> {
        Pace::ALL.into_iter().filter_map(|pace| {
            let value = self.kernel.count(pace).ok()?;
            let labels = vec![label("event", pace.name())];
            Some(sample("ringcar_acceleration_total", labels, value))
        })
    }
}

/// The self-test, for a moment and in this process' own control group; leaves nothing behind.
///
/// # Errors
/// Why nothing can be accelerated here.
pub(crate) fn try_acceleration() -> Result<(), String> {
    let cgroups = Cgroups::find().map_err(|e| e.to_string())?;
    let own = cgroups.own().ok_or("this process is in no control group of version 2")?;
    let group = cgroups.id(&own).map_err(|e| e.to_string())?;
    let start = Start {
        file_system: pins::FILE_SYSTEM.into(),
        name: format!("check-{}", std::process::id()),
        cgroup: cgroups.directory(&own),
        sidecar_port: 0,
        when_dead: WhenDead::Open,
    };
    let result = Acceleration::start(&Probe { start: &start, group, wish: Accelerate::Auto });
    let removed = Pins::new(&start.file_system, &start.name).remove();
    result.map(drop).and_then(|()| removed.map(drop).map_err(|e| e.to_string()))
}

/// Whether this release may be relied upon.
fn check_kernel(release: &str, wish: Accelerate) -> Result<(), String> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let (floor, remedy) = match wish {
        Accelerate::On => (LINUX_MIN, "there is no way on this kernel"),
        Accelerate::Auto | Accelerate::Off => (LINUX_TRIED, "accelerate: on tries it all the same"),
    };
    if version >= floor {
        return Ok(());
    }
    Err(format!("Linux {release} is older than {}.{}; {remedy}", floor.0, floor.1))
}

/// Before it, a socket that both sides have closed could lose what its owner had not read.
const LINUX_MIN: (u32, u32) = (6, 1);

/// Where the tests that look for lost and reordered bytes have run for long.
const LINUX_TRIED: (u32, u32) = (6, 18);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for (release, wish, want) in [
            ("5.15.0-91-generic", Accelerate::On, false),
            ("6.0.9", Accelerate::On, false),
            ("6.17.3", Accelerate::Auto, false),
            ("unknown", Accelerate::Auto, false),
            ("6.1.0-18-amd64", Accelerate::On, true),
            ("6.18.44-fc", Accelerate::Auto, true),
            ("7.0-rc1", Accelerate::Auto, true),
        ] {
            assert_eq!(check_kernel(release, wish).is_ok(), want, "{release} {wish:?}");
        }
    }
}

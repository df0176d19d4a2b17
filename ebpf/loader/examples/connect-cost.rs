//! What the programs cost a connection: connect, accept and close in one thread, in rounds that
//! alternate between the cases. Needs root; leaves nothing behind.
//!
//! `cargo run --profile fast -p ringcar-ebpf-loader --example connect-cost`

use ebpf_loader::{
    Cgroups, Kernel, Rule, Start,
    common::{
        Action, Endpoint, IDENTITY_LEVEL, IDENTITY_NAME, Identity, Ip, Member, Place, PlaceKind,
        Role, WhenDead,
    },
    pins,
};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    net::{TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::PathBuf,
    time::Instant,
};

const ROUNDS: usize = 15;
/// Each with a port of its own, or searches among those in TIME_WAIT would be measured.
const CONNECTS: usize = 2_000;
const SIDECAR_PORT: u16 = 3500;
const APP: u64 = 7;
const OTHER: u64 = 8;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Case {
    Without,
    Stranger,
    AppElsewhere,
    AppDirect,
    Steered,
    SteeredAndAsked,
    Denied,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::Without,
        Self::Stranger,
        Self::AppElsewhere,
        Self::AppDirect,
        Self::Steered,
        Self::SteeredAndAsked,
        Self::Denied,
    ];

    const fn text(self) -> &'static str {
        match self {
            Self::Without => "no programs",
            Self::Stranger => "programs; a process of no app",
            Self::AppElsewhere => "programs; an app, to a port of nobody's",
            Self::AppDirect => "programs; an app, to another app's port, allowed by a rule",
            Self::Steered => "programs; an app, steered to its sidecar",
            Self::SteeredAndAsked => "the same, and the data plane asks who it is",
            Self::Denied => "programs; an app, denied (connect alone)",
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let cgroups = Cgroups::find()?;
    let name = format!("ringcar-bench-{}", std::process::id());
    let group = cgroups.directory(&name);
    let before = cgroups.directory(&cgroups.own().unwrap_or_default());
    fs::create_dir(&group)?;
    let enter =
        |path: &PathBuf| fs::write(path.join("cgroup.procs"), std::process::id().to_string());
    enter(&group)?;
    let start = Start {
        file_system: pins::FILE_SYSTEM.into(),
        name,
        cgroup: group.clone(),
        sidecar_port: SIDECAR_PORT,
        when_dead: WhenDead::Closed,
    };
    let mut times: BTreeMap<Case, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for case in Case::ALL {
            times.entry(case).or_default().push(round(case, &start, fs::metadata(&group)?.ino())?);
        }
    }
    enter(&before)?;
    fs::remove_dir(&group)?;
    println!("{ROUNDS} rounds of {CONNECTS} connections; microseconds each, median (least)");
    for (case, mut times) in times {
        times.sort_by(f64::total_cmp);
        println!("{:6.2} ({:6.2})  {}", times[times.len() / 2], times[0], case.text());
    }
    Ok(())
}

/// Microseconds per connection.
fn round(case: Case, start: &Start, group: u64) -> Result<f64, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let kernel = match case {
        Case::Without => None,
        _ => Some(prepare(case, start, group, port)?),
    };
    let target = match case {
        Case::Steered | Case::SteeredAndAsked => SIDECAR_PORT,
        _ => port,
    };
    let began = Instant::now();
    for _ in 0..CONNECTS {
        let client = TcpStream::connect(("127.0.0.1", target));
        if case == Case::Denied {
            assert!(client.is_err(), "denied");
            continue;
        }
        let client = client?;
        let (accepted, _) = listener.accept()?;
        if case == Case::SteeredAndAsked {
            assert_eq!(identity(&accepted), Some(APP), "told");
        }
        drop((client, accepted));
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let each = began.elapsed().as_secs_f64() * 1e6 / CONNECTS as f64;
    if let Some(kernel) = kernel {
        kernel.detach()?;
    }
    Ok(each)
}

fn prepare(case: Case, start: &Start, group: u64, port: u16) -> Result<Kernel, Box<dyn Error>> {
    let mut kernel = Kernel::start(start)?;
    let mut members = BTreeMap::new();
    if case != Case::Stranger {
        let member =
            Member { app: APP, role: Role::App as u16, api_port: port, ..Member::default() };
        members.insert(group, member);
    }
    kernel.tables.set_members(&members)?;
    if matches!(case, Case::AppDirect | Case::Denied) {
        let place = Place { app: OTHER, kind: PlaceKind::App as u16, ..Place::default() };
        kernel.tables.set_places(&[(Endpoint::new(Ip::ANY_LOCAL, port), place)].into())?;
        let action = if case == Case::Denied { Action::Deny } else { Action::Allow };
        kernel.rules.set([Rule { caller: APP, callee: OTHER, action }])?;
    }
    kernel.attach()?;
    Ok(kernel)
}

fn identity(socket: &TcpStream) -> Option<u64> {
    let mut identity = Identity::default();
    let mut bytes = libc::socklen_t::try_from(size_of::<Identity>()).ok()?;
    // SAFETY: `identity` is as long as `bytes` says, a struct of integers, and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            IDENTITY_LEVEL,
            IDENTITY_NAME,
            (&raw mut identity).cast(),
            &raw mut bytes,
        )
    };
    (result == 0).then_some(identity.app)
}

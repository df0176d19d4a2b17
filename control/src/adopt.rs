//! Takes over a data plane that an earlier control left: connects to it, hears what it serves, and
//! gets copies of its listening sockets. One that speaks another link protocol still hands those
//! over, for the data plane that takes its place while it serves on.
//!
//! Nothing changes there until the first state is sent, so whoever finds on the way that it cannot
//! go on leaves the data plane as it was.

#![forbid(unsafe_code)]

use crate::{
    link::{Link, LinkError},
    log::Log,
};
use rustix::{
    net::sockopt,
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal},
};
use snapshot::{
    ListenerId, Route,
    handover::{self, Request},
    wire::{FromDataPlane, Held, ToDataPlane, WireError},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{io::unix::AsyncFd, net::UnixStream, time::Instant};

/// A data plane that serves, and waits for its first state from this control.
pub(crate) struct Adopted {
    pub(crate) link: Link,
    pub(crate) process: Process,
    pub(crate) introduction: Introduction,
    pub(crate) held: Held,
    /// Where it calls the apps that it does not serve.
    pub(crate) routes: Vec<Route>,
    /// Copies of all that it listens on.
    pub(crate) sockets: Vec<(ListenerId, Arc<OwnedFd>)>,
}

/// A data plane of another version: it serves until another one does so on the same sockets.
pub(crate) struct Predecessor {
    link: Link,
    process: Process,
    pub(crate) sockets: Vec<(handover::Socket, Arc<OwnedFd>)>,
}

/// Who was found.
pub(crate) enum Found {
    Adopted(Box<Adopted>),
    Predecessor(Box<Predecessor>),
}

/// What a data plane says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) pid: u32,
    pub(crate) workers: u32,
    pub(crate) engine: String,
    pub(crate) engine_reason: String,
}

/// A process that is not our child, and so can be signalled and waited for by its descriptor only.
pub(crate) struct Process {
    pid: u32,
    /// `None` before Linux 5.3, and where it is not known: its end is then told by the link alone.
    fd: Option<AsyncFd<OwnedFd>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error("what listens on {path} belongs to user {uid}; it is not adopted")]
    Stranger { path: String, uid: u32 },
    #[error("{0}")]
    Refused(String),
    #[error("cannot adopt the running data plane (process {pid}): {reason}")]
    Failed { pid: u32, reason: String },
}

/// What one attempt came to.
enum Attempt {
    Found(Found),
    /// Nobody is there.
    Nobody,
    /// Somebody is there who may soon not be.
    NotNow(AdoptError),
    Never(AdoptError),
}

/// The data plane that is met at `path`; `None` when there is none, or none that could be talked
/// to. One that is ending is waited for.
///
/// # Errors
/// When somebody is there and cannot be adopted.
pub(crate) async fn adopt(
    path: &Path,
    patience: Duration,
    log: &Log,
) -> Result<Option<Found>, AdoptError> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt(path, log).await {
            Attempt::Found(found) => return Ok(Some(found)),
            Attempt::Nobody => return Ok(None),
            Attempt::Never(error) => return Err(error),
            Attempt::NotNow(error) if Instant::now() > deadline => return Err(error),
            Attempt::NotNow(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn attempt(path: &Path, log: &Log) -> Attempt {
    // A path that is no socket, or whose owner is gone, is nobody.
    let Ok(stream) = StdStream::connect(path) else { return Attempt::Nobody };
    let Ok(peer) = sockopt::socket_peercred(&stream) else { return Attempt::Nobody };
    if peer.uid != geteuid() {
        let (path, uid) = (path.display().to_string(), peer.uid.as_raw());
        return Attempt::Never(AdoptError::Stranger { path, uid });
    }
    let process = Process::open(peer.pid);
    let pid = process.pid;
    let handshake = async {
        stream.set_nonblocking(true)?;
        let mut link = Link::new(UnixStream::from_std(stream)?);
        let greeting = match greet(&mut link, log).await {
            Err(LinkError::Wire(e @ WireError::Protocol(_))) => {
                Greeting::Foreign { reason: e.to_string(), sockets: take_over(&mut link).await }
            }
            result => result?,
        };
        Ok::<_, LinkError>((link, greeting))
    };
    let failed = |reason: String| AdoptError::Failed { pid, reason };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok((link, Greeting::Welcome(Welcome { introduction, held, routes, sockets })))) => {
            let process = process.if_it_is(introduction.pid);
            let adopted = Adopted { link, process, introduction, held, routes, sockets };
            Attempt::Found(Found::Adopted(Box::new(adopted)))
        }
        Ok(Ok((link, Greeting::Foreign { reason, sockets: Ok(sockets) }))) => {
            log.warning(format_args!(
                "The running data plane (process {pid}) is of another version: {reason}. It serves \
                 until another one does so on its sockets"
            ));
            let predecessor = Predecessor { link, process, sockets };
            Attempt::Found(Found::Predecessor(Box::new(predecessor)))
        }
        Ok(Ok((_, Greeting::Foreign { reason, sockets: Err(e) }))) => {
            let reason = format!("{reason}; its sockets cannot be had either: {e}");
            Attempt::NotNow(replace(&process, reason, log))
        }
        Ok(Ok((_, Greeting::Refused(problem)))) => Attempt::NotNow(AdoptError::Refused(problem)),
        // It ended while we talked, as one does whose control died before it had told anything.
        Ok(Err(LinkError::Closed)) => Attempt::NotNow(failed("it ended".to_owned())),
        Ok(Err(e)) => Attempt::NotNow(failed(e.to_string())),
        Err(_) => {
            let reason = format!("it does not answer within {HANDSHAKE_TIMEOUT:?}");
            Attempt::NotNow(replace(&process, reason, log))
        }
    }
}

/// With a data plane that cannot be talked to there is no way to its sockets, and none to stay.
fn replace(process: &Process, reason: String, log: &Log) -> AdoptError {
    let pid = process.pid;
    log.warning(format_args!(
        "The running data plane (process {pid}) cannot be adopted: {reason}. It is replaced; \
         connections are refused for a moment"
    ));
    process.kill_if_ours();
    AdoptError::Failed { pid, reason }
}

enum Greeting {
    /// It speaks another protocol.
    Foreign {
        reason: String,
        sockets: Result<Vec<(handover::Socket, Arc<OwnedFd>)>, LinkError>,
    },
    Refused(String),
    Welcome(Welcome),
}

struct Welcome {
    introduction: Introduction,
    held: Held,
    routes: Vec<Route>,
    sockets: Vec<(ListenerId, Arc<OwnedFd>)>,
}

/// All listening sockets of a data plane of another version. One that is older than this exchange
/// does not answer.
async fn take_over(link: &mut Link) -> Result<Vec<(handover::Socket, Arc<OwnedFd>)>, LinkError> {
    let all = async {
        link.request(Request::Sockets)?;
        let mut sockets = Vec::new();
        loop {
            let handover::Sockets { sockets: named, is_last } = link.next_handover().await?;
            let descriptors = link.take_descriptors(named.len())?;
            sockets.extend(named.into_iter().zip(descriptors.into_iter().map(Arc::new)));
            if is_last {
                return Ok(sockets);
            }
        }
    };
    let silent =
        || LinkError::Io(io::Error::other(format!("no word of them in {TAKE_OVER_TIMEOUT:?}")));
    tokio::time::timeout(TAKE_OVER_TIMEOUT, all).await.unwrap_or_else(|_| Err(silent()))
}

impl Predecessor {
    /// It accepts nothing more from now on, finishes what is in flight, and ends; one that takes
    /// longer than `patience` is ended.
    pub(crate) async fn leave(mut self, patience: Duration) {
        let leaving = async {
            if self.link.request(Request::Leave).is_ok() {
                // It says things that mean nothing here, until it ends.
                while self.link.next_handover().await.is_ok() {}
            }
        };
        let _ = tokio::time::timeout(patience, leaving).await;
        self.process.kill_if_ours();
    }
}

async fn greet(link: &mut Link, log: &Log) -> Result<Greeting, LinkError> {
    let mut welcome = None;
    let mut routes = Vec::new();
    let mut sockets = Vec::new();
    loop {
        match link.next().await? {
            FromDataPlane::Hello { pid, workers, engine, engine_reason, held } => {
                welcome = Some((Introduction { pid, workers, engine, engine_reason }, held));
                link.send(&ToDataPlane::ListenersWanted, Vec::new())?;
            }
            FromDataPlane::Refused { problems, .. } => {
                return Ok(Greeting::Refused(problems.join("; ")));
            }
            FromDataPlane::Routes(more) => routes.extend(more),
            FromDataPlane::Listeners { sockets: ids, is_last } => {
                let descriptors = link.take_descriptors(ids.len())?;
                sockets.extend(ids.into_iter().zip(descriptors.into_iter().map(Arc::new)));
                if let Some((introduction, held)) = welcome.take_if(|_| is_last) {
                    let welcome = Welcome { introduction, held, routes, sockets };
                    return Ok(Greeting::Welcome(welcome));
                }
            }
            FromDataPlane::Log { message, .. } => {
                log.scoped("dapr.runtime.dataplane").info(message);
            }
            // Of what the last control wanted to know.
            _ => {}
        }
    }
}

impl Process {
    /// The data plane made the socket its own by listening on it again, so the kernel names it.
    fn open(pid: Pid) -> Self {
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not"
        )]
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok().and_then(|fd| AsyncFd::new(fd).ok());
        Self { pid: pid.as_raw_nonzero().get().unsigned_abs(), fd }
    }

    /// Keeps hold of the process only if it is the one that speaks. It is another when the data
    /// plane had not come so far yet, or counts its processes anew, in a container.
    fn if_it_is(self, pid: u32) -> Self {
        if self.pid == pid { self } else { Self { pid, fd: None } }
    }

    /// Ready when the process has ended. Dropping the future before it is ready loses nothing.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        match &self.fd {
            Some(fd) => fd.readable().await.map(drop),
            None => std::future::pending().await,
        }
    }

    pub(crate) fn kill(&self) {
        if let Some(fd) = &self.fd {
            // It may have ended.
            let _ = pidfd_send_signal(fd.get_ref(), Signal::KILL);
        }
    }

    /// Nobody that merely listens at our path is killed.
    fn kill_if_ours(&self) {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        if name.trim_end() == PROCESS_NAME.to_str().unwrap_or_default() {
            self.kill();
        }
    }
}

/// Name of the data plane's process, as `ps` shows it.
pub(crate) const PROCESS_NAME: &std::ffi::CStr = c"ringcar-data";

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A data plane answers from memory; one that does not know the question never does.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(10);

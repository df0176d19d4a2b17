//! The signals a command acts on, as one stream.

#![forbid(unsafe_code)]

use std::{future, io};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::broadcast::{self, error::RecvError},
};

/// Where signals come from: the process itself, or whoever passes them on within it.
pub(crate) trait Source: Send {
    /// Dropping the future before it is ready loses nothing.
    fn next(&mut self) -> impl Future<Output = Signal> + Send;
}

pub(crate) struct Signals {
    hangup: unix::Signal,
    interrupt: unix::Signal,
    terminate: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    Hangup,
    Interrupt,
    Terminate,
    User1,
    User2,
}

impl Signals {
    /// From here on these signals end nobody by themselves.
    ///
    /// # Errors
    /// When the kernel does not let us have them.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }
}

impl Source for Signals {
    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.user1.recv() => Signal::User1,
            _ = self.user2.recv() => Signal::User2,
        }
    }
}

impl Source for broadcast::Receiver<Signal> {
    async fn next(&mut self) -> Signal {
        loop {
            match self.recv().await {
                Ok(signal) => return signal,
                // Whoever sends as many at once means the last ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => future::pending().await,
            }
        }
    }
}

impl Signal {
    pub(crate) const fn is_end(self) -> bool {
        matches!(self, Self::Interrupt | Self::Terminate)
    }

    /// As Go prints it, and with it daprd.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hangup => "hangup",
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
            Self::User1 => "user defined signal 1",
            Self::User2 => "user defined signal 2",
        }
    }

    pub(crate) const fn number(self) -> rustix::process::Signal {
        match self {
            Self::Hangup => rustix::process::Signal::HUP,
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
            Self::User1 => rustix::process::Signal::USR1,
            Self::User2 => rustix::process::Signal::USR2,
        }
    }
}

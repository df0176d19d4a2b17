//! Where something listens: TCP, or a Unix socket.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(SocketPath),
}

/// The path of a Unix socket. Copies share it: a control's tables know each app by it several times
/// over.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct SocketPath(Arc<Path>);

impl fmt::Display for Address {
    /// As Go's `net.Addr` prints it, since daprd's error texts contain it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Deref for SocketPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for SocketPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<&Path> for SocketPath {
    fn from(path: &Path) -> Self {
        Self(path.into())
    }
}

impl From<PathBuf> for SocketPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into())
    }
}

impl From<&str> for SocketPath {
    fn from(path: &str) -> Self {
        Self(Path::new(path).into())
    }
}

impl From<String> for SocketPath {
    fn from(path: String) -> Self {
        PathBuf::from(path).into()
    }
}

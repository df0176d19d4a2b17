//! Where the app listens: `--app-channel-address` and `--app-port` as one value.
//!
//! daprd takes a host only; an address that begins with `unix:` is ours, in the two spellings gRPC
//! has for it.

#![forbid(unsafe_code)]

use std::path::PathBuf;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum AppPlace {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AppPlaceError {
    /// Control and data plane are started in places of their own, so a relative path names nothing.
    #[error("{0:?} is not an absolute path; write unix:///path/to/socket")]
    Relative(String),
    #[error(
        "the socket path {path:?} is {bytes} bytes long; Linux allows {PATH_BYTES_MAX}",
        bytes = .path.len()
    )]
    TooLong { path: String },
}

impl AppPlace {
    /// `None`: there is no app to call. A socket names one by itself, a host only with a port.
    ///
    /// # Errors
    /// When the socket's path cannot be one.
    pub(crate) fn parse(address: &str, port: u16) -> Result<Option<Self>, AppPlaceError> {
        let Some(path) = address.strip_prefix("unix:") else {
            return Ok((port != 0).then(|| Self::Tcp { host: address.to_owned(), port }));
        };
        // An URL's authority would stand between the second and third slash; there is none.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(AppPlaceError::Relative(path.to_owned()));
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(AppPlaceError::TooLong { path: path.to_owned() });
        }
        Ok(Some(Self::Unix(path.into())))
    }

    /// As `/v1.0/metadata` shows it.
    pub(crate) fn channel_address(&self) -> String {
        match self {
            Self::Tcp { host, .. } => host.clone(),
            Self::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}

/// `sun_path` of unix(7), less the NUL at its end.
const PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_sockets() {
        let relative = |path: &str| Err(AppPlaceError::Relative(path.to_owned()));
        let unix = |path: &str| Ok(Some(AppPlace::Unix(path.into())));
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        for (case, address, port, want) in [
            ("a relative path", "unix:app.sock", 0, relative("app.sock")),
            ("a host in a URL", "unix://host/app.sock", 80, relative("host/app.sock")),
            ("no path", "unix:", 80, relative("")),
            (
                "too long",
                &*format!("unix:{long}"),
                0,
                Err(AppPlaceError::TooLong { path: long.clone() }),
            ),
            ("no port", "127.0.0.1", 0, Ok(None)),
            ("a host", "::1", 80, Ok(Some(AppPlace::Tcp { host: "::1".into(), port: 80 }))),
            ("a URL", "unix:///run/app", 0, unix("/run/app")),
            ("a path", "unix:/run/app", 80, unix("/run/app")),
            ("as long as can be", &*format!("unix:{}", &long[..107]), 0, unix(&long[..107])),
        ] {
            assert_eq!(AppPlace::parse(address, port), want, "{case}");
        }
        let place = AppPlace::parse("unix:/run/app", 0).unwrap().unwrap();
        assert_eq!(place.channel_address(), "unix:///run/app");
    }
}

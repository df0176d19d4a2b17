//! Where sidecars of other machines call: a port that stays the same when a sidecar is started
//! again, so that its old rows name the right one.

#![forbid(unsafe_code)]

use crate::{
    host,
    listen::{self, Bound, ListenError},
};
use sha2::{Digest, Sha256};
use std::{
    env,
    net::{IpAddr, SocketAddr},
};

/// Listens on the port that belongs to this app in this directory, or on any where that one is
/// taken.
///
/// # Errors
/// When there is no port at all.
pub(crate) fn listen(host: &str, app_id: &str) -> Result<Bound, ListenError> {
    let port = stable(app_id, &directory(), rustix::process::getuid().as_raw(), &host_name());
    listen::tcp_if_free(host, port).or_else(|_| listen::tcp_if_free(host, 0))
}

fn directory() -> String {
    env::current_dir().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn host_name() -> String {
    host::name().unwrap_or_default()
}

/// daprd 1.18's choice, `pkg/ports`: the first two bytes of a digest, above the ports that servers
/// use and below those that the kernel gives out.
fn stable(app_id: &str, directory: &str, uid: u32, host_name: &str) -> u16 {
    let digest = Sha256::digest(format!("{app_id}|{directory}|{uid}|{host_name}"));
    let number = u16::from_le_bytes([digest[0], digest[1]]);
    PORT_MIN + number % PORT_COUNT
}

/// What others are told: the host's address, unless only a part of the host listens.
pub(crate) fn advertised(bound: SocketAddr, host_ip: Option<&str>) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let told = host_ip.and_then(|ip| ip.parse::<IpAddr>().ok()).or_else(host::address);
    told.map_or(bound, |ip| SocketAddr::new(ip, bound.port()))
}

const PORT_MIN: u16 = 47_300;
const PORT_COUNT: u16 = 18_235;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_depends_on_app_directory_user_and_host_alone() {
        let port = stable("orders", "/srv", 1000, "one");
        // sha256("orders|/srv|1000|one") begins with the bytes that `sha256sum` prints.
        assert_eq!(port, 48_909);
        for (case, other) in [
            ("app", stable("checkout", "/srv", 1000, "one")),
            ("directory", stable("orders", "/srw", 1000, "one")),
            ("user", stable("orders", "/srv", 1001, "one")),
            ("host", stable("orders", "/srv", 1000, "two")),
        ] {
            assert_ne!(port, other, "{case}");
            assert!((PORT_MIN..=65_534).contains(&other), "{case}: {other}");
        }
    }

    #[test]
    fn a_port_in_use_is_replaced_by_any_other() {
        let first = listen("127.0.0.1", "orders").unwrap();
        let second = listen("127.0.0.1", "orders").unwrap();
        assert_ne!(first.address.port(), second.address.port());
    }

    #[test]
    fn tells_an_address_that_can_be_called() {
        let every = SocketAddr::from(([0, 0, 0, 0], 7));
        for (case, bound, host_ip, want) in [
            ("told by the environment", every, Some("10.9.8.7"), "10.9.8.7:7"),
            (
                "one interface",
                SocketAddr::from(([127, 0, 0, 1], 7)),
                Some("10.9.8.7"),
                "127.0.0.1:7",
            ),
            ("IPv6", "[::]:7".parse().unwrap(), Some("fd00::1"), "[fd00::1]:7"),
        ] {
            assert_eq!(advertised(bound, host_ip).to_string(), want, "{case}");
        }
    }
}

//! Names of hosts outside of Dapr: what a worker knows of them for a moment, and who waits for one.
//!
//! A name is looked up by a thread that may block ([`crate::resolver`]), once however many calls
//! wait for it. An answer is kept for HOST_FRESH only: less than any TTL that somebody would count
//! on, and enough that a busy target is not looked up for each new connection.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    connection::ConnectionKey,
    dapr::external::LookupError,
    limits::{ENDPOINTS_TRIED_MAX, HOST_FRESH, HOSTS_KEPT_MAX},
};
use std::{collections::HashMap, net::IpAddr, rc::Rc};

#[derive(Default)]
pub(super) struct Hosts {
    known: HashMap<Box<str>, Known>,
}

enum Known {
    Asked { waiting: Vec<ConnectionKey> },
    Found { addresses: Rc<[IpAddr]>, until: Instant },
}

/// What is known of a name.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Lookup {
    /// Somebody must ask; the connection waits for the answer.
    Ask,
    /// Somebody has; the connection waits, too.
    Asked,
    Found(Rc<[IpAddr]>),
    Full,
}

impl Hosts {
    pub(super) fn look_up(&mut self, name: &str, asker: ConnectionKey, now: Instant) -> Lookup {
        match self.known.get_mut(name) {
            Some(Known::Asked { waiting }) => {
                waiting.push(asker);
                return Lookup::Asked;
            }
            Some(Known::Found { addresses, until }) if *until > now => {
                return Lookup::Found(Rc::clone(addresses));
            }
            _ => {}
        }
        if self.known.len() >= HOSTS_KEPT_MAX {
            self.known.retain(|_, known| match known {
                Known::Asked { .. } => true,
                Known::Found { until, .. } => *until > now,
            });
        }
        if self.known.len() >= HOSTS_KEPT_MAX && !self.known.contains_key(name) {
            return Lookup::Full;
        }
        self.known.insert(name.into(), Known::Asked { waiting: vec![asker] });
        Lookup::Ask
    }

    /// Who waited for the answer. Addresses beyond those that a call would try are not kept.
    pub(super) fn on_answer(
        &mut self,
        name: &str,
        answer: &Result<Vec<IpAddr>, LookupError>,
        now: Instant,
    ) -> Vec<ConnectionKey> {
        let waiting = match self.known.remove(name) {
            Some(Known::Asked { waiting }) => waiting,
            Some(Known::Found { .. }) | None => Vec::new(),
        };
        if let Ok(addresses) = answer {
            let addresses = addresses.iter().copied().take(ENDPOINTS_TRIED_MAX).collect();
            let found = Known::Found { addresses, until: now + HOST_FRESH };
            self.known.insert(name.into(), found);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;
    use std::time::Duration;

    fn keys(count: usize) -> Vec<ConnectionKey> {
        let mut slab = Slab::<u8>::default();
        (0..count).map(|_| ConnectionKey::from_bits(slab.insert(0).to_bits())).collect()
    }

    #[test]
    fn a_name_is_asked_for_once_and_kept_for_a_moment() {
        let mut hosts = Hosts::default();
        let (keys, start) = (keys(2), Instant::default());
        assert_eq!(hosts.look_up("a", keys[0], start), Lookup::Ask);
        assert_eq!(hosts.look_up("a", keys[1], start), Lookup::Asked);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(hosts.on_answer("a", &Ok(vec![address]), start), keys);
        let late = start + (HOST_FRESH - Duration::from_millis(1));
        assert_eq!(hosts.look_up("a", keys[0], late), Lookup::Found([address].into()));
        assert_eq!(hosts.look_up("a", keys[0], start + HOST_FRESH), Lookup::Ask);
        let no = Err(LookupError::NoSuchHost);
        assert_eq!(hosts.on_answer("a", &no, late), [keys[0]]);
        assert_eq!(hosts.look_up("a", keys[0], late), Lookup::Ask, "a no is not kept");
        assert!(hosts.on_answer("b", &no, late).is_empty(), "nobody asked");
    }

    #[test]
    fn names_are_bounded_and_old_ones_make_room() {
        let mut hosts = Hosts::default();
        let (keys, start) = (keys(1), Instant::default());
        for n in 0..HOSTS_KEPT_MAX {
            assert_eq!(hosts.look_up(&format!("h{n}"), keys[0], start), Lookup::Ask);
        }
        assert_eq!(hosts.look_up("one more", keys[0], start), Lookup::Full);
        hosts.on_answer("h0", &Ok(Vec::new()), start);
        assert_eq!(hosts.look_up("one more", keys[0], start), Lookup::Full);
        assert_eq!(hosts.look_up("one more", keys[0], start + HOST_FRESH), Lookup::Ask);
    }
}

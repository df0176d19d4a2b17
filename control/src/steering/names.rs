//! Addresses that stand for apps, so that whoever knows nothing of a sidecar can call them by name.
//! Pure.
//!
//! A name is what a caller would write in an invocation, `id` or `id.namespace`. Its address comes
//! from a hash of it, so that it is the same whoever gives it and whenever: resolvers keep
//! addresses for longer than we live, and one that stands for another app must not come of that.

#![forbid(unsafe_code)]

use ebpf_loader::common::{Endpoint, Ip, NAME_BYTES_MAX, Name};
use snapshot::{AppId, Namespace};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Where addresses come from, an IPv4 network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Range {
    base: u32,
    bits: u32,
}

/// An app that is to have a name here, though it need not be one of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// Where it stands already: an address, and a port unless it is any. `None`: it gets one.
    pub(crate) at: Option<(IpAddr, Option<u16>)>,
}

/// Who has which address.
#[derive(Debug, Default)]
pub(super) struct Names {
    given: BTreeMap<String, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
}

/// What the kernel and resolvers are to be told.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Virtuals {
    pub(super) places: BTreeMap<Endpoint, String>,
    /// Of those that got their address here.
    pub(super) hosts: BTreeMap<String, Ipv4Addr>,
    pub(super) problems: Vec<String>,
}

impl Default for Range {
    /// Of the addresses that nobody has (RFC 1112 §4), which no route leads to.
    fn default() -> Self {
        Self { base: u32::from(Ipv4Addr::new(240, 82, 0, 0)), bits: 16 }
    }
}

impl Range {
    /// # Errors
    /// Says what it must be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let failed = || {
            format!("{text:?} is no IPv4 network of 256 addresses or more, such as 240.82.0.0/16")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(failed)?;
        let base = u32::from(address.parse::<Ipv4Addr>().map_err(|_| failed())?);
        let prefix: u32 = prefix.parse().map_err(|_| failed())?;
        let bits =
            32_u32.checked_sub(prefix).filter(|bits| (8..=24).contains(bits)).ok_or_else(failed)?;
        if base & ((1 << bits) - 1) != 0 {
            return Err(failed());
        }
        Ok(Self { base, bits })
    }

    const fn size(self) -> u32 {
        1 << self.bits
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & !(self.size() - 1) == self.base
    }

    /// Not the network's own address, nor the last one.
    fn address(self, index: u32) -> Option<Ipv4Addr> {
        let index = index & (self.size() - 1);
        let is_usable = index != 0 && index != self.size() - 1;
        is_usable.then(|| Ipv4Addr::from(self.base + index))
    }
}

impl Named {
    /// `orders`, `orders.prod`, or `orders=10.0.0.9:80` for one that stands somewhere already.
    ///
    /// # Errors
    /// Says what it must be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, at) = match text.split_once('=') {
            Some((name, at)) => (name, Some(at)),
            None => (text, None),
        };
        let (id, namespace) = match name.split_once('.') {
            Some((id, namespace)) => (id, Some(namespace)),
            None => (name, None),
        };
        let is_name =
            AppId::new(id).is_ok() && namespace.is_none_or(|text| Namespace::new(text).is_ok());
        if !is_name {
            return Err(format!("{name:?} is neither an app id nor id.namespace"));
        }
        let at = at.map(parse_place).transpose()?;
        Ok(Self { name: name.to_owned(), at })
    }
}

fn parse_place(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(ip) = text.parse() {
        return Ok((ip, None));
    }
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no address, such as 10.0.0.9 or 10.0.0.9:80"))?;
    Ok((address.ip(), Some(address.port()).filter(|port| *port != 0)))
}

impl Names {
    /// Goes on with what an earlier control gave.
    pub(super) fn recall(known: &BTreeMap<Endpoint, String>, range: Range) -> Self {
        let given = known.iter().filter(|(at, _)| at.port == 0).filter_map(|(at, name)| {
            let ip = Ipv6Addr::from(at.ip.octets()).to_ipv4_mapped()?;
            range.contains(ip).then(|| (name.clone(), ip))
        });
        let given: BTreeMap<_, _> = given.collect();
        let taken = given.values().copied().collect();
        Self { given, taken }
    }

    /// All that shall have a name, and nothing else has one from here on.
    pub(super) fn assign(
        &mut self,
        apps: BTreeSet<String>,
        named: &[Named],
        range: Range,
    ) -> Virtuals {
        let mut virtuals = Virtuals::default();
        let mut numbers: BTreeMap<u32, &str> = BTreeMap::new();
        let placed: Vec<&Named> = named.iter().filter(|named| named.at.is_some()).collect();
        let free = named.iter().filter(|named| named.at.is_none()).map(|named| named.name.clone());
        let free: BTreeSet<String> = apps.into_iter().chain(free).collect();
        self.given.retain(|name, ip| free.contains(name) && range.contains(*ip));
        self.taken = self.given.values().copied().collect();
        for name in free.iter().chain(placed.iter().map(|named| &named.name)) {
            let number = Name::number(name.as_bytes());
            match numbers.insert(number, name) {
                // One of 10^9 pairs.
                Some(other) if other != name => {
                    virtuals
                        .problems
                        .push(format!("{name} and {other} cannot be told apart by name"));
                }
                _ => {}
            }
        }
        for name in &free {
            if name.len() > NAME_BYTES_MAX {
                virtuals.problems.push(format!("{name} is too long for a name of its own"));
                continue;
            }
            match self.give(name, range) {
                Some(ip) => {
                    virtuals.places.insert(Endpoint::new(ip_of(ip.into()), 0), name.clone());
                    virtuals.hosts.insert(name.clone(), ip);
                }
                None => virtuals.problems.push(format!("there is no address left for {name}")),
            }
        }
        for named in placed {
            if let Some((ip, port)) = named.at {
                virtuals
                    .places
                    .insert(Endpoint::new(ip_of(ip), port.unwrap_or(0)), named.name.clone());
            }
        }
        virtuals
    }

    fn give(&mut self, name: &str, range: Range) -> Option<Ipv4Addr> {
        if let Some(ip) = self.given.get(name) {
            return Some(*ip);
        }
        let first = Name::number(name.as_bytes());
        let indices = (0..range.size()).map(|step| first.wrapping_add(step));
        let mut usable = indices.filter_map(|index| range.address(index));
        let ip = usable.find(|ip| !self.taken.contains(ip))?;
        self.taken.insert(ip);
        self.given.insert(name.to_owned(), ip);
        Some(ip)
    }
}

fn ip_of(ip: IpAddr) -> Ip {
    super::compile::ip_of(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ranges_and_names_are_judged() {
        for text in ["240.82.0.0", "240.82.0.1/16", "240.82.0.0/25", "10.0.0.0/7", "::/16", "x/8"] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
        assert_eq!(Range::parse("240.82.0.0/16"), Ok(Range::default()));
        for text in ["", "a.b.c", "=10.0.0.1", "a=here", "a=10.0.0.1:x", "a b"] {
            assert!(Named::parse(text).is_err(), "{text}");
        }
        let at = |text: &str| Named::parse(text).unwrap().at;
        assert_eq!(at("stock.prod"), None);
        assert_eq!(at("stock=10.0.0.9"), Some(([10, 0, 0, 9].into(), None)));
        assert_eq!(at("stock=[fd00::9]:80"), Some(("fd00::9".parse().unwrap(), Some(80))));
    }

    #[test]
    fn a_name_keeps_its_address() {
        let range = Range::parse("10.1.2.0/24").unwrap();
        let mut names = Names::default();
        let first = names.assign(set(&["orders", "orders.prod"]), &[], range);
        assert_eq!((first.hosts.len(), &first.problems[..]), (2, &[][..]));
        // Whoever comes or goes, and whoever is asked.
        let many: Vec<String> = (0..150).map(|n| format!("app-{n}")).collect();
        let many = many.iter().map(String::as_str).chain(["orders"]).collect::<Vec<_>>();
        let then = names.assign(set(&many), &[], range);
        assert_eq!(then.hosts["orders"], first.hosts["orders"]);
        assert_eq!(then.hosts.values().collect::<BTreeSet<_>>().len(), 151, "each its own");
        let mut next = Names::recall(&then.places, range);
        assert_eq!(next.assign(set(&many), &[], range), then);
        let full: Vec<String> = (0..300).map(|n| format!("app-{n}")).collect();
        let full = full.iter().map(String::as_str).collect::<Vec<_>>();
        let full = next.assign(set(&full), &[], range);
        assert_eq!((full.hosts.len(), full.problems.len()), (254, 46));
        assert!(full.hosts.values().all(|ip| range.contains(*ip)));
    }

    #[test]
    fn some_stand_where_they_stand_already() {
        let named = ["stock=10.0.0.9:80", "billing"].map(|text| Named::parse(text).unwrap());
        let virtuals = Names::default().assign(set(&["orders"]), &named, Range::default());
        assert_eq!(virtuals.hosts.keys().collect::<Vec<_>>(), ["billing", "orders"]);
        let stock = Endpoint::new(ip_of([10, 0, 0, 9].into()), 80);
        assert_eq!(virtuals.places[&stock], "stock");
        assert_eq!(virtuals.places.len(), 3);
    }
}

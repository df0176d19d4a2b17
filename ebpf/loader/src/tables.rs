//! Who is who and where: cgroups, ports, addresses of the machine; and what was counted.
//!
//! Each table is set as a whole and written as a difference, so that a change of one app costs one
//! system call, and a control that finds tables of an earlier one sets them right.

#![forbid(unsafe_code)]

use crate::{Build, KernelError, error::text, kernel::open, raw::Raw};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use ebpf_common::{Counter, Endpoint, Ip, Member, Name, Pair, Place, RuleKey};
use std::{
    collections::{BTreeMap, HashMap as Known},
    hash::Hash,
    path::Path,
};

pub struct Tables {
    members: Table<u64, Raw<Member>>,
    places: Table<Raw<Endpoint>, Raw<Place>>,
    local_ips: Table<Raw<Ip>, u32>,
    /// `None`: the programs know of none.
    virtuals: Option<Virtuals>,
    counters: PerCpuArray<MapData, u64>,
    pairs: PerCpuHashMap<MapData, Raw<RuleKey>, Raw<Pair>>,
}

/// How often one app met which end at another's port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PairCount {
    pub caller: u64,
    pub callee: u64,
    pub count: Pair,
}

impl Tables {
    pub(crate) fn open(maps: &Path, build: &Build) -> Result<Self, KernelError> {
        Ok(Self {
            members: Table::open(maps, "MEMBERS")?,
            places: Table::open(maps, "PLACES")?,
            local_ips: Table::open(maps, "LOCAL_IPS")?,
            virtuals: build.has_map("VIRTUALS").then(|| Virtuals::open(maps)).transpose()?,
            counters: open(maps, "COUNTERS", Map::PerCpuArray)?,
            pairs: open(maps, "PAIRS", Map::PerCpuLruHashMap)?,
        })
    }

    /// By id of a cgroup.
    ///
    /// # Errors
    /// When there is no room.
    pub fn set_members(&mut self, wanted: &BTreeMap<u64, Member>) -> Result<(), KernelError> {
        self.members.set(wanted.iter().map(|(id, member)| (*id, Raw(*member))))
    }

    /// # Errors
    /// When there is no room.
    pub fn set_places(&mut self, wanted: &BTreeMap<Endpoint, Place>) -> Result<(), KernelError> {
        self.places.set(wanted.iter().map(|(at, place)| (Raw(*at), Raw(*place))))
    }

    /// # Errors
    /// When there is no room.
    pub fn set_local_ips(
        &mut self,
        wanted: impl IntoIterator<Item = Ip>,
    ) -> Result<(), KernelError> {
        self.local_ips.set(wanted.into_iter().map(|ip| (Raw(ip), 1)))
    }

    /// Addresses that stand for apps, by the names of these; port 0 is any port. A name that cannot
    /// be told to the kernel must not be among them, nor two with one number.
    ///
    /// # Errors
    /// When there is no room.
    pub fn set_virtuals(&mut self, wanted: &BTreeMap<Endpoint, String>) -> Result<(), KernelError> {
        let Some(virtuals) = &mut self.virtuals else { return Ok(()) };
        let names = || {
            wanted.values().filter_map(|name| {
                Some((Name::number(name.as_bytes()), Raw(Name::new(name.as_bytes())?)))
            })
        };
        // A number is never without its name while an address has it.
        virtuals.names.add(names())?;
        let numbers = wanted.iter().map(|(at, name)| (Raw(*at), Name::number(name.as_bytes())));
        virtuals.numbers.set(numbers)?;
        virtuals.names.set(names())
    }

    /// What is in force, also by the word of an earlier control.
    pub fn virtuals(&self) -> BTreeMap<Endpoint, String> {
        let Some(virtuals) = &self.virtuals else { return BTreeMap::new() };
        let named = virtuals.numbers.known.iter().filter_map(|(at, number)| {
            let Raw(name) = virtuals.names.known.get(number)?;
            let mut room = [0; 128];
            Some((at.0, String::from_utf8_lossy(name.read(&mut room)).into_owned()))
        });
        named.collect()
    }

    /// Over all CPUs, since the maps were made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counter(&self, counter: Counter) -> Result<u64, KernelError> {
        let failed = |e| KernelError::Map { map: "COUNTERS", reason: text(&e) };
        let values = self.counters.get(&(counter as u32), 0).map_err(failed)?;
        Ok(values.iter().sum())
    }

    /// Those not seen for longest are missing once there are more than the map holds.
    pub fn pairs(&self) -> Vec<PairCount> {
        let sum = |values: &[Raw<Pair>]| {
            values.iter().fold(Pair::default(), |sum, Raw(pair)| Pair {
                passed: sum.passed + pair.passed,
                redirected: sum.redirected + pair.redirected,
                denied: sum.denied + pair.denied,
                captured: sum.captured + pair.captured,
                shadowed: sum.shadowed + pair.shadowed,
            })
        };
        let found = self.pairs.iter().filter_map(Result::ok);
        found
            .map(|(Raw(key), values)| PairCount {
                caller: key.caller,
                callee: key.callee,
                count: sum(&values),
            })
            .collect()
    }
}

struct Virtuals {
    numbers: Table<Raw<Endpoint>, u32>,
    names: Table<u32, Raw<Name>>,
}

impl Virtuals {
    fn open(maps: &Path) -> Result<Self, KernelError> {
        Ok(Self { numbers: Table::open(maps, "VIRTUALS")?, names: Table::open(maps, "NAMES")? })
    }
}

pub(crate) struct Table<K: aya::Pod, V: aya::Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    known: Known<K, V>,
}

impl<K: aya::Pod + Eq + Hash, V: aya::Pod + Eq> Table<K, V> {
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, KernelError> {
        let map: HashMap<MapData, K, V> = open(maps, name, Map::HashMap)?;
        let known = map.iter().filter_map(Result::ok).collect();
        Ok(Self { name, map, known })
    }

    /// What goes, goes first: there is room for it only then.
    pub(crate) fn set(&mut self, wanted: impl Iterator<Item = (K, V)>) -> Result<(), KernelError> {
        let wanted: Known<K, V> = wanted.collect();
        let failed = |e| KernelError::Map { map: self.name, reason: text(&e) };
        for key in self.known.keys().filter(|key| !wanted.contains_key(key)) {
            self.map.remove(key).map_err(failed)?;
        }
        self.known.retain(|key, _| wanted.contains_key(key));
        self.add(wanted.into_iter())
    }

    fn add(&mut self, wanted: impl Iterator<Item = (K, V)>) -> Result<(), KernelError> {
        let failed = |e| KernelError::Map { map: self.name, reason: text(&e) };
        for (key, value) in wanted {
            if self.known.get(&key) != Some(&value) {
                self.map.insert(key, value, 0).map_err(failed)?;
                self.known.insert(key, value);
            }
        }
        Ok(())
    }
}

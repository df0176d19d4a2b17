//! Who may connect to whom. All rules change at once.
//!
//! ```text
//!   remove what is of older generations ──► write the next one ──► GENERATION = next
//! ```
//! A program reads the generation once, and then looks rules up under it. Those of the generation
//! before stay until the next change, so that a program that read it just before the step still
//! finds them; the wait for running programs before they are removed is the kernel's (RCU).

#![forbid(unsafe_code)]

use crate::{KernelError, error::text, kernel::open, raw::Raw};
use aya::maps::{Array, HashMap, Map, MapData};
use ebpf_common::{Action, RuleKey};
use rustix::thread::{MembarrierCommand, membarrier};
use std::{collections::BTreeMap, path::Path};

/// The action for a caller and a callee; see [`RuleKey`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rule {
    pub caller: u64,
    pub callee: u64,
    pub action: Action,
}

pub struct Rules {
    map: HashMap<MapData, Raw<RuleKey>, u32>,
    generation: Array<MapData, u64>,
    /// What is in force, if it was us who wrote it.
    known: Option<BTreeMap<(u64, u64), Action>>,
}

impl Rules {
    pub(crate) fn open(maps: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            map: open(maps, "RULES", Map::HashMap)?,
            generation: open(maps, "GENERATION", Map::Array)?,
            known: None,
        })
    }

    /// Puts these in force and no others. Whether anything changed.
    ///
    /// # Errors
    /// When there is no room; what was in force stays.
    pub fn set(&mut self, rules: impl IntoIterator<Item = Rule>) -> Result<bool, KernelError> {
        let wanted: BTreeMap<(u64, u64), Action> =
            rules.into_iter().map(|rule| ((rule.caller, rule.callee), rule.action)).collect();
        if self.known.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let generation = self.generation()?;
        let next = generation + 1;
        self.remove_all_but(generation)?;
        for ((caller, callee), action) in &wanted {
            let key = RuleKey { generation: next, caller: *caller, callee: *callee };
            self.map.insert(Raw(key), *action as u32, 0).map_err(rules_failed)?;
        }
        self.generation.set(0, next, 0).map_err(rules_failed)?;
        self.known = Some(wanted);
        Ok(true)
    }

    /// Counts up with every change.
    ///
    /// # Errors
    /// The kernel's.
    pub fn generation(&self) -> Result<u64, KernelError> {
        self.generation.get(&0, 0).map_err(rules_failed)
    }

    /// Also what a change left that failed half way.
    fn remove_all_but(&mut self, generation: u64) -> Result<(), KernelError> {
        let keys: Vec<Raw<RuleKey>> = self.map.keys().filter_map(Result::ok).collect();
        let mut others = keys.into_iter().filter(|key| key.0.generation != generation).peekable();
        if others.peek().is_none() {
            return Ok(());
        }
        // Returns when no program runs that began before, where the kernel offers it; elsewhere the
        // time since the last change must do.
        let _ = membarrier(MembarrierCommand::Global);
        for key in others {
            self.map.remove(&key).map_err(rules_failed)?;
        }
        Ok(())
    }
}

fn rules_failed(e: aya::maps::MapError) -> KernelError {
    KernelError::Map { map: "RULES", reason: text(&e) }
}

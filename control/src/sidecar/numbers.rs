//! Numbers of apps: a slot in the low half, how often it was filled in the high half, so that
//! whoever still holds the number of an app that went never finds the one that came after it.

#![forbid(unsafe_code)]

use snapshot::{APPS_MAX, App, Version};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Numbers {
    taken: BTreeSet<u16>,
    /// No slot before this one is free.
    first_free: usize,
    /// How often each slot was filled, if it was.
    fills: BTreeMap<u16, u16>,
    /// Fills of a slot that nothing is known of: an earlier control may have used it.
    fills_unknown: u16,
}

impl Numbers {
    /// Goes on where an earlier control stopped. Each filling took a version, so no slot was filled
    /// more often than there were versions.
    pub(super) fn of_held(apps: &[App], version: Version) -> Self {
        let [low, high, ..] = version.0.to_le_bytes();
        let fills_unknown = u16::from_le_bytes([low, high]);
        let mut numbers = Self { fills_unknown, ..Self::default() };
        for app in apps {
            let (slot, fills) = parts(app.number);
            numbers.taken.insert(slot);
            numbers.fills.insert(slot, fills);
        }
        numbers
    }

    /// `None` when there are as many apps as one data plane serves.
    pub(super) fn take(&mut self) -> Option<u32> {
        let mut slots = (self.first_free..APPS_MAX).map_while(|slot| u16::try_from(slot).ok());
        let slot = slots.find(|slot| !self.taken.contains(slot))?;
        self.first_free = usize::from(slot) + 1;
        let fills = match self.fills.get(&slot) {
            Some(fills) => fills.wrapping_add(1),
            None => self.fills_unknown,
        };
        self.taken.insert(slot);
        self.fills.insert(slot, fills);
        Some(u32::from(fills) << u16::BITS | u32::from(slot))
    }

    pub(super) fn give_back(&mut self, number: u32) {
        let (slot, _) = parts(number);
        self.taken.remove(&slot);
        self.first_free = self.first_free.min(usize::from(slot));
    }
}

fn parts(number: u32) -> (u16, u16) {
    let [a, b, c, d] = number.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::Apps;

    #[test]
    fn a_slot_that_is_filled_again_has_another_number() {
        let mut numbers = Numbers::default();
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(0), Some(1), Some(2)]);
        numbers.give_back(1);
        let again = numbers.take().unwrap();
        assert_eq!((again, Apps::slot(again as usize)), (0x1_0001, 1));
        assert_eq!(numbers.take(), Some(3));
    }

    #[test]
    fn goes_on_after_an_earlier_control_without_repeating_it() {
        let mut first = Numbers::default();
        let mut given: Vec<u32> = (0..3).map(|_| first.take().unwrap()).collect();
        first.give_back(1);
        let held = [given[0], given[2]].map(|number| App { number, ..app() });
        let mut second = Numbers::of_held(&held, Version(4));
        for _ in 0..3 {
            let number = second.take().unwrap();
            assert!(!given.contains(&number), "{number:x}");
            given.push(number);
        }
    }

    fn app() -> App {
        App {
            number: 0,
            id: snapshot::AppId::new("a").unwrap(),
            namespace: snapshot::Namespace::default(),
            guards: Default::default(),
            channel: None,
            origin: snapshot::Origin::default(),
            telemetry: std::sync::Arc::default(),
            balance: snapshot::Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 0,
            health: snapshot::AppHealth::default(),
            outbound: Default::default(),
            metadata_json: "".into(),
        }
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut numbers = Numbers::default();
        let count = std::iter::from_fn(|| numbers.take()).count();
        assert_eq!(count, APPS_MAX);
        numbers.give_back(7);
        assert_eq!(numbers.take(), Some(0x1_0007));
    }
}

//! What the kernel refused, as operators read it: the last ones, and one line in the log per pair
//! and minute.

#![forbid(unsafe_code)]

use crate::{node::admin::Answer, timestamp::Timestamp};
use ebpf_loader::common::{Endpoint, Event, EventKind, STRANGER};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Denial {
    /// Counted from one by the control that heard of it.
    pub(crate) number: u64,
    /// When control heard of it, which is at once while it runs.
    pub(crate) time: String,
    pub(crate) caller: String,
    pub(crate) callee: String,
    pub(crate) address: String,
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) reason: &'static str,
}

#[derive(Default)]
pub(super) struct Denials {
    last: VecDeque<Denial>,
    /// When a pair was last told of in the log.
    told: HashMap<(u64, u64, u32), Instant>,
    count: u64,
    /// Who waits for those after a number.
    followers: Vec<(u64, Answer)>,
}

impl Denials {
    /// The line for the log, if it is time for one; `None` also for events that deny nothing.
    pub(super) fn take(
        &mut self,
        event: &Event,
        names: &BTreeMap<u64, String>,
        now: Instant,
    ) -> Option<String> {
        let reason = reason(EventKind::from_number(event.kind)?)?;
        let name = |number: u64| match (number, names.get(&number)) {
            (_, Some(name)) => name.clone(),
            (STRANGER, None) => "-".to_owned(),
            (_, None) => "an app that is gone".to_owned(),
        };
        let command = event.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        self.count += 1;
        let denial = Denial {
            number: self.count,
            time: Timestamp::now().rfc3339(),
            caller: name(event.caller),
            callee: name(event.callee),
            address: socket_address(event.endpoint).to_string(),
            pid: event.pid,
            command: String::from_utf8_lossy(command).into_owned(),
            reason,
        };
        let line = self.line(event, &denial, now);
        if self.last.len() == DENIALS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(denial);
        line
    }

    fn line(&mut self, event: &Event, denial: &Denial, now: Instant) -> Option<String> {
        let key = (event.caller, event.callee, event.kind);
        let is_recent = |at: &Instant| now.duration_since(*at) < TOLD_EVERY;
        if self.told.get(&key).is_some_and(is_recent) {
            return None;
        }
        if self.told.len() >= DENIALS_MAX {
            self.told.retain(|_, at| is_recent(at));
        }
        if self.told.len() < DENIALS_MAX {
            self.told.insert(key, now);
        }
        let Denial { caller, callee, address, pid, command, reason, .. } = denial;
        Some(format!(
            "Denied: {command} (process {pid}, app {caller}) to {address} (app {callee}): {reason}"
        ))
    }

    /// Oldest first.
    pub(super) fn after(&self, number: u64) -> Vec<&Denial> {
        self.last.iter().filter(|denial| denial.number > number).collect()
    }

    /// As many at once as there are connections of operators. One who knows more than we do has it
    /// from a control before us.
    pub(super) fn follow(&mut self, after: u64, answer: Answer) {
        let after = if after > self.count { 0 } else { after };
        self.followers.retain(|(_, answer)| !answer.is_abandoned());
        self.followers.push((after, answer));
        self.tell_followers();
    }

    pub(super) fn tell_followers(&mut self) {
        for (after, answer) in std::mem::take(&mut self.followers) {
            if after == self.count {
                self.followers.push((after, answer));
                continue;
            }
            let text = serde_json::to_string(&self.after(after));
            answer.send(200, text.expect("strings and numbers have a JSON form"));
        }
    }
}

const fn reason(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::DeniedAtApi => Some("the API is another app's"),
        EventKind::DeniedByRule => Some("direct connections are denied"),
        EventKind::DeniedPlaneDead => Some("no data plane listens"),
        EventKind::Listening | EventKind::NotListening => None,
    }
}

fn socket_address(endpoint: Endpoint) -> SocketAddr {
    let ip = Ipv6Addr::from(endpoint.ip.octets());
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    SocketAddr::new(ip, endpoint.port)
}

/// Kept for `ringcar deny-log`; some 300 KB.
const DENIALS_MAX: usize = 1024;

const TOLD_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_loader::common::Ip;

    fn event(caller: u64, kind: EventKind) -> Event {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"curl");
        let endpoint = Endpoint::new(Ip::LOOPBACK_V4, 6001);
        Event { kind: kind as u32, pid: 7, caller, callee: 2, endpoint, comm, ..Event::default() }
    }

    #[test]
    fn a_pair_is_told_once_a_minute_and_always_kept() {
        let names = BTreeMap::from([(2, "default/orders".to_owned())]);
        let mut denials = Denials::default();
        let start = Instant::now();
        let mut take = |caller, kind, after| {
            denials.take(&event(caller, kind), &names, start + Duration::from_secs(after))
        };
        assert_eq!(take(0, EventKind::Listening, 0), None);
        assert_eq!(
            take(0, EventKind::DeniedByRule, 0).as_deref(),
            Some(
                "Denied: curl (process 7, app -) to 127.0.0.1:6001 (app default/orders): direct \
                 connections are denied"
            )
        );
        assert_eq!(take(0, EventKind::DeniedByRule, 59), None);
        assert!(take(9, EventKind::DeniedByRule, 59).unwrap().contains("an app that is gone"));
        assert!(take(0, EventKind::DeniedAtApi, 59).is_some());
        assert!(take(0, EventKind::DeniedByRule, 60).is_some());
        assert_eq!(denials.after(0).len(), 5);
        for n in 0..2 * DENIALS_MAX as u64 {
            denials.take(&event(n, EventKind::DeniedByRule), &names, start);
        }
        assert_eq!(denials.after(0).len(), DENIALS_MAX);
        assert!(denials.told.len() <= DENIALS_MAX);
    }
}

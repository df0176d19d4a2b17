//! Which of an app's endpoints takes the next request. Asked per attempt, and only where there are
//! several.
//!
//! Each worker decides by what it sees itself, so nothing is shared and nothing is locked. The
//! usual case, nobody out and nobody tried before, draws two endpoints and compares them; else all
//! of the app's endpoints are looked at.
//!
//! An app's endpoints may all be out, which says more about us, or about the way there, than about
//! them: then all of them count. And a call that has been to all that are in goes to those that are
//! out: one may have come back a moment ago. So a call fails only when it has tried in vain itself.

#![forbid(unsafe_code)]

use super::{
    EndpointKey, Endpoints,
    health::{Failure, Health},
};
use crate::{
    clock::Instant,
    draw::Draw,
    limits::GROUPS_MAX,
    slab::{Key, Slab},
};
use snapshot::{Address, Balance, Endpoint, Route};
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::Duration,
};

/// One endpoint's place among those of an app. It outlives the endpoint harmlessly.
pub(crate) type Seat = Key<Health>;

/// A request that looks for an endpoint.
pub(crate) struct Call<'a> {
    pub route: &'a Route,
    pub balance: Balance,
    /// Where the caller is.
    pub zone: Option<&'a str>,
    /// Where it has been in vain.
    pub tried: &'a [EndpointKey],
}

pub(crate) struct Balancer {
    groups: Slab<Group>,
    /// By app id, then namespace.
    index: HashMap<Box<str>, Vec<InNamespace>>,
    seats: Slab<Health>,
    /// How many of `seats` are not in.
    out_count: usize,
    /// A group of an older one looks at its route again.
    epoch: u64,
    draw: Draw,
    /// Of the call at hand: indexes of members.
    candidates: Vec<usize>,
}

type InNamespace = (Box<str>, Key<Group>);

/// An app with several endpoints.
struct Group {
    /// Those in the caller's zone first.
    members: Vec<Member>,
    near_count: usize,
    /// The zone for which `near_count` holds.
    zone: Option<Box<str>>,
    epoch: u64,
    /// Round robin's position.
    turn: usize,
    /// Since somebody last looked for groups to forget.
    used: bool,
}

struct Member {
    endpoint: EndpointKey,
    address: Rc<Address>,
    seat: Seat,
}

impl Balancer {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            groups: Slab::default(),
            index: HashMap::new(),
            seats: Slab::default(),
            out_count: 0,
            epoch: 0,
            draw: Draw::new(seed),
            candidates: Vec::new(),
        }
    }

    /// Routes may have changed, or the keys of endpoints: each group looks again before it is used.
    pub(crate) fn look_again(&mut self) {
        self.epoch += 1;
    }

    /// An endpoint that was not tried yet; `None` when none is left that is worth it.
    pub(crate) fn choose(
        &mut self,
        endpoints: &mut Endpoints,
        call: &Call<'_>,
        now: Instant,
    ) -> Option<(EndpointKey, Seat)> {
        let key = match self.find_group(call.route.id.as_str(), call.route.namespace.as_str()) {
            Some(key) => key,
            None => self.add_group(call.route),
        };
        self.refresh(key, endpoints, call);
        let group = self.groups.find_mut(key)?;
        group.used = true;
        let index = if self.out_count == 0 && call.tried.is_empty() {
            let preferred =
                if group.near_count > 0 { group.near_count } else { group.members.len() };
            pick(group, preferred, |n| n, call.balance, &self.seats, &mut self.draw, now)?
        } else if let Some(index) = find_due(group, &self.seats, call.tried, now) {
            self.seats.find_mut(group.members[index].seat)?.probe(now);
            index
        } else {
            let candidates = &mut self.candidates;
            collect_candidates(group, &self.seats, call.tried, candidates);
            let at = |n: usize| candidates[n];
            pick(group, candidates.len(), at, call.balance, &self.seats, &mut self.draw, now)?
        };
        let member = &group.members[index];
        Some((member.endpoint, member.seat))
    }

    pub(crate) fn begin(&mut self, seat: Seat) {
        if let Some(health) = self.seats.find_mut(seat) {
            health.begin();
        }
    }

    pub(crate) fn end(&mut self, seat: Seat, now: Instant) {
        if let Some(health) = self.seats.find_mut(seat) {
            health.end(now);
        }
    }

    /// True: the endpoint is readmitted.
    pub(crate) fn on_answer(&mut self, seat: Seat, latency: Duration, now: Instant) -> bool {
        let Some(health) = self.seats.find_mut(seat) else { return false };
        let is_readmitted = health.on_answer(latency, now);
        self.out_count -= usize::from(is_readmitted);
        is_readmitted
    }

    /// True: the endpoint is ejected.
    pub(crate) fn on_failure(&mut self, seat: Seat, failure: Failure, now: Instant) -> bool {
        let Some(health) = self.seats.find_mut(seat) else { return false };
        let is_ejected = health.on_failure(failure, now, self.draw.next());
        self.out_count += usize::from(is_ejected);
        is_ejected
    }

    /// Of an app with several endpoints that was called, as its route was then.
    pub(crate) fn members(
        &self,
        id: &str,
        namespace: &str,
    ) -> impl Iterator<Item = (&Address, &Health)> {
        let group = self.find_group(id, namespace).and_then(|key| self.groups.find(key));
        let members = group.into_iter().flat_map(|group| &group.members);
        members.filter_map(|member| Some((&*member.address, self.seats.find(member.seat)?)))
    }

    #[cfg(test)]
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (Seat, u32)> {
        self.seats.keys().filter_map(|seat| Some((seat, self.seats.find(seat)?.outstanding())))
    }

    fn find_group(&self, id: &str, namespace: &str) -> Option<Key<Group>> {
        let same_id = self.index.get(id)?;
        let is_it = |(other, _): &&(Box<str>, _)| **other == *namespace;
        same_id.iter().find(is_it).map(|(_, key)| *key)
    }

    fn add_group(&mut self, route: &Route) -> Key<Group> {
        if self.groups.len() >= GROUPS_MAX {
            self.forget_unused_groups();
        }
        // Workers that start together must not all begin with the same endpoint.
        let turn = self.draw.below(usize::MAX);
        let key = self.groups.insert(Group {
            members: Vec::new(),
            near_count: 0,
            zone: None,
            epoch: NEVER,
            turn,
            used: true,
        });
        let same_id = self.index.entry(route.id.as_str().into()).or_default();
        same_id.push((route.namespace.as_str().into(), key));
        key
    }

    /// Forgets the apps that were not called since this was last done, or, when all were, half of
    /// them.
    fn forget_unused_groups(&mut self) {
        let (groups, mut left) = (&mut self.groups, Vec::new());
        let is_unused = |key: &Key<Group>| groups.find(*key).is_some_and(|group| !group.used);
        let mut forgotten: Vec<Key<Group>> = groups.keys().filter(is_unused).collect();
        if forgotten.is_empty() {
            forgotten = groups.keys().take(GROUPS_MAX / 2).collect();
        }
        for key in forgotten {
            left.extend(groups.remove(key).into_iter().flat_map(|group| group.members));
        }
        self.index.retain(|_, same_id| {
            same_id.retain(|(_, key)| groups.find(*key).is_some());
            !same_id.is_empty()
        });
        let kept: Vec<Key<Group>> = groups.keys().collect();
        for key in kept {
            groups.find_mut(key).expect("its key was just listed").used = false;
        }
        for member in left {
            self.leave(member.seat);
        }
    }

    fn leave(&mut self, seat: Seat) {
        let Some(health) = self.seats.remove(seat) else { return };
        self.out_count -= usize::from(!health.is_in());
    }

    /// Brings the group to what the route says now. An endpoint that stays keeps its health.
    fn refresh(&mut self, key: Key<Group>, endpoints: &mut Endpoints, call: &Call<'_>) {
        let Some(group) = self.groups.find_mut(key) else { return };
        if group.epoch == self.epoch && group.zone.as_deref() == call.zone {
            return;
        }
        let seat_of = |member: Member| (member.address, member.seat);
        let mut before: HashMap<Rc<Address>, Seat> =
            std::mem::take(&mut group.members).into_iter().map(seat_of).collect();
        let (mut near, mut far, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for Endpoint { address, zone, .. } in call.route.endpoints.iter() {
            let endpoint = endpoints.intern(address);
            if !seen.insert(endpoint) {
                continue;
            }
            let seat =
                before.remove(address).unwrap_or_else(|| self.seats.insert(Health::default()));
            let is_near = call.zone.is_some() && zone.as_deref() == call.zone;
            let address = Rc::clone(endpoints.address(endpoint));
            let side = if is_near { &mut near } else { &mut far };
            side.push(Member { endpoint, address, seat });
        }
        group.near_count = near.len();
        near.append(&mut far);
        group.members = near;
        group.zone = call.zone.map(Into::into);
        group.epoch = self.epoch;
        for seat in before.into_values() {
            self.leave(seat);
        }
    }
}

/// A member whose time out is over. The request that finds it is its probe.
fn find_due(
    group: &Group,
    seats: &Slab<Health>,
    tried: &[EndpointKey],
    now: Instant,
) -> Option<usize> {
    group.members.iter().position(|member| {
        !tried.contains(&member.endpoint)
            && seats.find(member.seat).is_some_and(|health| health.is_due(now))
    })
}

/// Those in the caller's zone, unless fewer than half of them are in; those that are in, unless
/// none of them is left; never those that were tried.
fn collect_candidates(
    group: &Group,
    seats: &Slab<Health>,
    tried: &[EndpointKey],
    candidates: &mut Vec<usize>,
) {
    candidates.clear();
    let is_in = |member: &Member| seats.find(member.seat).is_some_and(Health::is_in);
    let is_untried = |member: &Member| !tried.contains(&member.endpoint);
    let near = &group.members[..group.near_count];
    let near_in = near.iter().filter(|member| is_in(member)).count();
    // Also those that are out, where those that are in were all tried: the call would fail anyway.
    let none_is_left = !group.members.iter().any(|member| is_in(member) && is_untried(member));
    let wanted = |member: &Member| is_untried(member) && (none_is_left || is_in(member));
    let indexes = |members: &[Member], candidates: &mut Vec<usize>| {
        let wanted = members.iter().enumerate().filter(|(_, member)| wanted(member));
        candidates.extend(wanted.map(|(index, _)| index));
    };
    if 2 * near_in >= near.len() {
        indexes(near, candidates);
    }
    if candidates.is_empty() {
        indexes(&group.members, candidates);
    }
}

/// One of `count` members, whose indexes `at` tells.
fn pick(
    group: &mut Group,
    count: usize,
    at: impl Fn(usize) -> usize,
    balance: Balance,
    seats: &Slab<Health>,
    draw: &mut Draw,
    now: Instant,
) -> Option<usize> {
    match (balance, count) {
        (_, 0) => None,
        (_, 1) => Some(at(0)),
        (Balance::RoundRobin, _) => {
            group.turn = group.turn.wrapping_add(1);
            Some(at(group.turn % count))
        }
        (Balance::PowerOfTwo, _) => {
            let first = draw.below(count);
            // Another one: of those that are left, shifted past the first.
            let second = draw.below(count - 1);
            let second = if second < first { second } else { second + 1 };
            let (first, second) = (at(first), at(second));
            let health = |index: usize| seats.find(group.members[index].seat);
            let second_is_better = health(second)?.is_better_than(health(first)?, now);
            Some(if second_is_better { second } else { first })
        }
    }
}

/// The epoch of a group that has no members yet; epochs count up from zero.
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{EJECTION_FAILURES, EJECTION_MAX};
    use snapshot::{AppId, InstanceId, Namespace};
    use std::{cmp::Reverse, collections::BinaryHeap};

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Endpoints by name; `name@zone` has a zone.
    fn route(id: &str, names: &[&str]) -> Route {
        let endpoint = |name: &&str| {
            let (path, zone) = name.split_once('@').map_or((*name, None), |(p, z)| (p, Some(z)));
            let instance = InstanceId(path.into());
            Endpoint { instance, address: Address::Unix(path.into()), zone: zone.map(Into::into) }
        };
        let endpoints = names.iter().map(endpoint).collect();
        Route { id: AppId::new(id).unwrap(), namespace: Namespace::default(), endpoints }
    }

    /// A worker's balancer, and one app behind it.
    struct Rig {
        balancer: Balancer,
        endpoints: Endpoints,
        route: Route,
        balance: Balance,
        zone: Option<&'static str>,
        now: Instant,
    }

    impl Rig {
        fn new(balance: Balance, zone: Option<&'static str>, names: &[&str]) -> Self {
            let (balancer, endpoints) = (Balancer::new(7), Endpoints::default());
            Self { balancer, endpoints, route: route("a", names), balance, zone, now: START }
        }

        fn try_choose(&mut self, tried: &[&str]) -> Option<(String, Seat)> {
            let intern = |path: &&str| self.endpoints.intern(&Address::Unix((*path).into()));
            let tried: Vec<EndpointKey> = tried.iter().map(intern).collect();
            let call =
                Call { route: &self.route, balance: self.balance, zone: self.zone, tried: &tried };
            let (endpoint, seat) = self.balancer.choose(&mut self.endpoints, &call, self.now)?;
            Some((self.endpoints.address(endpoint).to_string(), seat))
        }

        fn choose(&mut self) -> (String, Seat) {
            self.try_choose(&[]).expect("one is always found while none was tried")
        }

        /// How often each is chosen.
        fn shares(&mut self, count: usize) -> Vec<(String, usize)> {
            let mut shares: Vec<(String, usize)> = Vec::new();
            for _ in 0..count {
                let (name, _) = self.choose();
                match shares.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, count)) => *count += 1,
                    None => shares.push((name, 1)),
                }
            }
            shares.sort();
            shares
        }

        /// Those that may be chosen.
        fn reach(&mut self) -> String {
            let names: Vec<String> = self.shares(200).into_iter().map(|(name, _)| name).collect();
            names.join(" ")
        }

        fn seat(&mut self, name: &str) -> Seat {
            self.choose();
            let key = self
                .balancer
                .find_group(self.route.id.as_str(), self.route.namespace.as_str())
                .unwrap();
            let members = &self.balancer.groups.find(key).unwrap().members;
            members.iter().find(|member| member.address.to_string() == name).unwrap().seat
        }

        fn check_invariants(&self) {
            let seats = &self.balancer.seats;
            let out = seats.keys().filter(|key| !seats.find(*key).unwrap().is_in()).count();
            assert_eq!(self.balancer.out_count, out, "the count of those that are out");
        }

        fn eject(&mut self, name: &str) {
            let seat = self.seat(name);
            assert!(self.balancer.on_failure(seat, Failure::Misdirected, self.now), "{name}");
        }
    }

    #[test]
    fn who_may_be_chosen() {
        for (case, zone, names, out, want) in [
            ("all", None, &["1", "2", "3"][..], &[][..], "1 2 3"),
            ("an address that is there twice", None, &["1", "1", "2"], &[], "1 2"),
            ("one address only", None, &["1", "1"], &[], "1"),
            ("not those that are out", None, &["1", "2", "3"], &["2"], "1 3"),
            ("the last one", None, &["1", "2", "3"], &["2", "3"], "1"),
            ("all, when all are out", None, &["1", "2", "3"], &["1", "2", "3"], "1 2 3"),
            ("the caller has no zone", None, &["1@x", "2@y"], &[], "1 2"),
            ("own zone", Some("x"), &["1@y", "2@x", "3@x", "4"], &[], "2 3"),
            ("nobody in the own zone", Some("z"), &["1@y", "2@x", "3"], &[], "1 2 3"),
            ("half of the own zone", Some("x"), &["1@x", "2@x", "3"], &["1"], "2"),
            ("less than half", Some("x"), &["1@x", "2@x", "3@x", "4"], &["1", "2"], "3 4"),
            ("own zone gone", Some("x"), &["1@x", "2"], &["1"], "2"),
            ("others are out", Some("x"), &["1@x", "2@x", "3@y"], &["3"], "1 2"),
            ("all zones are out", Some("x"), &["1@x", "2@y"], &["1", "2"], "1 2"),
        ] {
            for balance in [Balance::PowerOfTwo, Balance::RoundRobin] {
                let mut rig = Rig::new(balance, zone, names);
                out.iter().for_each(|name| rig.eject(name));
                assert_eq!(rig.reach(), want, "{case}, {balance:?}");
            }
        }
    }

    #[test]
    fn a_retry_goes_elsewhere() {
        for (case, names, out, tried, want) in [
            ("elsewhere", &["1", "2"][..], &[][..], &["1"][..], Some("2")),
            ("nowhere left", &["1", "2"], &[], &["1", "2"], None),
            ("to the other zone", &["1@x", "2@y"], &[], &["1"], Some("2")),
            ("not to one that is out", &["1", "2", "3"], &["2"], &["1"], Some("3")),
            ("to one that is out, when no other is left", &["1", "2"], &["2"], &["1"], Some("2")),
            ("to one that is out, when all are", &["1", "2"], &["1", "2"], &["1"], Some("2")),
        ] {
            let mut rig = Rig::new(Balance::PowerOfTwo, Some("x"), names);
            out.iter().for_each(|name| rig.eject(name));
            let found = rig.try_choose(tried).map(|(name, _)| name);
            assert_eq!(found.as_deref(), want, "{case}");
        }
    }

    #[test]
    fn turns_are_taken_evenly() {
        let mut rig = Rig::new(Balance::RoundRobin, None, &["1", "2", "3"]);
        let even = |names: &[&str], each| -> Vec<(String, usize)> {
            names.iter().map(|name| ((*name).to_owned(), each)).collect()
        };
        assert_eq!(rig.shares(30), even(&["1", "2", "3"], 10));
        rig.eject("2");
        assert_eq!(rig.shares(30), even(&["1", "3"], 15), "of those that are in");
    }

    #[test]
    fn equal_endpoints_get_equal_shares_by_chance() {
        let mut rig = Rig::new(Balance::PowerOfTwo, None, &["1", "2", "3"]);
        for (name, count) in rig.shares(3000) {
            assert!((850..1150).contains(&count), "{name}: {count} of 3000");
        }
    }

    #[test]
    fn one_request_probes_whoever_is_out() {
        let mut rig = Rig::new(Balance::PowerOfTwo, None, &["1", "2"]);
        rig.eject("1");
        rig.now = START + ms(500);
        assert_eq!(rig.reach(), "2", "its time is not over");
        rig.now = START + ms(1000);
        let (name, probe) = rig.choose();
        assert_eq!(name, "1", "the next request is the probe");
        rig.balancer.begin(probe);
        assert_eq!(rig.reach(), "2", "one probe at a time");
        assert!(rig.balancer.on_answer(probe, ms(1), rig.now));
        rig.balancer.end(probe, rig.now);
        assert_eq!(rig.reach(), "1 2");
        rig.check_invariants();
    }

    #[test]
    fn a_new_snapshot_changes_the_endpoints_and_keeps_what_is_known() {
        let mut rig = Rig::new(Balance::PowerOfTwo, None, &["1", "2", "3"]);
        rig.eject("1");
        let gone = rig.seat("3");
        rig.route = route("a", &["4", "2", "1"]);
        assert_eq!(rig.reach(), "2 3", "before the snapshot is adopted");
        rig.balancer.begin(gone);
        rig.balancer.look_again();
        assert_eq!(rig.reach(), "2 4");
        rig.balancer.end(gone, rig.now);
        assert!(!rig.balancer.on_failure(gone, Failure::Misdirected, rig.now), "nobody is there");
        rig.route = route("a", &["2", "4"]);
        rig.balancer.look_again();
        assert_eq!(rig.reach(), "2 4");
        rig.check_invariants();
        assert_eq!((rig.balancer.seats.len(), rig.balancer.out_count), (2, 0));
    }

    #[test]
    fn apps_at_one_address_are_told_apart() {
        let mut rig = Rig::new(Balance::PowerOfTwo, None, &["1", "2"]);
        rig.eject("1");
        rig.route = route("b", &["1", "2"]);
        assert_eq!(rig.reach(), "1 2");
        rig.route.namespace = Namespace::new("prod").unwrap();
        assert_eq!(rig.reach(), "1 2");
        rig.route = route("a", &["1", "2"]);
        assert_eq!(rig.reach(), "2");
    }

    #[test]
    fn apps_that_are_not_called_are_forgotten_first() {
        let mut rig = Rig::new(Balance::PowerOfTwo, None, &["1", "2"]);
        let kept = |rig: &Rig| rig.balancer.groups.len();
        for n in 0..GROUPS_MAX {
            rig.route = route(&format!("app-{n}"), &["1", "2"]);
            rig.eject("1");
        }
        assert_eq!(kept(&rig), GROUPS_MAX);
        rig.route = route("one-more", &["1", "2"]);
        rig.choose();
        assert_eq!(kept(&rig), GROUPS_MAX / 2 + 1, "all were called of late");
        rig.check_invariants();
        for n in 0..GROUPS_MAX / 2 {
            rig.route = route(&format!("other-{n}"), &["1", "2"]);
            rig.choose();
        }
        assert_eq!(kept(&rig), GROUPS_MAX / 2 + 1, "the older half was not called since");
        assert_eq!(rig.balancer.seats.len(), 2 * kept(&rig));
        rig.check_invariants();
        let index = &rig.balancer.index;
        assert_eq!(index.values().map(Vec::len).sum::<usize>(), kept(&rig));
        assert!(index.keys().all(|id| id.starts_with("other-") || **id == *"one-more"));
    }

    /// How an endpoint of [`simulate`] takes requests.
    #[derive(Clone, Copy)]
    enum Server {
        /// Any number at once, each this long.
        Parallel(Duration),
        /// One after the other, each this long.
        Serial(Duration),
        /// Refuses, from the first of these moments to the second; else answers in a millisecond.
        Dead(Duration, Duration),
    }

    /// A request under way: when it ends, which one it is, who has it, how long it took, and its
    /// seat.
    type UnderWay = Reverse<(Duration, usize, usize, Duration, u64)>;

    /// Times are since the start; lists are per server.
    struct Simulation<'a> {
        rig: Rig,
        servers: &'a [Server],
        names: Vec<String>,
        time: Duration,
        under_way: BinaryHeap<UnderWay>,
        free_at: Vec<Duration>,
        calls: Vec<Vec<Duration>>,
        ejected: Vec<Vec<Duration>>,
        readmitted: Vec<Vec<Duration>>,
        lost_count: usize,
    }

    /// Requests that come at random, `interval` apart on average; what is refused tries the next
    /// server.
    fn simulate(servers: &[Server], interval: Duration, length: Duration) -> Simulation<'_> {
        let names: Vec<String> = (0..servers.len()).map(|n| n.to_string()).collect();
        let paths: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut simulation = Simulation {
            rig: Rig::new(Balance::PowerOfTwo, None, &paths),
            servers,
            names,
            time: Duration::ZERO,
            under_way: BinaryHeap::new(),
            free_at: vec![Duration::ZERO; servers.len()],
            calls: vec![Vec::new(); servers.len()],
            ejected: vec![Vec::new(); servers.len()],
            readmitted: vec![Vec::new(); servers.len()],
            lost_count: 0,
        };
        let mut random = Draw::new(1);
        while simulation.time < length {
            let percent = u32::try_from(random.below(200)).unwrap();
            simulation.time += interval * percent / 100;
            simulation.end_due();
            simulation.rig.now = START + simulation.time;
            simulation.call();
            simulation.rig.check_invariants();
        }
        simulation
    }

    impl Simulation<'_> {
        fn end_due(&mut self) {
            while self.under_way.peek().is_some_and(|Reverse((at, ..))| *at <= self.time) {
                let Reverse((at, _, index, latency, seat)) = self.under_way.pop().unwrap();
                let (seat, now) = (Seat::from_bits(seat), START + at);
                if self.rig.balancer.on_answer(seat, latency, now) {
                    self.readmitted[index].push(at);
                }
                self.rig.balancer.end(seat, now);
            }
        }

        fn call(&mut self) {
            let mut tried: Vec<usize> = Vec::new();
            loop {
                let names: Vec<&str> = tried.iter().map(|n| self.names[*n].as_str()).collect();
                let Some((name, seat)) = self.rig.try_choose(&names) else {
                    self.lost_count += 1;
                    return;
                };
                let index: usize = name.parse().unwrap();
                self.calls[index].push(self.time);
                self.rig.balancer.begin(seat);
                let Some(end) = self.end_of_call(index) else {
                    self.refuse(index, seat);
                    tried.push(index);
                    continue;
                };
                self.free_at[index] = end;
                let (number, latency) = (self.calls[index].len(), end - self.time);
                self.under_way.push(Reverse((end, number, index, latency, seat.to_bits())));
                return;
            }
        }

        fn end_of_call(&self, index: usize) -> Option<Duration> {
            match self.servers[index] {
                Server::Parallel(each) => Some(self.time + each),
                Server::Serial(each) => Some(self.free_at[index].max(self.time) + each),
                Server::Dead(from, to) if (from..to).contains(&self.time) => None,
                Server::Dead(..) => Some(self.time + ms(1)),
            }
        }

        fn refuse(&mut self, index: usize, seat: Seat) {
            let now = self.rig.now;
            if self.rig.balancer.on_failure(seat, Failure::Broken, now) {
                self.ejected[index].push(self.time);
            }
            self.rig.balancer.end(seat, now);
        }
    }

    #[test]
    fn a_slow_endpoint_gets_few_calls() {
        let minute = Duration::from_secs(60);
        for (case, servers, interval) in [
            (
                "ten times slower, hardly any load",
                [Server::Parallel(ms(20)), Server::Parallel(ms(2)), Server::Parallel(ms(2))],
                Duration::from_millis(50),
            ),
            (
                "ten times slower, much load",
                [Server::Parallel(ms(20)), Server::Parallel(ms(2)), Server::Parallel(ms(2))],
                Duration::from_micros(500),
            ),
            (
                "ten times slower, nearly saturated",
                [Server::Serial(ms(20)), Server::Serial(ms(2)), Server::Serial(ms(2))],
                Duration::from_micros(1100),
            ),
        ] {
            let outcome = simulate(&servers, interval, minute);
            let calls: Vec<usize> = outcome.calls.iter().map(Vec::len).collect();
            let all: usize = calls.iter().sum();
            assert!(calls[0] * 100 < all * 15, "{case}: {calls:?}");
            assert!(calls[0] > 0, "{case}: it is asked now and then, {calls:?}");
            let quick = calls[1].min(calls[2]) * 100;
            assert!(quick > all * 35, "{case}: the quick ones share evenly, {calls:?}");
        }
    }

    #[test]
    fn a_dead_endpoint_gets_probes_only_and_no_call_is_lost() {
        let servers = [
            Server::Dead(Duration::ZERO, Duration::MAX),
            Server::Parallel(ms(2)),
            Server::Parallel(ms(2)),
        ];
        let outcome = simulate(&servers, ms(1), Duration::from_secs(120));
        assert_eq!(outcome.lost_count, 0);
        let calls = &outcome.calls[0];
        let ejected_at = outcome.ejected[0][0];
        assert_eq!(outcome.ejected[0].len(), 1);
        let before = calls.iter().filter(|at| **at <= ejected_at).count();
        assert_eq!(before, EJECTION_FAILURES as usize);
        // After 1, 2, 4, 8, 16, 30, 30 and 30 seconds, each up to a quarter less.
        let probes: Vec<Duration> = calls[before..].to_vec();
        assert!((8..=9).contains(&probes.len()), "{probes:?}");
        let mut last = ejected_at;
        for (probe, span) in probes.iter().zip([1, 2, 4, 8, 16, 30, 30, 30, 30]) {
            let span = Duration::from_secs(span);
            let waited = *probe - last;
            assert!(waited > span * 3 / 4 && waited < span + ms(10), "{waited:?} for {span:?}");
            last = *probe;
        }
    }

    #[test]
    fn an_endpoint_that_comes_back_is_readmitted_within_the_time_it_is_out() {
        for (dead_ms, within_ms) in [(100, 1000), (1500, 2000), (20_000, 16_000), (90_000, 30_000)]
        {
            let (from, to) = (Duration::from_secs(5), Duration::from_secs(5) + ms(dead_ms));
            let servers = [Server::Dead(from, to), Server::Parallel(ms(1))];
            let outcome = simulate(&servers, ms(1), to + EJECTION_MAX + ms(1000));
            assert_eq!(outcome.lost_count, 0, "dead for {dead_ms} ms");
            let (out, back) = (&outcome.ejected[0], &outcome.readmitted[0]);
            assert_eq!((out.len(), back.len()), (1, 1), "dead for {dead_ms} ms");
            let took = back[0].saturating_sub(to);
            assert!(took < ms(within_ms + 20), "dead for {dead_ms} ms, back after {took:?}");
            let calls = outcome.calls[0].iter().filter(|at| **at > back[0]).count();
            assert!(calls > 100, "dead for {dead_ms} ms: only {calls} calls since");
        }
    }

    #[test]
    fn draws_are_below_their_bound_and_reach_all_of_it() {
        let mut draw = Draw::new(0);
        for bound in [1, 2, 3, 10] {
            let mut seen = vec![0; bound];
            (0..1000).for_each(|_| seen[draw.below(bound)] += 1);
            assert!(seen.iter().all(|count| count * bound > 700), "{bound}: {seen:?}");
        }
    }
}

//! One simulated world: sidecars, their clients and apps, the network between them, and one seed
//! that decides the rest.
//!
//! It turns until all clients are done and every timeout has passed. Time moves a little with each
//! round, and jumps to the next timer when nothing else moves, so that whoever waits for nothing
//! but a timer is found out.

#![forbid(unsafe_code)]

use super::{
    app::App,
    client::Client,
    engine::{LATE_BYTES_MAX, SimEngine, address_of},
    net::{Net, Place},
    plan::{AppFacts, Book, Callee, Planner},
    policy,
    random::Random,
};
use crate::{
    adoption::{Adoption, Difference},
    clock::Instant,
    connection::ConnectionKey,
    engine::{Engine, Event, ListenerKey},
    gate::Gates,
    link::Addresses,
    relay::{EngineFacts, Relay},
    route::Name,
    telemetry::Telemetry,
};
use snapshot::{
    App as OwnApp, AppChannel, AppHealth, AppId, Balance, Delta, Endpoint, InstanceId,
    ListenerKind, Namespace, OnControlLost, Origin, Route, Snapshot, State, Version,
    policy::resiliency::Resiliency,
};
use std::{
    cell::RefCell, collections::VecDeque, num::NonZeroU32, rc::Rc, sync::Arc, time::Duration,
};

/// A round takes this long.
const ROUND: Duration = Duration::from_micros(20);

/// Rounds of a run that ends; the longest need a tenth of it.
const ROUNDS_MAX: usize = 400_000;

/// Rounds without any motion after which nothing will move but the clock.
const QUIET_ROUNDS: usize = 3;

/// When everything must have ended, whatever it was: more than all timeouts one after the other.
const LIFETIME: Duration = Duration::from_secs(3600);

pub(super) struct World {
    /// Of every app's calls.
    policy: Option<Resiliency>,
    random: Random,
    net: Rc<RefCell<Net>>,
    pub(super) book: Book,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    apps: Vec<App>,
    weather: Weather,
    now: Instant,
    swaps: u64,
}

/// What may happen in this world.
struct Weather {
    /// Percentage of sockets served in a turn.
    eagerness: usize,
    has_faults: bool,
    has_jumps: bool,
    has_hoarding: bool,
    has_swaps: bool,
    /// Apps take one or two calls at a time.
    has_limits: bool,
    drains_at_round: Option<usize>,
    control_answers: bool,
    /// Control knows the app behind the peer only when it is asked for it.
    has_dns: bool,
    /// And forgets it again.
    dns_forgets: bool,
}

/// Whether calls are under a resiliency policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rules {
    None,
    Policies,
}

/// A sidecar: a relay, and what its worker does around it.
struct Node {
    relay: Relay<SimEngine>,
    gates: Gates,
    events: Vec<Event>,
    mail: VecDeque<Mail>,
    listeners: Vec<(ListenerKey, ListenerKind)>,
    /// Whose sidecar this is, and its number in the present snapshot.
    own: String,
    number: usize,
    snapshot: Arc<Snapshot>,
    /// Those that it names.
    addresses: Addresses,
    epoch: u64,
    /// Calls that control will answer.
    calls: VecDeque<(Instant, ConnectionKey)>,
    /// Names that control will have looked up.
    lookups: VecDeque<(Instant, Name)>,
}

enum Mail {
    Adopt(Box<State>),
    Drain,
    Reply(ConnectionKey),
    Resolved(Name),
}

impl World {
    pub(super) fn new(seed: u64, is_traced: bool, rules: Rules) -> Self {
        let mut random = Random::new(seed);
        let has_large_bodies = random.chance(12);
        let capacities: &[usize] =
            if has_large_bodies { &[40_000, 200_000, 600_000] } else { &[90, 1500, 9000, 70_000] };
        let net = Rc::new(RefCell::new(Net::new(random.fork(), capacities)));
        let calm_percent = random.pick(&[100, 60, 0]);
        let weather = Weather::draw(&mut random, calm_percent);
        let is_rough = calm_percent == 0;
        let policy = (rules == Rules::Policies).then(|| policy::draw(seed, is_rough));
        let retries = policy.as_ref().and_then(policy::retries).unwrap_or(0);
        let mut world = Self {
            policy,
            net,
            book: Book::new(is_traced, retries),
            nodes: Vec::new(),
            clients: Vec::new(),
            apps: Vec::new(),
            weather,
            now: Instant::default() + Duration::from_secs(1),
            swaps: 0,
            random,
        };
        world.book.has_limits = world.weather.has_limits;
        let facts = world.build(calm_percent);
        world.plan(&facts, calm_percent, has_large_bodies);
        world
    }

    /// Two apps beside the sidecar that is called, one behind a peer: a sidecar too, or played.
    fn build(&mut self, calm_percent: usize) -> Vec<AppFacts> {
        let has_peer = self.random.chance(50);
        let mut net = self.net.borrow_mut();
        let mut open = || net.open(self.random.chance(calm_percent));
        let [own, near, far, peer] = [open(), open(), open(), open()];
        let api = net.open(true);
        // Where the own app is found as well.
        let is_calm = net.is_calm(own);
        let elsewhere = net.open(is_calm);
        // The other app behind a peer has a second instance, which is gone when the first one is
        // behind a sidecar.
        let is_calm = net.is_calm(far);
        let far_too = net.open(is_calm);
        debug_assert_eq!(far_too, FAR_TOO);
        if has_peer {
            net.shut_place(far_too);
        }
        let far_is_calm =
            net.is_calm(far) && (!has_peer || net.is_calm(peer)) && !self.weather.dns_forgets;
        let facts = vec![
            AppFacts { id: "own", is_calm: net.is_calm(own) },
            AppFacts { id: "near", is_calm: net.is_calm(near) },
            AppFacts { id: "far", is_calm: far_is_calm },
        ];
        drop(net);
        self.apps = vec![
            App::new(0, vec![own, elsewhere], false),
            App::new(1, vec![near], false),
            App::new(2, vec![far, far_too], !has_peer),
        ];
        let far_at = if has_peer { peer } else { far };
        let routes = [("far", far_at)];
        let known = if self.weather.has_dns { &routes[..0] } else { &routes };
        let mut state = state(&[("own", own), ("near", near)], known);
        limit_apps(&mut state, self.weather.has_limits, &mut self.random);
        self.add_node(state, api, ListenerKind::Api);
        if has_peer {
            let mut state = state_of_peer(far);
            limit_apps(&mut state, self.weather.has_limits, &mut self.random);
            self.add_node(state, peer, ListenerKind::Peer);
        }
        facts
    }

    fn add_node(&mut self, mut state: State, place: Place, kind: ListenerKind) {
        self.give_policy(&mut state);
        let mut engine = SimEngine::new(Rc::clone(&self.net), self.random.fork());
        engine.eagerness = self.weather.eagerness;
        let own = state.apps[0].id.to_string();
        let snapshot = Arc::new(Snapshot::build(state).expect("a sound state"));
        let mut addresses = Addresses::default();
        addresses.replace_all(&Snapshot::empty(), &snapshot);
        let listener = engine.descriptor_of(place);
        let listener = engine.listen(listener);
        let nothing = Arc::new(Snapshot::empty());
        let mut difference = Difference::between(&nothing, &snapshot);
        let mut gates = Gates::new(1);
        difference.gates = gates.update(&snapshot, &difference.apps);
        let telemetry = Telemetry::new(Arc::default(), Arc::default(), 7);
        let mut relay =
            Relay::new(engine, nothing, Arc::default(), Arc::default(), telemetry, self.now);
        let (shared, left) = (Arc::clone(&snapshot), Default::default());
        relay.adopt(&Adoption { epoch: 0, snapshot: shared, difference, left });
        relay.set_resolver(self.weather.has_dns);
        self.nodes.push(Node {
            relay,
            gates,
            snapshot,
            addresses,
            epoch: 0,
            events: Vec::new(),
            mail: VecDeque::new(),
            listeners: vec![(listener, kind)],
            own,
            number: 0,
            calls: VecDeque::new(),
            lookups: VecDeque::new(),
        });
    }

    fn plan(&mut self, facts: &[AppFacts], calm_percent: usize, has_large_bodies: bool) {
        let app_ids: Vec<&'static str> = facts.iter().map(|app| app.id).collect();
        let api = Place(4);
        for name in 0..self.random.between(1, 7) {
            let client_is_calm = self.random.chance(calm_percent);
            let mut to_ask = Vec::new();
            for _ in 0..self.random.between(1, 6) {
                let id = self.book.exchanges.len();
                let is_malformed = self.random.chance(3);
                let mut planner = Planner {
                    random: &mut self.random,
                    apps: facts,
                    has_large_bodies,
                    body_bytes_max: BODY_BYTES_MAX,
                    client_is_calm,
                };
                let exchange =
                    if is_malformed { planner.plan_malformed(id) } else { planner.plan(id) };
                let is_last = matches!(exchange.callee, Callee::Malformed(_))
                    || exchange.is_too_large
                    || (exchange.tunnel.is_some() && exchange.answer.status == 101);
                self.book.exchanges.push(exchange);
                to_ask.push(id);
                if is_last {
                    break;
                }
            }
            let random = &mut self.random;
            let ids = app_ids.clone();
            self.clients.push(Client::new(name, api, client_is_calm, to_ask, ids, random));
        }
    }

    /// Until nothing is left to happen.
    pub(super) fn run(&mut self) {
        let mut quiet_rounds = 0;
        for round in 0..ROUNDS_MAX {
            let motion = self.net.borrow().motion;
            let is_eager = quiet_rounds > 0 || self.weather.eagerness == 100;
            self.round(round, is_eager);
            if !self.book.complaints.is_empty() {
                return;
            }
            if self.net.borrow().motion != motion {
                quiet_rounds = 0;
                continue;
            }
            quiet_rounds += 1;
            if quiet_rounds >= QUIET_ROUNDS {
                quiet_rounds = 0;
                if self.give_buffers_back() {
                    continue;
                }
                self.find_the_stuck();
                if !self.advance() {
                    return self.check_end();
                }
            }
        }
        self.book.complain(format!("no end after {ROUNDS_MAX} rounds"));
    }

    fn round(&mut self, round: usize, is_eager: bool) {
        self.now = self.now + ROUND;
        self.happen(round);
        self.book.now = self.now;
        self.book.is_eager = is_eager;
        let mut order: Vec<usize> =
            (0..self.nodes.len() + self.clients.len() + self.apps.len()).collect();
        self.random.shuffle(&mut order);
        for actor in order {
            if is_eager || self.random.chance(80) {
                self.act(actor, is_eager);
            }
        }
    }

    fn act(&mut self, actor: usize, is_eager: bool) {
        let (nodes, clients) = (self.nodes.len(), self.clients.len());
        let (net, book, random) = (&self.net, &mut self.book, &mut self.random);
        if actor < nodes {
            let eagerness = if is_eager { 100 } else { self.weather.eagerness };
            self.nodes[actor].relay.engine.eagerness = eagerness;
            self.turn(actor);
        } else if let Some(client) = self.clients.get_mut(actor - nodes) {
            client.step(&mut net.borrow_mut(), book, random);
        } else {
            self.apps[actor - nodes - clients].step(&mut net.borrow_mut(), book, random);
        }
    }

    /// What the weather brings.
    fn happen(&mut self, round: usize) {
        let Weather { has_faults, has_jumps, has_hoarding, has_swaps, drains_at_round, .. } =
            self.weather;
        let random = &mut self.random;
        if has_faults && random.chance(2) {
            self.net.borrow_mut().hurt_one();
        }
        if has_faults && random.chance(1) {
            for app in &mut self.apps {
                app.close_idle(&mut self.net.borrow_mut(), random);
            }
        }
        if has_jumps && random.below(300) == 0 {
            let jump = random.pick(&[100, 1000, 2500, 11_000, 31_000, 301_000]);
            self.now = self.now + Duration::from_millis(jump);
        }
        if has_hoarding && random.chance(3) {
            let node = random.below(self.nodes.len());
            let left = random.pick(&[0, 1, 2, 20, 500, 1024]);
            self.nodes[node].relay.engine.set_free_buffers(left);
        }
        if random.chance(2) {
            let node = random.below(self.nodes.len());
            self.nodes[node].relay.engine.is_woken = true;
        }
        if has_swaps && random.chance(2) {
            self.swap();
        }
        if drains_at_round == Some(round) {
            self.drain(0);
        }
    }

    fn swap(&mut self) {
        self.swaps += 1;
        let version = Version(self.swaps + 1);
        let node = self.random.below(self.nodes.len());
        let has_more = self.random.chance(50);
        let mut state = if node == 1 {
            state_of_peer(Place(2))
        } else {
            let far = if self.nodes.len() > 1 { Place(3) } else { Place(2) };
            let mut routes = vec![("far", far), ("unused", Place(0))];
            if self.weather.has_dns && !self.nodes[0].knows("far") {
                routes.remove(0);
            }
            if self.weather.dns_forgets && self.random.chance(30) {
                routes.remove(0);
            }
            let own = self.random.pick(&[Place(0), Place(5)]);
            let mut apps = [("own", own), ("near", Place(1))];
            // Control may number its apps anew.
            if self.random.chance(50) {
                apps.reverse();
            }
            routes.truncate(1 + usize::from(has_more));
            state(&apps, &routes)
        };
        limit_apps(&mut state, self.weather.has_limits, &mut self.random);
        state.version = version;
        self.give_policy(&mut state);
        self.nodes[node].mail.push_back(Mail::Adopt(Box::new(state)));
    }

    /// What control has found out by now: its state with the app in it, then that this is all.
    fn answer_lookups(&mut self, index: usize) {
        let far = if self.nodes.len() > 1 { Place(3) } else { Place(2) };
        let node = &mut self.nodes[index];
        while let Some((_, name)) = node.lookups.pop_front_if(|(at, _)| *at <= self.now) {
            if name.id.as_str() == "far" {
                self.swaps += 1;
                let mut state = node.latest_state();
                state.version = Version(self.swaps + 1);
                if !state.routes.iter().any(|route| route.id == name.id) {
                    state.routes.push(route("far", far));
                }
                node.mail.push_back(Mail::Adopt(Box::new(state)));
            }
            node.mail.push_back(Mail::Resolved(name));
        }
    }

    /// Each state brings the same policies, as another value.
    fn give_policy(&self, state: &mut State) {
        let policy = self.policy.clone();
        for app in &mut state.apps {
            app.resiliency = policy.clone().map(Arc::new);
        }
    }

    fn drain(&mut self, node: usize) {
        self.book.drained = true;
        self.nodes[node].mail.push_back(Mail::Drain);
    }

    /// One turn of a worker, as [`crate::worker`] has it.
    fn turn(&mut self, index: usize) {
        self.answer_lookups(index);
        let node = &mut self.nodes[index];
        let is_due = node.wakes_at().is_some_and(|at| at <= self.now);
        while node.calls.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, key)) = node.calls.pop_front() else { break };
            node.mail.push_back(Mail::Reply(key));
        }
        if !node.mail.is_empty() {
            node.relay.engine.is_woken = true;
        }
        let timeout = if is_due { Duration::ZERO } else { LIFETIME };
        let mut events = std::mem::take(&mut node.events);
        node.relay.engine.turn(Some(timeout), &mut events).expect("memory does not fail");
        if events.is_empty() && !is_due {
            node.events = events;
            return;
        }
        self.net.borrow_mut().motion += u64::from(is_due);
        node.relay.set_time(self.now, 1_700_000_000);
        node.read_mail(&mut self.book);
        for event in events.drain(..) {
            self.book.note(|| format!("sidecar {index}: {event:?}"));
            node.on_event(event);
        }
        node.events = events;
        node.relay.expire_timers();
        node.relay.end_turn(|| self.now);
        let control_answers = self.weather.control_answers;
        node.take_calls(self.now, control_answers, &mut self.random);
        self.check(index);
    }

    fn check(&mut self, index: usize) {
        let relay = &self.nodes[index].relay;
        let is_relaxed = |socket| relay.engine.is_relaxed(socket);
        let facts = EngineFacts { is_relaxed: &is_relaxed, turn_bytes_max: LATE_BYTES_MAX };
        for rule in relay.broken_invariants(&facts) {
            self.book.complain(format!("sidecar {index}: {rule}"));
        }
    }

    /// Nothing moves for want of buffers, perhaps: they come back before the clock moves.
    fn give_buffers_back(&mut self) -> bool {
        let mut was_short = false;
        for node in &mut self.nodes {
            was_short |= node.relay.engine.set_free_buffers(usize::MAX);
        }
        was_short
    }

    /// Nothing moves. Who should have had an answer long since?
    fn find_the_stuck(&mut self) {
        for client in &self.clients {
            if client.is_overdue(&self.book) {
                let text = client.describe();
                self.book.complain(format!("stuck: {text}"));
            }
        }
    }

    /// Moves the clock to whatever comes next; false when nothing does.
    fn advance(&mut self) -> bool {
        let nodes = self.nodes.iter().filter_map(Node::wakes_at);
        let calls = self.nodes.iter().filter_map(|node| node.calls.front().map(|(at, _)| *at));
        let lookups = self.nodes.iter().filter_map(|node| node.lookups.front().map(|(at, _)| *at));
        let clients = self.clients.iter().filter_map(Client::wakes_at);
        let next = nodes.chain(calls).chain(lookups).chain(clients).min();
        let Some(next) = next.filter(|next| *next < Instant::default() + LIFETIME) else {
            return false;
        };
        self.now = self.now.max(next);
        true
    }

    fn check_end(&mut self) {
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            self.book.complain(format!("not over: {}", client.describe()));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let relay = &node.relay;
            let left = [
                ("connections", relay.connection_count()),
                ("upstream connections", relay.upstream_count()),
                ("sockets", relay.engine.socket_count()),
                ("leased buffers", relay.engine.leased_buffers()),
            ];
            for (what, count) in left {
                if count > 0 {
                    self.book.complain(format!("sidecar {index} keeps {count} {what}"));
                }
            }
        }
        for (index, app) in self.apps.iter().enumerate() {
            let count = app.connection_count();
            if count > 0 {
                self.book.complain(format!("app {index} was left with {count} connections"));
            }
        }
    }
}

impl Weather {
    fn draw(random: &mut Random, calm_percent: usize) -> Self {
        let is_rough = calm_percent == 0;
        let has_dns = random.chance(35);
        Self {
            eagerness: random.pick(&[100, 70, 30]),
            has_faults: calm_percent < 100 && random.chance(60),
            has_jumps: is_rough && random.chance(40),
            has_hoarding: random.chance(15),
            has_swaps: random.chance(40),
            has_limits: random.chance(40),
            drains_at_round: random.chance(20).then(|| random.below(3000)),
            control_answers: !is_rough || random.chance(50),
            has_dns,
            dns_forgets: has_dns && random.chance(50),
        }
    }
}

impl Node {
    fn wakes_at(&self) -> Option<Instant> {
        self.relay.next_timer_in().map(|after| self.relay.time() + after)
    }

    fn read_mail(&mut self, book: &mut Book) {
        while let Some(mail) = self.mail.pop_front() {
            match mail {
                Mail::Adopt(state) => {
                    book.note(|| format!("adopts {:?}", state.version));
                    self.adopt(*state);
                }
                Mail::Drain => {
                    book.note(|| "drains".to_owned());
                    for (listener, _) in self.listeners.drain(..) {
                        self.relay.engine.unlisten(listener);
                    }
                    self.relay.drain();
                }
                Mail::Resolved(name) => {
                    book.note(|| format!("has been told all of {}", name.id));
                    self.relay.on_resolved(&name);
                }
                Mail::Reply(key) => self.relay.on_control_reply(key, 204, "", b""),
            }
        }
    }

    /// As the link does it: by a delta where apps keep their numbers, by a full state where they do
    /// not.
    fn adopt(&mut self, state: State) {
        let kept =
            state.apps.iter().find(|app| app.id.as_str() == self.own).expect("it keeps its app");
        let is_renumbered = self.number != kept.number as usize;
        self.number = kept.number as usize;
        self.epoch += 1;
        let (snapshot, mut difference, left) = if is_renumbered {
            let next = Snapshot::build(state).expect("a sound state");
            let difference = Difference::between(&self.snapshot, &next);
            let left = self.addresses.replace_all(&self.snapshot, &next);
            (next, difference, left)
        } else {
            let (base, version) = (self.snapshot.version, state.version);
            let delta = Delta { base, version, changes: self.snapshot.changes_to(state) };
            let (next, replaced) = self.snapshot.apply(delta).expect("a sound delta");
            let left = self.addresses.replace(&replaced);
            (next, Difference::of_delta(&replaced), left)
        };
        self.snapshot = Arc::new(snapshot);
        difference.gates = self.gates.update(&self.snapshot, &difference.apps);
        let snapshot = Arc::clone(&self.snapshot);
        self.relay.adopt(&Adoption { epoch: self.epoch, snapshot, difference, left });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, socket } => {
                let kind = self.listeners.iter().find(|(key, _)| *key == listener);
                match kind {
                    Some((_, kind)) => self.relay.accept(socket, *kind, self.number),
                    None => self.relay.engine.discard(&socket),
                }
            }
            Event::AcceptFailed { .. } | Event::Unlistened { .. } | Event::Woken => {}
            event => self.relay.on_event(event),
        }
    }

    /// As control told it last, whether or not it has been adopted.
    fn latest_state(&self) -> State {
        let told = self.mail.iter().rev().find_map(|mail| match mail {
            Mail::Adopt(state) => Some(State::clone(state)),
            _ => None,
        });
        told.unwrap_or_else(|| self.snapshot.to_state())
    }

    fn knows(&self, id: &str) -> bool {
        self.latest_state().routes.iter().any(|route| route.id.as_str() == id)
    }

    fn take_calls(&mut self, now: Instant, answers: bool, random: &mut Random) {
        for question in std::mem::take(&mut self.relay.questions) {
            // Else the answer is lost.
            if answers || random.chance(50) {
                let after = Duration::from_millis(random.below(900) as u64);
                let at = self.lookups.back().map_or(now, |(at, _)| *at).max(now + after);
                self.lookups.push_back((at, question.name));
            }
        }
        for call in std::mem::take(&mut self.relay.control_calls) {
            debug_assert_eq!(call.app, self.number, "a call of the app whose sidecar this is");
            if answers {
                let after = Duration::from_millis(random.below(900) as u64);
                let at = self.calls.back().map_or(now, |(at, _)| *at).max(now + after);
                self.calls.push_back((at, call.connection));
            } else if random.chance(50) {
                self.relay.on_control_away(call.connection);
            }
        }
    }
}

fn limit_apps(state: &mut State, has_limits: bool, random: &mut Random) {
    for channel in state.apps.iter_mut().filter_map(|app| app.channel.as_mut()) {
        let limit = if has_limits { random.pick(&[0, 1, 2]) } else { 0 };
        channel.concurrency_max = NonZeroU32::new(limit);
    }
}

/// The second endpoint of every route.
const FAR_TOO: Place = Place(6);

/// Larger requests are refused by the callee's sidecar.
const BODY_BYTES_MAX: usize = 600_000;

fn state_of_peer(far: Place) -> State {
    state(&[("far", far)], &[])
}

fn state(apps: &[(&str, Place)], routes: &[(&str, Place)]) -> State {
    State {
        version: Version(1),
        apps: (0..).zip(apps).map(|(number, (id, place))| own_app(number, id, *place)).collect(),
        routes: routes.iter().map(|(id, place)| route(id, *place)).collect(),
        listeners: Vec::new(),
        on_control_lost: OnControlLost::Exit,
    }
}

fn own_app(number: u32, id: &str, place: Place) -> OwnApp {
    OwnApp {
        number,
        id: AppId::new(id).expect("a sound id"),
        namespace: Namespace::default(),
        guards: Default::default(),
        channel: Some(AppChannel::http(address_of(place))),
        origin: Origin { host_ip: Some("10.0.0.1".to_owned()), host_name: None },
        telemetry: Arc::new(told()),
        balance: Balance::default(),
        resiliency: None,
        zone: None,
        body_bytes_max: Some(BODY_BYTES_MAX as u64),
        head_bytes_max: 8192,
        health: AppHealth { unready: Vec::new(), outbound_ready: true },
        outbound: Default::default(),
        metadata_json: metadata_of(id).into(),
    }
}

/// What a client of the app's sidecar must be told.
pub(super) fn metadata_of(id: &str) -> String {
    format!("{{\"id\":\"{id}\"}}\n")
}

fn route(id: &str, place: Place) -> Route {
    let endpoint = |place: Place| Endpoint {
        instance: InstanceId(format!("{id}-{}", place.0).into()),
        address: address_of(place),
        zone: None,
    };
    Route {
        id: AppId::new(id).expect("a sound id"),
        namespace: Namespace::default(),
        endpoints: [place, FAR_TOO].map(endpoint).into(),
    }
}

/// Whatever can be told without changing what goes over the wire.
fn told() -> snapshot::Telemetry {
    let metrics = snapshot::Metrics {
        has_raw_paths: true,
        patterns: Vec::new(),
        excludes_verbs: false,
        counts_error_codes: true,
        latency_bounds_ms: vec![1, 10, 100],
    };
    let api_log = Some(snapshot::ApiLog::default());
    snapshot::Telemetry { metrics: Some(metrics), api_log, tracing: None }
}

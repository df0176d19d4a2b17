//! A data plane under test, and control's part towards it: it is started through its public entry,
//! told its state over the link, and must end when told so.

#![forbid(unsafe_code)]

use super::{DEADLINE, Link, TempDir, Wire, app::listen_tcp};
use dataplane::{Options, RunError, clock, engine::Choice};
use snapshot::{
    Address, App, AppChannel, AppHealth, AppId, Balance, Change, Delta, Endpoint, InstanceId,
    Listener, ListenerId, ListenerKind, Namespace, OnControlLost, Origin, Route, State, Version,
    wire::{FromDataPlane, ToDataPlane},
};
use std::{
    num::NonZeroUsize,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
};

pub(crate) struct Plane {
    pub(crate) link: Link,
    pub(crate) hello: FromDataPlane,
    state: State,
    /// By [`ListenerId`].
    addresses: Vec<Address>,
    ended: Receiver<Result<(), RunError>>,
    /// Whether [`Plane::assert_ends`] has already seen the end.
    is_over: bool,
    link_path: PathBuf,
    _directory: TempDir,
}

/// What a plane starts with.
pub(crate) struct Builder {
    engine: Choice,
    workers: usize,
    state: State,
    family: Family,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Family {
    Usual,
    Swapped,
}

const LISTENERS: [ListenerKind; 3] = [ListenerKind::Api, ListenerKind::Peer, ListenerKind::Public];

impl Plane {
    /// One worker, unless the builder is told otherwise: then what happens on one connection is
    /// ordered before what happens later on another.
    pub(crate) fn on(engine: Choice) -> Builder {
        let state = State {
            version: Version(1),
            apps: Vec::new(),
            routes: Vec::new(),
            listeners: Vec::new(),
            on_control_lost: OnControlLost::Exit,
        };
        Builder { engine, workers: 1, state, family: Family::Usual }
    }

    /// Where the first app's Dapr API is.
    pub(crate) fn api(&self) -> &Address {
        self.address_of(0, ListenerKind::Api)
    }

    /// Where other sidecars call the first app.
    pub(crate) fn peer(&self) -> &Address {
        self.address_of(0, ListenerKind::Peer)
    }

    pub(crate) fn address_of(&self, app: u32, kind: ListenerKind) -> &Address {
        let is_it = |l: &&Listener| l.app == app && l.kind == kind;
        let listener = self.state.listeners.iter().find(is_it).expect("a listener of that kind");
        &self.addresses[listener.id.0 as usize]
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::connect(self.api())
    }

    /// Comes back once everything that other connections sent before has been received: the one
    /// worker takes what happened in order, and answers this call after it.
    pub(crate) fn settle(&self) {
        let mut client = self.client();
        client.send("GET /v1.0/healthz/outbound HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.read_to_end();
    }

    /// A new state, live on every worker when this returns.
    pub(crate) fn publish(&mut self, edit: impl FnOnce(&mut State)) {
        let version = self.send_state(edit);
        assert_eq!(self.link.receive(), FromDataPlane::Live { version });
    }

    /// A new state, and its version; what the data plane says to it is for the test to read.
    /// Serves another app from now on, which has no listeners of its own.
    pub(crate) fn join(&mut self, id: &str, channel: Address) {
        self.publish(|state| {
            let mut app = state.apps[0].clone();
            app.number = u32::try_from(state.apps.len()).unwrap();
            app.id = AppId::new(id).unwrap();
            app.resiliency = None;
            app.channel = Some(AppChannel::http(channel));
            state.apps.push(app);
        });
    }

    pub(crate) fn send_state(&mut self, edit: impl FnOnce(&mut State)) -> Version {
        self.send_state_announcing(&[], edit)
    }

    /// Binds the first app's API anew and hands it over under this name, as a new listener or in
    /// the place of an old one. Live when this returns.
    pub(crate) fn hand_over(&mut self, id: ListenerId) -> Address {
        let (socket, address) = listen_tcp();
        self.state.version.0 += 1;
        self.state.listeners.retain(|l| l.id != id);
        self.state.listeners.push(Listener { id, kind: ListenerKind::Api, app: 0, caller: None });
        let message = ToDataPlane::State { state: self.state.clone(), sockets: vec![id], parts: 0 };
        self.link.send(&message, &[socket.as_fd()]);
        let version = self.state.version;
        assert_eq!(self.link.receive(), FromDataPlane::Live { version });
        Address::Tcp(address)
    }

    /// As [`Plane::send_state`], announcing sockets that do not come.
    pub(crate) fn send_state_announcing(
        &mut self,
        sockets: &[ListenerId],
        edit: impl FnOnce(&mut State),
    ) -> Version {
        self.state.version.0 += 1;
        edit(&mut self.state);
        let state = self.state.clone();
        self.link.send(&ToDataPlane::State { state, sockets: sockets.to_vec(), parts: 0 }, &[]);
        self.state.version
    }

    /// Changes on top of the last state, live on every worker when this returns.
    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        let version = self.send_changes(changes, &[]);
        assert_eq!(self.link.receive(), FromDataPlane::Live { version });
    }

    /// Changes, with the sockets of new listeners, and the version they lead to; what the data
    /// plane says to it is for the test to read.
    pub(crate) fn send_changes(
        &mut self,
        changes: Vec<Change>,
        sockets: &[(ListenerId, BorrowedFd<'_>)],
    ) -> Version {
        let base = self.state.version;
        self.state.version.0 += 1;
        let (names, sockets): (Vec<_>, Vec<_>) = sockets.iter().copied().unzip();
        let delta = Delta { base, version: self.state.version, changes };
        self.link.send(&ToDataPlane::Delta { delta, sockets: names }, &sockets);
        self.state.version
    }

    /// A state whose first routes came in so many frames before it.
    pub(crate) fn send_state_after(
        &mut self,
        parts: u32,
        edit: impl FnOnce(&mut State),
    ) -> Version {
        self.state.version.0 += 1;
        edit(&mut self.state);
        let state = self.state.clone();
        self.link.send(&ToDataPlane::State { state, sockets: Vec::new(), parts }, &[]);
        self.state.version
    }

    /// The data plane asks for everything anew: the version it has, and why.
    pub(crate) fn expect_resync(&mut self) -> (Version, String) {
        match self.link.receive() {
            FromDataPlane::Resync { have, reason } => (have, reason),
            other => panic!("not asked for anything, but {other:?}"),
        }
    }

    /// The app as it was last told as part of a state.
    pub(crate) fn app(&self, index: usize) -> App {
        self.state.apps[index].clone()
    }

    /// Asks for the counters until this one has come so far.
    pub(crate) fn await_counter(&mut self, name: &str, at_least: f64) {
        self.await_counters(name, |value| value >= at_least);
    }

    pub(crate) fn await_counter_down_to(&mut self, name: &str, at_most: f64) {
        self.await_counters(name, |value| value <= at_most);
    }

    /// Each question is answered by the link, which the worker does not wait for; so this gives the
    /// worker's core away in between.
    fn await_counters(&mut self, name: &str, is_reached: impl Fn(f64) -> bool) {
        let give_up = clock::now() + DEADLINE;
        loop {
            let value = self.counter(name);
            if is_reached(value) {
                return;
            }
            assert!(clock::now() < give_up, "{name} stays at {value}");
            // Also wakes the worker, which publishes its gauges at the end of a turn.
            self.settle();
        }
    }

    /// What a counter is now, over all its labels.
    pub(crate) fn counter(&mut self, name: &str) -> f64 {
        self.link.send(&ToDataPlane::Stats { query: 0 }, &[]);
        let FromDataPlane::Stats { counters, .. } = self.link.receive() else {
            panic!("no counters");
        };
        assert!(counters.iter().any(|c| c.name == name), "no {name} in {counters:?}");
        counters.iter().filter(|c| c.name == name).map(|c| c.value).sum()
    }

    /// Takes the link away, as a killed control would, and links anew: the next one comes when the
    /// last one is gone, or it would be turned away.
    pub(crate) fn relink(&mut self) -> FromDataPlane {
        self.link = Link::nowhere();
        self.link = Link::connect(&self.link_path);
        self.link.receive()
    }

    /// Another control, while the first one is there.
    pub(crate) fn second_link(&self) -> Link {
        Link::connect(&self.link_path)
    }

    /// The data plane ends by itself now, well.
    pub(crate) fn assert_ends(&mut self) {
        let outcome = self.ended.recv_timeout(DEADLINE).expect("the data plane has not ended");
        self.is_over = true;
        outcome.unwrap();
    }

    /// The data plane runs.
    pub(crate) fn assert_runs(&self) {
        assert!(self.ended.try_recv().is_err(), "the data plane has ended");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if self.is_over || std::thread::panicking() {
            return;
        }
        self.link.send(&ToDataPlane::Exit, &[]);
        self.assert_ends();
    }
}

impl Builder {
    /// Serves an app, with a listener of each kind; `None` is an app that takes no calls.
    pub(crate) fn app(mut self, id: &str, channel: Option<Address>) -> Self {
        let app = u32::try_from(self.state.apps.len()).unwrap();
        for kind in LISTENERS {
            let id = ListenerId(u32::try_from(self.state.listeners.len()).unwrap());
            self.state.listeners.push(Listener { id, kind, app, caller: None });
        }
        self.state.apps.push(App {
            number: app,
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            guards: Default::default(),
            channel: channel.map(AppChannel::http),
            origin: Origin {
                host_ip: Some("10.0.0.1".to_owned()),
                host_name: Some("h1".to_owned()),
            },
            telemetry: Arc::default(),
            balance: Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: Some(4 << 20),
            head_bytes_max: 8192,
            health: AppHealth { unready: Vec::new(), outbound_ready: true },
            outbound: Default::default(),
            metadata_json: format!("{{\"id\":\"{id}\"}}\n").into(),
        });
        self
    }

    /// Knows where an app is served elsewhere.
    pub(crate) fn knows(mut self, id: &str, endpoints: &[&Address]) -> Self {
        self.state.routes.push(route(id, endpoints));
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Clients come over Unix sockets, peers over TCP.
    pub(crate) fn swapped(mut self) -> Self {
        self.family = Family::Swapped;
        self
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut State)) -> Self {
        edit(&mut self.state);
        self
    }

    pub(crate) fn start(self) -> Plane {
        super::raise_descriptor_limit();
        let directory = TempDir::new();
        let link_path = directory.path().join("link");
        let listener = UnixListener::bind(&link_path).unwrap();
        let ended = spawn(listener, self.workers, self.engine);
        let bind = |listener: &Listener| self.family.bind(listener, &directory);
        let (addresses, sockets): (Vec<_>, Vec<_>) = self.state.listeners.iter().map(bind).unzip();

        let mut link = Link::connect(&link_path);
        let hello = link.receive();
        assert!(matches!(hello, FromDataPlane::Hello { .. }), "first on every link: {hello:?}");
        let names = self.state.listeners.iter().map(|l| l.id).collect();
        let message = ToDataPlane::State { state: self.state.clone(), sockets: names, parts: 0 };
        link.send(&message, &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        assert_eq!(link.receive(), FromDataPlane::Live { version: self.state.version });
        Plane {
            link,
            hello,
            state: self.state,
            addresses,
            ended,
            is_over: false,
            link_path,
            _directory: directory,
        }
    }
}

fn spawn(link: UnixListener, workers: usize, engine: Choice) -> Receiver<Result<(), RunError>> {
    let (end, ended) = channel();
    let workers = Some(NonZeroUsize::new(workers).expect("at least one worker"));
    let options = Options { link: link.into(), workers, engine };
    std::thread::Builder::new()
        .name("dataplane".to_owned())
        .spawn(move || end.send(dataplane::run(options)))
        .unwrap();
    ended
}

impl Family {
    /// Ports for clients, Unix sockets for peers, or the other way round.
    fn bind(self, listener: &Listener, directory: &TempDir) -> (Address, OwnedFd) {
        if (listener.kind == ListenerKind::Peer) == (self == Self::Usual) {
            let path = directory.path().join(format!("listener-{}", listener.id.0));
            let socket = UnixListener::bind(&path).unwrap();
            return (Address::Unix(path.into()), OwnedFd::from(socket));
        }
        let (socket, address) = listen_tcp();
        (Address::Tcp(address), OwnedFd::from(socket))
    }
}

pub(crate) fn route(id: &str, endpoints: &[&Address]) -> Route {
    let endpoint = |(index, address): (usize, &&Address)| Endpoint {
        instance: InstanceId(format!("{id}-{index}").into()),
        address: (*address).clone(),
        zone: None,
    };
    Route {
        id: AppId::new(id).unwrap(),
        namespace: Namespace::default(),
        endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
    }
}

/// Which way a call to `checkout` goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hop {
    /// `checkout` calls itself: one data plane.
    Own,
    /// `orders` calls it from another data plane, over the callee's peer socket.
    Peer,
}

impl Hop {
    pub(crate) const BOTH: [Self; 2] = [Self::Own, Self::Peer];
}

/// Everything between a client and the app `checkout`.
pub(crate) struct Mesh {
    pub(crate) caller: Plane,
    pub(crate) callee: Option<Plane>,
}

impl Mesh {
    pub(crate) fn start(engine: Choice, hop: Hop, app: Address) -> Self {
        Self::start_with(engine, hop, app, |_| {})
    }

    /// `edit` sees the state of each data plane before it starts.
    pub(crate) fn start_with(
        engine: Choice,
        hop: Hop,
        app: Address,
        edit: impl Fn(&mut State),
    ) -> Self {
        let serving = Plane::on(engine).app("checkout", Some(app)).edit(&edit).start();
        match hop {
            Hop::Own => Self { caller: serving, callee: None },
            Hop::Peer => {
                let caller = Plane::on(engine).app("orders", None);
                let caller = caller.knows("checkout", &[serving.peer()]).edit(&edit).start();
                Self { caller, callee: Some(serving) }
            }
        }
    }

    pub(crate) fn client(&self) -> Wire {
        self.caller.client()
    }

    /// As [`Plane::settle`], for what travels towards the app.
    pub(crate) fn settle(&self) {
        self.caller.settle();
        if let Some(callee) = &self.callee {
            callee.settle();
        }
    }

    /// As [`Plane::settle`], for what travels from the app.
    pub(crate) fn settle_back(&self) {
        if let Some(callee) = &self.callee {
            callee.settle();
        }
        self.caller.settle();
    }
}

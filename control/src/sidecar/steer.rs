//! Steering as part of a running control: the kernel is told of the apps as they come, change and
//! go, and what it tells is taken.

#![forbid(unsafe_code)]

use super::{
    Sidecar,
    served::{Search, Served, Stage},
};
use crate::{
    node::admin::Answer,
    steering::{Event, Heard, Steered},
};
use snapshot::{Address, AppHealth, ListenerKind, Version};
use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

impl Sidecar {
    /// Tells the kernel of the apps that are served. Their sockets are bound by then: what is
    /// steered there waits in their backlog until the data plane has them.
    pub(super) fn steer(&mut self) {
        let Some(steering) = &mut self.steering else { return self.tell_unsteered() };
        let steered: Vec<Steered<'_>> = self
            .apps
            .values()
            .map(|served| Steered {
                id: &served.entry.id,
                namespace: &served.entry.namespace,
                settings: &served.config.steering,
                group: steering
                    .group_of(&served.config.steering)
                    .map(|id| id.0)
                    .filter(|id| *id != 0),
                apis: ports(served, ListenerKind::Api),
                address: served.port_address(),
                inbound_port: ports(served, ListenerKind::Inbound)
                    .first()
                    .map_or(0, SocketAddr::port),
            })
            .collect();
        steering.set(&steered);
    }

    /// Apps that came with a wish for steering where there is none.
    fn tell_unsteered(&self) {
        // At the start the log says it once for all of them.
        if self.live == Version::default() {
            return;
        }
        let new = self.apps.values().filter(|served| served.stage == Stage::New);
        for served in new.filter(|served| served.config.steering.is_any()) {
            let (namespace, id) = (&served.entry.namespace, &served.entry.id);
            self.log.warning(format_args!(
                "App {namespace}/{id} is served, and steering is off: nothing keeps others from its API"
            ));
        }
    }

    pub(super) fn on_steering(&mut self, event: Event) {
        match event {
            Event::Addresses => {
                if let Some(steering) = &mut self.steering {
                    steering.on_addresses();
                }
            }
            Event::Groups => self.on_groups(),
            Event::Kernel => self.take_kernel_events(),
        }
    }

    fn take_kernel_events(&mut self) {
        let Some(steering) = &mut self.steering else { return };
        for Heard { app, listens } in steering.take_events() {
            let is_it = |served: &Served| {
                app.split_once('/')
                    == Some((served.entry.namespace.as_str(), served.entry.id.as_str()))
            };
            let found = self.apps.iter().find(|(_, served)| is_it(served));
            let Some((number, served)) = found.map(|(number, served)| (*number, served)) else {
                continue;
            };
            match listens {
                true => {
                    if let Some(Search::Running { bell, .. }) = &served.search {
                        bell.notify_one();
                    }
                }
                false => self.on_app_closed(number),
            }
        }
    }

    /// A listener of the app is gone. Where it has no other one, it is not ready any more, and
    /// looked for anew.
    fn on_app_closed(&mut self, number: u32) {
        let Some(served) = self.apps.get_mut(&number) else { return };
        let is_found = matches!(served.stage, Stage::Found(_) | Stage::Ready);
        let Some(address) = served.port_address().filter(|_| is_found) else { return };
        // On this machine a connect is answered at once, either way.
        if TcpStream::connect_timeout(&address, LOOK_TIMEOUT).is_ok() {
            return;
        }
        let (namespace, id) = (&served.entry.namespace, &served.entry.id);
        self.log.info(format_args!("App {namespace}/{id} does not listen any more"));
        // It was asked when it was found first.
        served.search = Some(Search::Due { asks_config: false });
        let health = AppHealth { unready: vec!["runtime".to_owned()], outbound_ready: true };
        self.publisher.set_health(self.supervisor.told(), number, health);
        let version = self.publish();
        if let Some(served) = self.apps.get_mut(&number) {
            served.stage = Stage::Found(version);
        }
    }

    /// Groups that were made anew have other ids; their apps' sockets let those in and no others.
    fn on_groups(&mut self) {
        self.steer();
        self.set_callers();
        if !self.publisher.is_empty() {
            self.publish();
        }
    }

    fn set_callers(&mut self) {
        for served in self.apps.values_mut() {
            let steering = self.steering.as_ref();
            let group = steering.and_then(|steering| steering.group_of(&served.config.steering));
            for bound in &mut served.sockets {
                if bound.set_caller(group) {
                    self.publisher.set_listener(bound.listener.clone());
                }
            }
        }
    }

    pub(super) fn tell_denials(&mut self, answer: Answer) {
        self.take_kernel_events();
        let Some(steering) = &self.steering else {
            return answer.send(409, "steering is off".to_owned());
        };
        let text = serde_json::to_string(&steering.denials());
        answer.send(200, text.expect("strings have a JSON form"));
    }

    pub(super) fn follow_denials(&mut self, after: u64, answer: Answer) {
        self.take_kernel_events();
        match &mut self.steering {
            Some(steering) => steering.follow_denials(after, answer),
            None => answer.send(409, "steering is off".to_owned()),
        }
    }

    /// Apps reach their APIs by the APIs' own ports alone from here on, and so does anybody.
    pub(super) fn detach(&mut self, answer: Answer) {
        let Some(steering) = self.steering.take() else {
            return answer.send(409, "steering is off".to_owned());
        };
        steering.end();
        self.log.info("Steering was taken off; the next start brings it back");
        self.set_callers();
        if !self.publisher.is_empty() {
            self.publish();
        }
        self.answer_when_live(answer);
    }
}

fn ports(served: &Served, kind: ListenerKind) -> Vec<SocketAddr> {
    let sockets = served.sockets.iter().filter(|bound| bound.listener.kind == kind);
    sockets
        .filter_map(|bound| match bound.address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        })
        .collect()
}

/// Control stands still meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_millis(20);

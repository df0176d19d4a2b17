//! A worker with nothing to do does nothing: no state of a connection, however odd, keeps its core
//! busy. Told by the turns it counts while nothing happens.

#![forbid(unsafe_code)]

use crate::{
    X, get, request,
    support::{App, DEADLINE, Hop, Mesh, Plane, Wire, has_descriptors, on_both_engines},
};
use dataplane::{clock, engine::Choice};
use std::time::Duration;

/// How long nothing happens, and the turns that timers and stragglers may cost in it. A worker that
/// spins does tens of thousands.
const PAUSE: Duration = Duration::from_millis(100);
const TURNS_MAX: f64 = 50.0;
const LARGE: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_millis(50);

/// Brings about a state, and gives what must be held for it to last.
type Scene = fn(&Mesh, &App) -> Vec<Wire>;

const SCENES: &[(&str, Scene)] = &[
    ("connection never used", |mesh, _| vec![mesh.client()]),
    ("connection kept", |mesh, app| {
        let (mut client, mut upstream) = asked(mesh, app);
        upstream.send(crate::OK);
        client.read_response();
        vec![client, upstream]
    }),
    ("half a head", |mesh, _| {
        let mut client = mesh.client();
        client.send("GET /v1.0");
        vec![client]
    }),
    ("app thinks", |mesh, app| {
        let (client, upstream) = asked(mesh, app);
        vec![client, upstream]
    }),
    ("app thinks, client has half-closed", |mesh, app| {
        let (client, upstream) = asked(mesh, app);
        client.shutdown_write();
        vec![client, upstream]
    }),
    ("pipelined requests wait", |mesh, app| {
        let (mut client, upstream) = asked(mesh, app);
        client.send(get(X).repeat(100));
        vec![client, upstream]
    }),
    ("half an answer", |mesh, app| {
        let (mut client, mut upstream) = asked(mesh, app);
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        client.read_head();
        vec![client, upstream]
    }),
    ("answer until close that goes on", |mesh, app| {
        let (mut client, mut upstream) = asked(mesh, app);
        upstream.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        client.read_head();
        vec![client, upstream]
    }),
    ("client does not read", |mesh, app| {
        let (client, upstream) = full_download(mesh, app);
        vec![client, upstream]
    }),
    ("client does not read and has half-closed", |mesh, app| {
        let (client, upstream) = full_download(mesh, app);
        client.shutdown_write();
        vec![client, upstream]
    }),
    ("client does not read, app has closed", |mesh, app| {
        let (client, upstream) = full_download(mesh, app);
        upstream.shutdown_write();
        vec![client, upstream]
    }),
    ("client does not read, app has reset", |mesh, app| {
        let (client, upstream) = full_download(mesh, app);
        upstream.reset();
        vec![client]
    }),
    ("app does not read", |mesh, app| {
        let (client, upstream) = full_upload(mesh, app);
        vec![client, upstream]
    }),
    ("app does not read and has half-closed", |mesh, app| {
        let (client, upstream) = full_upload(mesh, app);
        upstream.shutdown_write();
        vec![client, upstream]
    }),
    ("app does not read, client has reset", |mesh, app| {
        let (client, upstream) = full_upload(mesh, app);
        client.reset();
        vec![upstream]
    }),
    ("app has answered early", |mesh, app| {
        let (mut client, mut upstream) = full_upload(mesh, app);
        upstream.send(crate::OK);
        client.read_response();
        vec![client, upstream]
    }),
    ("tunnel", |mesh, app| {
        let (client, upstream) = tunnel(mesh, app);
        vec![client, upstream]
    }),
    ("tunnel, client has half-closed", |mesh, app| {
        let (client, upstream) = tunnel(mesh, app);
        client.shutdown_write();
        vec![client, upstream]
    }),
    ("tunnel, app has half-closed", |mesh, app| {
        let (client, upstream) = tunnel(mesh, app);
        upstream.shutdown_write();
        vec![client, upstream]
    }),
    ("tunnel that nobody reads", |mesh, app| {
        let (mut client, mut upstream) = tunnel(mesh, app);
        let body = vec![b'x'; LARGE];
        client.send_until_full(&body, PATIENCE);
        upstream.send_until_full(&body, PATIENCE);
        vec![client, upstream]
    }),
    ("refused, and the client stays", |mesh, _| {
        let mut client = mesh.client();
        client.send("rubbish\r\n\r\n");
        client.read_response();
        vec![client]
    }),
];

fn asked(mesh: &Mesh, app: &App) -> (Wire, Wire) {
    let mut client = mesh.client();
    client.send(get(X));
    let mut upstream = app.accept();
    upstream.read_request();
    (client, upstream)
}

fn full_download(mesh: &Mesh, app: &App) -> (Wire, Wire) {
    let (client, mut upstream) = asked(mesh, app);
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
    upstream.send_until_full(&vec![b'x'; LARGE], PATIENCE);
    (client, upstream)
}

fn full_upload(mesh: &Mesh, app: &App) -> (Wire, Wire) {
    let mut client = mesh.client();
    client.send(request("POST", X, &format!("Content-Length: {LARGE}\r\n")));
    let upstream = app.accept();
    client.send_until_full(&vec![b'x'; LARGE], PATIENCE);
    (client, upstream)
}

fn tunnel(mesh: &Mesh, app: &App) -> (Wire, Wire) {
    let mut client = mesh.client();
    client.send(request("GET", X, "Connection: Upgrade\r\nUpgrade: raw\r\n"));
    let mut upstream = app.accept();
    upstream.read_head();
    upstream
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n");
    client.read_response();
    (client, upstream)
}

fn turns_in_a_pause(plane: &mut Plane) -> f64 {
    let before = plane.counter("ringcar_worker_turns_total");
    std::thread::sleep(PAUSE);
    plane.counter("ringcar_worker_turns_total") - before
}

fn assert_quiet(engine: Choice, hop: Hop, case: &str, scene: Scene) {
    let app = App::listen();
    let mut mesh = Mesh::start_with(engine, hop, app.address(), |s| {
        s.apps[0].body_bytes_max = None;
    });
    let held = scene(&mesh, &app);
    mesh.settle();
    mesh.settle_back();
    for plane in std::iter::once(&mut mesh.caller).chain(&mut mesh.callee) {
        // What the scene set in motion may still be moving on a busy machine; what spins never
        // stops.
        let give_up = clock::now() + DEADLINE;
        loop {
            let turns = turns_in_a_pause(plane);
            if turns <= TURNS_MAX {
                break;
            }
            assert!(clock::now() < give_up, "{case} ({hop:?}): {turns} turns for nothing");
        }
    }
    drop(held);
}

on_both_engines! {
    fn nothing_to_do_is_nothing_done(engine: Choice) {
        if !has_descriptors("nothing_to_do_is_nothing_done", 2000) {
            return;
        }
        // All at once: most of it is waiting.
        std::thread::scope(|scope| {
            for hop in Hop::BOTH {
                for (case, scene) in SCENES {
                    scope.spawn(move || assert_quiet(engine, hop, case, *scene));
                }
            }
        });
    }
}

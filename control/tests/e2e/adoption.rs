//! Control that is killed: its data plane serves on, the next control adopts it, and nobody who
//! calls can tell.

#![forbid(unsafe_code)]

use crate::support::{
    App, Load, Place, Process, call, eventually, free_port, get, status_of, try_call,
};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt},
    process::{Pid, Signal, kill_process},
};
use snapshot::{
    ListenerKind,
    handover::{self, Request, Socket, Sockets},
};
use std::{
    fs,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const X: &str = "/v1.0/invoke/checkout/method/x";

fn initialized(mut process: Process) -> Process {
    process.wait_for("Adopted the running data plane (process ");
    process.wait_for("dapr initialized. Status: Running.");
    process
}

#[test]
fn a_killed_control_is_continued_by_the_next() {
    let place = Place::new();
    let app = App::start();
    let (caller, caller_port) = place.sidecar("caller", None, &[]);
    let (callee, port) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the route is known", || status_of(caller_port, X) == 200);
    call(port, "PUT /v1.0/metadata/cliPID", &[], "77");
    call(port, "PUT /v1.0/metadata/colour", &[], "blue");
    let metadata = get(port, "/v1.0/metadata").body;
    let before = (place.data_planes(), place.files("apps"), place.files("sockets"));
    callee.kill();
    assert_eq!(status_of(caller_port, X), 200, "without control");
    assert_eq!(status_of(port, "/v1.0/healthz"), 204, "without control");
    assert_eq!(place.files("apps"), before.1, "who is served is known");

    let callee = initialized(place.sidecar_at(port, "checkout", Some(app.port), &[]));
    assert_eq!((place.data_planes(), place.files("apps"), place.files("sockets")), before);
    assert_eq!(get(port, "/v1.0/metadata").body, metadata);
    let list = place.finish(&["list", "-o", "json"]).output;
    assert!(list.contains(&format!("\"daprdPid\": {}", callee.pid())), "{list}");
    assert!(list.contains("\"cliPid\": 77"), "{list}");

    // It is a control like any other: it publishes, and it ends what it adopted.
    call(port, "PUT /v1.0/metadata/colour", &[], "green");
    assert!(get(port, "/v1.0/metadata").body.contains("green"));
    caller.kill();
    let caller = initialized(place.sidecar_at(caller_port, "caller", None, &[]));
    assert_eq!(status_of(caller_port, X), 200);
    for process in [callee, caller] {
        process.signal(Signal::TERM);
        let finished = process.wait();
        assert_eq!(finished.code, 0, "{}", finished.output);
    }
    for kind in ["apps", "dataplane", "sockets"] {
        assert_eq!(place.files(kind), [""; 0], "{kind}");
    }
    assert!(try_call(port, "GET /v1.0/healthz", &[], "").is_err());
}

#[test]
fn control_that_is_killed_again_and_again_costs_no_call() {
    let place = Place::new();
    let app = App::start();
    let (mut caller, caller_port) = place.sidecar("caller", None, &[]);
    let (mut callee, port) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the route is known", || status_of(caller_port, X) == 200);
    let loads = [true, false].map(|keeps| Load::start(caller_port, "checkout", keeps));
    for _ in 0..KILLS {
        // At any moment of a control's life: before it adopted, while it does, and after.
        thread::sleep(KILL_PAUSE);
        caller.kill();
        callee.kill();
        caller = place.sidecar_at(caller_port, "caller", None, &[]);
        callee = place.sidecar_at(port, "checkout", Some(app.port), &[]);
    }
    let data_planes = place.data_planes();
    let counts = loads.map(Load::assert_none_failed);
    initialized(caller);
    initialized(callee);
    println!("{counts:?} calls while two controls were killed {KILLS} times each");
    assert!(counts.iter().all(|count| *count > KILLS), "{counts:?}");
    assert_eq!(data_planes.len(), 2);
}

#[test]
fn a_data_plane_that_nobody_adopts_ends_by_itself() {
    let place = Place::new();
    let app = App::start();
    let (_caller, caller_port) = place.sidecar("caller", None, &[]);
    for (case, more) in [("a while", "--keep-data-plane=300ms"), ("not", "--keep-data-plane=0s")] {
        let (callee, port) = place.sidecar("checkout", Some(app.port), &[more]);
        eventually("the route is known", || status_of(caller_port, X) == 200);
        callee.kill();
        eventually("its entry is gone", || place.files("apps").len() == 1);
        eventually("callers know no route", || status_of(caller_port, X) == 500);
        eventually("its port is free", || try_call(port, "GET /v1.0/healthz", &[], "").is_err());
        eventually(&format!("it ended, {case}"), || place.data_planes().len() == 1);
    }
}

#[test]
fn a_second_control_is_refused_with_the_first_ones_process() {
    let place = Place::new();
    let (first, port) = place.sidecar("checkout", None, &[]);
    let mut second = place.sidecar_at(port, "checkout", None, &[]);
    let line = second.wait_for("is controlled by process");
    assert!(line.contains(&format!("process {};", first.pid())), "{line}");
    assert_eq!(status_of(port, "/v1.0/healthz"), 204);
    // What it waits for: the first one ends, and it is the first.
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, 0);
    second.wait_for("dapr initialized. Status: Running.");
    assert_eq!(status_of(port, "/v1.0/healthz"), 204);
}

#[test]
fn an_adopted_data_plane_that_dies_is_replaced_on_the_same_sockets() {
    let place = Place::new();
    let app = App::start();
    let (first, port) = place.sidecar("checkout", Some(app.port), &[]);
    first.kill();
    let mut second = initialized(place.sidecar_at(port, "checkout", Some(app.port), &[]));
    let [data_plane] = place.data_planes()[..] else { panic!("one data plane") };
    kill_process(Pid::from_raw(data_plane.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let killed = Instant::now();
    second.wait_for(&format!("Data plane (process {data_plane}) ended; starting it anew"));
    // Not refused: the sockets are control's, too.
    assert_eq!(get(port, X).body, "/x ");
    println!("served again after {:?}", killed.elapsed());
    // And the one after that can be adopted again.
    second.kill();
    initialized(place.sidecar_at(port, "checkout", Some(app.port), &[]));
    assert_eq!(get(port, X).body, "/x ");
}

#[test]
fn a_control_that_cannot_start_leaves_the_data_plane_as_it_was() {
    let place = Place::new();
    let app = App::start();
    let (first, port) = place.sidecar("checkout", Some(app.port), &[]);
    first.kill();
    let more = ["--dapr-public-port=1", "--dapr-public-listen-address=no such host"];
    let mut broken = place.sidecar_at(port, "checkout", Some(app.port), &more);
    broken.wait_for("Adopted the running data plane");
    let finished = broken.wait();
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert_eq!(get(port, X).body, "/x ");
}

#[test]
fn what_is_served_otherwise_from_now_on_is_taken_from_the_next_control() {
    let place = Place::new();
    let (old, new) = (App::start(), App::start());
    let public = free_port();
    let flag = format!("--dapr-public-port={public}");
    let (first, port) = place.sidecar("checkout", Some(old.port), &[&flag]);
    assert_eq!(get(public, "/v1.0/healthz").status, 204);
    first.kill();
    let other_public = free_port();
    let flag = format!("--dapr-public-port={other_public}");
    let _second = initialized(place.sidecar_at(port, "checkout", Some(new.port), &[&flag]));
    assert_eq!(get(port, X).body, "/x ");
    assert!(new.has_request() && !old.has_request());
    assert_eq!(get(other_public, "/v1.0/healthz").status, 204);
    eventually("the old port is closed", || {
        try_call(public, "GET /v1.0/healthz", &[], "").is_err()
    });
}

/// The next frame on a link, whatever it says.
fn read_frame(link: &mut UnixStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    link.read_exact(&mut frame).ok()?;
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
    frame.resize(4 + length, 0);
    link.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

fn request(link: &mut UnixStream) -> Request {
    loop {
        let frame = read_frame(link).expect("control asks");
        if let Some((Some(request), _)) = handover::decode(&frame).unwrap() {
            return request;
        }
    }
}

/// Sends as a data plane does: descriptors beside the frame that names them.
fn send_with(link: &UnixStream, frame: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space =
        vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(descriptors).size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = sendmsg(link, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap(), frame.len());
}

#[test]
fn a_data_plane_of_another_version_serves_until_its_sockets_are_taken_over() {
    let place = Place::new();
    let app = App::start();
    let (first, port) = place.sidecar("checkout", Some(app.port), &[]);
    let [data_plane] = place.data_planes()[..] else { panic!("one data plane") };
    first.kill();
    kill_process(Pid::from_raw(data_plane.cast_signed()).unwrap(), Signal::KILL).unwrap();
    eventually("both are gone", || try_call(port, "GET /v1.0/healthz", &[], "").is_err());
    // In its place, on the same port: one that speaks a protocol of the future.
    let link = place.path().join("run/dataplane");
    let name = place.files("dataplane").into_iter().find(|name| name.ends_with(".sock")).unwrap();
    let link = link.join(name);
    fs::remove_file(&link).unwrap();
    let meeting = UnixListener::bind(&link).unwrap();
    // The kernel frees the port a moment after the process that had it is gone.
    let mut api = None;
    eventually("the port is free", || {
        api = TcpListener::bind(("127.0.0.1", port)).ok();
        api.is_some()
    });
    let api = api.unwrap();
    let accepting = api.try_clone().unwrap();
    let is_relieved = Arc::new(AtomicBool::new(false));
    let server = thread::spawn({
        let is_relieved = Arc::clone(&is_relieved);
        move || {
            // Whether an accept waits is a property of the socket, which the new one has, too.
            let tick = Some(Duration::from_millis(10));
            sockopt::set_socket_timeout(&accepting, sockopt::Timeout::Recv, tick).unwrap();
            while !is_relieved.load(Ordering::Relaxed) {
                let Ok((mut client, _)) = accepting.accept() else {
                    continue;
                };
                client.set_nonblocking(false).unwrap();
                // A connection has the timeouts of the socket it came to.
                client.set_read_timeout(None).unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
                    head.extend(byte);
                }
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n/x ";
                client.write_all(answer).unwrap();
            }
        }
    });
    let load = Load::start(port, "checkout", false);
    let mut second = place.sidecar_at(port, "checkout", Some(app.port), &[]);
    let (mut control, _) = meeting.accept().unwrap();
    control.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    control.write_all(&[4, 0, 0, 0, 0xff, 0xff, 1, 2]).unwrap();
    assert_eq!(request(&mut control), Request::Sockets);
    let socket = Socket::new(ListenerKind::Api, "default", "checkout");
    let unknown = Socket { kind: 77, ..socket.clone() };
    let sockets = Sockets { sockets: vec![socket, unknown], is_last: true };
    let frame = handover::encode(&sockets).unwrap();
    send_with(&control, &frame, &[api.as_fd(), api.as_fd()]);
    second.wait_for("is of another version: the peer speaks link protocol 65535");
    assert_eq!(request(&mut control), Request::Leave);
    // Whoever serves now does so on the same socket.
    is_relieved.store(true, Ordering::Relaxed);
    server.join().unwrap();
    drop((api, control));
    second.wait_for("dapr initialized. Status: Running.");
    assert_eq!(get(port, X).body, "/x ");
    assert!(app.has_request());
    assert!(load.assert_none_failed() > 0);
    let [new] = place.data_planes()[..] else { panic!("one data plane") };
    assert_ne!(new, data_plane);
}

/// Between two kills of the same control.
const KILL_PAUSE: Duration = Duration::from_millis(200);

const KILLS: usize = 12;

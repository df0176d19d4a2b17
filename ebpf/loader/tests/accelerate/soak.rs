//! Many connections at once, each direction with sizes, pauses and readers of its own, every byte
//! checked. `RINGCAR_TEST_SOAK_SECONDS` lets it run longer.

use crate::{
    hazards::{byte_at, pattern, wait_readable},
    support::{Credit, Pair, room},
};
use ebpf_loader::common::accelerate::{Pace, Side, WINDOW_BYTES};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn no_byte_is_lost_reordered_or_invented() {
    let Some(mut room) = room("no_byte_is_lost_reordered_or_invented") else { return };
    // Small, so that every way is taken often.
    room.kernel.set_window(WINDOW).unwrap();
    let seconds = std::env::var("RINGCAR_TEST_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(8));
    let before = Pace::ALL.map(|pace| room.count(pace));
    let total = Arc::new(AtomicU64::new(0));
    let mut rounds = 0;
    while Instant::now() < end {
        let pairs: Vec<Pair> = (0..CONNECTIONS)
            .map(|index| room.pair(if index % 2 == 0 { Side::App } else { Side::DataPlane }))
            .collect();
        let go = Arc::new(Barrier::new(CONNECTIONS));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = pairs
            .into_iter()
            .enumerate()
            .map(|(index, pair)| {
                let (go, stop, total) = (Arc::clone(&go), Arc::clone(&stop), Arc::clone(&total));
                let seed = rounds * CONNECTIONS as u64 + index as u64;
                thread::spawn(move || {
                    go.wait();
                    total.fetch_add(converse(pair, seed, &stop), Ordering::Relaxed);
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < end {
            thread::park_timeout(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        rounds += 1;
    }
    let counts: Vec<_> = Pace::ALL
        .iter()
        .zip(before)
        .map(|(pace, before)| (pace.name(), room.count(*pace) - before))
        .collect();
    eprintln!("soak: {} bytes, {rounds} rounds: {counts:?}", total.load(Ordering::Relaxed));
    for (name, count) in &counts {
        let happens = !matches!(*name, "peer_missing" | "in_doubt" | "no_room");
        assert!(!happens || *count > 0, "{name}");
    }
    room.kernel.set_window(WINDOW_BYTES).unwrap();
}

/// Both directions at once; gives the bytes that were checked.
fn converse(pair: Pair, seed: u64, stop: &Arc<AtomicBool>) -> u64 {
    let Pair { app, plane, credit } = pair;
    let clone = |socket: &TcpStream| socket.try_clone().unwrap();
    let (from_app, from_plane) = (clone(&app), clone(&plane));
    let writers = [(from_app, seed), (from_plane, !seed)].map(|(socket, seed)| {
        let stop = Arc::clone(stop);
        thread::spawn(move || write(socket, seed, &stop))
    });
    let to_app = thread::spawn(move || read(&app, !seed, None));
    let bytes = read(&plane, seed, Some(credit)) + to_app.join().unwrap();
    let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    assert_eq!(bytes, written, "of seed {seed}");
    bytes
}

fn write(mut socket: TcpStream, seed: u64, stop: &AtomicBool) -> u64 {
    let mut chance = Chance(seed | 1);
    let mut sent = 0;
    while sent < BYTES && !stop.load(Ordering::Relaxed) {
        let count = match chance.next(64) {
            0 => 1 + chance.next(2 * WINDOW),
            1 | 2 => 1 + chance.next(16_384),
            _ => 1 + chance.next(600),
        };
        let bytes = pattern(sent, usize::try_from(count).unwrap());
        socket.write_all(&bytes).unwrap();
        sent += count;
        match chance.next(24) {
            0 => thread::sleep(Duration::from_millis(2)),
            1..4 => thread::sleep(Duration::from_micros(chance.next(300))),
            _ => {}
        }
    }
    socket.shutdown(Shutdown::Write).unwrap();
    sent
}

fn read(mut socket: &TcpStream, seed: u64, mut credit: Option<Credit>) -> u64 {
    let mut chance = Chance(!seed | 1);
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    loop {
        wait_readable(socket);
        let most = 1 + usize::try_from(chance.next(buffer.len() as u64)).unwrap();
        match socket.read(&mut buffer[..most]) {
            Ok(0) => return read,
            Ok(count) => {
                let mut bytes = buffer[..count].iter().zip(read..);
                let wrong = bytes.find(|(byte, at)| **byte != byte_at(*at));
                assert_eq!(wrong, None, "of seed {seed}, from {read} on");
                read += count as u64;
                if let Some(credit) = &mut credit {
                    credit.took(count);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}, of seed {seed}"),
        }
        if chance.next(16) == 0 {
            thread::sleep(Duration::from_micros(chance.next(500)));
        }
    }
}

/// Xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

const CONNECTIONS: usize = 6;

/// Per direction of a connection.
const BYTES: u64 = 1 << 20;

const WINDOW: u64 = 64 * 1024;

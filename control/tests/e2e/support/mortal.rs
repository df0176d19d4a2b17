//! An app that can die as a process dies: its listener and all its connections close at once.

#![forbid(unsafe_code)]

use rustix::net::Shutdown;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

pub(crate) struct MortalApp {
    pub(crate) port: u16,
    listener: Arc<TcpListener>,
    life: Arc<Mutex<Life>>,
}

#[derive(Default)]
struct Life {
    is_over: bool,
    connections: Vec<TcpStream>,
    /// By the app id of who called.
    calls: BTreeMap<String, usize>,
}

impl MortalApp {
    pub(crate) fn start() -> Self {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let life = Arc::new(Mutex::new(Life::default()));
        let (accepting, lives) = (Arc::clone(&listener), Arc::clone(&life));
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let life = Arc::clone(&lives);
                let mut now = lives.lock().unwrap();
                if now.is_over {
                    return;
                }
                now.connections.push(stream.try_clone().unwrap());
                drop(now);
                thread::spawn(move || serve(&stream, &life));
            }
        });
        Self { port, listener, life }
    }

    /// How often an app has called since this one started.
    pub(crate) fn calls_of(&self, caller: &str) -> usize {
        self.life.lock().unwrap().calls.get(caller).copied().unwrap_or(0)
    }
}

impl Drop for MortalApp {
    fn drop(&mut self) {
        let mut life = self.life.lock().unwrap();
        life.is_over = true;
        // Wakes who accepts, and refuses who comes.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        for stream in life.connections.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(stream: &TcpStream, life: &Mutex<Life>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let caller = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("dapr-caller-app-id").then_some(value)
        });
        if let Some(caller) = caller {
            *life.lock().unwrap().calls.entry(caller.to_owned()).or_default() += 1;
        }
        let answer = format!("{} ", head.split(' ').nth(1).unwrap_or_default());
        let length = answer.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}");
        let mut writer = stream;
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

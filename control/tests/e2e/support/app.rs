//! An app for a sidecar to call: answers each request with what it was asked for, or holds its
//! answer to `/slow` back, or answers `/status/503` with that status.

#![forbid(unsafe_code)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
};

/// Listens for as long as the test process lives: the tests end before their apps do.
pub(crate) struct App {
    /// 0 on a Unix socket.
    pub(crate) port: u16,
    requests: mpsc::Receiver<String>,
}

/// Holds answers to `/slow` back until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(closed, |is_open| !*is_open).unwrap());
    }
}

impl App {
    /// Answers at once.
    pub(crate) fn start() -> Self {
        let gate = Gate::default();
        gate.open();
        Self::start_at(0, gate)
    }

    pub(crate) fn start_gated() -> (Self, Gate) {
        let gate = Gate::default();
        (Self::start_at(0, gate.clone()), gate)
    }

    /// On a port that was promised to a sidecar.
    pub(crate) fn start_on(port: u16) -> Self {
        let gate = Gate::default();
        gate.open();
        Self::start_at(port, gate)
    }

    pub(crate) fn start_on_socket(path: &Path) -> Self {
        let gate = Gate::default();
        gate.open();
        let listener = UnixListener::bind(path).unwrap();
        Self::serve_all(0, gate, move || Some(listener.accept().ok()?.0))
    }

    fn start_at(port: u16, gate: Gate) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self::serve_all(port, gate, move || Some(listener.accept().ok()?.0))
    }

    fn serve_all<S: Send + 'static>(
        port: u16,
        gate: Gate,
        accept: impl Fn() -> Option<S> + Send + 'static,
    ) -> Self
    where
        for<'a> &'a S: Read + Write,
    {
        let (seen, requests) = mpsc::channel();
        thread::spawn(move || {
            while let Some(stream) = accept() {
                let (gate, seen) = (gate.clone(), seen.clone());
                thread::spawn(move || serve(&stream, &gate, &seen));
            }
        });
        Self { port, requests }
    }

    /// The head of the next request for this path, with any verb; others before it are dropped.
    #[track_caller]
    pub(crate) fn request_for(&self, path: &str) -> String {
        loop {
            let head = self.requests.recv_timeout(super::DEADLINE).expect("a request");
            if head.split(' ').nth(1) == Some(path) {
                return head;
            }
        }
    }

    /// Whether a call has come in that nobody asked for yet.
    pub(crate) fn has_request(&self) -> bool {
        self.requests.try_iter().any(|head| !head.contains(" /dapr/"))
    }

    /// Calls since this was last asked.
    pub(crate) fn take_calls(&self) -> usize {
        self.requests.try_iter().filter(|head| !head.contains(" /dapr/")).count()
    }

    /// How many requests for this path have come in since the last look at any.
    pub(crate) fn count_for(&self, path: &str) -> usize {
        self.requests.try_iter().filter(|head| head.split(' ').nth(1) == Some(path)).count()
    }

    #[track_caller]
    pub(crate) fn next_request(&self) -> String {
        self.requests.recv_timeout(super::DEADLINE).expect("a request")
    }
}

fn serve<S>(mut stream: &S, gate: &Gate, seen: &mpsc::Sender<String>)
where
    for<'a> &'a S: Read + Write,
{
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        // The test may have heard enough.
        let _ = seen.send(head);
        if target == "/slow" {
            gate.pass();
        }
        let answer = format!("{target} {}", String::from_utf8_lossy(&body));
        let status = target.strip_prefix("/status/").unwrap_or("200");
        let response =
            format!("HTTP/1.1 {status} OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

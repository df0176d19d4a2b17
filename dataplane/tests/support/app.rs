//! The app behind the data plane: one that the test plays itself, connection by connection, or one
//! that answers from a thread of its own where the test only asks.

#![forbid(unsafe_code)]

use super::{DEADLINE, Message, Wire};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use snapshot::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr},
    path::PathBuf,
    thread::JoinHandle,
    time::Duration,
};

/// An app that the test plays.
pub(crate) struct App {
    listener: Socket,
    address: Address,
}

impl App {
    pub(crate) fn listen() -> Self {
        let (listener, address) = listen_tcp();
        Self { listener, address: Address::Tcp(address) }
    }

    /// With room for this many connections that are not accepted yet, and one.
    pub(crate) fn listen_with_backlog(backlog: i32) -> Self {
        let app = Self::listen();
        // Linux takes a second listen for a new backlog.
        app.listener.listen(backlog).unwrap();
        app
    }

    /// On a Unix socket.
    pub(crate) fn listen_at(path: PathBuf) -> Self {
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(1024).unwrap();
        Self { listener, address: Address::Unix(path.into()) }
    }

    pub(crate) fn address(&self) -> Address {
        self.address.clone()
    }

    /// What daprd's dialect calls the app: the `Host` line it sees.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn accept(&self) -> Wire {
        assert!(readable(&self.listener, Some(DEADLINE)), "the app was not called");
        let (socket, _) = self.listener.accept().unwrap();
        Wire::over(socket)
    }

    /// The connection that is already waiting, if there is one.
    pub(crate) fn accept_if_called(&self) -> Option<Wire> {
        readable(&self.listener, None).then(|| self.accept())
    }

    /// Nobody connected. Proves something only once the client has its answer.
    pub(crate) fn assert_untouched(&self) {
        assert!(!readable(&self.listener, None), "the app was called");
    }
}

/// An app that answers every request by itself.
pub(crate) struct ServedApp {
    listener: Socket,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl ServedApp {
    /// `answer` gives the bytes to send for a request; the connection is kept.
    pub(crate) fn answering(answer: impl Fn(&Message) -> Vec<u8> + Clone + Send + 'static) -> Self {
        Self::serving(move |wire| serve(wire, &answer))
    }

    /// Each connection on a thread of its own.
    pub(crate) fn serving(connection: impl Fn(Wire) + Clone + Send + 'static) -> Self {
        let (listener, address) = listen_tcp();
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            while let Ok((socket, _)) = accepting.accept() {
                let connection = connection.clone();
                std::thread::spawn(move || connection(Wire::over(socket)));
            }
        });
        Self { listener, address, thread: Some(thread) }
    }

    /// Answers 200 with the request as it came in the body, so that a test can read what the app
    /// saw.
    pub(crate) fn echoing() -> Self {
        Self::answering(|request| {
            let length = request.raw.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let body = if request.start_line.starts_with("HEAD ") { &[] } else { &request.raw[..] };
            [head.as_bytes(), body].concat()
        })
    }

    pub(crate) fn address(&self) -> Address {
        Address::Tcp(self.address)
    }
}

impl Drop for ServedApp {
    fn drop(&mut self) {
        // Linux ends a blocked accept with EINVAL when its socket is shut down.
        self.listener.shutdown(Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(mut wire: Wire, answer: &impl Fn(&Message) -> Vec<u8>) {
    while wire.await_more() {
        let request = wire.read_request();
        if wire.try_send(answer(&request)).is_err() {
            return;
        }
    }
}

/// On a free port, with a backlog that no test fills: a connection that does not fit waits a second
/// in the kernel.
pub(crate) fn listen_tcp() -> (Socket, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(1024).unwrap();
    let address = listener.local_addr().unwrap().as_socket().expect("a TCP address");
    (listener, address)
}

/// `None` does not wait.
fn readable(socket: &Socket, timeout: Option<Duration>) -> bool {
    let timeout = Timespec::try_from(timeout.unwrap_or_default()).expect("a deadline of seconds");
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => break ready.unwrap() > 0,
        }
    }
}

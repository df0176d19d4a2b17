//! One HTTP/1.1 request on a connection of its own, read to the end of the connection.

#![forbid(unsafe_code)]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

#[track_caller]
pub(crate) fn get(port: u16, path: &str) -> Answer {
    call(port, &format!("GET {path}"), &[], "")
}

/// `what` is verb and path.
#[track_caller]
pub(crate) fn call(port: u16, what: &str, headers: &[&str], body: &str) -> Answer {
    try_call(port, what, headers, body).unwrap_or_else(|e| panic!("{what} on port {port}: {e}"))
}

pub(crate) fn try_call(port: u16, what: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = TcpStream::connect_timeout(&address, super::DEADLINE)?;
    stream.set_read_timeout(Some(super::DEADLINE))?;
    exchange(stream, what, headers, body)
}

/// A connection that is used again and again.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, super::DEADLINE)?;
        stream.set_read_timeout(Some(super::DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Status and body of a GET.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.call("GET", path)
    }

    /// Status and body of a request without a body.
    pub(crate) fn call(&mut self, verb: &str, path: &str) -> io::Result<(u16, String)> {
        let length = if verb == "GET" { "" } else { "Content-Length: 0\r\n" };
        write!(self.0.get_mut(), "{verb} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let invalid = || io::Error::other(format!("no response: {head:?}"));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[track_caller]
pub(crate) fn call_unix(path: &Path, what: &str) -> Answer {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(super::DEADLINE)).unwrap();
    exchange(stream, what, &[], "").unwrap()
}

fn exchange(
    mut stream: impl Read + Write,
    what: &str,
    headers: &[&str],
    body: &str,
) -> io::Result<Answer> {
    let mut head = format!("{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for line in headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    let length = body.len();
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let invalid = || io::Error::other(format!("no response: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

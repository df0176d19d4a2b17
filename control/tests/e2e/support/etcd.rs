//! What a test asks of an etcd, over its JSON gateway.

#![forbid(unsafe_code)]

use super::Server;
use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

/// Where it is asked, whether it is there or not.
pub(crate) struct Etcd(SocketAddr);

impl Server {
    pub(crate) fn gateway(&self) -> Etcd {
        Etcd((self.host, self.port).into())
    }

    /// Whether it answers: it takes connections before it has found out who leads.
    pub(crate) fn is_ready(&self) -> bool {
        self.gateway().try_ask("/v3/kv/range", "{\"key\":\"AA==\"}").is_ok()
    }

    #[track_caller]
    fn ask(&self, path: &str, body: &str) -> serde_json::Value {
        self.gateway().try_ask(path, body).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Rows below the registry's prefix.
    #[track_caller]
    pub(crate) fn row_count(&self) -> u64 {
        let answer = self.ask("/v3/kv/range", &format!("{{{ROWS},\"count_only\":true}}"));
        number(&answer["count"])
    }

    /// The leases that rows are held by, however many each.
    #[track_caller]
    pub(crate) fn leases_of_rows(&self) -> BTreeSet<u64> {
        let answer = self.ask("/v3/kv/range", &format!("{{{ROWS},\"keys_only\":true}}"));
        let rows = answer["kvs"].as_array().into_iter().flatten();
        rows.map(|row| number(&row["lease"])).collect()
    }

    #[track_caller]
    pub(crate) fn lease_count(&self) -> usize {
        self.ask("/v3/lease/leases", "{}")["leases"].as_array().map_or(0, Vec::len)
    }

    /// Forgets all that was before now.
    #[track_caller]
    pub(crate) fn compact(&self) {
        let now = &self.ask("/v3/kv/range", "{\"key\":\"AA==\"}")["header"]["revision"];
        let order = format!("{{\"revision\":{now},\"physical\":true}}");
        self.ask("/v3/kv/compaction", &order);
    }
}

impl Etcd {
    /// Writes a row, or whatever is given for one, that no lease holds.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn try_put(&self, key: &str, value: &str) -> io::Result<()> {
        let (key, value) = (base64(key.as_bytes()), base64(value.as_bytes()));
        let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
        self.try_ask("/v3/kv/put", &body).map(drop)
    }

    /// # Errors
    /// When it is not there.
    pub(crate) fn try_delete(&self, key: &str) -> io::Result<()> {
        let body = format!("{{\"key\":\"{}\"}}", base64(key.as_bytes()));
        self.try_ask("/v3/kv/deleterange", &body).map(drop)
    }

    /// # Errors
    /// Also when it answers with an error.
    fn try_ask(&self, path: &str, body: &str) -> io::Result<serde_json::Value> {
        let stream = TcpStream::connect(self.0)?;
        stream.set_read_timeout(Some(super::DEADLINE))?;
        let length = body.len();
        // HTTP/1.0 has no chunks.
        write!(&stream, "POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut answer = String::new();
        reader.read_to_string(&mut answer)?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(serde_json::from_str(&answer)?),
            _ => Err(io::Error::other(answer)),
        }
    }
}

/// The gateway writes 64-bit numbers as text, and leaves out zeroes.
fn number(value: &serde_json::Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let digit = |place: usize| char::from(ALPHABET[bits >> (18 - 6 * place) & 63]);
        text.extend((0..4).map(|place| if place <= chunk.len() { digit(place) } else { '=' }));
    }
    text
}

/// From `/ringcar/apps/` up to `/ringcar/apps0`.
const ROWS: &str = "\"key\":\"L3JpbmdjYXIvYXBwcy8=\",\"range_end\":\"L3JpbmdjYXIvYXBwczA=\"";

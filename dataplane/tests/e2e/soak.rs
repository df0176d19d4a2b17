//! Many clients at once with bodies of every shape and size, cut in every way: what arrives is what
//! was sent.

#![forbid(unsafe_code)]

use crate::{
    X,
    support::{Hop, Mesh, Message, ServedApp, Wire, on_both_engines},
};
use dataplane::engine::Choice;

const CLIENTS: u64 = 6;
const CALLS: u64 = 40;
const BODY_BYTES_MAX: u64 = 200_000;

/// xorshift64*: small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn size_below(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Most bodies are small, some need several receives.
        let bound = [10, 1000, 20_000, BODY_BYTES_MAX][self.size_below(4)];
        let (size, start) = (self.size_below(bound), self.size_below(200));
        (0..=250).cycle().skip(start).take(size).collect()
    }

    fn chunked(&mut self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let bound = [5, 500, 50_000][self.size_below(3)];
            let size = (1 + self.size_below(bound)).min(rest.len());
            out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            out.extend_from_slice(&rest[..size]);
            out.extend_from_slice(b"\r\n");
            rest = &rest[size..];
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    fn message(&mut self, start: &str, body: &[u8]) -> Vec<u8> {
        let (framing, framed) = match self.below(2) {
            0 => (format!("Content-Length: {}", body.len()), body.to_vec()),
            _ => ("Transfer-Encoding: chunked".to_owned(), self.chunked(body)),
        };
        [format!("{start}{framing}\r\n\r\n").as_bytes(), &framed].concat()
    }

    /// Changes, doubles, drops or inserts a few bytes anywhere.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.size_below(bytes.len() as u64);
            let any = b"\0\t\n\r :;,0159afAF#?%/\x7f\xff\xc3"[self.size_below(22)];
            match self.below(5) {
                0 => bytes[at] = any,
                1 => bytes.insert(at, any),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at + 1),
                _ => {
                    let end = (at + 1 + self.size_below(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(any);
            }
        }
    }

    fn send_in_pieces(&mut self, wire: &mut Wire, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let bound = [3, 3000, 300_000][self.size_below(3)];
            let size = (1 + self.size_below(bound)).min(rest.len());
            wire.send(&rest[..size]);
            rest = &rest[size..];
        }
    }
}

/// Sends the body back in a framing of its own, found from the body so that the app needs no state.
fn mirror(request: &Message) -> Vec<u8> {
    let mut random = Random(0x9E37_79B9 + request.body.len() as u64);
    random.message("HTTP/1.1 200 OK\r\n", &request.body)
}

fn converse(mesh_api: &snapshot::Address, seed: u64) {
    let mut random = Random(seed);
    let mut client = Wire::connect(mesh_api);
    for call in 0..CALLS {
        let body = random.bytes();
        let verb = ["POST", "PUT", "PATCH"][random.size_below(3)];
        let request = random.message(&format!("{verb} {X} HTTP/1.1\r\nHost: a\r\n"), &body);
        let mut writer = client.split();
        let mut pieces = Random(random.below(u64::MAX >> 34) + 1);
        // Written and read at once: the answer of a large body may begin before its request ends.
        let writing = std::thread::spawn(move || pieces.send_in_pieces(&mut writer, &request));
        let response = client.read_response();
        writing.join().unwrap();
        assert_eq!(response.status(), 200, "seed {seed}, call {call}: {}", response.start_line);
        assert!(response.body == body, "seed {seed}, call {call}: {} bytes", body.len());
        if random.below(10) == 0 {
            client = Wire::connect(mesh_api);
        }
    }
}

fn assert_serves(mesh: &Mesh) {
    let mut client = mesh.client();
    client.send(crate::get("/v1.0/healthz"));
    assert_eq!(client.read_response().status(), 204);
}

on_both_engines! {
    fn bodies_arrive_as_they_were_sent(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::answering(mirror);
            let mesh = Mesh::start(engine, hop, app.address());
            std::thread::scope(|scope| {
                for seed in 1..=CLIENTS {
                    let api = mesh.caller.api();
                    scope.spawn(move || converse(api, seed * 0x1234_5678_9ABC_DEF1));
                }
            });
        }
    }

    fn damaged_requests_harm_nobody(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::answering(mirror);
            let mesh = Mesh::start(engine, hop, app.address());
            let mut random = Random(7);
            for round in 0..400 {
                let target = ["/v1.0/invoke/checkout/method/x", "/x", "/v1.0/metadata/k"];
                let start = format!(
                    "POST {} HTTP/1.1\r\nHost: a\r\ndapr-app-id: checkout\r\n\
                     Connection: x, close\r\n",
                    target[random.size_below(3)]
                );
                let body = [b"body".as_slice(), &[]][random.size_below(2)];
                let mut bytes = random.message(&start, body);
                random.damage(&mut bytes);
                let mut client = mesh.client();
                client.try_send(&bytes).ok();
                client.try_shutdown_write();
                assert!(client.ends(), "round {round}: no end to {}", bytes.escape_ascii());
            }
            assert_serves(&mesh);
        }
    }

    fn damaged_answers_harm_nobody(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::serving(|mut wire| {
                let request = wire.read_request();
                let mut random = Random(request.one("x-seed").unwrap().parse().unwrap());
                let body = random.bytes();
                let mut bytes = random.message("HTTP/1.1 200 OK\r\nConnection: x\r\n", &body);
                random.damage(&mut bytes);
                wire.try_send(&bytes).ok();
            });
            let mesh = Mesh::start(engine, hop, app.address());
            for seed in 1..300 {
                let mut client = mesh.client();
                client.send(crate::request(
                    "GET",
                    X,
                    &format!("X-Seed: {}\r\nConnection: close\r\n", seed * 7919),
                ));
                assert!(client.ends(), "seed {seed}: no end");
            }
            drop(app);
            let app = ServedApp::echoing();
            let mesh = Mesh::start(engine, hop, app.address());
            assert_serves(&mesh);
        }
    }
}

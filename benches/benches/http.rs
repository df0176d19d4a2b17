//! What HTTP costs per request: parse a head, rewrite it for the next hop, find the end of a
//! chunked body.
//!
//! The heads are those of a Dapr call: some 245 bytes with the headers an SDK sends.

#![forbid(unsafe_code)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::http::{
    BodyReader, Field, FieldSet, Framing, HeadScan, Method, Parsed, RequestHead, ResponseHead,
    Rewrite, parse_request, parse_response, rewrite_anew, rewrite_in_place,
};
use std::{hint::black_box, time::Duration};

const REQUEST: &[u8] = b"POST /v1.0/invoke/checkoutservice/method/checkout/100 HTTP/1.1\r\n\
    Host: localhost:3602\r\nUser-Agent: dapr-sdk-go/v1.11.0\r\nAccept: */*\r\n\
    Content-Type: application/json\r\nContent-Length: 15\r\nAccept-Encoding: gzip\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 256\r\n\
    Date: Fri, 20 Nov 2026 10:00:00 GMT\r\nServer: checkout\r\n\r\n";

const BYTES_MAX: usize = 16 * 1024;
const HEADROOM_BYTES: usize = 512;

const DROP: FieldSet =
    FieldSet::of(&[Field::Connection, Field::DaprAppId, Field::HopByHop, Field::Host]);
const ADDED: &[u8] = b"Host: checkoutservice\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: node-1\r\n\
    Forwarded: for=10.0.0.1;by=10.0.0.1;host=node-1\r\ndapr-caller-app-id: orderprocessingservice\r\n\
    dapr-caller-namespace: default\r\ndapr-callee-app-id: checkoutservice\r\n";

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Bytes(REQUEST.len() as u64));
    group.bench_function("request head", |bencher| {
        let mut head = RequestHead::new();
        bencher.iter(|| parse_request(black_box(REQUEST), BYTES_MAX, &mut head));
    });
    group.bench_function("end of head", |bencher| {
        let mut scan = HeadScan::new(BYTES_MAX);
        bencher.iter(|| {
            scan.reset();
            scan.is_complete(black_box(REQUEST))
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response head", |bencher| {
        let mut head = ResponseHead::new();
        bencher.iter(|| parse_response(black_box(RESPONSE), BYTES_MAX, Method::Post, &mut head));
    });
    group.finish();
}

fn rewriting(criterion: &mut Criterion) {
    let mut head = RequestHead::new();
    assert_eq!(parse_request(REQUEST, BYTES_MAX, &mut head), Ok(Parsed::Complete));
    let start_line: [&[u8]; 1] = [b"POST /checkout/100 HTTP/1.1\r\n"];
    let added: [&[u8]; 1] = [ADDED];
    let rewrite = Rewrite { start_line: &start_line, drop: DROP, added: &added };
    let mut original = vec![0; HEADROOM_BYTES];
    original.extend_from_slice(REQUEST);

    let mut group = criterion.benchmark_group("rewrite");
    // Both start from the head as it was received, so both pay for the same copy.
    group.bench_function("in place", |bencher| {
        let mut buffer = original.clone();
        bencher.iter(|| {
            buffer.copy_from_slice(black_box(&original));
            rewrite_in_place(&mut buffer, HEADROOM_BYTES, &head.lines, REQUEST.len(), &rewrite)
        });
    });
    group.bench_function("anew", |bencher| {
        let mut buffer = original.clone();
        let mut out: Vec<u8> = Vec::with_capacity(BYTES_MAX);
        bencher.iter(|| {
            buffer.copy_from_slice(black_box(&original));
            out.clear();
            let received = &buffer[HEADROOM_BYTES..];
            rewrite_anew(received, &head.lines, &rewrite, &mut |bytes| {
                out.extend_from_slice(bytes)
            });
            out.len()
        });
    });
    group.finish();
}

fn chunk_scanning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunked body");
    for (name, chunk_bytes) in [("small chunks", 64), ("chunks of 4 KiB", 4096)] {
        let chunk = format!("{chunk_bytes:x}\r\n{}\r\n", "x".repeat(chunk_bytes));
        let body = chunk.repeat(16 * 1024 / chunk_bytes) + "0\r\n\r\n";
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut reader = BodyReader::new(Framing::Chunked);
                reader.take(black_box(body.as_bytes()))
            });
        });
    }
    group.finish();
}

/// Nanoseconds at a time need no five seconds.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);

criterion_group! {
    name = http;
    config = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASURED);
    targets = parsing, rewriting, chunk_scanning
}
criterion_main!(http);

//! Connections that made one request and stay open: what a keep-alive client leaves with a proxy.

#![forbid(unsafe_code)]

use crate::{
    arguments::Plan,
    connection::{Connection, Received},
};
use anyhow::{Context, Result, bail};
use loadtests::poll::{Poll, Ready};
use std::time::{Duration, Instant};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const RECEIVE_BYTES: usize = 64 * 1024;

/// One after the other, so that the proxy is never asked for all at once.
pub(crate) fn open(plan: &Plan) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(plan.connections_idle);
    let mut buffer = vec![0; RECEIVE_BYTES];
    for index in 0..plan.connections_idle {
        let connection = open_one(plan, &mut buffer);
        connections.push(connection.with_context(|| format!("idle connection {}", index + 1))?);
    }
    Ok(connections)
}

fn open_one(plan: &Plan, buffer: &mut [u8]) -> Result<Connection> {
    let mut poll = Poll::new()?;
    let mut connection = Connection::open(plan, &poll, 0)?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    connection.start(plan, Instant::now())?;
    let mut ready: Vec<Ready> = Vec::new();
    loop {
        connection.watch(plan, &poll, 0)?;
        let left = deadline.saturating_duration_since(Instant::now());
        ready.clear();
        poll.wait(Some(left), &mut ready)?;
        let Some(event) = ready.first() else { bail!("no answer within {ANSWER_TIMEOUT:?}") };
        if event.writable {
            connection.send(plan)?;
        }
        match connection.receive(plan, buffer)? {
            Received::Answer { closes: false, .. } => return Ok(connection),
            Received::Nothing => {}
            Received::Answer { .. } | Received::Closed => bail!("the server keeps nothing alive"),
        }
    }
}

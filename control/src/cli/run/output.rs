//! Passes a child's lines on: to the terminal under a prefix, as `dapr run` does, so that app and
//! sidecar share it; to a log file as they are.
//!
//! A line is passed on as it came, whatever its bytes; one without an end is cut at
//! `LINE_BYTES_MAX`.

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    task::JoinHandle,
};

/// Where a child's lines go; nowhere, without either.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    /// On the terminal, each line under this.
    pub(super) prefix: Option<String>,
    pub(super) file: Option<Arc<File>>,
}

#[derive(Clone, Copy)]
pub(super) enum Sink {
    Stderr,
    Stdout,
}

impl Output {
    pub(super) fn terminal(prefix: &str) -> Self {
        Self { prefix: Some(prefix.to_owned()), file: None }
    }
}

/// Runs until the pipe's other end is closed by everyone who holds it.
pub(super) fn relay(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    output: Output,
    sink: Sink,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        // A pipe that fails has nothing more to say; neither a reader that left nor a full disk
        // stops the app.
        while let Ok(true) = next_line(&mut lines, &mut line).await {
            if let Some(mut file) = output.file.as_deref() {
                let _ = write_line(&mut file, "", &line);
            }
            let Some(prefix) = &output.prefix else { continue };
            let _ = match sink {
                Sink::Stderr => write_line(&mut io::stderr().lock(), prefix, &line),
                Sink::Stdout => write_line(&mut io::stdout().lock(), prefix, &line),
            };
        }
    })
}

/// `false` at the end.
async fn next_line(
    lines: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    let count = lines.take(LINE_BYTES_MAX).read_until(b'\n', line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(count > 0)
}

fn write_line(sink: &mut impl Write, prefix: &str, line: &[u8]) -> io::Result<()> {
    let mut whole = Vec::with_capacity(prefix.len() + line.len() + 1);
    whole.extend_from_slice(prefix.as_bytes());
    whole.extend_from_slice(line);
    whole.push(b'\n');
    sink.write_all(&whole)?;
    sink.flush()
}

const LINE_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_bytes_and_get_their_prefix() {
        let long = "x".repeat(70_000);
        let input = format!("one\n\n\u{7}two\r\n{long}\nlast");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut output = Vec::new();
        runtime.block_on(async {
            let mut lines = BufReader::new(input.as_bytes());
            let mut line = Vec::new();
            while next_line(&mut lines, &mut line).await.unwrap() {
                write_line(&mut output, "== APP == ", &line).unwrap();
            }
        });
        let (head, tail) = long.split_at(64 * 1024);
        let want = ["one", "", "\u{7}two\r", head, tail, "last"]
            .map(|line| format!("== APP == {line}\n"))
            .concat();
        assert!(output == want.as_bytes(), "{}", String::from_utf8_lossy(&output[..100]));
    }
}

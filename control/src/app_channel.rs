//! Waits for the app: until its port takes connections, then the calls daprd makes to it at
//! start-up.
//!
//! Calls are not held back meanwhile; `/v1.0/healthz` is what changes when this is done.

#![forbid(unsafe_code)]

use crate::{http_client, log::Log};
use hyper::{Method, body::Bytes, header};
use snapshot::Address;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

pub(crate) struct AppChannel {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: String,
    pub(crate) app_id: String,
    /// Ask for `/dapr/config`.
    pub(crate) asks_config: bool,
    pub(crate) log: Log,
}

impl AppChannel {
    /// Ready when the app is. Without an upper bound, as daprd: an app may take its time.
    pub(crate) async fn discover(self) {
        let (protocol, port) = (&self.protocol, self.address.port());
        self.log.info(format_args!(
            "application protocol: {protocol}. waiting on port {port}.  This will block \
             until the app is listening on that port."
        ));
        self.wait_for_port().await;
        self.log.info(format_args!("application discovered on port {port}"));
        if self.asks_config {
            self.ask_config().await;
        }
    }

    async fn wait_for_port(&self) {
        let mut pause = POLL_PAUSE_MIN;
        loop {
            let connect = TcpStream::connect(self.address);
            if let Ok(Ok(_)) = tokio::time::timeout(DIAL_TIMEOUT, connect).await {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_PAUSE_MAX);
        }
    }

    /// The answer configures actors, which are not ours; apps count on being asked all the same.
    async fn ask_config(&self) {
        let Ok(mut request) = http_client::request(Method::GET, "/dapr/config", Bytes::new())
        else {
            return;
        };
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Ok(id) = header::HeaderValue::from_str(&self.app_id) {
            headers.insert("dapr-app-id", id);
        }
        let address = Address::Tcp(self.address);
        match http_client::call(&address, request, CONFIG_TIMEOUT).await {
            Ok(response) => {
                self.log
                    .debug(format_args!("app answered /dapr/config with {}", response.status()));
            }
            Err(e) => self.log.warning(format_args!("app did not answer /dapr/config: {e}")),
        }
    }
}

const POLL_PAUSE_MIN: Duration = Duration::from_millis(1);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(100);

/// daprd's.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);

/// An app that listens and does not answer must not keep its sidecar unhealthy for ever.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    fn channel(address: SocketAddr, asks_config: bool) -> AppChannel {
        AppChannel {
            address,
            protocol: "http".to_owned(),
            app_id: "orders".to_owned(),
            asks_config,
            log: Log::silent(),
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limited = async { tokio::time::timeout(Duration::from_secs(5), test).await };
        runtime.block_on(limited).expect("done in time")
    }

    #[test]
    fn asks_the_app_for_its_configuration_under_its_own_id() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = std::thread::spawn(move || {
            // The first connection only tells that the port is open.
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut buffer = [0; 512];
            while !head.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut buffer).unwrap();
                head.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
            String::from_utf8(head).unwrap()
        });
        run(channel(address, true).discover());
        let head = app.join().unwrap();
        assert!(head.starts_with("GET /dapr/config HTTP/1.1\r\n"), "{head}");
        for line in ["dapr-app-id: orders", "content-type: application/json"] {
            assert!(head.contains(line), "{head}");
        }
        assert!(head.contains(&format!("host: {address}")), "{head}");
    }

    #[test]
    fn waits_for_the_port_to_open() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        run(async {
            let discover = tokio::spawn(channel(address, false).discover());
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert!(!discover.is_finished());
            let _listener = TcpListener::bind(address).unwrap();
            discover.await.unwrap();
        });
    }
}

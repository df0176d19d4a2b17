//! Waits for the app: until its port or socket takes connections, then the calls daprd makes to it
//! at start-up.
//!
//! Calls are not held back meanwhile; `/v1.0/healthz` is what changes when this is done.

#![forbid(unsafe_code)]

use crate::{http_client, log::Log};
use hyper::{Method, body::Bytes, header};
use snapshot::{Address, policy::Token};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{Notify, Semaphore},
};

pub(crate) struct AppChannel {
    pub(crate) address: Address,
    pub(crate) protocol: String,
    pub(crate) app_id: String,
    pub(crate) token: Option<Token>,
    /// Ask for `/dapr/config`.
    pub(crate) asks_config: bool,
    pub(crate) log: Log,
    pub(crate) patience: Patience,
    /// Rung by whoever hears that the app listens; it is looked for at once then.
    pub(crate) bell: Arc<Notify>,
    /// Somebody does hear of it, so that looking is for what was missed.
    pub(crate) is_heard: bool,
}

/// How many look for their app at once. The more there are, the less often each one looks, so that
/// a node full of apps that do not listen costs next to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    looking: Arc<AtomicU32>,
    dialling: Arc<Semaphore>,
    asking: Arc<Semaphore>,
}

/// One that looks, until it is dropped.
struct Looking(Patience);

impl Default for Patience {
    fn default() -> Self {
        let [dialling, asking] =
            [DIALLING_MAX, ASKING_MAX].map(|count| Arc::new(Semaphore::new(count)));
        Self { looking: Arc::default(), dialling, asking }
    }
}

impl Patience {
    fn look(&self) -> Looking {
        self.looking.fetch_add(1, Relaxed);
        Looking(self.clone())
    }

    fn pause_max(&self) -> Duration {
        POLL_PAUSE_MAX * (1 + self.looking.load(Relaxed) / LOOKING_AT_ONCE)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.looking.fetch_sub(1, Relaxed);
    }
}

impl AppChannel {
    /// Ready when the app is. Without an upper bound, as daprd: an app may take its time.
    ///
    /// A node of many apps waits in as many of these at once, so that what is needed only for a
    /// moment is on the heap for that moment.
    pub(crate) async fn discover(self: Box<Self>) {
        self.tell_wait();
        self.wait_until_it_listens().await;
        self.tell_found();
        if self.asks_config {
            // Few at once, and on the heap: an exchange takes some 20 KiB, and an app that only
            // waits shall not.
            let _place = self.patience.asking.acquire().await;
            Box::pin(self.ask_config()).await;
        }
    }

    fn tell_wait(&self) {
        let (protocol, (kind, place)) = (&self.protocol, self.place());
        self.log.info(format_args!(
            "application protocol: {protocol}. waiting on {kind} {place}.  This will block \
             until the app is listening on that {kind}."
        ));
    }

    fn tell_found(&self) {
        let (kind, place) = self.place();
        self.log.info(format_args!("application discovered on {kind} {place}"));
    }

    fn place(&self) -> (&'static str, String) {
        match &self.address {
            Address::Tcp(address) => ("port", address.port().to_string()),
            Address::Unix(path) => ("socket", path.display().to_string()),
        }
    }

    async fn wait_until_it_listens(&self) {
        let _looking = self.patience.look();
        let mut pause = if self.is_heard { HEARD_PAUSE } else { POLL_PAUSE_MIN };
        loop {
            if self.dial().await {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.bell.notified() => {}
            }
            if !self.is_heard {
                pause = (pause * 2).min(self.patience.pause_max());
            }
        }
    }

    async fn dial(&self) -> bool {
        let _place = self.patience.dialling.acquire().await;
        let dial = tokio::time::timeout(DIAL_TIMEOUT, self.is_listening());
        matches!(Box::pin(dial).await, Ok(true))
    }

    async fn is_listening(&self) -> bool {
        match &self.address {
            Address::Tcp(address) => TcpStream::connect(address).await.is_ok(),
            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
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
        if let Some(token) = &self.token {
            http_client::insert_token(headers, token.secret());
        }
        match http_client::call(&self.address, request, CONFIG_TIMEOUT).await {
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

/// Between looks for an app of which the kernel tells: its word may be lost when its ring is full,
/// or the app be where the programs are not.
const HEARD_PAUSE: Duration = Duration::from_secs(5);

/// So many look every POLL_PAUSE_MAX: 200 looks a second at the most, however many there are.
const LOOKING_AT_ONCE: u32 = 20;

/// Dials under way at once. With 200 looks a second of DIAL_TIMEOUT each 100 are under way at the
/// most; more are those of many apps that come together, and theirs are done at once.
const DIALLING_MAX: usize = 128;

/// Apps that are asked for their `/dapr/config` at once.
const ASKING_MAX: usize = 16;

/// daprd's.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);

/// An app that listens and does not answer must not keep its sidecar unhealthy for ever.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        os::unix::net::UnixListener,
    };

    fn channel(address: Address, asks_config: bool) -> Box<AppChannel> {
        Box::new(AppChannel {
            address,
            protocol: "http".to_owned(),
            app_id: "orders".to_owned(),
            token: Some(Token::new("secret").unwrap()),
            bell: Arc::default(),
            is_heard: false,
            asks_config,
            log: Log::silent(),
            patience: Patience::default(),
        })
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limited = async { tokio::time::timeout(Duration::from_secs(60), test).await };
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
        run(channel(Address::Tcp(address), true).discover());
        let head = app.join().unwrap();
        assert!(head.starts_with("GET /dapr/config HTTP/1.1\r\n"), "{head}");
        for line in
            ["dapr-app-id: orders", "dapr-api-token: secret", "content-type: application/json"]
        {
            assert!(head.contains(line), "{head}");
        }
        assert!(head.contains(&format!("host: {address}")), "{head}");
    }

    #[test]
    fn many_look_less_often() {
        let patience = Patience::default();
        let one = patience.look();
        assert_eq!(patience.pause_max(), POLL_PAUSE_MAX);
        let more: Vec<Looking> = (0..999).map(|_| patience.look()).collect();
        assert_eq!(patience.pause_max(), 51 * POLL_PAUSE_MAX);
        drop((one, more));
        assert_eq!(patience.pause_max(), POLL_PAUSE_MAX);
    }

    #[test]
    fn waits_for_the_port_to_open() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        discovers_only_after(Address::Tcp(address), || TcpListener::bind(address).unwrap());
    }

    /// Looked for when the bell rings, and not before.
    #[test]
    fn one_that_is_heard_of_is_not_looked_for() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        run(async {
            let bell = Arc::<Notify>::default();
            let heard = Box::new(AppChannel {
                bell: Arc::clone(&bell),
                is_heard: true,
                ..*channel(Address::Tcp(address), false)
            });
            let discover = tokio::spawn(heard.discover());
            // The first look is over, and a poll would find it within this time.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let listener = TcpListener::bind(address).unwrap();
            tokio::time::sleep(4 * POLL_PAUSE_MAX).await;
            assert!(!discover.is_finished(), "nobody polls");
            bell.notify_one();
            discover.await.unwrap();
            drop(listener);
        });
    }

    #[test]
    fn waits_for_the_socket_to_take_connections() {
        let temp = TestDir::new();
        let path = temp.path().join("app");
        let address = Address::Unix(path.clone().into());
        discovers_only_after(address.clone(), || UnixListener::bind(&path).unwrap());
        // The file is still there, but nobody listens.
        discovers_only_after(address, || {
            std::fs::remove_file(&path).unwrap();
            UnixListener::bind(&path).unwrap()
        });
    }

    fn discovers_only_after<T>(address: Address, listen: impl FnOnce() -> T) {
        run(async {
            let discover = tokio::spawn(channel(address, false).discover());
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert!(!discover.is_finished());
            let _listener = listen();
            discover.await.unwrap();
        });
    }
}

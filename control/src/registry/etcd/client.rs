//! Calls to one etcd server over gRPC: connect, authenticate, and the few calls a registry needs.
//!
//! A client is one connection. When anything goes wrong with it, it is dropped and another one is
//! made, to the next endpoint: what was true of the old connection (its token, its server) is never
//! assumed of the new one.

#![forbid(unsafe_code)]

use super::{
    Settings, Tls,
    wire::{
        AuthenticateRequest, AuthenticateResponse, DeleteRangeRequest, LeaseGrantRequest,
        LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, LeaseRevokeResponse, PutRequest,
        RangeRequest, RangeResponse, RequestOp, RequestOpUnion, StatusRequest, StatusResponse,
        TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchRequestUnion,
        WatchResponse,
    },
};
use prost::Message;
use std::{fs, future::Future, io, path::PathBuf, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

#[derive(Debug, thiserror::Error)]
pub(super) enum EtcdError {
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect { endpoint: String, reason: String },
    #[error("cannot read {path}: {reason}")]
    TlsFile { path: PathBuf, reason: io::Error },
    #[error("{call}: {}", .status.message())]
    Refused { call: &'static str, status: Box<Status> },
    #[error("{0}: no answer within {REQUEST_TIMEOUT:?}")]
    Timeout(&'static str),
    #[error("the watch ended: {0}")]
    WatchEnded(String),
    #[error("revisions up to {0} were compacted away")]
    Compacted(i64),
    #[error("another cluster, or an older copy of it, answers")]
    Replaced,
    #[error("the lease ran out")]
    LeaseGone,
}

impl EtcdError {
    /// Whether the answer was larger than is taken.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
                && status.message().contains("too large"))
    }

    /// Whether what was asked for is no longer kept.
    pub(super) fn is_compacted(&self) -> bool {
        match self {
            Self::Compacted(_) => true,
            Self::Refused { status, .. } => status.message().contains("compacted"),
            _ => false,
        }
    }

    /// Whether the lease is not there any more, or never was.
    pub(super) fn is_unknown_lease(&self) -> bool {
        match self {
            Self::LeaseGone => true,
            Self::Refused { status, .. } => {
                status.code() == Code::NotFound && status.message().contains("lease not found")
            }
            _ => false,
        }
    }

    /// Whether a revision was named that has not happened yet.
    pub(super) fn is_future(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.message().contains("future revision"))
    }

    /// Whether a server judged the call, so that trying again changes nothing. A token that ran out
    /// is no verdict: the next connection gets a new one.
    pub(super) fn is_verdict(&self) -> bool {
        const VERDICTS: [Code; 2] = [Code::InvalidArgument, Code::PermissionDenied];
        matches!(self, Self::Refused { status, .. } if VERDICTS.contains(&status.code()))
    }
}

/// Of one row.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Delete { key: Vec<u8> },
    Put { key: Vec<u8>, value: Vec<u8>, lease: i64 },
}

impl From<Change> for RequestOp {
    fn from(change: Change) -> Self {
        let request = match change {
            Change::Delete { key } => RequestOpUnion::DeleteRange(DeleteRangeRequest { key }),
            Change::Put { key, value, lease } => {
                RequestOpUnion::Put(PutRequest { key, value, lease })
            }
        };
        Self { request: Some(request) }
    }
}

/// A lease, on the stream that renews it. It ends with the connection.
pub(super) struct KeepAlive {
    lease: i64,
    requests: mpsc::Sender<LeaseRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
    renewed_at: Instant,
}

impl KeepAlive {
    pub(super) const fn renewed_at(&self) -> Instant {
        self.renewed_at
    }

    /// # Errors
    /// When it cannot be renewed, or is gone.
    pub(super) async fn renew(&mut self) -> Result<(), EtcdError> {
        let asked_at = Instant::now();
        // The stream that cannot be written to is told by its answer.
        let _ = self.requests.try_send(LeaseRequest { id: self.lease });
        self.answer().await?;
        // The time that the answer took is not the lease's.
        self.renewed_at = asked_at;
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), EtcdError> {
        match within(RENEWING, self.answers.message()).await? {
            Some(LeaseKeepAliveResponse { ttl: 1.. }) => Ok(()),
            Some(_) => Err(EtcdError::LeaseGone),
            None => Err(ended()),
        }
    }

    /// Ready when the stream ends, or says unasked that the lease is gone. Dropping the future
    /// before it is ready loses nothing.
    pub(super) async fn lost(&mut self) -> EtcdError {
        loop {
            match self.answers.message().await {
                Ok(Some(LeaseKeepAliveResponse { ttl: 1.. })) => {}
                Ok(Some(_)) => return EtcdError::LeaseGone,
                Ok(None) => return ended(),
                Err(status) => {
                    return EtcdError::Refused { call: RENEWING, status: Box::new(status) };
                }
            }
        }
    }
}

fn ended() -> EtcdError {
    let status = Box::new(Status::unavailable("the server closed the stream"));
    EtcdError::Refused { call: RENEWING, status }
}

#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Tries the endpoints in turn, from a random one on, so that many sidecars spread over them.
    ///
    /// # Errors
    /// What the last endpoint said.
    pub(super) async fn connect(settings: &Settings) -> Result<Self, EtcdError> {
        let count = settings.endpoints.len().max(1);
        let first = fastrand::usize(..count);
        let mut result = Err(EtcdError::WatchEnded("there is no endpoint".into()));
        for uri in settings.endpoints.iter().cycle().skip(first).take(count) {
            result = Self::connect_to(uri, settings).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    pub(super) async fn connect_to(uri: &str, settings: &Settings) -> Result<Self, EtcdError> {
        let failed = |reason: &(dyn std::error::Error + 'static)| EtcdError::Connect {
            endpoint: uri.to_owned(),
            reason: innermost(reason),
        };
        let mut endpoint = Endpoint::from_shared(uri.to_owned())
            .map_err(|e| failed(&e))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        if uri.starts_with("https://") {
            endpoint = endpoint.tls_config(tls(&settings.tls)?).map_err(|e| failed(&e))?;
        }
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
        let channel = match connecting {
            Ok(channel) => channel.map_err(|e| failed(&e))?,
            Err(_) => return Err(EtcdError::Timeout("connecting")),
        };
        let mut client = Self { channel, token: None };
        if let Some((name, password)) = &settings.user {
            client.authenticate(name.clone(), password.0.clone()).await?;
        }
        Ok(client)
    }

    async fn authenticate(&mut self, name: String, password: String) -> Result<(), EtcdError> {
        const CALL: &str = "authenticating";
        let request = AuthenticateRequest { name, password };
        let response: AuthenticateResponse =
            self.unary(CALL, "/etcdserverpb.Auth/Authenticate", request).await?;
        let token = response.token.parse().map_err(|_| {
            let status = Box::new(Status::internal("the server's token is no header value"));
            EtcdError::Refused { call: CALL, status }
        })?;
        self.token = Some(token);
        Ok(())
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.unary("reading", "/etcdserverpb.KV/Range", request).await
    }

    /// Of the server's program.
    pub(super) async fn version(&self) -> Result<String, EtcdError> {
        let path = "/etcdserverpb.Maintenance/Status";
        let StatusResponse { version } = self.unary("status", path, StatusRequest {}).await?;
        Ok(version)
    }

    /// All of it or nothing; at most [`CHANGES_MAX`].
    pub(super) async fn change(&self, changes: &[Change]) -> Result<(), EtcdError> {
        let success = changes.iter().cloned().map(RequestOp::from).collect();
        let request = TxnRequest { success };
        let _: TxnResponse = self.unary("writing", "/etcdserverpb.KV/Txn", request).await?;
        Ok(())
    }

    /// # Errors
    /// Also when the server grants no lease.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, EtcdError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let request = LeaseGrantRequest { ttl };
        let response: LeaseGrantResponse =
            self.unary("granting a lease", "/etcdserverpb.Lease/LeaseGrant", request).await?;
        Ok(response.id)
    }

    /// Renews the lease, and can go on doing so.
    ///
    /// # Errors
    /// Also when there is no such lease any more.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<KeepAlive, EtcdError> {
        let (requests, receiver) = mpsc::channel(1);
        // There is room for one.
        let _ = requests.try_send(LeaseRequest { id: lease });
        let messages = ReceiverStream::new(receiver);
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let answers = within(RENEWING, self.stream(path, messages)).await?;
        let mut alive = KeepAlive { lease, requests, answers, renewed_at: Instant::now() };
        alive.answer().await?;
        Ok(alive)
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        let path = "/etcdserverpb.Lease/LeaseRevoke";
        let LeaseRevokeResponse {} =
            self.unary("revoking the lease", path, LeaseRequest { id }).await?;
        Ok(())
    }

    /// The watch; it lasts as long as what is returned.
    pub(super) async fn watch(
        &self,
        request: WatchCreateRequest,
    ) -> Result<Streaming<WatchResponse>, EtcdError> {
        let first = WatchRequest { union: Some(WatchRequestUnion::Create(request)) };
        // The server ends the watch when our side of the stream ends.
        let requests = tokio_stream::once(first).chain(tokio_stream::pending());
        within("watching", self.stream("/etcdserverpb.Watch/Watch", requests)).await
    }

    async fn unary<Q, R>(
        &self,
        call: &'static str,
        path: &'static str,
        message: Q,
    ) -> Result<R, EtcdError>
    where
        Q: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let answer = async {
            let mut grpc = self.ready().await?;
            let codec = ProstCodec::<Q, R>::default();
            let path = PathAndQuery::from_static(path);
            grpc.unary(self.request(message), path, codec).await.map(tonic::Response::into_inner)
        };
        within(call, answer).await
    }

    async fn stream<Q, R>(
        &self,
        path: &'static str,
        messages: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<R>, Status>
    where
        Q: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, R>::default();
        let path = PathAndQuery::from_static(path);
        let response = grpc.streaming(self.request(messages), path, codec).await?;
        Ok(response.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|e| Status::unavailable(innermost(&e)))?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A server that was cut off from the others must not pass for one that knows.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, EtcdError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(result) => {
            result.map_err(|status| EtcdError::Refused { call, status: Box::new(status) })
        }
        Err(_) => Err(EtcdError::Timeout(call)),
    }
}

/// Files are read at each connection: certificates are replaced while we run.
fn tls(settings: &Tls) -> Result<ClientTlsConfig, EtcdError> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|reason| EtcdError::TlsFile { path: path.clone(), reason })
    };
    let mut tls = ClientTlsConfig::new();
    tls = match &settings.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &settings.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    if let Some(name) = &settings.server_name {
        tls = tls.domain_name(name.clone());
    }
    Ok(tls)
}

/// The transport's own words are "transport error"; why is further down.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

const RENEWING: &str = "renewing the lease";

/// Changes that are made at once; etcd takes 128 (`--max-txn-ops`).
pub(super) const CHANGES_MAX: usize = 100;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// etcd ends connections that ping more often than every 5 s (`--grpc-keepalive-min-time`).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// etcd takes values of 1.5 MiB; a page or a watch message of rubbish may hold several.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

//! Every bound of the data plane, by name and with its reason. A queue, buffer, retry or wait
//! without an entry here is a defect.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes one receive can bring. 16 KiB is where the copy cost per byte levels off, and 128 of them
/// fit in L2.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Free bytes in front of received ones, for the lines that forwarding adds to a head; a usual head
/// grows by some 250 bytes (caller and callee ids, `X-Forwarded-*`, `Forwarded`).
pub const HEADROOM_BYTES: usize = 512;

/// Buffers in the kernel's ring at the start of a turn: 2 MiB. The ring is first in, first out, so
/// all of them are touched, and more would only be colder.
pub const BUFFERS_START: u16 = 128;

/// Buffers a worker may come to use when slow readers hold the first ones: 16 MiB. Must be a power
/// of two, as the kernel's ring wants.
pub const BUFFERS_MAX: u16 = 1024;

/// Free buffers below which bytes that cannot leave at once are copied to the heap, so that a few
/// clients that do not read cannot hold all buffers. What each of them makes us keep is bounded by
/// RELAY_HIGH_BYTES.
pub const BUFFERS_SCARCE: usize = BUFFERS_MAX as usize / 2;

/// Buffers kept out of the ring for heads that are emitted anew and for our own answers.
pub const SCRATCH_BUFFERS: u16 = 32;

/// Submission queue entries; a turn that needs more submits in between.
pub const RING_ENTRIES: u32 = 512;

/// Completion queue entries. Multishot operations complete more than once per submission; what does
/// not fit waits in the kernel, at a price.
pub const COMPLETION_ENTRIES: u32 = 8 * RING_ENTRIES;

/// Completions handled in one turn, so that one busy connection cannot keep timers and mailbox
/// waiting.
pub const EVENTS_PER_TURN: usize = 1024;

/// Slices gathered into one send. 64 × 16 KiB is more than a socket's send buffer takes at once.
pub const GATHER_SLICES: usize = 64;

/// Largest head that is ever accepted: 64 KiB from a client, where `--read-buffer-size` may lower
/// it, and what its sidecar adds; from apps as much.
pub const HEAD_BYTES_MAX: usize = 64 * 1024 + PEER_HEAD_BYTES;

/// Bytes offered in one send, so that counts fit the kernel's 32 bits.
pub const SEND_BYTES_MAX: usize = 1 << 30;

/// Vectors of gathered sends kept for reuse, 1 KiB each.
pub const GATHERS_KEPT: usize = 64;

/// How long an engine that is dropped waits for the kernel to end its operations.
pub const QUIESCE_TIMEOUT: Duration = Duration::from_secs(1);

/// Buffers that one receive offers at most, where the backend asks for each receive.
pub const RECEIVE_SLICES: usize = 8;

/// Free buffers at which sockets that found none are read again: a full ring. With fewer they would
/// take turns at finding none.
pub const REARM_BUFFERS_MIN: usize = BUFFERS_START as usize;

/// Bytes one socket may send in one turn, so that a fast reader of a long body does not hold up the
/// others.
pub const FLUSH_BYTES_MAX: usize = 1024 * 1024;

/// Connections one listener may bring in one turn.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Connections that are taken from the queue of a listener before it is closed: what the kernel
/// queues at the most (`net.core.somaxconn` as it comes since Linux 5.4), so that a flood that goes
/// on cannot keep it open.
pub const LAST_ACCEPTS_MAX: usize = 4096;

/// How long an accept may block where another process has made the shared listener a blocking one
/// and has taken the connection that it was for. The kernel rounds up to its tick.
pub const ACCEPT_WAIT_MAX: Duration = Duration::from_millis(1);

/// Header lines in a head; more are refused with 431. Twice what a browser with many cookies sends.
pub const HEADER_LINES_MAX: usize = 112;

/// What of these bounds is kept for the lines that the caller's sidecar adds (at most ten: who
/// calls, whom, through whom, `Host`, an upgrade, its trace), so that a head that passed the
/// caller's sidecar also passes the callee's.
pub const PEER_HEADER_LINES: usize = 12;
pub const PEER_HEAD_BYTES: usize = 2 * 1024;

/// Options in the `Connection` lines of one head; each is compared with every line. More are
/// refused with 431.
pub const CONNECTION_OPTIONS_MAX: usize = 32;

/// Trailer lines after a chunked body, and the bytes they may take.
pub const TRAILER_LINES_MAX: usize = 32;
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of chunk extensions in one body. They mean nothing to us and cost the peer's parser time
/// (hyper's bound).
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Questions of operators for what workers think of endpoints, at once. Each costs every worker a
/// look at one app.
pub const SCORE_QUERIES_MAX: usize = 16;

/// Bytes waiting to be sent in one direction at which its source is no longer read, and the level
/// at which reading goes on.
pub const RELAY_HIGH_BYTES: usize = 256 * 1024;
pub const RELAY_LOW_BYTES: usize = 64 * 1024;

/// Interim (1xx) responses relayed for one request; an app that sends more is at fault.
pub const INTERIM_RESPONSES_MAX: u32 = 64;

/// Time for a request head, from its first byte (or from accept), as Go's `ReadHeaderTimeout` in
/// daprd.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A keep-alive client may be silent this long between requests.
pub const DOWNSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A peer that takes no byte of what waits for it for this long is gone.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Time to connect to an app or a peer; daprd's dial timeout.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time to connect to one of several endpoints: enough for a lost packet, which is sent again after
/// a second. A machine that is gone answers nothing, and the others are waiting.
pub const FAIL_OVER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An idle upstream connection is kept this long. Shorter than the 60 s and more after which
/// servers close, so that we close first.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle connections kept per endpoint and worker; daprd's transport keeps 64.
pub const POOL_IDLE_MAX: usize = 64;

/// Endpoints that a worker may know before it looks which ones are still in use.
pub const ENDPOINTS_KEPT_MIN: usize = 256;

/// After sending to an app failed, its answer, which may be why it stopped reading, is awaited this
/// long.
pub const SEND_FAILED_TIMEOUT: Duration = Duration::from_secs(1);

/// Request bytes remembered for replays; larger requests are not replayed.
pub const REPLAY_BYTES_MAX: usize = 16 * 1024;

/// Replays of one request: on a fresh connection, at another endpoint, and there on a fresh one,
/// too. A request that kills whoever takes it must not go round.
pub const REPLAYS_MAX: u8 = 3;

/// Request bytes that a worker keeps for the retries of policies, all calls together. A call that
/// finds no room is not tried again. A further attempt copies what it sends, so for as long as the
/// app has not taken it there is as much once more.
pub const RETRY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The shortest pause before another attempt, so that a policy cannot make a worker do nothing
/// else.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);

/// A call is tried again for this long at most: what daprd allows its exponential retry. A client
/// that is gone without a word must not be worked for for ever.
pub const RETRY_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Targets whose circuit breakers are kept, all apps together; with more, those that were called
/// longest ago begin anew. Each has as many breakers as its policy says.
pub const BREAKER_TARGETS_MAX: usize = 4096;

/// daprd's built-in retry against another sidecar that cannot be reached: this often, this far
/// apart.
pub const PEER_RETRY_MAX: u32 = 3;
pub const PEER_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Endpoints of one app that a request goes to, one after the other without a pause, when none of
/// them takes it.
pub const ENDPOINTS_TRIED_MAX: usize = 8;

/// Failures without an answer between them after which an endpoint is called no more. Five, as
/// linkerd and Envoy have it: fewer would take one burst of resets for a dead instance.
pub const EJECTION_FAILURES: u32 = 5;

/// How long an endpoint is left alone before a probe; twice as long after each probe that fails.
pub const EJECTION_MIN: Duration = Duration::from_secs(1);
pub const EJECTION_MAX: Duration = Duration::from_secs(30);

/// A probe whose outcome nobody has told by then is lost, and another request may be one.
pub const PROBE_TIMEOUT: Duration = CONNECT_TIMEOUT;

/// An endpoint's latency is forgotten at this rate, to 1/e after each: linkerd's 10 s.
pub const LATENCY_DECAY: Duration = Duration::from_secs(10);

/// Answers that come sooner than this are as good as each other: the difference is the network's
/// and the scheduler's.
pub const LATENCY_FLOOR: Duration = Duration::from_millis(1);

/// Latencies that differ by no more than this factor are equal; requests under way then decide
/// alone. Two instances of one app always differ a little, and without it the quicker one would get
/// all calls while there are few.
pub const LATENCY_NOISE: f64 = 2.0;

/// Apps with several endpoints whose health a worker remembers. With more, those that were not
/// called of late are forgotten, and start anew.
pub const GROUPS_MAX: usize = 4096;

/// Calls that wait at a time for one app with `--app-max-concurrency`, over all workers; more are
/// refused. As many as the connections that a sidecar is built to hold. Each keeps what it has
/// sent, RELAY_HIGH_BYTES at the most.
pub const GATE_WAITING_MAX: u32 = 10_000;

/// When a worker's mailbox is full, what a gate has for it is offered again after this.
pub const GATE_MAIL_PAUSE: Duration = Duration::from_millis(1);

/// Names of hosts outside of Dapr that a worker knows at a time, those it asks for included.
pub const HOSTS_KEPT_MAX: usize = 1024;

/// How long a name's addresses are used without asking again. Go asks for each new connection;
/// this is shorter than any TTL that is set on purpose.
pub const HOST_FRESH: Duration = Duration::from_secs(5);

/// Names that wait to be looked up, and threads that do it. A server that does not answer holds a
/// thread for some seconds.
pub const HOST_QUESTIONS_MAX: usize = 256;
pub const RESOLVER_THREADS_MAX: usize = 4;

/// After an answer that left request bytes unread, this much and this long is read and dropped, so
/// that the answer is not lost in a reset.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a call waits for control to find out where its app is: two tries of a name server, with
/// control's 2 s each, and some.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls of one worker that wait so; further ones are told at once that there is no such app. Each
/// may hold its head and RELAY_HIGH_BYTES, so this is 512 MiB at the very worst, of clients that
/// all send large bodies to apps that nobody knows.
pub const PARKED_MAX: usize = 2048;

/// Names that control is being asked for, by all workers together. As many as it looks up and keeps
/// at most, so that what a hostile client makes up piles up nowhere.
pub const RESOLVING_NAMES_MAX: usize = 1024;

/// Body of a request that control answers (`PUT /v1.0/metadata/{key}`).
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// How long control may take over an answer.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests for control that are kept until they are answered, to be asked again of the control
/// after the one that died; with their bodies 2 MiB at most.
pub const ASKED_MAX: usize = 32;

/// Time for calls in flight once a data plane ends because no control came back; a sidecar's
/// default graceful time.
pub const ALONE_DRAIN_MAX: Duration = Duration::from_secs(5);

/// Client connections per worker. Below the usual 1,048,576 descriptors of a service, upstream ones
/// included.
pub const CONNECTIONS_MAX: usize = 100_000;

/// Pause after accept failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Token buckets of rate limits, in the whole process: strangers choose by which address and path
/// they are counted. With their keys 4 MiB at most, and 1 MiB where paths are as long as usual.
pub const RATE_BUCKETS_MAX: usize = 16 * 1024;
pub const RATE_KEY_BYTES_MAX: usize = 192;

/// Messages waiting for one worker; control sends few, accepts are the bulk.
pub const MAILBOX_MESSAGES_MAX: usize = 4096;

/// Series of metrics per worker. daprd's default shows every path as it is, and strangers choose
/// paths; with 0.7 KB each this is 1.5 MB, and a page of some megabytes.
pub const METRIC_SERIES_MAX: usize = 2048;

/// Paths and ids of other apps that are labels, per worker, and how long each may be.
pub const METRIC_NAMES_MAX: usize = 2048;
pub const METRIC_NAME_BYTES_MAX: usize = 512;

/// Texts of each kind whose labels a worker has at hand, and how long they may be: 256 of them cost
/// 32 KB if all are as long, and most services have fewer paths that are called all the time.
pub const METRIC_MEMO_TEXTS: usize = 256;
pub const METRIC_MEMO_BYTES_MAX: usize = 128;

/// Calls to be logged, and spans, that wait for the link thread, per worker; made when an app wants
/// them. What the link cannot take is counted and dropped.
pub const RECORDS_MAX: usize = 512;

/// Records that go to control in one message, so that none is large.
pub const RECORDS_PER_FRAME: usize = 256;

/// Longest `tracestate` that is passed on, as daprd; and its members (W3C Trace Context §3.3.1.1).
pub const TRACESTATE_BYTES_MAX: usize = 512;
pub const TRACESTATE_MEMBERS_MAX: usize = 32;

/// `baggage` as OpenTelemetry's library bounds it for daprd: the whole, one member, and how many.
pub const BAGGAGE_BYTES_MAX: usize = 8192;
pub const BAGGAGE_MEMBER_BYTES_MAX: usize = 4096;
pub const BAGGAGE_MEMBERS_MAX: usize = 180;

const _: () = assert!(METRIC_NAMES_MAX <= u16::MAX as usize);
const _: () = assert!(BUFFERS_MAX.is_power_of_two() && BUFFERS_START <= BUFFERS_MAX);
const _: () = assert!(RELAY_LOW_BYTES < RELAY_HIGH_BYTES);
const _: () = assert!(EJECTION_MIN.as_nanos() <= EJECTION_MAX.as_nanos());
const _: () = assert!(REPLAY_BYTES_MAX <= BUFFER_BYTES);
const _: () = assert!(POOL_IDLE_TIMEOUT.as_secs() < DOWNSTREAM_IDLE_TIMEOUT.as_secs());

//! HTTP/1.1 as bytes: heads are parsed where they lie, bodies are measured, heads are rewritten for
//! the next hop.
//!
//! Second station of a call, between the connection that brings bytes and `dapr`, which asks who is
//! called. Pure: slices in, decisions out; no allocation, no clock, no socket.
//!
//! The invariant: what leaves here has one reading. Whatever two parsers could understand
//! differently is an error, never a repair, because the next parser on the path may be the other
//! one.

#![deny(unsafe_code)]

mod authority;
mod body;
mod chunked;
pub mod date;
mod field;
mod framing;
mod head;
mod method;
mod options;
pub mod reply;
mod request;
mod response;
mod rewrite;
mod scan;
mod span;
mod trailer;
mod usual;

pub use body::{BodyReader, Piece, Truncated};
pub use chunked::{CHUNK_HEADER_BYTES, ChunkError, LAST_CHUNK, chunk_header};
pub use field::{Field, FieldSet};
pub use framing::{Framing, FramingError, respell};
pub use head::{HeadError, Line, Lines, Parsed, Version, is_token};
pub use method::Method;
pub use request::{RequestError, RequestHead, parse_request};
pub use response::{ResponseError, ResponseHead, parse_response};
pub use rewrite::{Rewrite, rewrite_anew, rewrite_in_place};
pub use scan::HeadScan;
pub use span::Span;
pub use trailer::TrailerError;

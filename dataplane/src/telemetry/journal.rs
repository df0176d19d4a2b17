//! Records on their way from one worker to the link thread, through bounded rings.
//!
//! The rings are made when the first app wants them: a data plane that logs no calls and records no
//! spans has none. A worker never waits; what finds no room is dropped, and counted by the worker.

#![forbid(unsafe_code)]

use super::record::{ApiCall, Span};
use crate::limits::RECORDS_MAX;
use crossbeam_queue::ArrayQueue;
use std::sync::OnceLock;

#[derive(Debug, Default)]
pub(crate) struct Journal {
    calls: OnceLock<ArrayQueue<ApiCall>>,
    spans: OnceLock<ArrayQueue<Span>>,
}

impl Journal {
    /// Whether it was taken.
    pub(super) fn put_call(&self, call: ApiCall) -> bool {
        self.calls.get_or_init(|| ArrayQueue::new(RECORDS_MAX)).push(call).is_ok()
    }

    pub(super) fn put_span(&self, span: Span) -> bool {
        self.spans.get_or_init(|| ArrayQueue::new(RECORDS_MAX)).push(span).is_ok()
    }

    pub(crate) fn take_call(&self) -> Option<ApiCall> {
        self.calls.get()?.pop()
    }

    pub(crate) fn take_span(&self) -> Option<Span> {
        self.spans.get()?.pop()
    }
}

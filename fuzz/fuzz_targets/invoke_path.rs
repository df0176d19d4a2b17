//! Whatever a caller sends, no invocation panics the worker, and nothing that reaches a peer or an
//! app can be read in two ways.

#![forbid(unsafe_code)]
#![no_main]

use dataplane::dapr::{CallNotes, invariant};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| invariant::check_invoke_path(bytes, &mut CallNotes::default()));

//! How many files a process may have open. The soft limit is 1024 for programs that still use
//! `select(2)`, which cannot count further; ours need not stop there.

#![forbid(unsafe_code)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Processes that are started later inherit it.
pub(crate) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // One that cannot be raised is felt when it is reached, and told then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

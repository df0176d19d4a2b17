//! Which saying of its registry a row is: for operators, who compare it with what they see there.

#![forbid(unsafe_code)]

use crate::timestamp::Timestamp;
use std::fmt;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Revision {
    /// etcd's own count.
    Etcd { mod_revision: i64 },
    /// Where it stands, in the file as it was written then.
    File { line: usize, modified: Option<Timestamp> },
    /// Seconds since 1970, of the last renewal.
    Host { renewed: u64 },
    /// Of the sidecar that has the entry.
    Local { pid: u32, created: Timestamp },
    /// When it is looked up again.
    Name { until: Timestamp },
    #[default]
    None,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Etcd { mod_revision } => write!(f, "mod revision {mod_revision}"),
            Self::File { line, modified: None } => write!(f, "line {line}"),
            Self::File { line, modified: Some(time) } => {
                write!(f, "line {line}, written {}", time.short())
            }
            Self::Host { renewed } => {
                let time = Timestamp(renewed.saturating_mul(1_000_000_000));
                write!(f, "renewed {}", time.short())
            }
            Self::Local { pid, created } => {
                let age = created.seconds_until(Timestamp::now());
                write!(f, "process {pid}, {age} s old")
            }
            Self::Name { until } => write!(f, "true until {}", until.short()),
            Self::None => f.write_str("without a revision"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_an_operator_can_compare() {
        let time = Timestamp(1_735_689_599_000_000_000);
        for (revision, want) in [
            (Revision::Etcd { mod_revision: 7 }, "mod revision 7"),
            (Revision::File { line: 3, modified: None }, "line 3"),
            (
                Revision::File { line: 3, modified: Some(time) },
                "line 3, written 2024-12-31 23:59:59",
            ),
            (Revision::Host { renewed: 1_735_689_599 }, "renewed 2024-12-31 23:59:59"),
            (Revision::Name { until: time }, "true until 2024-12-31 23:59:59"),
        ] {
            assert_eq!(revision.to_string(), want);
        }
        let local = Revision::Local { pid: 7, created: Timestamp::now() };
        assert_eq!(local.to_string(), "process 7, 0 s old");
    }
}

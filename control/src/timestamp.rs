//! Wall-clock time as text in UTC, for log lines and `ringcar list`.
//!
//! The calendar arithmetic is Howard Hinnant's `civil_from_days`; a date library would be larger
//! than all of this.

#![forbid(unsafe_code)]

use std::{
    ops::Add,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment since 1970 in nanoseconds; serialised as such.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Ord,
    PartialEq,
    PartialOrd,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(transparent)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Timestamp {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Seconds from `self` to `later`; zero when the clock was set back in between.
    pub(crate) const fn seconds_until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0) / NANOS_PER_SECOND
    }

    /// RFC 3339 with nine digits of fraction: `2026-08-14T09:05:01.000000002Z`.
    pub(crate) fn rfc3339(self) -> String {
        let (date, time) = (self.date(), self.time_of_day());
        format!("{date}T{time}.{:09}Z", self.0 % NANOS_PER_SECOND)
    }

    /// As Go prints times in UTC: `2026-08-14 09:05:01.00002 +0000 UTC`.
    pub(crate) fn as_go(self) -> String {
        let fraction = format!(".{:09}", self.0 % NANOS_PER_SECOND);
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        format!("{} {}{fraction} +0000 UTC", self.date(), self.time_of_day())
    }

    /// `2026-08-14 09:05:01`.
    pub(crate) fn short(self) -> String {
        format!("{} {}", self.date(), self.time_of_day())
    }

    /// `2026-08-14 09:05.01`, with the point that `dapr list` has there.
    pub(crate) fn listed(self) -> String {
        let (date, time) = (self.date(), self.time_of_day());
        let (minute, second) = time.split_at(5);
        format!("{date} {minute}.{}", &second[1..])
    }

    /// `20260814090501`, for the names of files.
    pub(crate) fn digits(self) -> String {
        self.short().chars().filter(char::is_ascii_digit).collect()
    }

    fn time_of_day(self) -> String {
        let second = self.0 / NANOS_PER_SECOND % 86_400;
        format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }

    fn date(self) -> String {
        // Days are counted from 0000-03-01, so that the leap day ends a year; an era is 400 years.
        let days = self.0 / NANOS_PER_SECOND / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        format!("{year:04}-{month:02}-{day:02}")
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_utc_dates() {
        for (case, seconds, want) in [
            ("the epoch", 0, "1970-01-01 00:00:00"),
            ("last second of a leap day", 951_868_799, "2000-02-29 23:59:59"),
            ("first of March", 951_868_800, "2000-03-01 00:00:00"),
            ("end of a year", 1_735_689_599, "2024-12-31 23:59:59"),
            ("no leap day in 2100", 4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(Timestamp(seconds * NANOS_PER_SECOND).short(), want, "{case}");
            let listed = Timestamp(seconds * NANOS_PER_SECOND).listed();
            assert_eq!((&listed[..16], &listed[16..17]), (&want[..16], "."), "{case}");
            assert_eq!(&listed[17..], &want[17..], "{case}");
        }
        assert_eq!(Timestamp(1_000_000_002).rfc3339(), "1970-01-01T00:00:01.000000002Z");
    }
}

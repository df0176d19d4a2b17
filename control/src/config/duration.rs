//! Durations as Go writes them (`1m30s`, `500ms`, `1.5h`), for daprd's duration flags.

#![forbid(unsafe_code)]

use std::time::Duration;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a duration; write numbers with units, such as 500ms, 5s or 1m30s")]
pub(crate) struct DurationError(String);

/// Negative durations are refused: none of the flags has a meaning for them.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(refused());
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (part, tail) = parse_part(rest).ok_or_else(refused)?;
        nanos = nanos.checked_add(part).ok_or_else(refused)?;
        rest = tail;
    }
    Ok(Duration::from_nanos(nanos))
}

/// As Go prints durations of whole milliseconds: `1m30s`, `5s`, `1.5s`, `500ms`.
pub(crate) fn emit(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let fraction = format!(".{:03}", millis % 1000);
    let seconds = format!("{}{}s", millis / 1000 % 60, fraction.trim_end_matches(['0', '.']));
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// One number with its unit off the front: its nanoseconds and what follows.
fn parse_part(text: &str) -> Option<(u64, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = number.contains(|c: char| c.is_ascii_digit()) && !fraction.contains('.');
    if !is_number || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit_nanos: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => return None,
    };
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let nanos = digits.checked_mul(unit_nanos)? / divisor;
    Some((u64::try_from(nanos).ok()?, rest))
}

/// More digits than a nanosecond can resolve in an hour.
const FRACTION_DIGITS_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let refused = |text: &str| Err(DurationError(text.to_owned()));
        for (text, want) in [
            ("", refused("")),
            ("5", refused("5")),
            ("s", refused("s")),
            ("5 s", refused("5 s")),
            ("-5s", refused("-5s")),
            ("1..5s", refused("1..5s")),
            ("5d", refused("5d")),
            ("5s3", refused("5s3")),
            ("99999999999999h", refused("99999999999999h")),
            ("0", Ok(Duration::ZERO)),
            ("5s", Ok(Duration::from_secs(5))),
            ("500ms", Ok(Duration::from_millis(500))),
            ("1m30s", Ok(Duration::from_secs(90))),
            ("1.5h", Ok(Duration::from_secs(5400))),
            (".5s", Ok(Duration::from_millis(500))),
            ("10µs", Ok(Duration::from_micros(10))),
            ("+2ns", Ok(Duration::from_nanos(2))),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }

    #[test]
    fn prints_what_go_prints() {
        for (millis, want) in [
            (0, "0s"),
            (500, "500ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (1050, "1.05s"),
            (60_000, "1m0s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
            (36_000_000, "10h0m0s"),
        ] {
            assert_eq!(emit(Duration::from_millis(millis)), want);
        }
    }
}

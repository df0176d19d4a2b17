//! Lists of status codes, such as `429,500-599`.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

/// The ranges of a list; a code alone is a range of one.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(
    text: &str,
    bounds: &RangeInclusive<u16>,
) -> Result<Vec<RangeInclusive<u16>>, String> {
    text.split(',').map(str::trim).map(|part| range(part, bounds)).collect()
}

fn range(part: &str, bounds: &RangeInclusive<u16>) -> Result<RangeInclusive<u16>, String> {
    let code = |text: &str| {
        let text = text.trim();
        let code = text.parse::<u16>().ok().filter(|code| bounds.contains(code));
        let (first, last) = (bounds.start(), bounds.end());
        code.ok_or_else(|| format!("{text:?} is no status code; write {first} to {last}"))
    };
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (code(first)?, code(last)?);
    if first > last {
        return Err(format!("{part:?} ends before it begins"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_checked_and_read() {
        for (text, want) in [
            ("", Err("\"\" is no status code; write 100 to 599")),
            ("404,", Err("\"\" is no status code; write 100 to 599")),
            ("600", Err("\"600\" is no status code; write 100 to 599")),
            ("500-", Err("\"\" is no status code; write 100 to 599")),
            ("503-501", Err("\"503-501\" ends before it begins")),
            ("400-500-600", Err("\"500-600\" is no status code; write 100 to 599")),
            ("4xx", Err("\"4xx\" is no status code; write 100 to 599")),
            ("404", Ok(vec![404..=404])),
            ("100, 501 - 503,599", Ok(vec![100..=100, 501..=503, 599..=599])),
        ] {
            assert_eq!(parse(text, &(100..=599)), want.map_err(str::to_owned), "{text:?}");
        }
    }
}

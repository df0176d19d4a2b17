//! The `Date` line's text, made once a second.
//!
//! IMF-fixdate (RFC 9110 §5.6.7), from the wall clock's seconds that the worker passes in; years
//! have four digits.

#![forbid(unsafe_code)]

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub const DATE_BYTES: usize = 29;

/// Remembers the line of one second.
#[derive(Debug)]
pub struct DateCache {
    second: u64,
    line: [u8; LINE_BYTES],
}

const NAME: &[u8] = b"Date: ";
const END: &[u8] = b"\r\n";
const LINE_BYTES: usize = NAME.len() + DATE_BYTES + END.len();

impl DateCache {
    pub fn new() -> Self {
        Self { second: 0, line: line_of(0) }
    }

    /// The text for this moment, in seconds since 1970.
    pub fn at(&mut self, unix_seconds: u64) -> &[u8] {
        &self.line_at(unix_seconds)[NAME.len()..][..DATE_BYTES]
    }

    /// The whole line for this moment.
    #[inline]
    pub fn line_at(&mut self, unix_seconds: u64) -> &[u8] {
        if self.second != unix_seconds {
            self.second = unix_seconds;
            self.line = line_of(unix_seconds);
        }
        &self.line
    }
}

impl Default for DateCache {
    fn default() -> Self {
        Self::new()
    }
}

fn line_of(unix_seconds: u64) -> [u8; LINE_BYTES] {
    let mut line = [0; LINE_BYTES];
    let (name, rest) = line.split_at_mut(NAME.len());
    let (text, end) = rest.split_at_mut(DATE_BYTES);
    name.copy_from_slice(NAME);
    text.copy_from_slice(&format(unix_seconds));
    end.copy_from_slice(END);
    line
}

fn format(unix_seconds: u64) -> [u8; DATE_BYTES] {
    let unix_seconds = unix_seconds.min(SECONDS_MAX);
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    // 1970 began on a Thursday.
    let weekday = (days + 4) % 7;
    let mut text = *b"Sun, 00 Jan 0000 00:00:00 GMT";
    text[0..3].copy_from_slice(name(WEEKDAYS, weekday));
    put(&mut text[5..7], day);
    text[8..11].copy_from_slice(name(MONTHS, month - 1));
    put(&mut text[12..16], year);
    put(&mut text[17..19], second / 3600);
    put(&mut text[20..22], second / 60 % 60);
    put(&mut text[23..25], second % 60);
    text
}

/// Year, month and day, counted in 400-year eras of years that begin in March, so that the leap day
/// is the last.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn put(field: &mut [u8], mut number: u64) {
    for place in field.iter_mut().rev() {
        *place = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
}

/// The three letters of the name with this number.
fn name(names: &[u8], number: u64) -> &[u8] {
    let start = usize::try_from(number).expect("a weekday or a month is a small number") * 3;
    &names[start..start + 3]
}

const WEEKDAYS: &[u8] = b"SunMonTueWedThuFriSat";
const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The last second of the year 9999.
const SECONDS_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts come from `date -u -d @N`.
    #[test]
    fn formats_moments_of_all_kinds() {
        let mut cache = DateCache::new();
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(str::from_utf8(cache.at(second)), Ok(text), "{second}");
            assert_eq!(str::from_utf8(cache.at(second)), Ok(text), "{second}, again");
            let line = format!("Date: {text}\r\n");
            assert_eq!(str::from_utf8(cache.line_at(second)), Ok(&*line), "{second}");
        }
    }
}

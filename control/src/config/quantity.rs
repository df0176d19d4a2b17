//! Byte counts as Kubernetes writes them (`4Mi`, `500k`, `1.5Gi`), for `--max-body-size` and
//! `--read-buffer-size`.
//!
//! Values are exact: a fraction that is no whole number of bytes rounds up, as Kubernetes' own
//! parser does.

#![forbid(unsafe_code)]

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum QuantityError {
    #[error(
        "{0:?} is not a quantity; write a number with an optional unit, such as 4Mi, 500k or 1048576"
    )]
    Syntax(String),
    #[error("{0:?} is larger than can be counted")]
    TooLarge(String),
}

/// Bytes; negative values are allowed, since daprd takes `-1` for its default.
pub(crate) fn parse(text: &str) -> Result<i64, QuantityError> {
    let syntax = || QuantityError::Syntax(text.to_owned());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_end =
        unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, unit) = unsigned.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = number.contains(|c: char| c.is_ascii_digit()) && !fraction.contains('.');
    if !is_number || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(syntax());
    }
    let (numerator, denominator) = scale_of(unit).ok_or_else(syntax)?;
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| too_large())?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| syntax())?) * denominator;
    let bytes = digits.checked_mul(numerator).ok_or_else(too_large)?.div_ceil(divisor);
    let bytes = i64::try_from(bytes).map_err(|_| too_large())?;
    Ok(if negative { -bytes } else { bytes })
}

/// A unit as a fraction of a byte count.
fn scale_of(unit: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: u32| Some((10u128.pow(power), 1));
    match unit {
        "" => Some((1, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        _ => {
            let exponent: u32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            if exponent <= EXPONENT_MAX { decimal(exponent) } else { None }
        }
    }
}

/// Beyond these a value has no meaning as bytes, and the arithmetic above would overflow.
const FRACTION_DIGITS_MAX: usize = 9;
const EXPONENT_MAX: u32 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        let syntax = |text: &str| Err(QuantityError::Syntax(text.to_owned()));
        for (text, want) in [
            ("", syntax("")),
            ("Mi", syntax("Mi")),
            (".", syntax(".")),
            ("1.2.3", syntax("1.2.3")),
            ("4MB", syntax("4MB")),
            ("4 Mi", syntax("4 Mi")),
            ("--1", syntax("--1")),
            ("1e99", syntax("1e99")),
            ("9Ei", Err(QuantityError::TooLarge("9Ei".to_owned()))),
            ("0", Ok(0)),
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("1048576", Ok(1_048_576)),
            ("4Mi", Ok(4_194_304)),
            ("4Ki", Ok(4096)),
            ("500k", Ok(500_000)),
            ("1.5Gi", Ok(1_610_612_736)),
            (".5Ki", Ok(512)),
            ("0.3", Ok(1)),
            ("1500m", Ok(2)),
            ("2e3", Ok(2000)),
            ("7Ei", Ok(7 << 60)),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}

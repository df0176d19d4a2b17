//! How the app is treated: how many calls it takes at a time, and whether it is asked how it is.
//! `--app-max-concurrency` and the flags of app health checks as values.

#![forbid(unsafe_code)]

use super::{ConfigError, flags::Values, refused};
use std::{num::NonZeroU32, time::Duration};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct AppCare {
    /// `None`: any number.
    pub(crate) concurrency_max: Option<NonZeroU32>,
    /// `None`: it is taken for healthy.
    pub(crate) health_check: Option<HealthCheck>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HealthCheck {
    /// Begins with a slash.
    pub(crate) path: String,
    pub(crate) interval: Duration,
    /// Not longer than the interval.
    pub(crate) timeout: Duration,
    /// Probes that fail one after the other until the app counts as unhealthy.
    pub(crate) threshold: u32,
}

impl AppCare {
    pub(super) fn from_flags(values: &Values) -> Result<Self, ConfigError> {
        // daprd: anything below one is no limit.
        let limit = values.number("app-max-concurrency").max(0);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let is_checked = values.is_set("enable-app-health-check");
        let health_check = is_checked.then(|| HealthCheck::from_flags(values)).transpose()?;
        Ok(Self { concurrency_max: NonZeroU32::new(limit), health_check })
    }
}

impl HealthCheck {
    fn from_flags(values: &Values) -> Result<Self, ConfigError> {
        const PATH: &str = "app-health-check-path";
        const INTERVAL: &str = "app-health-probe-interval";
        const TIMEOUT: &str = "app-health-probe-timeout";
        let path = format!("/{}", values.text(PATH).trim_start_matches('/'));
        if path.parse::<hyper::Uri>().is_err() {
            return Err(refused(values, PATH));
        }
        let interval = Duration::from_secs(positive(values, INTERVAL)?.unwrap_or(INTERVAL_SECONDS));
        let timeout = Duration::from_millis(positive(values, TIMEOUT)?.unwrap_or(TIMEOUT_MILLIS));
        if timeout > interval {
            return Err(ConfigError::ProbeTimeout);
        }
        let threshold = positive(values, "app-health-threshold")?.unwrap_or(THRESHOLD);
        let threshold = u32::try_from(threshold).unwrap_or(u32::MAX);
        Ok(Self { path, interval, timeout, threshold })
    }
}

/// A number flag; zero and less mean the default. More than a year is a mistake.
fn positive(values: &Values, flag: &'static str) -> Result<Option<u64>, ConfigError> {
    match u64::try_from(values.number(flag)) {
        Ok(0) | Err(_) => Ok(None),
        Ok(number) if number > POSITIVE_MAX => Err(refused(values, flag)),
        Ok(number) => Ok(Some(number)),
    }
}

/// daprd's defaults.
const INTERVAL_SECONDS: u64 = 5;
const TIMEOUT_MILLIS: u64 = 500;
const THRESHOLD: u64 = 3;

const POSITIVE_MAX: u64 = 366 * 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;

    fn care(arguments: &[&str]) -> Result<AppCare, String> {
        let arguments: Vec<&str> = ["--app-id=a"].iter().chain(arguments).copied().collect();
        let matches = flags::matches(&arguments).unwrap();
        let values = Values::new(&matches, &|_| None).unwrap();
        AppCare::from_flags(&values).map_err(|e| e.to_string())
    }

    #[test]
    fn refuses_what_no_probe_can_keep() {
        const ON: &str = "--enable-app-health-check";
        for (case, arguments, want) in [
            (
                "longer than the interval",
                &[ON, "--app-health-probe-interval=1", "--app-health-probe-timeout=1001"][..],
                "value for 'health-check-probe-timeout' must be smaller than 'health-check-probe-interval'",
            ),
            (
                "no path",
                &[ON, "--app-health-check-path=/a b"],
                "invalid value for 'app-health-check-path': /a b",
            ),
            (
                "for ever",
                &[ON, "--app-health-probe-interval=99999999999"],
                "invalid value for 'app-health-probe-interval': 99999999999",
            ),
        ] {
            assert_eq!(care(arguments).unwrap_err(), want, "{case}");
        }
    }

    #[test]
    fn has_the_defaults_of_daprd() {
        assert_eq!(care(&[]).unwrap(), AppCare::default());
        for limit in ["-1", "0", "-7"] {
            let flag = format!("--app-max-concurrency={limit}");
            assert_eq!(care(&[&flag]).unwrap().concurrency_max, None, "{limit}");
        }
        assert_eq!(care(&["--app-max-concurrency=7"]).unwrap().concurrency_max, NonZeroU32::new(7));
        let want = HealthCheck {
            path: "/healthz".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            threshold: 3,
        };
        let zeros = ["--app-health-probe-interval=0", "--app-health-threshold=0"];
        for more in [&[][..], &zeros] {
            let arguments = [&["--enable-app-health-check"][..], more].concat();
            assert_eq!(care(&arguments).unwrap().health_check, Some(want.clone()), "{more:?}");
        }
        let path = ["--enable-app-health-check", "--app-health-check-path", "foo?x=1"];
        assert_eq!(care(&path).unwrap().health_check.unwrap().path, "/foo?x=1");
    }
}

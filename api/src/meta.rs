//! What every object has, and the API's own notation of durations.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

/// A duration as written (GEP-2257): up to four of `h`, `m`, `s`, `ms`, each an integer of at most five digits, e.g. `1h30m` or `250ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// Why a text is not a duration of GEP-2257.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write whole numbers with h, m, s or ms, such as 1m30s or 250ms")]
pub struct DurationError(pub String);

impl Duration {
    /// GEP-2257: `^([0-9]{1,5}(h|m|s|ms)){1,4}$`.
    pub fn parse(&self) -> Result<std::time::Duration, DurationError> {
        let error = || DurationError(self.0.clone());
        let (mut rest, mut total, mut parts) = (self.0.as_str(), std::time::Duration::ZERO, 0);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(unit);
            let millis = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(error()),
            };
            parts += 1;
            if !(1..=5).contains(&digits) || parts > 4 {
                return Err(error());
            }
            total += std::time::Duration::from_millis(number.parse::<u64>().map_err(|_| error())? * millis);
            rest = after;
        }
        if parts == 0 { Err(error()) } else { Ok(total) }
    }
}
impl From<&str> for Duration {
    fn from(s: &str) -> Self {
        Duration(s.into())
    }
}
impl std::fmt::Display for Duration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_the_gep_writes_them() {
        let ms = |s: &str| Duration(s.into()).parse().map(|d| d.as_millis()).ok();
        assert_eq!(
            (ms("1h30m"), ms("250ms"), ms("0s"), ms("1h2m3s4ms")),
            (Some(5_400_000), Some(250), Some(0), Some(3_723_004))
        );
        for bad in ["", "5", "ms", "1.5s", "-1s", "123456s", "1d", "1s 2s", "1s1s1s1s1s", "١s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}

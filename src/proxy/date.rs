//! The `date` of answers (RFC 9110 §6.6.1), formatted once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The last date that a worker said.
#[derive(Default)]
pub struct Dates(RefCell<Option<(u64, HeaderValue)>>);

impl Dates {
    /// The date at `now`; `None` outside of the years 1970 to 9999.
    pub fn at(&self, now: SystemTime) -> Option<HeaderValue> {
        let second = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut last = self.0.borrow_mut();
        if let Some((said_at, date)) = &*last
            && *said_at == second
        {
            return Some(date.clone());
        }
        // What cannot be said panics there.
        let date = (second <= LAST).then(|| httpdate::fmt_http_date(now))?;
        let date = HeaderValue::try_from(date).ok()?;
        *last = Some((second, date.clone()));
        Some(date)
    }
}

/// 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn date_is_that_of_its_second_whatever_was_said_before() {
        let dates = Dates::default();
        let at = |millis| {
            let date = dates.at(UNIX_EPOCH + Duration::from_millis(millis));
            date.map(|date| date.to_str().unwrap().to_owned())
        };
        for _ in 0..2 {
            assert_eq!(
                at(784_111_777_000).unwrap(),
                "Sun, 06 Nov 1994 08:49:37 GMT"
            );
            assert_eq!(
                at(784_111_777_999).unwrap(),
                "Sun, 06 Nov 1994 08:49:37 GMT"
            );
            assert_eq!(
                at(784_111_778_000).unwrap(),
                "Sun, 06 Nov 1994 08:49:38 GMT"
            );
        }
    }

    #[test]
    fn clock_that_is_far_off_says_no_date() {
        let dates = Dates::default();
        assert!(dates.at(UNIX_EPOCH - Duration::from_secs(1)).is_none());
        assert!(dates.at(UNIX_EPOCH + Duration::from_secs(LAST)).is_some());
        assert!(
            dates
                .at(UNIX_EPOCH + Duration::from_secs(LAST + 1))
                .is_none()
        );
    }
}

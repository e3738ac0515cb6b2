//! Times as text, and back: RFC 3339, UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whole seconds as `2026-04-14T12:00:00`, without the zone.
///
/// Days are turned into a date by Hinnant's `civil_from_days`; years 0 to 9999.
#[must_use]
pub fn date_time(epoch_seconds: i64) -> String {
    let days = epoch_seconds.div_euclid(86_400);
    let second = epoch_seconds.rem_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// A moment as `2026-04-14T12:00:00Z`, whole seconds.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2))
}

/// Seconds since the epoch as `2026-04-14T12:00:00Z`.
#[must_use]
pub fn rfc3339_seconds(epoch_seconds: i64) -> String {
    format!("{}Z", date_time(epoch_seconds))
}

/// Milliseconds as `2026-04-14T12:00:00.123Z`.
#[must_use]
pub fn rfc3339_millis(epoch_millis: u64) -> String {
    let seconds = i64::try_from(epoch_millis / 1000).unwrap_or(i64::MAX / 2);
    format!("{}.{:03}Z", date_time(seconds), epoch_millis % 1000)
}

/// Seconds since the epoch of `2026-04-14`, which means its midnight, or of `2026-04-14T12:00:00Z`.
///
/// `None` for anything else: a day that its month does not have, another zone, a year before 1970.
#[must_use]
pub fn parse_seconds(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let is_time = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    let is_date =
        (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || !is_time {
        return None;
    }
    // Hinnant's `days_from_civil`.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // The 31st of a short month would be a day of the next one; a number has all its digits.
    (date_time(seconds) == format!("{date}T{time}")).then_some(seconds)
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let numbers: Result<Vec<i64>, _> = text.split(between).map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_the_date_that_date_1_prints() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_776_124_799, "2026-04-13T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (253_402_300_799, "9999-12-31T23:59:59"),
            (-1, "1969-12-31T23:59:59"),
        ] {
            assert_eq!(date_time(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn moment_is_told_in_whole_seconds() {
        let at = UNIX_EPOCH + std::time::Duration::from_millis(951_782_399_999);
        assert_eq!(rfc3339(at), "2000-02-28T23:59:59Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH - std::time::Duration::from_secs(1)),
            rfc3339_seconds(0)
        );
    }

    #[test]
    fn milliseconds_have_three_digits() {
        assert_eq!(rfc3339_millis(1007), "1970-01-01T00:00:01.007Z");
    }

    #[test]
    fn text_becomes_the_seconds_it_was_made_of() {
        for seconds in [0, 951_782_399, 951_868_799, 951_868_800, 1_776_168_000] {
            assert_eq!(parse_seconds(&rfc3339_seconds(seconds)), Some(seconds));
        }
        assert_eq!(parse_seconds("2026-04-14"), Some(1_776_124_800));
        assert_eq!(parse_seconds("2024-02-29"), Some(1_709_164_800));
        for text in [
            "",
            "soon",
            "2026-02-29",
            "2026-4-14",
            "2026-04-14T12:00:00",
            "2026-04-14T12:00:00+02:00",
            "2026-04-14T24:00:00Z",
            "2026-04-14T12:00Z",
            "2026-04-14Z",
            "1969-12-31",
        ] {
            assert_eq!(parse_seconds(text), None, "{text}");
        }
    }
}

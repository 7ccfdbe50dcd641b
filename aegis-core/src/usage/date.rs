//! Dates of the published schema.

/// Five minutes in milliseconds.
pub(super) const FIVE_MINUTES: u64 = 5 * 60 * 1_000;

/// The five-minute slot that a moment (milliseconds since 1970) lies in, as `2025-01-10T00:05:00Z`.
pub(super) fn five_minutes(millis: u64) -> String {
    let minutes = millis / FIVE_MINUTES * 5;
    let (year, month, day) = civil(minutes / (24 * 60));
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:00Z", minutes / 60 % 24, minutes % 60)
}

/// Year, month and day in the Gregorian calendar, of a day counted from 1970-01-01. Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>): years begin in March, so that the leap day is the last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // Since 0000-03-01.
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_the_slot_of_the_published_schema() {
        assert_eq!(five_minutes(0), "1970-01-01T00:00:00Z");
        assert_eq!(five_minutes(1_736_467_500_000), "2025-01-10T00:05:00Z");
        assert_eq!(five_minutes(1_736_467_799_999), "2025-01-10T00:05:00Z");
        assert_eq!(five_minutes(1_736_467_800_000), "2025-01-10T00:10:00Z");
        assert_eq!(five_minutes(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(five_minutes(4_107_542_399_999), "2100-02-28T23:55:00Z");
        assert_eq!(five_minutes(253_402_300_799_999), "9999-12-31T23:55:00Z");
    }

    #[test]
    fn every_day_to_the_year_9999_follows_the_one_before() {
        let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..2_932_897 {
            assert_eq!(civil(days), (year, month, day));
            let length = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }
}

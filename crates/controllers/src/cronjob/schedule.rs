//! Cron schedules: five fields (minute, hour, day of the month, month, day of the week) with lists, ranges, steps
//! and names, or a word as `@daily`, or `@every 1h30m`. The dialect is that of upstream's parser: when both day
//! fields are restricted, either is enough.

use k8s_openapi::jiff::civil::{Date, DateTime};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, ToSpan};

/// Schedules that match no day within so many are taken to match never (leap days come within eight years).
const HORIZON_DAYS: u32 = 366 * 8 + 2;
/// Windows in which the latest time is looked for, from the end: a schedule that comes every minute is found in
/// the first, and none takes more than some thousand steps.
const WINDOWS: [SignedDuration; 4] = [
    SignedDuration::from_hours(1),
    SignedDuration::from_hours(24),
    SignedDuration::from_hours(24 * 32),
    SignedDuration::from_hours(24 * 367),
];

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A set of numbers below 64, as bits.
type Set = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Fields {
        minutes: Set,
        hours: Set,
        days: Set,
        months: Set,
        weekdays: Set,
        any_day: bool,
        any_weekday: bool,
    },
    Every(SignedDuration),
}

/// A schedule in a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|e| format!("unknown time zone {name}: {e}"))?,
        };
        Ok(Self {
            rule: parse(text.trim())?,
            zone,
        })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let Rule::Fields { .. } = &self.rule else {
            let Rule::Every(pause) = &self.rule else {
                return None;
            };
            let second = Timestamp::from_second(after.as_second()).ok()?;
            return second.checked_add(*pause).ok();
        };
        let start = self.zone.to_datetime(after);
        let mut date = start.date();
        let mut from_minute = i32::from(start.hour()) * 60 + i32::from(start.minute());
        for _ in 0..HORIZON_DAYS {
            if self.has_day(date) {
                while let Some(minute) = self.minute_of_day(from_minute) {
                    let found = self.at(date, minute)?;
                    if found > after {
                        return Some(found);
                    }
                    from_minute = minute + 1;
                }
            }
            date = date.checked_add(1.day()).ok()?;
            from_minute = 0;
        }
        None
    }

    /// The last time after `after` and not after `now`.
    pub fn latest(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if let Rule::Every(pause) = &self.rule {
            let passed = now.duration_since(after).as_secs();
            let times = passed / pause.as_secs().max(1);
            let whole = SignedDuration::from_secs(times * pause.as_secs());
            return after.checked_add(whole).ok().filter(|_| times > 0);
        }
        let starts = WINDOWS.iter().filter_map(|w| now.checked_sub(*w).ok());
        for start in starts.filter(|start| *start > after).chain([after]) {
            let mut found = None;
            let mut at = start;
            while let Some(next) = self.next(at).filter(|next| *next <= now) {
                found = Some(next);
                at = next;
            }
            if found.is_some() || start == after {
                return found;
            }
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let Rule::Fields {
            days,
            months,
            weekdays,
            any_day,
            any_weekday,
            ..
        } = &self.rule
        else {
            return false;
        };
        let has = |set: Set, n: i8| set & (1 << n) != 0;
        let day = has(*days, date.day());
        let weekday = has(*weekdays, date.weekday().to_sunday_zero_offset());
        let of_days = if *any_day || *any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        has(*months, date.month()) && of_days
    }

    fn minute_of_day(&self, from: i32) -> Option<i32> {
        let Rule::Fields { minutes, hours, .. } = &self.rule else {
            return None;
        };
        (from..24 * 60)
            .find(|minute| hours & (1 << (minute / 60)) != 0 && minutes & (1 << (minute % 60)) != 0)
    }

    /// A minute of a day as a point in time. One that a change of clocks skips happens when the clock has changed.
    fn at(&self, date: Date, minute: i32) -> Option<Timestamp> {
        let hour = i8::try_from(minute / 60).ok()?;
        let minute = i8::try_from(minute % 60).ok()?;
        let time: DateTime = date.at(hour, minute, 0, 0);
        self.zone.to_timestamp(time).ok()
    }
}

fn parse(text: &str) -> Result<Rule, String> {
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        return Err("the time zone belongs into spec.timeZone".into());
    }
    if let Some(word) = text.strip_prefix('@') {
        let fields = match word {
            "yearly" | "annually" => "0 0 1 1 *",
            "monthly" => "0 0 1 * *",
            "weekly" => "0 0 * * 0",
            "daily" | "midnight" => "0 0 * * *",
            "hourly" => "0 * * * *",
            _ => {
                let pause = word
                    .strip_prefix("every ")
                    .ok_or_else(|| format!("unrecognized descriptor: @{word}"))?;
                return Ok(Rule::Every(duration(pause.trim())?));
            }
        };
        return parse(fields);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!(
            "expected exactly 5 fields, found {}: {text:?}",
            fields.len()
        ));
    };
    let any = |field: &str| field.starts_with('*') || field.starts_with('?');
    // Sunday is 0, and 7 too.
    let weekdays = set(weekday, 0, 7, &DAYS)?;
    Ok(Rule::Fields {
        minutes: set(minute, 0, 59, &[])?,
        hours: set(hour, 0, 23, &[])?,
        days: set(day, 1, 31, &[])?,
        months: set(month, 1, 12, &MONTHS)?,
        weekdays: weekdays | (weekdays >> 7),
        any_day: any(day),
        any_weekday: any(weekday),
    })
}

/// The numbers that a field names.
fn set(field: &str, least: u32, most: u32, names: &[&str]) -> Result<Set, String> {
    let mut all = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step, &[], 0)?)),
            None => (part, None),
        };
        let (first, last) = match (range, range.split_once('-')) {
            ("*" | "?", _) => (least, most),
            (_, Some((first, last))) => (number(first, names, least)?, number(last, names, least)?),
            (one, None) => {
                let one = number(one, names, least)?;
                // `5/15` goes on to the end.
                (one, if step.is_some() { most } else { one })
            }
        };
        if first < least || last > most || first > last {
            return Err(format!("{part:?} is not within {least} to {most}"));
        }
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part:?}"));
        }
        for n in (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            all |= 1 << n;
        }
    }
    Ok(all)
}

fn number(text: &str, names: &[&str], first: u32) -> Result<u32, String> {
    let known = names.iter().position(|name| text.eq_ignore_ascii_case(name));
    if let Some(position) = known.and_then(|p| u32::try_from(p).ok()) {
        return Ok(position + first);
    }
    text.parse().map_err(|_| format!("failed to parse {text:?}"))
}

/// A duration as Go writes it, in whole seconds, at least one.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("failed to parse duration @every {text}");
    let mut seconds: f64 = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let amount: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| end + at);
        seconds += amount
            * match &rest[end..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    if text.is_empty() || !seconds.is_finite() {
        return Err(wrong());
    }
    Ok(SignedDuration::from_secs(
        SignedDuration::try_from_secs_f64(seconds.max(1.0))
            .map_err(|_| wrong())?
            .as_secs(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        schedule
            .next(time(after))
            .map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn times_follow_the_fields() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
            ("5/20 3 * * *", "2026-01-01T03:05:00Z", "2026-01-01T03:25:00Z"),
            ("0 0 1 jan-MAR *", "2026-03-02T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 12 * * mon,5", "2026-01-01T13:00:00Z", "2026-01-02T12:00:00Z"),
            // The 13th, or a Friday.
            ("0 0 13 * 5", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * ?", "2026-01-03T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
        ] {
            assert_eq!(next(schedule, None, after), expected, "{schedule}");
        }
    }

    #[test]
    fn zones_and_changes_of_clocks() {
        let zurich = Some("Europe/Zurich");
        assert_eq!(
            next("0 9 * * *", zurich, "2026-07-01T08:00:00Z"),
            "2026-07-02T07:00:00Z"
        );
        // 02:30 does not exist on that day.
        assert_eq!(
            next("30 2 * * *", zurich, "2026-03-29T00:00:00Z"),
            "2026-03-29T01:30:00Z"
        );
        assert!(Schedule::parse("* * * * *", Some("Moon/Crater")).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "x * * * *",
            "@never",
            "@every x",
            "TZ=UTC * * * * *",
        ] {
            assert!(Schedule::parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn the_latest_time_is_found_quickly() {
        let schedule = Schedule::parse("* * * * *", None).unwrap();
        let latest = schedule.latest(time("2000-01-01T00:00:00Z"), time("2026-01-01T00:00:59Z"));
        assert_eq!(latest, Some(time("2026-01-01T00:00:00Z")));
        let schedule = Schedule::parse("0 0 29 2 *", None).unwrap();
        let latest = schedule.latest(time("2000-01-01T00:00:00Z"), time("2026-01-01T00:00:59Z"));
        assert_eq!(latest, Some(time("2024-02-29T00:00:00Z")));
        assert_eq!(
            schedule.latest(time("2025-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z")),
            None
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[-*/,?0-9a-z@ ]{0,24}") {
            if let Ok(schedule) = Schedule::parse(&text, None) {
                let start = Timestamp::from_second(1_767_225_600).unwrap();
                if let Some(next) = schedule.next(start) {
                    prop_assert!(next > start);
                }
            }
        }
    }
}

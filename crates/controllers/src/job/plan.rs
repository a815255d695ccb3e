//! What to do about a Job, as pure functions of its counts.

use k8s_openapi::api::batch::v1::JobSpec;
use std::collections::BTreeSet;
use std::time::Duration;

/// First pause before a failed pod is replaced, and the longest; it doubles with each failure (upstream's).
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Retries when the Job does not say.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that run or wait.
    pub active: i32,
    /// Pods that have succeeded (for an indexed Job: indexes).
    pub succeeded: i32,
    /// Pods that have failed.
    pub failed: i32,
    /// Indexes that are not tried again.
    pub failed_indexes: i32,
}

/// How a Job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All completions are reached.
    Complete,
    /// Too many pods failed.
    BackoffLimit,
    /// It ran for too long.
    Deadline,
    /// More indexes failed than it allows.
    MaxFailedIndexes,
    /// Each index has ended, some of them by failing.
    FailedIndexes,
}

/// Has the Job ended? `running_s` is how long it has been running.
pub fn end(spec: &JobSpec, counts: &Counts, running_s: i64) -> Option<End> {
    let done = match spec.completions {
        Some(completions) => counts.succeeded >= completions,
        None => counts.succeeded > 0 && counts.active == 0,
    };
    if done {
        return Some(End::Complete);
    }
    if spec
        .max_failed_indexes
        .is_some_and(|max| counts.failed_indexes > max)
    {
        return Some(End::MaxFailedIndexes);
    }
    let completions = spec.completions.unwrap_or(i32::MAX);
    if counts.failed_indexes > 0 && counts.succeeded + counts.failed_indexes >= completions {
        return Some(End::FailedIndexes);
    }
    if counts.failed > spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT) {
        return Some(End::BackoffLimit);
    }
    let deadline = spec
        .active_deadline_seconds
        .filter(|_| spec.suspend != Some(true));
    deadline
        .is_some_and(|deadline| running_s >= deadline)
        .then_some(End::Deadline)
}

/// How many pods should be active now.
pub fn wanted(spec: &JobSpec, counts: &Counts) -> i32 {
    if spec.suspend == Some(true) {
        return 0;
    }
    let parallelism = spec.parallelism.unwrap_or(1);
    match spec.completions {
        Some(completions) => parallelism
            .min(completions - counts.succeeded - counts.failed_indexes)
            .max(0),
        // Once one has succeeded no more are started.
        None if counts.succeeded > 0 => counts.active.min(parallelism),
        None => parallelism,
    }
}

/// How long to wait before the next pod, after so many failures in a row, the last of them so long ago.
pub fn pause(failures: i32, since_last: Duration) -> Duration {
    let Ok(doublings) = u32::try_from(failures - 1) else {
        return Duration::ZERO;
    };
    let full = BACKOFF_FIRST
        .saturating_mul(1 << doublings.min(10))
        .min(BACKOFF_MAX);
    full.saturating_sub(since_last)
}

/// The first indexes that are neither done nor being worked on.
pub fn missing_indexes(
    completions: i32,
    done: &BTreeSet<i32>,
    active: &BTreeSet<i32>,
    count: usize,
) -> Vec<i32> {
    (0..completions)
        .filter(|index| !done.contains(index) && !active.contains(index))
        .take(count)
        .collect()
}

/// Indexes as text: `0-2,5`.
pub fn format_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => parts.push((index, index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The reverse of [`format_indexes`]; what is no index is left out. Bounded by `completions`.
pub fn parse_indexes(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(completions: Option<i32>, parallelism: i32) -> JobSpec {
        JobSpec {
            completions,
            parallelism: Some(parallelism),
            backoff_limit: Some(2),
            ..JobSpec::default()
        }
    }

    fn counts(active: i32, succeeded: i32, failed: i32) -> Counts {
        Counts {
            active,
            succeeded,
            failed,
            failed_indexes: 0,
        }
    }

    #[test]
    fn ends_and_sizes() {
        assert_eq!(wanted(&spec(Some(5), 2), &counts(0, 0, 0)), 2);
        assert_eq!(wanted(&spec(Some(5), 2), &counts(0, 4, 0)), 1);
        assert_eq!(wanted(&spec(None, 3), &counts(3, 0, 0)), 3);
        assert_eq!(wanted(&spec(None, 3), &counts(2, 1, 0)), 2);
        assert_eq!(end(&spec(Some(5), 2), &counts(0, 5, 0), 0), Some(End::Complete));
        assert_eq!(end(&spec(None, 2), &counts(1, 1, 0), 0), None);
        assert_eq!(end(&spec(None, 2), &counts(0, 1, 0), 0), Some(End::Complete));
        assert_eq!(end(&spec(Some(1), 1), &counts(0, 0, 2), 0), None);
        assert_eq!(
            end(&spec(Some(1), 1), &counts(0, 0, 3), 0),
            Some(End::BackoffLimit)
        );
        let limited = JobSpec {
            active_deadline_seconds: Some(9),
            ..spec(Some(1), 1)
        };
        assert_eq!(end(&limited, &counts(1, 0, 0), 9), Some(End::Deadline));
    }

    #[test]
    fn pauses() {
        assert_eq!(pause(0, Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(1, Duration::from_secs(4)), Duration::from_secs(6));
        assert_eq!(pause(3, Duration::ZERO), Duration::from_secs(40));
        assert_eq!(pause(100, Duration::ZERO), BACKOFF_MAX);
    }

    proptest! {
        #[test]
        fn indexes_survive_being_written(indexes in prop::collection::btree_set(0..50i32, 0..30)) {
            prop_assert_eq!(parse_indexes(&format_indexes(&indexes), 50), indexes);
        }
    }
}

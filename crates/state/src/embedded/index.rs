//! Which revisions each key has.

use crate::Error;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One write of a key: its revision, and whether it left a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    revision: i64,
    alive: bool,
}

/// The revisions of all keys that are kept.
#[derive(Debug)]
pub(super) struct Index {
    keys: BTreeMap<Box<str>, Vec<Write>>,
    revision: i64,
    compacted: i64,
}

impl Index {
    /// Nothing, as of these revisions.
    pub(super) fn new(revision: i64, compacted: i64) -> Self {
        Self {
            keys: BTreeMap::new(),
            revision,
            compacted,
        }
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// Notes a write. Revisions come in order.
    pub(super) fn note(&mut self, key: &str, revision: i64, alive: bool) {
        self.revision = self.revision.max(revision);
        let write = Write { revision, alive };
        match self.keys.get_mut(key) {
            Some(writes) => writes.push(write),
            None => {
                self.keys.insert(key.into(), vec![write]);
            }
        }
    }

    /// Revision of the value that a key has at a revision.
    pub(super) fn get(&self, key: &str, at: i64) -> Option<i64> {
        alive_at(self.keys.get(key)?, at)
    }

    /// The revision that a read of `revision` (0: the newest) is about, if it can be read.
    pub(super) fn check(&self, revision: i64) -> Result<i64, Error> {
        match revision {
            ..=0 => Ok(self.revision),
            old if old < self.compacted => Err(Error::Compacted {
                oldest: self.compacted,
            }),
            future if future > self.revision => Err(Error::Refused {
                action: "range",
                reason: "required revision is a future revision".into(),
            }),
            kept => Ok(kept),
        }
    }

    /// Keys from `start` to before `end` with the revisions of their values, at most `limit`; and how many there are
    /// in all.
    pub(super) fn range(
        &self,
        start: &str,
        end: &str,
        limit: usize,
        at: i64,
    ) -> (Vec<(Box<str>, i64)>, usize) {
        let (mut found, mut count) = (Vec::new(), 0);
        if start >= end {
            return (found, count);
        }
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        for (key, writes) in self.keys.range::<str, _>(bounds) {
            if let Some(revision) = alive_at(writes, at) {
                count += 1;
                if found.len() < limit {
                    found.push((key.clone(), revision));
                }
            }
        }
        (found, count)
    }

    /// What a compaction to a revision may forget: everything before it that is not the state at it.
    pub(super) fn superseded(&self, revision: i64) -> Result<Vec<i64>, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted {
                oldest: self.compacted,
            });
        }
        if revision > self.revision {
            return Err(Error::Refused {
                action: "compact",
                reason: "required revision is a future revision".into(),
            });
        }
        let old = self.keys.values().flat_map(|writes| {
            let keep = alive_at(writes, revision);
            writes
                .iter()
                .map(|w| w.revision)
                .filter(move |r| *r <= revision && Some(*r) != keep)
        });
        Ok(old.collect())
    }

    /// Forgets it.
    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        self.keys.retain(|_, writes| {
            let keep = alive_at(writes, revision);
            writes.retain(|w| w.revision > revision || Some(w.revision) == keep);
            writes.shrink_to_fit();
            !writes.is_empty()
        });
    }
}

fn alive_at(writes: &[Write], at: i64) -> Option<i64> {
    let after = writes.partition_point(|w| w.revision <= at);
    let last = writes[..after].last()?;
    last.alive.then_some(last.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_keeps_the_state_at_its_revision() {
        let mut index = Index::new(1, 0);
        for (key, revision, alive) in [
            ("a", 2, true),
            ("a", 3, true),
            ("b", 4, true),
            ("b", 5, false),
            ("a", 6, true),
        ] {
            index.note(key, revision, alive);
        }
        assert_eq!(
            (index.get("a", 5), index.get("b", 4), index.get("b", 5)),
            (Some(3), Some(4), None)
        );
        assert_eq!(index.superseded(5).unwrap(), [2, 4, 5]);
        index.compact(5);
        assert_eq!(
            (index.get("a", 5), index.get("a", 6), index.keys.len()),
            (Some(3), Some(6), 1)
        );
        assert!(matches!(index.check(4), Err(Error::Compacted { oldest: 5 })));
        assert!(index.check(5).is_ok() && index.check(7).is_err());
        assert!(index.superseded(5).is_err() && index.superseded(7).is_err());
    }

    #[test]
    fn ranges_count_what_they_cut_off() {
        let mut index = Index::new(1, 0);
        for (n, key) in ["a/1", "a/2", "a/3", "b"].iter().enumerate() {
            index.note(key, n as i64 + 2, true);
        }
        let (found, count) = index.range("a/", "a0", 2, 5);
        assert_eq!((found.len(), count, found[1].1), (2, 3, 3));
        assert_eq!(index.range("a/", "a0", 9, 3).1, 2);
        assert_eq!(index.range("b", "a", 9, 5).1, 0);
    }
}

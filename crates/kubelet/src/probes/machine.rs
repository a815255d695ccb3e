//! When a series of probe results counts as success or failure. Pure.

/// The thresholds of a probe.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Successes in a row that count as success.
    pub success: u32,
    /// Failures in a row that count as failure.
    pub failure: u32,
}

/// Counts results in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    last: Option<bool>,
    run: u32,
}

impl Machine {
    /// Takes one result; `Some` when enough of the same kind came in a row.
    pub fn observe(&mut self, ok: bool, thresholds: Thresholds) -> Option<bool> {
        if self.last == Some(ok) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(ok);
            self.run = 1;
        }
        let needed = if ok {
            thresholds.success
        } else {
            thresholds.failure
        };
        (self.run >= needed.max(1)).then_some(ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: Thresholds = Thresholds {
        success: 2,
        failure: 3,
    };

    #[test]
    fn counts_in_a_row() {
        let mut machine = Machine::default();
        let decided: Vec<_> = [false, false, true, true, false, false, false, true]
            .map(|ok| machine.observe(ok, T))
            .into();
        let none = None;
        assert_eq!(
            decided,
            [none, none, none, Some(true), none, none, Some(false), none]
        );
    }

    proptest! {
        #[test]
        fn never_decides_before_the_threshold(results in proptest::collection::vec(any::<bool>(), 0..50)) {
            let mut machine = Machine::default();
            for (i, ok) in results.iter().enumerate() {
                let needed = if *ok { 2 } else { 3 };
                let run = results[..=i].iter().rev().take_while(|r| *r == ok).count();
                prop_assert_eq!(machine.observe(*ok, T), (run >= needed).then_some(*ok));
            }
        }
    }
}

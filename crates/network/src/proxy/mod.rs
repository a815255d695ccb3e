//! Services through nftables. Watches lead to a model of Service ports, the model to a table, and the difference
//! between two tables to one transaction.

pub(crate) mod apply;
pub(crate) mod model;
#[cfg(test)]
mod netns_tests;
pub(crate) mod rules;
pub(crate) mod ruleset;

use crate::watches::Watches;
use rules::Place;
use ruleset::Ruleset;
use std::time::Duration;
use tokio::time::sleep;

/// How long changes are gathered before they are applied: a rollout changes many endpoints within moments.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Pause after rules were refused; at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Keeps the rules up to date, for ever.
pub(crate) async fn run(watches: &Watches, place: &Place, node: &str) {
    watches.synced().await;
    // What an earlier process left is replaced as a whole.
    let mut present: Option<Ruleset> = None;
    let mut targets = Default::default();
    let mut pause = RETRY_FIRST;
    loop {
        let ports = model::build(&watches.services.list(), &watches.slices.list(), node);
        let wanted = rules::ruleset(&ports, place);
        let text = match &present {
            Some(present) => present.changes_to(&wanted),
            None => wanted.text(),
        };
        if !text.is_empty()
            && let Err(error) = apply::rules(&text).await
        {
            if present.take().is_some() {
                // Somebody else changed the table: start over, which replaces everything.
                tracing::info!(%error, "rules not changed, writing all of them");
            } else {
                tracing::warn!(%error, "rules not written");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_LAST);
            }
            continue;
        }
        tracing::debug!(ports = ports.len(), bytes = text.len(), "rules");
        pause = RETRY_FIRST;
        present = Some(wanted);
        let new_targets = rules::udp_targets(&ports);
        apply::forget_flows(&targets, &new_targets).await;
        targets = new_targets;
        drop(ports);
        watches.changed().await;
        sleep(DEBOUNCE).await;
    }
}

//! Scrubs at an operator's wish. The stores do it (see `core::replica::scrub`); somebody must have the volume open for what
//! they find to be repaired, so a volume that nobody has attached is opened here until they are done.

use super::attach::goodbye;
use super::gather::Gathered;
use super::node::{Error, Node, OpenVolume};
use super::volume::Claim;
use crate::net::control::{Inventory, Request, Response, ScrubReport};
use crate::view;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the stores are asked how far they are while a volume is open for them.
const LOOK: Duration = Duration::from_millis(1000);
/// Once all have ended, what was found may take so long to be repaired: without a good copy it never is.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(10);
/// A store that does not answer for so long is not waited for.
const AWAY_TIMEOUT: Duration = Duration::from_secs(60);

/// By region.
pub type Reports = BTreeMap<String, ScrubReport>;

impl Node {
    /// How far the scrubs of a volume are; regions that are away are missing.
    pub async fn scrub_reports(&self, id: &str) -> Reports {
        reports(&self.inventories(Some(id), |_| false).await, id)
    }

    /// Begins to scrub the replicas of a volume; what they had to say just before. Regions that are away are missing.
    pub async fn scrub(self: &Arc<Self>, id: &str) -> Result<Reports, Error> {
        let view = self.get(id).await?;
        let attached = self.attached(id).is_some() || (view.engine_connected && !view.node.is_empty());
        let before = self.scrub_reports(id).await;
        let open = if attached {
            None
        } else {
            // Whoever wants the volume gets it, and repairs in our place.
            let spec = self.configuration(id).await?;
            Some(self.open_as(spec, Claim::Brief { after: view.epoch })?)
        };
        if let Some(open) = &open {
            self.opened(&open.volume).await?;
        }
        let request = Request::Scrub {
            volume: id.to_owned(),
        };
        let mut gathered = Gathered::ask(&self.links, &request);
        let mut begun = 0;
        while let Some((_, response)) = gathered.next().await {
            begun += usize::from(response == Response::Done);
        }
        if begun == 0 {
            return Err(Error::Unavailable(format!(
                "no store scrubs volume {id:?}; not connected: {}",
                self.missing().join(", ")
            )));
        }
        if let Some(open) = open {
            let (node, before) = (self.clone(), before.clone());
            tokio::spawn(async move { node.keep_open(open, before).await });
        }
        Ok(before)
    }

    /// Keeps a volume open until its scrubs have ended and nothing is left to repair.
    async fn keep_open(self: Arc<Self>, open: OpenVolume, before: Reports) {
        let id = open.volume.spec.volume.clone();
        let mut heard = Instant::now();
        let mut ended = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.scrub_reports(&id).await;
            if now.len() >= before.len() {
                heard = Instant::now();
            }
            let passes = |region: &String| before.get(region).map_or(0, |r| r.passes);
            let all = now.iter().all(|(region, r)| r.passes > passes(region));
            if all && (now.len() >= before.len() || heard.elapsed() > AWAY_TIMEOUT) {
                let since = *ended.get_or_insert_with(Instant::now);
                if now.values().all(|r| r.damaged_blocks == 0) || since.elapsed() > REPAIR_TIMEOUT {
                    break;
                }
            }
            // Somebody else has it, or wants it: what is left to repair is theirs.
            let status = open.volume.status().await;
            if status.is_none_or(|s| s.deposed) {
                return;
            }
        }
        goodbye(open).await;
    }
}

fn reports(inventories: &[Inventory], id: &str) -> Reports {
    let found = view::configurations(inventories).remove(id);
    let replicas = found.map(|(_, replicas)| replicas).unwrap_or_default();
    replicas
        .into_iter()
        .filter_map(|(region, replica)| Some((region, replica.scrub?)))
        .collect()
}

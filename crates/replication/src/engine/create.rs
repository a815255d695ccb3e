//! Creating and deleting volumes.

use super::gather::ASK_TIMEOUT;
use super::node::{CHANGE_TIMEOUT, Error, Node};
use super::placement;
use crate::core::types::{BLOCK, Class};
use crate::net::control::{Inventory, MemberSpec, Request, Response, Tombstone, VolumeSpec};
use crate::store::catalog::valid_name;
use crate::view::{self, VolumeView};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Rounds of a creation: each sees what another engine did meanwhile.
const ROUNDS: usize = 5;
/// Pause between rounds, so that two engines that create the same volume do not stay in step.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// Regions of a replicated volume.
const REPLICAS: usize = 3;
/// Largest volume, bytes: 64 TiB.
const MAX_SIZE_BYTES: u64 = 64 << 40;

/// What is to be created.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name.
    pub id: String,
    /// Size, bytes; rounded up to a block.
    pub size_bytes: u64,
    /// `replicated` or `local`.
    pub class: String,
    /// Regions; empty: chosen here.
    pub regions: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Wanted {
    /// Rounds the size up and checks name, size and class.
    fn checked(mut self) -> Result<(Self, Class), Error> {
        if !valid_name(&self.id) {
            return Err(Error::Invalid(format!(
                "id: {:?} is not a DNS label (lower-case letters, digits, '-', at most 63)",
                self.id
            )));
        }
        if self.size_bytes == 0 || self.size_bytes > MAX_SIZE_BYTES {
            return Err(Error::Invalid(format!(
                "size_bytes: {} is not between 1 and {MAX_SIZE_BYTES}",
                self.size_bytes
            )));
        }
        self.size_bytes = self.size_bytes.next_multiple_of(BLOCK as u64);
        let class = Class::parse(&self.class).ok_or_else(|| {
            Error::Invalid(format!(
                "class: {:?} is neither \"replicated\" nor \"local\"",
                self.class
            ))
        })?;
        Ok((self, class))
    }

    fn matches(&self, view: &VolumeView) -> Result<(), Error> {
        let differs = |what: &str, found: String| {
            Err(Error::Exists(format!(
                "volume {:?} exists with {what} {found}",
                self.id
            )))
        };
        if view.spec.class != self.class {
            return differs("class", view.spec.class.clone());
        }
        let encrypted = |labels: &BTreeMap<String, String>| labels.contains_key(super::crypt::LABEL);
        if encrypted(&view.spec.labels) != encrypted(&self.labels) {
            let found = if encrypted(&view.spec.labels) { "on" } else { "off" };
            return differs("encryption", found.into());
        }
        if view.spec.size_bytes != self.size_bytes && view.size_bytes != self.size_bytes {
            return differs("size", view.size_bytes.to_string());
        }
        let mut regions: Vec<_> = view.spec.members.iter().map(|m| m.region.clone()).collect();
        let mut wanted = self.regions.clone();
        regions.sort_unstable();
        wanted.sort_unstable();
        if !wanted.is_empty() && wanted != regions {
            return differs("regions", regions.join(", "));
        }
        Ok(())
    }
}

impl Node {
    /// Creates a volume. Idempotent.
    pub async fn create(self: &Arc<Self>, wanted: Wanted) -> Result<VolumeView, Error> {
        let (wanted, class) = wanted.checked()?;
        let regions = self.choose_regions(&wanted, class)?;
        let _one_at_a_time = self.lock(&wanted.id).await;
        let mut last = Error::Unavailable("the stores do not agree yet".into());
        for _ in 0..ROUNDS {
            let inventories = self.inventories(Some(&wanted.id), |_| false).await;
            let answered = |region: &String| inventories.iter().any(|i| i.info.region == *region);
            let missing: Vec<_> = regions.iter().filter(|r| !answered(r)).cloned().collect();
            if regions.len() - missing.len() <= regions.len() / 2 {
                return Err(Error::Unavailable(format!(
                    "no majority of the volume's regions answers; missing: {}",
                    missing.join(", ")
                )));
            }
            let existing = view::volumes(&inventories)
                .into_iter()
                .find(|v| v.spec.volume == wanted.id);
            if let Some(existing) = &existing {
                wanted.matches(existing)?;
                if existing.seen >= existing.spec.majority() {
                    self.reconcile().await;
                    return Ok(existing.clone());
                }
            }
            let spec = existing.map_or_else(|| new_spec(&wanted, &regions), |view| view.spec);
            last = self.create_replicas(&spec, &inventories).await;
            tokio::time::sleep(ROUND_PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
        Err(last)
    }

    /// Makes the replicas that are missing; says what went wrong, should it not be enough.
    async fn create_replicas(&self, spec: &VolumeSpec, inventories: &[Inventory]) -> Error {
        let requests = spec.members.iter().filter_map(|member| {
            let inventory = inventories.iter().find(|i| i.info.region == member.region)?;
            let request = placement::create(inventory, spec, member.id, false);
            Some((self.link(&member.region)?, request))
        });
        let asked = requests.map(|(link, request)| async move {
            let answer = tokio::time::timeout(CHANGE_TIMEOUT, link.ask(&request)).await;
            (link.address.region.clone(), answer.ok().flatten())
        });
        let mut reasons = Vec::new();
        for (region, answer) in futures::future::join_all(asked).await {
            match answer {
                Some(Response::Done) => {}
                Some(Response::Refused { reason }) => reasons.push(format!("{region}: {reason}")),
                other => reasons.push(format!("{region}: {other:?}")),
            }
        }
        Error::Unavailable(format!("too few replicas could be made: {}", reasons.join("; ")))
    }

    fn choose_regions(&self, wanted: &Wanted, class: Class) -> Result<Vec<String>, Error> {
        let known: Vec<String> = self.links.iter().map(|l| l.address.region.clone()).collect();
        if let Some(unknown) = wanted.regions.iter().find(|r| !known.contains(r)) {
            return Err(Error::Invalid(format!(
                "regions: {unknown:?} has no store; there are {}",
                known.join(", ")
            )));
        }
        let count = match class {
            Class::Replicated => REPLICAS,
            Class::Local => 1,
        };
        let mut regions = wanted.regions.clone();
        regions.dedup();
        if !regions.is_empty() {
            if regions.len() != count {
                return Err(Error::Invalid(format!(
                    "regions: class {:?} needs {count}, not {}",
                    wanted.class,
                    regions.len()
                )));
            }
            return Ok(regions);
        }
        // The own region first; the others from a start that depends on the name, so that volumes spread.
        let home = known.iter().position(|r| *r == self.region);
        if class == Class::Local {
            return home
                .map(|_| vec![self.region.clone()])
                .ok_or_else(|| Error::State(format!("the region {:?} has no store", self.region)));
        }
        if known.len() < count {
            return Err(Error::State(format!(
                "class \"replicated\" needs stores in {count} regions; there are {}",
                known.join(", ")
            )));
        }
        regions.extend(home.map(|index| known[index].clone()));
        let start = wanted.id.bytes().map(usize::from).sum::<usize>();
        for step in 0..known.len() {
            let region = &known[(start + step) % known.len()];
            if regions.len() < count && !regions.contains(region) {
                regions.push(region.clone());
            }
        }
        // The same order at every engine.
        regions.sort_by_key(|r| known.iter().position(|k| k == r));
        Ok(regions)
    }

    /// Deletes a volume in all stores that can be reached; the others learn of it when they are back. Idempotent.
    pub async fn delete(self: &Arc<Self>, volume: &str) -> Result<(), Error> {
        if !valid_name(volume) {
            return Err(Error::Invalid(format!("id: {volume:?} is not a DNS label")));
        }
        let _one_at_a_time = self.lock(volume).await;
        if self.attached(volume).is_some() {
            return Err(Error::State(format!(
                "volume {volume:?} is attached here: detach it first"
            )));
        }
        let inventories = self.inventories(Some(volume), |_| false).await;
        let Some(found) = view::volumes(&inventories)
            .into_iter()
            .find(|v| v.spec.volume == volume)
        else {
            return self.require_majority(inventories.len());
        };
        if found.engine_connected && !found.node.is_empty() {
            return Err(Error::State(format!(
                "volume {volume:?} is attached to node {:?}",
                found.node
            )));
        }
        let request = Request::Delete {
            tombstone: Tombstone {
                volume: volume.to_owned(),
                members: found.spec.members.clone(),
            },
        };
        let asked = found
            .spec
            .members
            .iter()
            .filter_map(|m| self.link(&m.region))
            .map(|link| {
                let request = request.clone();
                async move {
                    tokio::time::timeout(CHANGE_TIMEOUT, link.ask(&request))
                        .await
                        .ok()
                        .flatten()
                }
            });
        let answers = futures::future::join_all(asked).await;
        let done = answers
            .iter()
            .filter(|a| matches!(a, Some(Response::Done)))
            .count();
        if done >= found.spec.majority() {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "{done} of {} stores deleted it (each within {CHANGE_TIMEOUT:?} after {ASK_TIMEOUT:?}); not connected: {}",
            found.spec.members.len(),
            self.missing().join(", ")
        )))
    }
}

fn new_spec(wanted: &Wanted, regions: &[String]) -> VolumeSpec {
    VolumeSpec {
        volume: wanted.id.clone(),
        size_bytes: wanted.size_bytes,
        class: wanted.class.clone(),
        members: regions
            .iter()
            .map(|region| MemberSpec {
                id: Uuid::new_v4(),
                region: region.clone(),
            })
            .collect(),
        labels: wanted.labels.clone(),
    }
}

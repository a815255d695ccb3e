//! The storage layer as `hikube status` shows it: stores and volumes, through the public API of stores and engines.
//! How replication works is not known here.

use crate::layout::Layout;
use crate::pki::{Signer, identity};
use crate::plan::Plan;
use replication::StorageConfig;
use replication::admin::Admin;
use replication::view::{ReplicaView, VolumeView};
use serde::Serialize;
use std::collections::BTreeMap;

/// A region's store.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Where it listens.
    pub address: String,
    /// `up` or `unknown`.
    pub state: String,
}

impl Store {
    /// A store that does not answer.
    pub(crate) fn unknown(address: &str) -> Self {
        Self {
            address: address.into(),
            state: "unknown".into(),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The claim it was made for.
    pub claim: String,
    /// The claim's namespace.
    pub namespace: String,
    /// Its size.
    pub size_bytes: u64,
    /// Highest known epoch.
    pub epoch: u64,
    /// The node whose engine writes it; empty when none does.
    pub node: String,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// A replica.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its region.
    pub region: String,
    /// `complete`, `catching-up`, `absent`, `failed`, `learner` or `unknown`.
    pub state: String,
    /// Acknowledged bytes that it does not hold yet.
    pub lag_bytes: u64,
}

/// What could be learnt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Stores by region.
    pub stores: BTreeMap<String, Vec<Store>>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

/// Asks all stores at once; one that does not answer in time is unknown.
pub(crate) async fn look(layout: &Layout, plan: &Plan) -> Seen {
    let files = identity(layout, Signer::Storage, "admin");
    let config = StorageConfig {
        stores: plan.stores().split(',').map(str::to_owned).collect(),
        storage_cert: files.cert,
        storage_key: files.key,
        storage_ca: files.ca,
    };
    let overview = match Admin::new(&config) {
        Ok(admin) => admin.overview().await,
        Err(error) => {
            tracing::debug!(%error, "cannot ask the stores");
            return Seen::default();
        }
    };
    let mut seen = Seen::default();
    for store in overview.stores {
        let state = match store.info {
            Ok(_) => "up",
            Err(reason) => {
                tracing::debug!(region = store.region, reason, "store");
                "unknown"
            }
        };
        seen.stores.entry(store.region).or_default().push(Store {
            address: store.address,
            state: state.into(),
        });
    }
    seen.volumes = overview.volumes.into_iter().map(volume).collect();
    seen
}

fn volume(view: VolumeView) -> Volume {
    let label = |key: &str| view.spec.labels.get(key).cloned();
    Volume {
        // A volume that no claim asked for is shown by its own name.
        claim: label("claim").unwrap_or_else(|| view.spec.volume.clone()),
        namespace: label("namespace").unwrap_or_default(),
        size_bytes: view.size_bytes,
        epoch: view.epoch,
        node: view.node.clone(),
        replicas: view.replicas.iter().map(replica).collect(),
    }
}

fn replica(view: &ReplicaView) -> Replica {
    Replica {
        region: view.region.clone(),
        state: view.state.clone(),
        lag_bytes: view.lag_bytes,
    }
}

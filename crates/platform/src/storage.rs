//! The storage layer as `hikube status` shows it: stores and volumes, through the public API of stores and engines.
//! How replication works is not known here.

use crate::layout::Layout;
use crate::plan::{Plan, STORE_PORT};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

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

/// Asks stores and engines, for no longer than `deadline`.
pub(crate) async fn look(_layout: &Layout, plan: &Plan, deadline: Duration) -> Seen {
    let stores = plan.regions.iter().map(|region| async move {
        let address = format!("{}:{STORE_PORT}", region.address);
        let connect = tokio::net::TcpStream::connect(&address);
        let state = match tokio::time::timeout(deadline, connect).await {
            Ok(Ok(_)) => "up",
            _ => "unknown",
        };
        let store = Store {
            address,
            state: state.into(),
        };
        (region.name.clone(), vec![store])
    });
    Seen {
        stores: futures::future::join_all(stores).await.into_iter().collect(),
        volumes: Vec::new(),
    }
}

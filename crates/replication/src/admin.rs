//! Questions to the stores without any engine: what `hikube status` shows while the API and etcd are down, and
//! whether a silent node still reaches the storage.

use crate::StorageConfig;
use crate::net::client::{Dialer, StoreAddress};
use crate::net::control::{Inventory, Request, Response, StoreInfo};
use crate::net::{Error, PING_INTERVAL};
use crate::view::{self, VolumeView};
use std::time::Duration;

/// Limit for each store, so that dead ones hold nothing up.
const STORE_TIMEOUT: Duration = Duration::from_millis(1500);
/// A node silent for less than this is in contact: three pings.
const IN_CONTACT: Duration = PING_INTERVAL.saturating_mul(3);

/// What the stores know about a node's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// A majority of the stores answered, and each of that majority has not heard from the node's engine for at
    /// least this long. A store that started later, or was itself stopped meanwhile, counts from then.
    SilentFor(Duration),
    /// A majority answered; not all of a majority find it silent.
    Heard,
    /// Fewer than a majority of the stores answered: nothing is certain.
    Unknown,
}

/// What one store says about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreContact {
    /// Region of the store.
    pub region: String,
    /// For how long it has not heard the node, as far as it can tell; or why it did not answer.
    pub silence: Result<Duration, String>,
    /// It has heard the node at least once.
    pub ever_heard: bool,
}

/// One store in an [`Overview`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreView {
    /// Region.
    pub region: String,
    /// `host:port`.
    pub address: String,
    /// What it says about itself, or why it did not answer.
    pub info: Result<StoreInfo, String>,
}

/// Stores and volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// All stores of the configuration.
    pub stores: Vec<StoreView>,
    /// All volumes of the stores that answered.
    pub volumes: Vec<VolumeView>,
}

/// A client of all stores.
#[derive(Clone)]
pub struct Admin {
    dialer: Dialer,
    stores: Vec<StoreAddress>,
}

impl Admin {
    /// With the identity of the configuration: `.../control-plane` or `.../admin`.
    pub fn new(config: &StorageConfig) -> Result<Self, Error> {
        let stores: Result<Vec<_>, _> = config
            .stores
            .iter()
            .map(|text| StoreAddress::parse(text))
            .collect();
        Ok(Self {
            dialer: Dialer::new(config)?,
            stores: stores?,
        })
    }

    /// When did each store last hear from the engine of `node`?
    pub async fn contacts(&self, node: &str) -> Vec<StoreContact> {
        let request = Request::Contact {
            node: node.to_owned(),
        };
        let answers = self.ask_all(&request).await;
        let contacts = answers.into_iter().map(|(store, answer)| {
            let (silence, ever_heard) = match answer {
                Ok(Response::Contact {
                    heard_ms,
                    watching_ms,
                }) => {
                    let silence = heard_ms.map_or(watching_ms, |heard| heard.min(watching_ms));
                    (Ok(Duration::from_millis(silence)), heard_ms.is_some())
                }
                Ok(other) => (Err(format!("unexpected answer {other:?}")), false),
                Err(reason) => (Err(reason), false),
            };
            StoreContact {
                region: store.region.clone(),
                silence,
                ever_heard,
            }
        });
        contacts.collect()
    }

    /// What a majority of the stores knows about the engine of `node`.
    pub async fn contact(&self, node: &str) -> Contact {
        decide(&self.contacts(node).await)
    }

    /// All stores and volumes.
    pub async fn overview(&self) -> Overview {
        let answers = self.ask_all(&Request::List { volume: None }).await;
        let mut inventories: Vec<Inventory> = Vec::new();
        let mut stores = Vec::new();
        for (store, answer) in answers {
            let info = match answer {
                Ok(Response::Inventory(inventory)) => {
                    let info = inventory.info.clone();
                    inventories.push(inventory);
                    Ok(info)
                }
                Ok(other) => Err(format!("unexpected answer {other:?}")),
                Err(reason) => Err(reason),
            };
            stores.push(StoreView {
                region: store.region.clone(),
                address: store.address.clone(),
                info,
            });
        }
        Overview {
            stores,
            volumes: view::volumes(&inventories),
        }
    }

    async fn ask_all(&self, request: &Request) -> Vec<(&StoreAddress, Result<Response, String>)> {
        let asked = self.stores.iter().map(|store| async move {
            let answer = tokio::time::timeout(STORE_TIMEOUT, self.dialer.ask(store, request)).await;
            let answer = match answer {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {STORE_TIMEOUT:?}")),
            };
            (store, answer)
        });
        futures::future::join_all(asked).await
    }
}

/// The rule behind fail-over: the majority that has been silent longest is silent at least for the shortest of its
/// times.
pub fn decide(contacts: &[StoreContact]) -> Contact {
    let majority = contacts.len() / 2 + 1;
    let mut silences: Vec<Duration> = contacts.iter().filter_map(|c| c.silence.clone().ok()).collect();
    if contacts.is_empty() || silences.len() < majority {
        return Contact::Unknown;
    }
    silences.sort_unstable_by(|a, b| b.cmp(a));
    match silences[majority - 1] {
        silence if silence < IN_CONTACT => Contact::Heard,
        silence => Contact::SilentFor(silence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts(seconds: [Option<u64>; 3]) -> Vec<StoreContact> {
        let one = |silence: Option<u64>| StoreContact {
            region: "r".into(),
            silence: silence.map(Duration::from_secs).ok_or_else(|| "down".into()),
            ever_heard: true,
        };
        seconds.map(one).into()
    }

    #[test]
    fn only_a_majority_that_is_silent_decides() {
        let silent = |s| Contact::SilentFor(Duration::from_secs(s));
        assert_eq!(decide(&contacts([Some(20), Some(17), Some(0)])), silent(17));
        assert_eq!(decide(&contacts([Some(20), Some(0), Some(0)])), Contact::Heard);
        assert_eq!(decide(&contacts([Some(20), Some(17), None])), silent(17));
        assert_eq!(decide(&contacts([Some(20), Some(1), None])), Contact::Heard);
        assert_eq!(decide(&contacts([Some(20), None, None])), Contact::Unknown);
        assert_eq!(decide(&[]), Contact::Unknown);
    }
}

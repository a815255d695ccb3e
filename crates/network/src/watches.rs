//! What the proxy and DNS know of the cluster: Services and EndpointSlices.

use client::Informer;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use std::sync::Arc;
use tokio::sync::Notify;

/// The caches; both users read them as they are.
#[derive(Default)]
pub(crate) struct Watches {
    pub(crate) services: Informer<Service>,
    pub(crate) slices: Informer<EndpointSlice>,
    changed: Arc<Notify>,
}

impl Watches {
    pub(crate) fn new() -> Self {
        let watches = Self::default();
        let changed = watches.changed.clone();
        watches.services.on_change(move |_| changed.notify_one());
        let changed = watches.changed.clone();
        watches.slices.on_change(move |_| changed.notify_one());
        watches
    }

    /// Follows the API server, for ever.
    pub(crate) async fn run(&self, client: kube::Client) {
        futures::join!(
            self.services
                .run(Api::all(client.clone()), watcher::Config::default()),
            self.slices.run(Api::all(client), watcher::Config::default()),
        );
    }

    /// Waits until both caches are complete.
    pub(crate) async fn synced(&self) {
        futures::join!(self.services.synced(), self.slices.synced());
    }

    /// Waits for a change since the last call. One waiter only.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

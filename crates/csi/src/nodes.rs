//! Which nodes there are.

use k8s_openapi::api::core::v1::Node;
use tonic::Status;

/// The nodes that a volume can be published to.
#[derive(Clone)]
pub(crate) struct Nodes {
    /// This node, which needs no question.
    pub(crate) own: String,
    /// Without an API server only this node is known.
    pub(crate) client: Option<kube::Client>,
}

impl Nodes {
    /// NOT_FOUND when there is no node of this name.
    pub(crate) async fn check(&self, name: &str) -> Result<(), Status> {
        if name == self.own {
            return Ok(());
        }
        let missing = || Status::not_found(format!("no node {name}"));
        let client = self.client.clone().ok_or_else(missing)?;
        let found = kube::Api::<Node>::all(client).get_metadata_opt(name).await;
        match found {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(missing()),
            Err(error) => Err(Status::unavailable(format!("look up node {name}: {error}"))),
        }
    }
}

//! What one member says of itself.

use super::member::Address;
use crate::Error;
use protos::etcdserverpb::StatusRequest;
use protos::etcdserverpb::maintenance_client::MaintenanceClient;
use std::time::Duration;

/// A person waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// State of one etcd member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// It answers, knows a leader and reports no error.
    pub healthy: bool,
    /// It is the leader.
    pub leader: bool,
    /// Its version.
    pub version: String,
    /// Size of its database in bytes.
    pub db_size_bytes: i64,
}

/// Asks the member at this URL. A member that does not answer within a second is not healthy.
pub async fn status(endpoint: &str, files: Option<&tls::IdentityFiles>) -> Result<MemberStatus, Error> {
    let tls = files
        .map(|files| tls::client_config(files, &[b"h2"]))
        .transpose()
        .map_err(|e| Error::Configuration(e.to_string()))?;
    let channel = Address::parse(endpoint, tls)?.channel()?;
    let mut client = MaintenanceClient::new(channel);
    let response = match tokio::time::timeout(TIMEOUT, client.status(StatusRequest {})).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(_)) | Err(_) => return Ok(MemberStatus::default()),
    };
    let member = response.header.map_or(0, |h| h.member_id);
    Ok(MemberStatus {
        healthy: response.leader != 0 && response.errors.is_empty(),
        leader: response.leader == member,
        version: response.version,
        db_size_bytes: response.db_size,
    })
}

//! One probe: asks a container once.

use super::http;
use crate::runtime::Runtime;
use k8s_openapi::api::core::v1::{Container, Probe};
use protos::health::health_check_response::ServingStatus;
use protos::health::{HealthCheckRequest, health_client::HealthClient};
use std::time::Duration;
use tokio::net::TcpStream;

/// What an answer may show in an event, characters.
const MAX_OUTPUT: usize = 1024;

/// Whom to ask.
#[derive(Clone)]
pub struct Target {
    /// The runtime, for commands.
    pub runtime: Runtime,
    /// The runtime's ID of the container.
    pub container_id: String,
    /// The container's spec.
    pub container: Container,
    /// The pod's address.
    pub pod_ip: String,
}

/// Asks once. The error is what `kubectl describe` shows.
pub async fn check(target: &Target, probe: &Probe) -> Result<(), String> {
    let seconds = probe
        .timeout_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(1)
        .max(1);
    let limit = Duration::from_secs(seconds);
    let result =
        match tokio::time::timeout(limit + Duration::from_millis(500), ask(target, probe, limit)).await {
            Ok(result) => result,
            Err(_) => Err(format!("timed out after {seconds}s")),
        };
    result.map_err(|output| output.chars().take(MAX_OUTPUT).collect())
}

async fn ask(target: &Target, probe: &Probe, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let answer = target
            .runtime
            .exec_sync(&target.container_id, command, limit)
            .await;
        let answer = answer.map_err(|e| e.to_string())?;
        let output = [answer.stdout, answer.stderr].concat();
        return match answer.exit_code {
            0 => Ok(()),
            _ => Err(String::from_utf8_lossy(&output).into_owned()),
        };
    }
    let network = async {
        if let Some(action) = &probe.http_get {
            let (status, _) = http::get(action, &target.container, &target.pod_ip).await?;
            return match status {
                200..400 => Ok(()),
                _ => Err(format!("HTTP probe failed with statuscode: {status}")),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            let host = action
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .unwrap_or(&target.pod_ip);
            let port = http::port(&target.container, &action.port).ok_or("the container has no such port")?;
            let address = http::authority(host, port);
            let connected = TcpStream::connect(&address).await;
            return connected
                .map(drop)
                .map_err(|e| format!("dial tcp {address}: {e}"));
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| "no such port")?;
            let service = action.service.clone().unwrap_or_default();
            return health(&http::authority(&target.pod_ip, port), service).await;
        }
        Ok(())
    };
    match tokio::time::timeout(limit, network).await {
        Ok(result) => result,
        Err(_) => Err("context deadline exceeded".into()),
    }
}

async fn health(authority: &str, service: String) -> Result<(), String> {
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{authority}")).map_err(|e| e.to_string())?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|e| format!("failed to connect service {authority:?}: {e}"))?;
    let request = HealthCheckRequest { service };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|s| s.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!(
            "service unhealthy (responded with {:?})",
            other.as_str_name()
        )),
    }
}

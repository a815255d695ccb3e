//! Lifecycle hooks: a command, a request or a pause after the start and before the stop of a container.

use crate::context::Context;
use crate::probes::http;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use std::time::Duration;

/// A hook without an end of its own ends with its container; this bounds what is left of it then.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs a hook to its end.
pub async fn run(
    context: &Context,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let answer = context
            .runtime
            .exec_sync(container_id, command, LIMIT)
            .await
            .map_err(|e| e.to_string())?;
        if answer.exit_code != 0 {
            let output = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
            return Err(format!(
                "command {command:?} exited with {}: {output}",
                answer.exit_code
            ));
        }
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        return match http::get(action, container, pod_ip).await? {
            (200..400, _) => Ok(()),
            (status, _) => Err(format!("HTTP hook failed with statuscode: {status}")),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.tcp_socket {
        let host = action.host.as_deref().unwrap_or(pod_ip);
        let port = http::port(container, &action.port).ok_or("the container has no such port")?;
        let connected = tokio::net::TcpStream::connect(http::authority(host, port)).await;
        return connected.map(drop).map_err(|e| e.to_string());
    }
    Ok(())
}

//! Tells the kubelet that the driver is there (plugin registration v1).

use protos::registration::registration_server::{Registration, RegistrationServer};
use protos::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use std::path::PathBuf;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

struct Registrar {
    endpoint: PathBuf,
}

/// Serves the registration socket until `shutdown`, then removes it, which unregisters the driver.
pub(crate) async fn serve(
    socket: PathBuf,
    endpoint: PathBuf,
    shutdown: CancellationToken,
) -> Result<(), crate::Error> {
    let incoming = UnixListenerStream::new(crate::socket::listen(&socket)?);
    let served = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(Registrar { endpoint }))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await;
    let _ = std::fs::remove_file(&socket);
    served.map_err(|source| crate::Error::Serve { path: socket, source })
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: crate::DRIVER.into(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            // Of the plugin API as kubelets since 1.13 negotiate it, not of CSI.
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
        } else {
            // The kubelet asks again when the socket appears anew.
            tracing::warn!(error = status.error, "the kubelet refused the registration");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

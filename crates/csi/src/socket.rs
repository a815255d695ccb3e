//! gRPC over Unix sockets: channels to the engine and to the driver itself, and listening sockets.

use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// A Unix socket is there at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A channel to the server on `path`. It connects at the first call and again after the server restarted.
pub(crate) fn channel(path: &Path) -> Channel {
    let path: PathBuf = path.into();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The authority is required by HTTP/2 and means nothing on a Unix socket.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(connector)
}

/// Binds `path`, whatever an earlier process left there; only root may connect.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, crate::Error> {
    let bind = || -> std::io::Result<UnixListener> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| crate::Error::Listen {
        path: path.into(),
        source,
    })
}

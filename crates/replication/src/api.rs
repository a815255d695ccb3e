//! A client of the engine API on its Unix socket.

use hyper_util::rt::TokioIo;
use protos::engine::engine_client::EngineClient;
use std::path::Path;
use tonic::transport::{Channel, Endpoint, Error};

/// Connects to an engine. Calls on the client are bounded by the engine, the longest (attach) by about 20 s.
pub async fn connect(socket: &Path) -> Result<EngineClient<Channel>, Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    // The address is not used, but a client must have one.
    let channel = Endpoint::from_static("http://engine")
        .connect_with_connector(connector)
        .await?;
    Ok(EngineClient::new(channel))
}

//! A fake engine: says what the test wants about the majority of the stores.

use protos::engine::engine_server::{Engine, EngineServer};
use protos::engine::*;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

pub struct Fake(watch::Receiver<QuorumState>);

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("only the quorum is watched here"))
}

#[tonic::async_trait]
impl Engine for Fake {
    type WatchQuorumStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<QuorumState, Status>> + Send>>;

    async fn watch_quorum(&self, _: Request<WatchQuorumRequest>) -> Answer<Self::WatchQuorumStream> {
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(Ok))))
    }
    async fn create_volume(&self, _: Request<CreateVolumeRequest>) -> Answer<CreateVolumeResponse> {
        unused()
    }
    async fn delete_volume(&self, _: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
        unused()
    }
    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Answer<ListVolumesResponse> {
        unused()
    }
    async fn get_volume(&self, _: Request<GetVolumeRequest>) -> Answer<GetVolumeResponse> {
        unused()
    }
    async fn expand_volume(&self, _: Request<ExpandVolumeRequest>) -> Answer<ExpandVolumeResponse> {
        unused()
    }
    async fn attach_volume(&self, _: Request<AttachVolumeRequest>) -> Answer<AttachVolumeResponse> {
        unused()
    }
    async fn detach_volume(&self, _: Request<DetachVolumeRequest>) -> Answer<DetachVolumeResponse> {
        unused()
    }
    async fn verify_volume(&self, _: Request<VerifyVolumeRequest>) -> Answer<VerifyVolumeResponse> {
        unused()
    }
    async fn scrub_volume(&self, _: Request<ScrubVolumeRequest>) -> Answer<ScrubVolumeResponse> {
        unused()
    }
    async fn clone_volume(&self, _: Request<CloneVolumeRequest>) -> Answer<CloneVolumeResponse> {
        unused()
    }
    async fn create_snapshot(&self, _: Request<CreateSnapshotRequest>) -> Answer<CreateSnapshotResponse> {
        unused()
    }
    async fn delete_snapshot(&self, _: Request<DeleteSnapshotRequest>) -> Answer<DeleteSnapshotResponse> {
        unused()
    }
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        unused()
    }
}

/// The fake engine; what is sent to `quorum` is what it says from then on.
pub struct FakeEngine {
    pub quorum: watch::Sender<QuorumState>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl FakeEngine {
    /// Ends it, with all its connections.
    pub async fn kill(self) {
        drop(self.quorum);
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(Duration::from_secs(5), self.server).await;
    }
}

/// Serves at `socket`.
pub fn serve(socket: &Path) -> std::io::Result<FakeEngine> {
    let state = QuorumState {
        majority: true,
        ..QuorumState::default()
    };
    let (quorum, receiver) = watch::channel(state);
    let (stop, stopped) = oneshot::channel::<()>();
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    let server = tonic::transport::Server::builder()
        .add_service(EngineServer::new(Fake(receiver)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            let _ = stopped.await;
        });
    Ok(FakeEngine {
        quorum,
        stop,
        server: tokio::spawn(server),
    })
}

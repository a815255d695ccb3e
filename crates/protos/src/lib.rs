//! gRPC bindings of the protocols that Hikube speaks on Unix sockets: CRI, CSI, the kubelet's plugin
//! registration, and the engine API. Nothing here has logic.
#![allow(missing_docs, clippy::all, clippy::unwrap_used)]

/// Container Runtime Interface, v1.
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
/// Container Storage Interface, 1.12.
pub mod csi {
    tonic::include_proto!("csi.v1");
}
/// Kubelet plugin registration, v1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
/// The engine API of Hikube.
pub mod engine {
    tonic::include_proto!("hikube.engine.v1");
}
/// etcd v3: services and requests.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
/// etcd v3: key-value records.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
/// gRPC health checking, v1.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

//! Labels and annotations on sandboxes and containers; the same as upstream's, so that its tools
//! (`crictl`, log collectors) understand them and a restarted kubelet recognises what runs.

/// Name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// UID of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Name of the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of the container's spec that matters for a restart.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted before this instance.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where the container writes its last words.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Grace period of the pod in seconds.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

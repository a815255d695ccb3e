//! Facts of the Kubernetes API and the engine that works on them.

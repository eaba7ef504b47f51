//! The mutating webhook: adds the init container and the sidecar to pods of namespaces that ask for it.
//!
//! ```text
//! API server --AdmissionReview--> serve (HTTPS) -> review (pure) -> inject (pure: the patch), knobs (annotations), probes
//! Kubernetes --watch--> cluster: namespaces, trust bundle, own certificate, caBundle of the webhook's configuration, pods that lack their sidecar
//! ```
//!
//! What is decided about a pod depends on the pod, its namespace's labels and annotations, and the settings, on nothing else: so a dry run has no effect, and repeating changes nothing.

pub mod certificate;
pub mod cluster;
pub mod inject;
pub mod knobs;
pub mod limits;
pub mod metrics;
pub mod probes;
pub mod program;
pub mod review;
pub mod serve;
pub mod sidecar;

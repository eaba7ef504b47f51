//! The CA on a cluster: callers are known by TokenReview, the state is a Secret, the bundle a ConfigMap.
//!
//! ```text
//! token --shape--> address limit --> back-off --> TokenReview --> Pod (uid, addresses) --> Caller
//! State <-> Secret weft-ca (created once, replaced by resourceVersion)      Bundle -> ConfigMap weft-trust-bundle (kept true)
//! ```
//!
//! The API server is the only authority. While it is away nobody is let in; what was signed before stays good.

mod outage;
mod peek;
mod review;
mod store;

pub use review::{ReviewAuthenticator, ReviewSettings};
pub use store::{BUNDLE, BUNDLE_KEY, SECRET, STATE_KEY, SecretStore, root_from};

/// What a failed call says, without the types of the client around it.
pub(crate) fn reason(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(s) if s.code == 403 => {
            format!("{}. Fix: the Role or ClusterRole of weft-ca lacks it (docs/ca.md lists what it needs)", s.message)
        }
        kube::Error::Api(s) => format!("{} ({})", s.message, s.code),
        e => {
            // the innermost cause names the refused connection or the bad certificate
            let mut source: &dyn std::error::Error = e;
            while let Some(inner) = source.source() {
                source = inner;
            }
            source.to_string()
        }
    }
}

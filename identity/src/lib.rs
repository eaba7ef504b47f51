//! Identities on the wire: what the proxy, the CA, the controller and the injector share of TLS and certificates.
//!
//! ```text
//! Bundle (roots of the trust domain) ─┐
//! KeyRequest -> CSR -> CA -> leaf ────┴─> Credentials -> rustls configurations -> a peer whose WorkloadIdentity is verified
//! ```
//!
//! Names are checked once, in [`verify`]: a chain to a root of the bundle, then exactly one URI name, which must be the expected
//! identity (dialling) or any identity of the trust domain (accepting). DNS names and common names mean nothing here. Sessions are
//! never resumed, since a resumed session skips the verifier and would outlive a rotated certificate.
//!
//! [`Credentials`] are immutable: a new leaf or bundle makes new ones, published through a [`CredentialCell`]. Connections keep
//! what they were made with.

pub mod bundle;
pub mod credentials;
pub mod der;
pub mod failure;
pub mod hello;
pub mod limit;
pub mod provider;
pub mod renewal;
pub mod request;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod verify;

pub use bundle::{Bundle, BundleError};
pub use credentials::{Alpn, CredentialCell, Credentials, CredentialsError};
pub use failure::HandshakeFailure;
pub use hello::{ClientHello, Peek, peek};
pub use request::KeyRequest;
pub use verify::{Refusal, peer_identity};
pub use weft_core::identity::{IdentityError, WorkloadIdentity};

/// Where the control plane lives unless configured otherwise.
pub const SYSTEM_NAMESPACE: &str = "weft-system";
/// Service accounts of the control plane.
pub const CA_ACCOUNT: &str = "weft-ca";
pub const CONTROLLER_ACCOUNT: &str = "weft-controller";

/// The identity that the CA's certificate carries.
pub fn ca_identity(trust_domain: &str) -> Result<WorkloadIdentity, IdentityError> {
    WorkloadIdentity::new(trust_domain, SYSTEM_NAMESPACE, CA_ACCOUNT)
}
/// The identity that the controller's certificate carries.
pub fn controller_identity(trust_domain: &str) -> Result<WorkloadIdentity, IdentityError> {
    WorkloadIdentity::new(trust_domain, SYSTEM_NAMESPACE, CONTROLLER_ACCOUNT)
}

//! The certificate authority of the mesh.
//!
//! ```text
//! token -> Authenticator -> Caller ─┐
//! CSR -> its public key ────────────┴─> Issuer -> leaf (+ issuer certificate, + bundle)
//! state file <-> State (authorities, who signs, rotation) <- gates <- reports of the controllers
//! ```
//!
//! A request contributes its public key and nothing else; who the caller is comes from its token. The state (keys, roots, where a rotation
//! stands) is one document, created once and replaced as a whole, so that every step of a rotation survives a crash and every replica reads the
//! same. A state that is broken stops the signing; a new root is never made over an old one.

pub mod admin;
pub mod authenticate;
pub mod csr;
pub mod gate;
pub mod issue;
pub mod kubernetes;
pub mod program;
pub mod server;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;

pub use authenticate::{Authenticator, Caller, Denied};
pub use server::{Ca, CaError, CaSettings};
pub use state::{Made, State, StateError};
pub use store::{FileStore, Store, StoreError};

//! The wire between controller and proxies, and between both and the CA.
//!
//! ```text
//! Provider (controller) -> server: one stream per proxy, subscriptions by name -> client: cache, leases, updates -> proxy
//! ```
//!
//! Three layers: [`proto`] is what stands on the wire, [`wire`] converts it to and from `weft-core` with typed errors, [`server`] and
//! [`client`] speak it. A proxy knows only what it asked for, so its memory follows its traffic. Versions are digests of the content:
//! they mean the same on every replica and after a restart.

pub mod certificates;
pub mod client;
pub mod resource;
pub mod server;
pub mod trust;
pub mod wire;

pub use certificates::{RenewerSettings, TokenSource};
pub use client::{ClientSettings, DiscoveryClient, Found, Lease, LookupError, Update, Updates};
pub use resource::{Resource, ResourceName, Version};
pub use server::{Change, Changes, DiscoveryServer, Peer, PeerStatus, Provider, ServerSettings};
pub use trust::{Confirmations, FollowSettings};

#[cfg(test)]
mod stream_tests;

/// Generated from `proto/weft/discovery/v1/discovery.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("weft.discovery.v1");
}

//! The meaning of the mesh, pure: what a route matches, what a filter does, who a workload is. No I/O, no clock, no randomness of
//! its own (a draw takes the random number as an argument).
//!
//! The controller compiles Kubernetes objects into these types, discovery carries them, the proxy matches requests with them
//! and `weft explain` asks them the same questions, so there is one definition of precedence, of path normalisation and of identity.
//!
//! ```text
//! ServicePort (what a client dialled) -- routes --> HttpTable -- matches --> Rule -- weights --> Backend (a ServiceRef) --> Endpoints
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod authorization;
pub mod backend;
pub mod cause;
pub mod cors;
pub mod endpoint;
pub mod filter;
pub mod identity;
pub mod matches;
pub mod path;
pub mod policy;
pub mod probe;
pub mod query;
pub mod retry;
pub mod route;
pub mod service;
mod table;
#[cfg(test)]
mod testing;

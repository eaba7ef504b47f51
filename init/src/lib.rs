//! Traffic capture in the pod: which TCP connections go to the sidecar, as iptables rules.
//!
//! ```text
//! Plan (what to capture) -- render, a pure function --> text for iptables-restore, one transaction for each family
//!      -- apply --> kernel -- read back and compare --> verified, or undone and an error that names the missing piece
//! ```
//!
//! Two chains of our own hold every rule; the built-in chains get one jump each. `iptables-restore --noflush` rebuilds our chains
//! because they are declared, but it would add the jumps again, so the transaction deletes the jumps that are there first.
//! Everything else in the table, other tools' rules included, stays.

pub mod apply;
pub mod backend;
pub mod lists;
pub mod plan;

pub use apply::{ApplyError, apply, remove, verify};
pub use backend::Backend;
pub use plan::{Family, Plan, PlanError};

//! The control plane's brain: objects in, what each proxy may know out.
//!
//! ```text
//! Source (folder | cluster) -> Index (typed objects, who refers to whom) -> compile (pure, memoised in World) -> serve (discovery)
//!                                         \-> statuses, check, explain: the same functions, other readers
//! ```
//!
//! The index applies an update and says what it touched; only that is compiled again, when somebody asks for it. Everything that
//! decides is a pure function of the index, so `check` and `explain` on a folder say what the running mesh does.

pub mod admin;
pub mod attach;
pub mod check;
pub mod cluster;
pub mod compile;
pub mod convert;
pub mod explain;
pub mod facts;
#[cfg(test)]
pub mod fake_api;
pub mod finding;
pub mod index;
pub mod metrics;
pub mod object;
pub mod program;
pub mod refs;
pub mod run;
pub mod serve;
pub mod source;
pub mod status;
#[cfg(test)]
pub mod testing;
pub mod world;

pub use check::check;
pub use finding::{Finding, Severity};
pub use index::{Index, Mesh};
pub use source::{folder::Folder, kubernetes::Kubernetes};
pub use world::World;

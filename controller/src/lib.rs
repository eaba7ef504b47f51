//! The control plane's brain: objects in, what each proxy may know out.
//!
//! ```text
//! Source (folder | cluster) -> Index (typed objects, who refers to whom) -> compile (pure, memoised) -> serve (discovery)
//!                                         \-> statuses, check, explain: the same functions, other readers
//! ```
//!
//! The index applies an update and says what it touched; only that is compiled again, when somebody asks for it. Everything that
//! decides is a pure function of the index, so `check` and `explain` on a folder say what the running mesh does.

pub mod finding;
pub mod object;
pub mod source;

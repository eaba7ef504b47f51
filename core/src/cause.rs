//! Causes: why a request got no answer from a backend. Each becomes a status code, the `weft-error` header and a metric label in exactly one place.

use serde::{Deserialize, Serialize};

/// Why a backendRef leads nowhere (Gateway API, `ResolvedRefs`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    #[error("Service {0} does not exist")]
    BackendNotFound(Box<str>),
    #[error("kind {0} is not supported as a backend")]
    InvalidKind(Box<str>),
    #[error("no ReferenceGrant allows {0}")]
    RefNotPermitted(Box<str>),
    #[error("Service {0} has no such port")]
    PortNotFound(Box<str>),
    #[error("{0}")]
    Unsupported(Box<str>),
}

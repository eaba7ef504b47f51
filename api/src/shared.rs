//! References, parents and statuses that the kinds share.

use crate::meta::{Condition, Duration};

shape! {
    /// What a route attaches to: a Gateway, a ListenerSet or a Service.
    pub struct ParentReference {
        /// `gateway.networking.k8s.io` when absent; `""` for a Service.
        group?: String,
        /// `Gateway` when absent.
        kind?: String,
        /// The route's own when absent.
        namespace?: String,
        name: String,
        /// Name of a listener.
        section_name?: String,
        /// Port of the listener or Service; every port when absent.
        port?: u16,
    }
}

shape! {
    /// Where traffic goes: a Service port, or another kind.
    pub struct BackendObjectReference {
        /// `""` (core) when absent.
        group?: String,
        /// `Service` when absent.
        kind?: String,
        name: String,
        namespace?: String,
        /// Required for a Service.
        port?: u16,
    }
}

shape! {
    /// A backend and its share of the traffic.
    pub struct BackendRef {
        group?: String,
        kind?: String,
        name: String,
        namespace?: String,
        port?: u16,
        /// 1 when absent, at most 1,000,000; 0 takes no traffic.
        weight?: u32,
    }
}
impl BackendRef {
    /// The reference without its weight.
    pub fn object(&self) -> BackendObjectReference {
        BackendObjectReference {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
        }
    }
}

shape! {
    pub struct LocalObjectReference {
        group: String,
        kind: String,
        name: String,
    }
}
shape! {
    pub struct ObjectReference {
        group: String,
        kind: String,
        name: String,
        namespace?: String,
    }
}
shape! {
    pub struct SecretObjectReference {
        group?: String,
        kind?: String,
        name: String,
        namespace?: String,
    }
}

/// Reads a count for which a schema sets no upper bound. Negative numbers are refused.
pub(crate) fn saturated<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    let n = <Option<u64> as serde::Deserialize>::deserialize(d)?;
    Ok(n.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
}

shape! {
    /// Numerator of denominator; the denominator is 100 when absent.
    pub struct Fraction {
        numerator: u32,
        denominator?: u32,
    }
}

shape! {
    /// What each parent makes of a route. An atomic list shared with other controllers.
    pub struct RouteStatus {
        parents: Vec<RouteParentStatus>,
    }
}
shape! {
    pub struct RouteParentStatus {
        parent_ref: ParentReference,
        controller_name: String,
        conditions: Vec<Condition>,
    }
}

words! {
    /// Whether a route also attaches to the default Gateways (GEP-3793), or a Gateway offers itself as one.
    pub enum GatewayDefaultScope { All = "All", None = "None" }
}

shape! {
    /// GEP-1619.
    pub struct SessionPersistence {
        absolute_timeout?: Duration,
        r#type?: SessionPersistenceType,
        cookie?: CookieConfig,
        header?: HeaderConfig,
    }
}
words! { pub enum SessionPersistenceType { Cookie = "Cookie", Header = "Header" } }
shape! {
    pub struct CookieConfig {
        name?: String,
        path?: String,
        lifetime_type?: CookieLifetimeType,
    }
}
words! { pub enum CookieLifetimeType { Session = "Session", Permanent = "Permanent" } }
shape! {
    pub struct HeaderConfig {
        name: String,
    }
}

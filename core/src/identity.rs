//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// The identity of a workload. Equality is byte equality: parsing accepts only the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadIdentity {
    uri: Arc<str>,
    domain_end: u16,
    namespace_end: u16,
}

/// Why a text is not a workload identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("longer than 2048 bytes")]
    TooLong,
    #[error("does not start with spiffe://")]
    Scheme,
    #[error("trust domain {0:?} is empty or has characters other than a-z 0-9 . - _")]
    TrustDomain(String),
    #[error("path is not /ns/<namespace>/sa/<service account>")]
    Path,
    #[error("{0:?} is not a Kubernetes name")]
    Name(String),
}

const SCHEME: &str = "spiffe://";

impl WorkloadIdentity {
    /// Builds the identity of a service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }
    pub fn uri(&self) -> &str {
        &self.uri
    }
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.domain_end as usize]
    }
    pub fn namespace(&self) -> &str {
        &self.uri[self.domain_end as usize + "/ns/".len()..self.namespace_end as usize]
    }
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end as usize + "/sa/".len()..]
    }
}

impl FromStr for WorkloadIdentity {
    type Err = IdentityError;
    fn from_str(s: &str) -> Result<Self, IdentityError> {
        if s.len() > 2048 {
            return Err(IdentityError::TooLong);
        }
        let rest = s.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(ok) {
            return Err(IdentityError::TrustDomain(domain.into()));
        }
        let mut parts = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Path);
        };
        for (name, max) in [(namespace, 63), (account, 253)] {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (max > 63 && b == b'.');
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let fits = name.len() <= max && name.bytes().all(inner);
            if !(fits && edge(name.bytes().next()) && edge(name.bytes().last())) {
                return Err(IdentityError::Name(name.into()));
            }
        }
        let domain_end = SCHEME.len() + domain.len();
        let namespace_end = domain_end + "/ns/".len() + namespace.len();
        Ok(Self { uri: s.into(), domain_end: domain_end as u16, namespace_end: namespace_end as u16 })
    }
}
impl TryFrom<String> for WorkloadIdentity {
    type Error = IdentityError;
    fn try_from(s: String) -> Result<Self, IdentityError> {
        s.parse()
    }
}
impl From<WorkloadIdentity> for String {
    fn from(i: WorkloadIdentity) -> String {
        i.uri.to_string()
    }
}
impl fmt::Display for WorkloadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;

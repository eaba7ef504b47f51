//! Each value is encoded once, however many proxies get it.

use crate::{
    resource::{Resource, Version},
    wire,
};
use ahash::AHashMap;
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Remembers encoded values by the address of their `Arc`. The value is kept beside its encoding, so an address cannot be reused.
#[derive(Default)]
pub(super) struct Encoder(Mutex<Memo>);

#[derive(Default)]
struct Memo {
    values: AHashMap<usize, (Resource, Version, Bytes)>,
    /// The size after the last cleaning.
    clean: usize,
}

impl Encoder {
    pub fn encode(&self, resource: &Resource) -> (Version, Bytes) {
        let Some(key) = address(resource) else { return encode(resource) };
        let mut memo = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, version, bytes)) = memo.values.get(&key) {
            return (*version, bytes.clone());
        }
        let (version, bytes) = encode(resource);
        // what only the memo still holds is let go whenever it has doubled
        if memo.values.len() > 2 * memo.clean.max(64) {
            memo.values.retain(|_, (r, ..)| holders(r) > 1);
            memo.clean = memo.values.len();
        }
        memo.values.insert(key, (resource.clone(), version, bytes.clone()));
        (version, bytes)
    }
}

fn encode(resource: &Resource) -> (Version, Bytes) {
    let bytes = wire::encode(resource);
    (Version::of(&bytes), bytes)
}

fn address(r: &Resource) -> Option<usize> {
    match r {
        Resource::Target(_) => None,
        Resource::ServicePort(v) => Some(Arc::as_ptr(v).addr()),
        Resource::Endpoints(v) => Some(Arc::as_ptr(v).addr()),
        Resource::Inbound(v) => Some(Arc::as_ptr(v).addr()),
        Resource::Bundle(v) => Some(Arc::as_ptr(v).addr()),
    }
}
fn holders(r: &Resource) -> usize {
    match r {
        Resource::Target(_) => 0,
        Resource::ServicePort(v) => Arc::strong_count(v),
        Resource::Endpoints(v) => Arc::strong_count(v),
        Resource::Inbound(v) => Arc::strong_count(v),
        Resource::Bundle(v) => Arc::strong_count(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::policy::{InboundPolicy, Probe};

    fn policy(port: u16) -> Resource {
        Resource::Inbound(Arc::new(InboundPolicy { probes: vec![Probe { port, path: None }], ..Default::default() }))
    }

    #[test]
    fn one_value_is_encoded_once_and_forgotten_with_its_last_holder() {
        let encoder = Encoder::default();
        let held: Vec<_> = (0..100).map(policy).collect();
        let first: Vec<_> = held.iter().map(|r| encoder.encode(r)).collect();
        // the same Arc: the same bytes, not only equal ones
        assert_eq!(encoder.encode(&held[3]).1.as_ptr(), first[3].1.as_ptr());
        // equal content in another Arc: the same version
        assert_eq!(encoder.encode(&policy(3)).0, first[3].0);
        // ten thousand values that come and go leave no trace
        for n in 0..10_000u16 {
            assert_eq!(encoder.encode(&policy(n)).1, encode(&policy(n)).1);
        }
        assert!(encoder.0.lock().unwrap().values.len() <= 2 * 100 + 130);
        assert_eq!(encoder.encode(&held[99]).1.as_ptr(), first[99].1.as_ptr());
    }
}

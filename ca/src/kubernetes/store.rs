//! The state in a Secret, the bundle in a ConfigMap.
//!
//! Of several replicas that start together the API server lets one create the Secret; the others get AlreadyExists and use what is there. A
//! change names the resourceVersion that it was made from. The ConfigMap is written after the Secret and therefore shows that a mesh was made: without the Secret
//! beside it the state is lost, and nothing is made in its place.

use super::reason;
use crate::{
    state::{Made, Secret as Key, State},
    store::{Store, StoreError},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, api::ObjectMeta, api::PostParams};
use std::{collections::BTreeMap, future::Future, time::Duration};
use tokio::runtime::Handle;
use weft_identity::Bundle;
use zeroize::{Zeroize as _, Zeroizing};

pub const SECRET: &str = "weft-ca";
pub const STATE_KEY: &str = "ca.json";
pub const BUNDLE: &str = "weft-trust-bundle";
pub const BUNDLE_KEY: &str = "bundle.pem";
/// One call. The loop that keeps the state true comes back by itself.
const CALL: Duration = Duration::from_secs(5);

/// The Secret `weft-ca` and the ConfigMap `weft-trust-bundle` of a namespace. Calls block: not on a thread of the runtime.
pub struct SecretStore {
    secrets: Api<Secret>,
    bundles: Api<ConfigMap>,
    namespace: String,
    runtime: Handle,
}

impl SecretStore {
    /// `runtime`: where the client's connections live.
    pub fn new(client: Client, namespace: &str, runtime: Handle) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            bundles: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            runtime,
        }
    }
    fn secret_name(&self) -> Box<str> {
        format!("Secret {}/{SECRET}", self.namespace).into()
    }
    fn bundle_name(&self) -> Box<str> {
        format!("ConfigMap {}/{BUNDLE}", self.namespace).into()
    }
    fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, Box<kube::core::Status>>, StoreError> {
        let failed = |reason: String, temporary| {
            Err(StoreError::Cluster { what: what.into(), reason: reason.into(), temporary })
        };
        match self.runtime.block_on(async { tokio::time::timeout(CALL, call).await }) {
            Ok(Ok(v)) => Ok(Ok(v)),
            // what the caller has an answer to
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(Err(status)),
            Ok(Err(e)) => {
                let forbidden = matches!(&e, kube::Error::Api(s) if matches!(s.code, 401 | 403 | 422));
                failed(reason(&e), !forbidden)
            }
            Err(_) => failed(format!("the API server did not answer within {CALL:?}"), true),
        }
    }

    fn read(&self) -> Result<Option<(Secret, State)>, StoreError> {
        let what = self.secret_name();
        let mut secret = match self.call(&format!("reading {what}"), self.secrets.get(SECRET))? {
            Ok(secret) => secret,
            Err(status) if status.code == 404 => return Ok(None),
            Err(status) => {
                return Err(StoreError::Cluster { what, reason: status.message.into(), temporary: true });
            }
        };
        let malformed = |reason: String| StoreError::Malformed { path: what.clone(), reason: reason.into() };
        let Some(json) = secret.data.as_mut().and_then(|d| d.get_mut(STATE_KEY)) else {
            return Err(malformed(format!("it has no key {STATE_KEY}. Restore it from your backup")));
        };
        // the error of the parser names line and column, never the text
        let state = serde_json::from_slice(&json.0).map_err(|e| malformed(e.to_string()));
        json.0.zeroize();
        Ok(Some((secret, state?)))
    }
    fn json(&self, state: &State) -> Result<ByteString, StoreError> {
        let json = serde_json::to_vec_pretty(state)
            .map_err(|e| StoreError::Malformed { path: self.secret_name(), reason: e.to_string().into() })?;
        Ok(ByteString(json))
    }
    fn meta(&self, name: &str) -> ObjectMeta {
        let labels = [("app.kubernetes.io/part-of", "weft"), ("app.kubernetes.io/managed-by", "weft-ca")];
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels.map(|(k, v)| (k.into(), v.into())).into()),
            ..ObjectMeta::default()
        }
    }
}

impl Store for SecretStore {
    fn load(&self) -> Result<Option<State>, StoreError> {
        if let Some((_, state)) = self.read()? {
            return Ok(Some(state));
        }
        let bundle = self.bundle_name();
        if self.call(&format!("reading {bundle}"), self.bundles.get(BUNDLE))?.is_err() {
            return Ok(None);
        }
        // another replica may have made both between the two looks; the bundle is never there before the state
        match self.read()? {
            Some((_, state)) => Ok(Some(state)),
            None => Err(StoreError::Lost { state: self.secret_name(), bundle }),
        }
    }

    fn create(&self, state: &State) -> Result<State, StoreError> {
        let secret = Secret {
            metadata: self.meta(SECRET),
            type_: Some("Opaque".into()),
            data: Some(BTreeMap::from([(STATE_KEY.into(), self.json(state)?)])),
            ..Secret::default()
        };
        let what = format!("creating {}", self.secret_name());
        match self.call(&what, self.secrets.create(&PostParams::default(), &secret))? {
            Ok(_) => {}
            // 409: another replica was faster
            Err(status) if status.code == 409 => {}
            Err(status) => {
                let reason = format!("{}. Fix: create the namespace {} first", status.message, self.namespace);
                return Err(StoreError::Cluster { what: what.into(), reason: reason.into(), temporary: false });
            }
        }
        self.read()?.map(|(_, state)| state).ok_or(StoreError::Missing)
    }

    fn replace(&self, expected: u64, state: &State) -> Result<(), StoreError> {
        let (mut secret, found) = self.read()?.ok_or(StoreError::Missing)?;
        if found.revision != expected {
            return Err(StoreError::Conflict { expected, found: found.revision });
        }
        // the rest of the object, and its resourceVersion as the precondition, stay as they were read
        secret.data.get_or_insert_default().insert(STATE_KEY.into(), self.json(state)?);
        let what = format!("replacing {}", self.secret_name());
        match self.call(&what, self.secrets.replace(SECRET, &PostParams::default(), &secret))? {
            Ok(_) => Ok(()),
            Err(status) if status.code == 409 => {
                let found = self.read()?.ok_or(StoreError::Missing)?.1.revision;
                Err(StoreError::Conflict { expected, found })
            }
            Err(_) => Err(StoreError::Missing),
        }
    }

    fn publish(&self, bundle: &Bundle) -> Result<(), StoreError> {
        let (what, pem) = (self.bundle_name(), bundle.to_pem());
        let data = BTreeMap::from([(BUNDLE_KEY.to_string(), pem.clone())]);
        let written = match self.call(&format!("reading {what}"), self.bundles.get(BUNDLE))? {
            Ok(map) if map.data.as_ref().and_then(|d| d.get(BUNDLE_KEY)) == Some(&pem) => return Ok(()),
            Ok(mut map) => {
                if map.immutable == Some(true) {
                    let reason = format!(
                        "it is immutable and holds another bundle. Fix: kubectl delete configmap -n {} {BUNDLE}; it is made anew at once",
                        self.namespace
                    );
                    return Err(StoreError::Cluster { what, reason: reason.into(), temporary: false });
                }
                map.data.get_or_insert_default().insert(BUNDLE_KEY.into(), pem);
                self.call(&format!("writing {what}"), self.bundles.replace(BUNDLE, &PostParams::default(), &map))?
            }
            Err(_) => {
                let map = ConfigMap { metadata: self.meta(BUNDLE), data: Some(data), ..ConfigMap::default() };
                self.call(&format!("creating {what}"), self.bundles.create(&PostParams::default(), &map))?
            }
        };
        match written {
            // another replica, which writes the same, or a user; the next look shows which
            Ok(_) => Ok(()),
            Err(status) if status.code == 409 => Ok(()),
            Err(status) => Err(StoreError::Cluster { what, reason: status.message.into(), temporary: true }),
        }
    }
}

/// A root that the user keeps in a Secret: `root.pem` and `root-key.pem`, or `tls.crt` and `tls.key` as cert-manager writes them.
pub async fn root_from(client: Client, namespace: &str, name: &str) -> Result<Made, StoreError> {
    let what: Box<str> = format!("Secret {namespace}/{name}").into();
    let failed = |reason: String| StoreError::Cluster { what: what.clone(), reason: reason.into(), temporary: false };
    let secret = tokio::time::timeout(CALL, Api::<Secret>::namespaced(client, namespace).get(name))
        .await
        .map_err(|_| failed(format!("the API server did not answer within {CALL:?}")))?
        .map_err(|e| failed(reason(&e)))?;
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| data.get(key).and_then(|b| String::from_utf8(b.0.clone()).ok());
    for (cert, key) in [("root.pem", "root-key.pem"), ("tls.crt", "tls.key")] {
        if let (Some(root), Some(key)) = (text(cert), text(key).map(Zeroizing::new)) {
            return Ok(Made { root, key: Key::new(key.to_string()) });
        }
    }
    Err(failed("it has neither root.pem and root-key.pem nor tls.crt and tls.key".into()))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

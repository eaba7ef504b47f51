//! The GatewayClass and the mesh resource that stand for Weft: made once their kinds exist (GEP-3949: with name and controllerName only), and then the user's.

use super::merge::CONTROLLER;
use crate::{
    object::Kind,
    source::kubernetes::{Installed, Served},
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
};
use serde_json::json;
use std::collections::BTreeSet;

/// What has been seen to: a kind's object is made at most once while the kind is installed, so that a user may delete or change it.
#[derive(Debug, Default)]
pub struct Own {
    done: BTreeSet<Kind>,
}

impl Own {
    /// Sees to what is left to do. Gives back whether something could not be done and is worth another attempt.
    pub async fn ensure(&mut self, client: &Client, installed: &Installed, mesh: &str) -> bool {
        // a definition that was removed took its objects along
        self.done.retain(|k| installed.kinds.contains_key(k));
        let mut again = false;
        for (kind, name) in [(Kind::GatewayClass, "weft"), (Kind::XMesh, mesh)] {
            let Some(served) = installed.kinds.get(&kind).filter(|_| !self.done.contains(&kind)) else { continue };
            match make(client, kind, served, name).await {
                Ok(()) => _ = self.done.insert(kind),
                Err(e) => {
                    tracing::warn!(%kind, name, error = %e, "cannot be created");
                    again = true;
                }
            }
        }
        again
    }
}

async fn make(client: &Client, kind: Kind, served: &Served, name: &str) -> kube::Result<()> {
    let resource = served.resource(kind);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    if let Some(there) = api.get_opt(name).await? {
        let whose = there.data["spec"]["controllerName"].as_str().unwrap_or_default();
        if whose != CONTROLLER {
            tracing::warn!(%kind, name, controller = whose, "belongs to another controller and is left alone");
        }
        return Ok(());
    }
    let object = DynamicObject::new(name, &resource).data(json!({"spec": {"controllerName": CONTROLLER}}));
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {
            tracing::info!(%kind, name, "created");
            Ok(())
        }
        // another replica, or the user
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

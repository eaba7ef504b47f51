//! Who may call this pod's application: each request is judged by the pod's own policies, and those under way again when the policies change.

use super::{Engine, heads::View};
use crate::conn::{ExKey, Meaning};
use weft_core::{
    authorization::{Call, Request},
    cause::{Cause, Kind},
    matches::RequestHead as _,
    path::RequestPath,
};
use weft_http::head::Pseudo;

/// The policy that has denied a request, or would have.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub policy: std::sync::Arc<str>,
    pub dry_run: bool,
}

impl Engine {
    /// Judges a request to the pod's application. `first`: it has just arrived, so it is counted, and what the application gets is the path that was judged.
    pub(super) fn authorize(&mut self, key: ExKey, first: bool) -> Result<(), Cause> {
        let inbound = self.inbound.clone();
        let Some(x) = self.exchanges.get_mut(key.index as usize).filter(|x| x.key == key) else { return Ok(()) };
        let Meaning::App { peer, .. } = &x.down.meaning else { return Ok(()) };
        let port = x.down.original.port();
        // the kubelet has no identity; exactly its probes need none
        if peer.is_none() && inbound.is_probe(port, x.head.method(), x.head.path()) {
            return Ok(());
        }
        let path = RequestPath::parse(x.head.path())?;
        let view = View(&x.head);
        let request = Some(Request { method: view.method(), path: &path });
        let verdict = inbound.authorization.judge(&Call { peer: peer.as_ref(), port, request });
        let changed = (first && path.is_changed()).then(|| path.forwarded().to_vec());
        if let Some(changed) = changed {
            // a proxy of the mesh sends normal paths; whatever else speaks its protocol gets the same treatment
            x.head.set_pseudo(Pseudo::Path, &changed);
        }
        let told = match (verdict.denied, verdict.dry_run) {
            (Some(p), _) => Told { policy: p.name.clone(), dry_run: false },
            (None, Some(p)) if first => Told { policy: p.name.clone(), dry_run: true },
            (None, _) => return Ok(()),
        };
        self.shared.denials.add(&told.policy, told.dry_run);
        let denied = !told.dry_run;
        let cause = denied.then(|| Cause::with(Kind::Denied, format!("by {}", told.policy)));
        x.told = Some(Box::new(told));
        cause.map_or(Ok(()), Err)
    }

    /// The policies have changed: requests under way that are no longer allowed end.
    pub(super) fn authorize_again(&mut self) {
        let keys: Vec<ExKey> =
            self.exchanges.iter().filter(|(_, x)| x.down.inbound() && !x.is_mirror()).map(|(_, x)| x.key).collect();
        for key in keys {
            if let Err(cause) = self.authorize(key, false) {
                self.shed(key, cause);
            }
        }
    }
}

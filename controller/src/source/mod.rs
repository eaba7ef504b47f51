//! Where objects come from. Everything after a source is the same code for a folder and for a cluster.

pub mod admission;
pub mod de;
pub mod folder;
pub mod kubernetes;
pub mod suggest;
mod watch;
pub mod yaml;

use crate::{
    finding::Finding,
    object::{ObjectKey, Stored},
};
use std::{future::Future, sync::Arc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What changed. A source sends its whole state first, then changes; an object that is applied twice unchanged costs a comparison.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub apply: Vec<Stored>,
    pub delete: Vec<ObjectKey>,
    /// What the source itself found wrong (files that cannot be read), all of it, when that changed.
    pub findings: Option<Arc<[Finding]>>,
    /// The source has sent everything that there was when it started. Until then nothing is answered: an index that is half full
    /// would call a Service "outside".
    pub complete: bool,
}
impl Update {
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.delete.is_empty() && self.findings.is_none()
    }
    /// Adds what came after.
    pub fn merge(&mut self, later: Update) {
        // the same object more than once is rare and harmless: the index takes them in order, but a delete must not overtake an apply
        self.apply.retain(|s| !later.delete.contains(&s.object.key()));
        self.delete.retain(|k| !later.apply.iter().any(|s| s.object.key() == *k));
        self.apply.extend(later.apply);
        self.delete.extend(later.delete);
        self.findings = later.findings.or(self.findings.take());
        self.complete |= later.complete;
    }
}

/// A source of objects.
pub trait Source: Send + 'static {
    /// Sends updates until `stop`, or until the receiver is gone. An error is final: the source cannot begin.
    fn run(
        self,
        updates: mpsc::Sender<Update>,
        stop: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

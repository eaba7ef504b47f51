//! The objects of a cluster as a folder: what `weft explain -f` reads, so that an answer about a cluster is the same code as one about files.

use super::{Cluster, Problem, items, text};
use anyhow::Context as _;
use serde_json::Value;
use std::{fmt::Write as _, path::PathBuf};
use weft_controller::object::Kind;

/// A folder of the machine's memory or disk, removed when dropped. Its name is random and only this user can read it: pods' environments may be confidential.
pub struct Folder(PathBuf);
impl Folder {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("weft-{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Kinds that decide where a request goes. Others would only cost time.
fn decides(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::NetworkPolicy | Kind::XTelemetryPolicy
    )
}

/// Where a kind is served: its version, and the collection's path.
async fn collection(cluster: &Cluster, kind: Kind) -> Result<Option<(String, String)>, Problem> {
    for version in std::iter::once(kind.version()).chain(kind.other_versions().iter().copied()) {
        let root = match kind.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let Some(served) = cluster.find(&root).await? else { continue };
        let resource =
            items(&served["resources"]).find(|r| r["kind"] == kind.as_str() && !text(r, "/name").contains('/'));
        if let Some(plural) = resource.and_then(|r| r["name"].as_str()) {
            return Ok(Some((
                root.trim_start_matches("/apis/").trim_start_matches("/api/").into(),
                format!("{root}/{plural}"),
            )));
        }
    }
    Ok(None)
}

/// Reads everything that an explanation needs.
pub async fn folder(cluster: &Cluster) -> anyhow::Result<Folder> {
    let folder = Folder::new()?;
    for kind in Kind::ALL.iter().copied().filter(|k| decides(*k)) {
        let Some((version, path)) = collection(cluster, kind).await? else { continue };
        let mut documents = String::new();
        for mut object in cluster.list(&path).await.with_context(|| format!("listing {kind}"))? {
            // items of a list do not name their kind
            object["apiVersion"] = version.as_str().into();
            object["kind"] = kind.as_str().into();
            strip(&mut object);
            let _ = writeln!(documents, "---\n{object}");
        }
        if !documents.is_empty() {
            let file = folder.path().join(format!("{}.yaml", kind.as_str().to_lowercase()));
            std::fs::write(&file, documents).with_context(|| file.display().to_string())?;
        }
    }
    Ok(folder)
}

/// What decides nothing and is long.
fn strip(object: &mut Value) {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    for list in ["containers", "initContainers"] {
        for container in object["spec"][list].as_array_mut().into_iter().flatten() {
            if let Some(c) = container.as_object_mut() {
                c.retain(|k, _| {
                    matches!(
                        k.as_str(),
                        "name"
                            | "image"
                            | "ports"
                            | "restartPolicy"
                            | "readinessProbe"
                            | "livenessProbe"
                            | "startupProbe"
                    )
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;

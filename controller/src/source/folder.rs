//! A folder of YAML files as a source: read, watched, and forgiving.
//!
//! A file that breaks keeps the last good state of its objects and says where it is broken; everything else keeps working. A file that
//! vanishes or turns empty for a moment is what editors do while they save, so it counts only when it stays so for [`GRACE`].

use super::{Update, admission, suggest, yaml};
use crate::{
    finding::{Finding, Severity},
    object::{Kind, Object, ObjectKey, Origin, Stored},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How long a file may be gone or empty before its objects are.
const GRACE: Duration = Duration::from_millis(50);
const MAX_FILES: usize = 10_000;
const MAX_FILE_BYTES: u64 = 4 << 20;
pub(super) const MAX_DEPTH: usize = 8;

/// One or more folders (or files), as one set of objects.
pub struct Folder {
    pub(super) roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    sent: BTreeMap<ObjectKey, Arc<Loaded>>,
    findings: Arc<[Finding]>,
    first: bool,
}

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    /// Of the text that was read last: a file that was only touched is not read into objects again.
    digest: Option<u64>,
    objects: Vec<Arc<Loaded>>,
    findings: Vec<Finding>,
    /// Since when the file is gone or empty while it has objects.
    gone: Option<Instant>,
}
#[derive(Clone, PartialEq)]
struct Stamp(Option<SystemTime>, u64);

struct Loaded {
    key: ObjectKey,
    stored: Stored,
}

impl Folder {
    pub fn new(roots: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let roots = roots.into_iter().map(Into::into).collect();
        Self { roots, files: BTreeMap::new(), sent: BTreeMap::new(), findings: Arc::default(), first: true }
    }

    /// What is wrong with the files.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Reads what changed since the last time, and `touched` whatever it looks like. The second value says when to look again.
    pub fn load(&mut self, touched: &BTreeSet<PathBuf>, now: Instant) -> (Update, Option<Instant>) {
        let (mut found, mut problems) = (BTreeSet::new(), Vec::new());
        for root in &self.roots {
            if let Err(e) = walk(root, 0, &mut found) {
                problems.push(file_finding(
                    root,
                    Severity::Error,
                    "file-unreadable",
                    format!("cannot be read: {e}"),
                    "correct the path or its permissions",
                ));
            }
        }
        let mut again: Option<Instant> = None;
        for path in &found {
            let stamp = fs::metadata(path).map(|m| Stamp(m.modified().ok(), m.len())).ok();
            let file = self.files.entry(path.clone()).or_default();
            if stamp.is_some() && file.stamp == stamp && file.gone.is_none() && !touched.contains(path) {
                continue;
            }
            match read(path) {
                Ok(text) if text.trim().is_empty() && !file.objects.is_empty() && !expired(file, now) => {
                    again = again.max(Some(now + GRACE));
                }
                Ok(text) => {
                    let digest = Some(digest(&text));
                    if file.digest != digest {
                        parse(file, &shown(&self.roots, path), &text);
                    }
                    (file.stamp, file.digest, file.gone) = (stamp, digest, None);
                }
                Err(e) => {
                    (file.stamp, file.digest) = (None, None);
                    file.findings = vec![file_finding(
                        path,
                        Severity::Error,
                        "file-unreadable",
                        format!("cannot be read: {e}; its objects stay as they were"),
                        "correct its permissions",
                    )];
                }
            }
        }
        // a root that cannot be listed keeps what it had
        if problems.is_empty() {
            self.files.retain(|path, file| {
                if found.contains(path) || file.objects.is_empty() {
                    return found.contains(path);
                }
                let keep = !expired(file, now);
                if keep {
                    again = again.max(Some(now + GRACE));
                }
                keep
            });
        }
        (self.difference(problems), again)
    }

    /// The objects of all files against those sent before.
    fn difference(&mut self, mut findings: Vec<Finding>) -> Update {
        let mut all: BTreeMap<ObjectKey, Arc<Loaded>> = BTreeMap::new();
        for file in self.files.values() {
            findings.extend(file.findings.iter().cloned());
            for loaded in &file.objects {
                match all.get(&loaded.key) {
                    None => _ = all.insert(loaded.key.clone(), loaded.clone()),
                    Some(first) => {
                        let place = first
                            .stored
                            .origin
                            .as_ref()
                            .map_or(String::new(), |o| format!("{}:{}", o.file, o.node.line));
                        findings.push(Finding::at(
                            Severity::Error,
                            "object-twice",
                            &loaded.stored,
                            "metadata.name",
                            format!("stands already in {place}, which is used"),
                            "remove one of the two",
                        ));
                    }
                }
            }
        }
        let mut update = Update { complete: true, ..Update::default() };
        update.delete = self.sent.keys().filter(|k| !all.contains_key(*k)).cloned().collect();
        let news = |l: &&Arc<Loaded>| self.sent.get(&l.key).is_none_or(|old| !Arc::ptr_eq(old, l));
        update.apply = all.values().filter(news).map(|l| l.stored.clone()).collect();
        findings.sort();
        if self.first || findings != *self.findings {
            self.findings = findings.into();
            update.findings = Some(self.findings.clone());
        }
        self.first = false;
        self.sent = all;
        update
    }
}

/// The objects of one text, as if it were a file of this name.
pub fn read_text(name: &str, text: &str) -> Update {
    let mut folder = Folder::new([""]);
    let mut file = File::default();
    parse(&mut file, &name.into(), text);
    folder.files.insert(name.into(), file);
    folder.difference(Vec::new())
}

/// Marks a file as gone; true once it has been so for [`GRACE`].
fn expired(file: &mut File, now: Instant) -> bool {
    now.duration_since(*file.gone.get_or_insert(now)) >= GRACE
}

fn digest(text: &str) -> u64 {
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(text)
}

fn read(path: &Path) -> std::io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("{length} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    fs::read_to_string(path)
}

fn walk(path: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    if depth > MAX_DEPTH || found.len() >= MAX_FILES {
        return Err(std::io::Error::other(format!("more than {MAX_DEPTH} levels or {MAX_FILES} files")));
    }
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        found.insert(path.into());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        // editors' and version control's own files begin with a dot
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let below = entry.path();
        // follows links: a mounted ConfigMap is made of them
        match fs::metadata(&below) {
            Ok(m) if m.is_dir() => walk(&below, depth + 1, found)?,
            Ok(_) if is_yaml(&below) => walk(&below, depth + 1, found)?,
            // gone between the listing and now, or a link to nowhere
            _ => {}
        }
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

/// A path as the user would write it: below the root that he named.
fn shown(roots: &[PathBuf], path: &Path) -> Arc<str> {
    let below = roots.iter().find_map(|r| path.strip_prefix(r).ok()).filter(|p| !p.as_os_str().is_empty());
    below.unwrap_or(path).to_string_lossy().into()
}

fn file_finding(path: &Path, severity: Severity, code: &'static str, message: String, fix: &str) -> Finding {
    let file = path.to_string_lossy().into();
    Finding { file, line: 0, severity, code, object: String::new(), field: String::new(), message, fix: fix.into() }
}

/// Reads the documents of a file. What is broken keeps the object that it had.
fn parse(file: &mut File, name: &Arc<str>, text: &str) {
    let before = std::mem::take(&mut file.objects);
    let mut syntax_broken = false;
    file.findings.clear();
    for document in yaml::documents(text) {
        match document {
            Err(e) => {
                syntax_broken = true;
                let (line, message) = (e.line, format!("is no YAML: {}; its objects stay as they were", e.message));
                let fix = "correct the indentation or the quotes in this line or the one before".into();
                file.findings.push(Finding {
                    file: name.clone(),
                    line,
                    severity: Severity::Error,
                    code: "yaml-syntax",
                    object: String::new(),
                    field: String::new(),
                    message,
                    fix,
                });
            }
            Ok(node) => {
                for node in items(node) {
                    object(file, name, node, &before);
                }
            }
        }
    }
    if syntax_broken {
        // which objects the broken document held is unknown: those that nothing else in the file holds now
        let kept: Vec<_> = before.iter().filter(|b| !file.objects.iter().any(|o| o.key == b.key)).cloned().collect();
        file.objects.extend(kept);
    }
}

/// The members of a `v1` List, or the document itself.
fn items(node: yaml::Node) -> Vec<yaml::Node> {
    let is_list = node.get("kind").and_then(yaml::Node::text).is_some_and(|k| k == "List");
    match node.get("items").map(|i| i.value.clone()) {
        Some(yaml::Value::List(items)) if is_list => items,
        _ => vec![node],
    }
}

fn object(file: &mut File, name: &Arc<str>, node: yaml::Node, before: &[Arc<Loaded>]) {
    let line = node.line;
    let finding = |line, severity, code, object: &str, field: &str, message: String, fix: String| Finding {
        file: name.clone(),
        line,
        severity,
        code,
        object: object.into(),
        field: field.into(),
        message,
        fix,
    };
    let text =
        |path: &[&str]| path.iter().try_fold(&node, |n, k| n.get(k)).and_then(yaml::Node::text).unwrap_or_default();
    let (kind, version) = (text(&["kind"]), text(&["apiVersion"]));
    if kind.is_empty() || version.is_empty() {
        let field = if kind.is_empty() { "kind" } else { "apiVersion" };
        let fix = format!("add {field}");
        file.findings.push(finding(
            line,
            Severity::Error,
            "not-an-object",
            "",
            field,
            "is missing: this is no Kubernetes object".into(),
            fix,
        ));
        return;
    }
    let called = match (text(&["metadata", "namespace"]), text(&["metadata", "name"])) {
        ("", n) => format!("{kind} {n}"),
        (ns, n) => format!("{kind} {ns}/{n}"),
    };
    let kind = match known(kind, version) {
        Known::Kind(kind) => kind,
        Known::Elsewhere => return,
        Known::Foreign => {
            let message = format!("kind {kind} of {version} is none that Weft reads");
            file.findings.push(finding(line, Severity::Info, "kind-foreign", &called, "kind", message, String::new()));
            return;
        }
        Known::Wrong { field, message, fix } => {
            file.findings.push(finding(
                node.line_of(field),
                Severity::Error,
                "kind-unknown",
                &called,
                field,
                message,
                fix,
            ));
            keep(file, before, |k| k.kind.as_str() == text(&["kind"]) && *k.name.name == *text(&["metadata", "name"]));
            return;
        }
    };
    if text(&["metadata", "name"]).is_empty() {
        file.findings.push(finding(
            node.line_of("metadata"),
            Severity::Error,
            "field-missing",
            &called,
            "metadata.name",
            "is missing and required".into(),
            "add metadata.name".into(),
        ));
        return;
    }
    let namespace = match (kind.is_namespaced(), text(&["metadata", "namespace"])) {
        (false, _) => "",
        (true, "") => "default",
        (true, n) => n,
    };
    let key = ObjectKey::new(kind, namespace, text(&["metadata", "name"]));
    let was = before.iter().any(|b| b.key == key);
    let stays = if was { "; the last good version stays in use" } else { "; the object is left out" };
    let (object, unknown) = match Object::read(kind, &node) {
        Ok(read) => read,
        Err(m) => {
            file.findings.push(finding(
                m.line,
                Severity::Error,
                "field-invalid",
                &key.to_string(),
                &m.field,
                m.message + stays,
                m.fix,
            ));
            keep(file, before, |k| *k == key);
            return;
        }
    };
    // the types of Kubernetes' own kinds are those of one version: a field that they do not know may be newer
    let own = kind.group().ends_with("x-k8s.io")
        || kind.group().ends_with("networking.k8s.io") && kind != Kind::NetworkPolicy
        || kind.group() == weft_api::WEFT_GROUP;
    let (severity, tail) = if own { (Severity::Error, stays) } else { (Severity::Warning, "; it is ignored") };
    for m in &unknown {
        file.findings.push(finding(
            m.line,
            severity,
            "field-unknown",
            &key.to_string(),
            &m.field,
            format!("{}{tail}", m.message),
            m.fix.clone(),
        ));
    }
    let wrong = admission::validate(&object);
    for w in &wrong {
        let message = format!("{}{stays}", w.message);
        file.findings.push(finding(
            node.line_of(&w.field),
            Severity::Error,
            "field-invalid",
            &key.to_string(),
            &w.field,
            message,
            w.fix.clone(),
        ));
    }
    if !wrong.is_empty() || (own && !unknown.is_empty()) {
        keep(file, before, |k| *k == key);
        return;
    }
    let origin = Some(Arc::new(Origin { file: name.clone(), node }));
    file.objects.push(Arc::new(Loaded { key, stored: Stored { object, origin, pod: None } }));
}

fn keep(file: &mut File, before: &[Arc<Loaded>], wanted: impl Fn(&ObjectKey) -> bool) {
    file.objects.extend(before.iter().filter(|b| wanted(&b.key)).cloned());
}

enum Known {
    Kind(Kind),
    /// A kind of Kubernetes that the mesh has no use for.
    Elsewhere,
    /// Of somebody else's group.
    Foreign,
    Wrong {
        field: &'static str,
        message: String,
        fix: String,
    },
}

/// Kinds of Kubernetes that manifests hold beside those that are read.
const ELSEWHERE: &[&str] = &[
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "ConfigMap",
    "ControllerRevision",
    "CronJob",
    "CSIDriver",
    "CustomResourceDefinition",
    "Endpoints",
    "Event",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IngressClass",
    "Job",
    "Lease",
    "LimitRange",
    "MutatingWebhookConfiguration",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PodTemplate",
    "PriorityClass",
    "ReplicaSet",
    "ReplicationController",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Secret",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "Binding",
];

fn known(kind: &str, api_version: &str) -> Known {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if let Some(&k) = Kind::ALL.iter().find(|k| k.as_str() == kind) {
        if k.group() != group {
            let right =
                if k.group().is_empty() { k.version().to_owned() } else { format!("{}/{}", k.group(), k.version()) };
            // another group may have a kind of the same name (Knative's Service)
            let near = suggest::nearest(group, Kind::ALL.iter().map(|k| k.group()).filter(|g| !g.is_empty())).is_some();
            return match near || group.is_empty() || group.ends_with("k8s.io") {
                true => Known::Wrong {
                    field: "apiVersion",
                    message: format!("{api_version} has no kind {kind}"),
                    fix: format!("write {right}"),
                },
                false => Known::Foreign,
            };
        }
        if k.version() != version && !k.other_versions().contains(&version) {
            let (message, fix) =
                (format!("version {version} of {kind} is not known"), format!("write {group}/{}", k.version()));
            return Known::Wrong { field: "apiVersion", message, fix: fix.trim_start_matches("write /").to_owned() };
        }
        return Known::Kind(k);
    }
    if ELSEWHERE.contains(&kind) {
        return Known::Elsewhere;
    }
    let groups = Kind::ALL.iter().map(|k| k.group());
    let ours = groups.clone().any(|g| g == group);
    let standard = ["batch", "autoscaling", "policy", "rbac.authorization.k8s.io", "storage.k8s.io"].contains(&group);
    if !ours && !standard && suggest::nearest(group, groups.filter(|g| !g.is_empty())).is_none() {
        return Known::Foreign;
    }
    let all = Kind::ALL.iter().map(|k| k.as_str()).chain(ELSEWHERE.iter().copied());
    let fix = match suggest::nearest(kind, all) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "correct the kind".into(),
    };
    Known::Wrong { field: "kind", message: format!("{api_version} has no kind {kind}"), fix }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;

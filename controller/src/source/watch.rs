//! Watching folders: when to read them again.
//!
//! The kernel tells of changes in the directories that are watched, one by one. Which these are is worked out anew before every reading, because links point elsewhere,
//! directories come and go, and a root is moved away and replaced while its path stays: the kernel's watch follows the old one and is silent about the new.

use super::{
    Source, Update,
    folder::{Folder, MAX_DEPTH},
};
use anyhow::Context as _;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Saves that follow each other within this time are one; the first after quiet is read at once.
const COALESCE: Duration = Duration::from_millis(10);
/// A writer that keeps its file open is read after this time without further writes.
const UNFINISHED: Duration = Duration::from_millis(100);
/// How often the watched directories are compared with what stands at their paths: one `stat` for each. Where the kernel offers no notifications, everything is read as often.
const POLL: Duration = Duration::from_millis(500);

/// A directory as the kernel knows it: device and inode. `None`: there is none at the path.
type Id = Option<(u64, u64)>;

fn id(path: &Path) -> Id {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// The directories whose changes matter: the roots, what is below them, and where links lead.
fn directories(roots: &[PathBuf]) -> BTreeMap<PathBuf, Id> {
    let mut all = BTreeMap::new();
    for root in roots {
        walk(root, 0, &mut all);
        // a file is watched through its folder: editors put another file in its place
        if root.is_file() {
            parent(root, &mut all);
        }
        // also while it is gone: it may come back
        all.entry(root.clone()).or_default();
    }
    all
}

fn parent(of: &Path, all: &mut BTreeMap<PathBuf, Id>) {
    let folder = of.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    all.insert(folder.into(), id(folder));
}

fn walk(path: &Path, depth: usize, all: &mut BTreeMap<PathBuf, Id>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    if depth > MAX_DEPTH {
        return;
    }
    all.insert(path.into(), id(path));
    for entry in entries.flatten() {
        let below = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type() {
            Ok(t) if t.is_dir() => walk(&below, depth + 1, all),
            Ok(t) if t.is_symlink() => match fs::canonicalize(&below) {
                Ok(to) if to.is_dir() => walk(&below, depth + 1, all),
                Ok(to) => parent(&to, all),
                Err(_) => {}
            },
            _ => {}
        }
    }
}

/// The kernel's watches.
struct Watches {
    watcher: notify::Result<RecommendedWatcher>,
    on: BTreeMap<PathBuf, Id>,
    /// Said once that there are too many.
    warned: bool,
}

impl Watches {
    /// Watches what is to be watched now. Called before the folders are read, so that nothing falls between the two.
    fn renew(&mut self, roots: &[PathBuf]) {
        let Ok(watcher) = &mut self.watcher else { return };
        let wanted = directories(roots);
        for (path, was) in &self.on {
            if wanted.get(path) != Some(was) {
                // gone already where the directory is
                let _ = watcher.unwatch(path);
            }
        }
        let mut on = BTreeMap::new();
        for (path, id) in wanted {
            let same = self.on.get(&path) == Some(&id);
            if same || id.is_none() || path.is_file() {
                on.insert(path, id);
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => _ = on.insert(path, id),
                // not remembered as watched: it counts as stale, and the next look tries again
                Err(error) => {
                    if !std::mem::replace(&mut self.warned, true) {
                        tracing::warn!(%error, path = %path.display(), "no notifications for this directory: it is read every {POLL:?}");
                    }
                    on.insert(path, None);
                }
            }
        }
        self.on = on;
    }
    /// Something else stands at a watched path than when it was watched.
    fn are_stale(&self) -> bool {
        self.watcher.is_err() || self.on.iter().any(|(path, was)| id(path) != *was)
    }
}

impl Source for Folder {
    async fn run(mut self, updates: mpsc::Sender<Update>, stop: CancellationToken) -> anyhow::Result<()> {
        for root in &self.roots {
            fs::metadata(root).with_context(|| format!("cannot read the folder {}", root.display()))?;
        }
        let (events, mut changed) = mpsc::channel(1024);
        // full: whatever it was, everything is looked at again
        let watcher = notify::recommended_watcher(move |e| _ = events.try_send(e));
        if let Err(e) = &watcher {
            tracing::warn!(error = %e, "no notifications from the kernel: the folder is read every {POLL:?}");
        }
        let mut watches = Watches { watcher, on: BTreeMap::new(), warned: false };
        let (mut touched, mut due, mut last) = (BTreeSet::new(), Some(Instant::now()), None::<Instant>);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            let wait = due.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            tokio::select! {
                _ = stop.cancelled() => return Ok(()),
                event = changed.recv(), if watches.watcher.is_ok() => {
                    let Some(event) = event else { continue };
                    let delay = match event {
                        Ok(e) => {
                            if e.kind.is_remove() {
                                // what comes next at this path may have its number, but not its watch
                                watches.on.retain(|path, _| !e.paths.contains(path));
                            }
                            let delay = urgency(&e.kind);
                            touched.extend(e.paths);
                            delay
                        }
                        Err(_) => Some(Duration::ZERO),
                    };
                    let Some(delay) = delay else { continue };
                    let now = Instant::now();
                    let earliest = last.map_or(now, |l| l + COALESCE).max(now + delay);
                    due = Some(due.map_or(earliest, |d| d.min(earliest)));
                }
                _ = poll.tick(), if due.is_none() => {
                    due = watches.are_stale().then(Instant::now);
                }
                _ = tokio::time::sleep(wait) => {
                    let now = Instant::now();
                    watches.renew(&self.roots);
                    let (update, again) = self.load(&std::mem::take(&mut touched), now);
                    (due, last) = (again, Some(now));
                    if (!update.is_empty() || update.complete) && updates.send(update).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// How soon an event is worth a look. A write is worth it once the writer has closed the file.
fn urgency(kind: &EventKind) -> Option<Duration> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Duration::ZERO),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_) => Some(UNFINISHED),
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(UNFINISHED),
        _ => Some(Duration::ZERO),
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

//! Where the state is kept: created once, replaced as a whole.

use crate::state::State;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use weft_identity::{Bundle, BundleError};
use zeroize::Zeroizing;

/// The largest state that is read.
const MAX_BYTES: u64 = 1 << 20;
const STATE: &str = "ca.json";
const BUNDLE: &str = "bundle.pem";
const LOCK: &str = "ca.lock";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Io { path: Box<str>, source: io::Error },
    #[error("{path} is not a CA state: {reason}")]
    Malformed { path: Box<str>, reason: Box<str> },
    #[error("{path} may be read by others (mode {mode:o}): it holds private keys. Fix: chmod 600 {path}")]
    Open { path: Box<str>, mode: u32 },
    #[error(
        "{state} is missing, but {bundle} shows that a mesh was made from here. Restore the state; or, to begin anew with a root that no proxy trusts yet, stop every CA and remove {bundle}"
    )]
    Lost { state: Box<str>, bundle: Box<str> },
    #[error("state was changed by another process (revision {found}, expected {expected})")]
    Conflict { expected: u64, found: u64 },
    #[error("state is missing")]
    Missing,
    #[error("{what}: {reason}")]
    Cluster {
        what: Box<str>,
        reason: Box<str>,
        /// The API server did not answer; what is stored there is not in doubt.
        temporary: bool,
    },
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl StoreError {
    pub fn is_temporary(&self) -> bool {
        matches!(self, StoreError::Cluster { temporary: true, .. })
    }
}

/// A place for the state that all replicas share. Calls block for the time of a file operation, or of a few calls to the API server.
pub trait Store: Send + Sync + 'static {
    /// `None`: there is none, and there has never been one.
    fn load(&self) -> Result<Option<State>, StoreError>;
    /// Stores the first state unless there is one already; returns the one that is there afterwards. Of several replicas that
    /// start together one wins, and all get its state.
    fn create(&self, state: &State) -> Result<State, StoreError>;
    /// Replaces the state that has revision `expected`.
    fn replace(&self, expected: u64, state: &State) -> Result<(), StoreError>;
    /// Publishes the bundle beside the state, and puts it right if somebody else has changed it.
    fn publish(&self, bundle: &Bundle) -> Result<(), StoreError>;
}

/// A directory: `ca.json` (0600) and `bundle.pem`.
#[derive(Debug, Clone)]
pub struct FileStore {
    directory: PathBuf,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.display().to_string().into(), source }
}
fn shown(path: &Path) -> Box<str> {
    path.display().to_string().into()
}

impl FileStore {
    /// Makes the directory (0700) if it is not there.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        if !directory.is_dir() {
            fs::create_dir_all(directory).map_err(failed(directory))?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed(directory))?;
        }
        Ok(Self { directory: directory.into() })
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
    pub fn bundle_path(&self) -> PathBuf {
        self.path(BUNDLE)
    }

    /// Writes a state to a file of its own, flushed to the disk.
    fn write_beside(&self, state: &State) -> Result<PathBuf, StoreError> {
        let path = self.path(&format!(".{STATE}.{}.{:016x}", std::process::id(), rand::random::<u64>()));
        let json = Zeroizing::new(
            serde_json::to_vec_pretty(state)
                .map_err(|e| StoreError::Malformed { path: shown(&path), reason: e.to_string().into() })?,
        );
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed(&path))?;
        let written = file.write_all(&json).and_then(|()| file.sync_all());
        if let Err(e) = written {
            let _ = fs::remove_file(&path);
            return Err(failed(&path)(e));
        }
        Ok(path)
    }
    fn sync_directory(&self) -> Result<(), StoreError> {
        File::open(&self.directory).and_then(|d| d.sync_all()).map_err(failed(&self.directory))
    }
    fn read(&self) -> Result<Option<State>, StoreError> {
        let path = self.path(STATE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&path)(e)),
        };
        let mode = file.metadata().map_err(failed(&path))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StoreError::Open { path: shown(&path), mode });
        }
        let mut json = Zeroizing::new(Vec::new());
        file.take(MAX_BYTES).read_to_end(&mut json).map_err(failed(&path))?;
        // the error of the parser names line and column, never the text
        let parsed = serde_json::from_slice(&json);
        parsed.map(Some).map_err(|e| StoreError::Malformed { path: shown(&path), reason: e.to_string().into() })
    }
}

impl Store for FileStore {
    fn load(&self) -> Result<Option<State>, StoreError> {
        let state = self.read()?;
        let bundle = self.path(BUNDLE);
        if state.is_none() && bundle.exists() {
            return Err(StoreError::Lost { state: shown(&self.path(STATE)), bundle: shown(&bundle) });
        }
        Ok(state)
    }

    fn create(&self, state: &State) -> Result<State, StoreError> {
        let temporary = self.write_beside(state)?;
        let path = self.path(STATE);
        // a hard link fails when the name exists: exactly one of several replicas wins, and the file is whole when it appears
        let linked = fs::hard_link(&temporary, &path);
        let _ = fs::remove_file(&temporary);
        match linked {
            Ok(()) => self.sync_directory()?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&path)(e)),
        }
        self.read()?.ok_or(StoreError::Missing)
    }

    fn replace(&self, expected: u64, state: &State) -> Result<(), StoreError> {
        let lock = self.path(LOCK);
        let held = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(failed(&lock))?;
        // released with the file, also when the process dies
        held.lock().map_err(failed(&lock))?;
        let found = self.read()?.ok_or(StoreError::Missing)?.revision;
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let temporary = self.write_beside(state)?;
        let path = self.path(STATE);
        fs::rename(&temporary, &path).map_err(failed(&path))?;
        self.sync_directory()
    }

    fn publish(&self, bundle: &Bundle) -> Result<(), StoreError> {
        let path = self.path(BUNDLE);
        match fs::read_to_string(&path) {
            Ok(there) if there == bundle.to_pem() => Ok(()),
            _ => Ok(bundle.write(&path)?),
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

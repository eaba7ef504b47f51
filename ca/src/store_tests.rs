use super::*;
use crate::state::Lives;
use weft_identity::provider::{now, system_clock};

fn made() -> State {
    State::make("mesh.test", None, now(&system_clock()), Lives::default()).unwrap()
}
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn row_71_of_many_that_start_together_one_root_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let barrier = std::sync::Barrier::new(8);
    let states: Vec<State> = std::thread::scope(|s| {
        let start = || {
            let store = FileStore::open(&path).unwrap();
            let mine = made();
            barrier.wait();
            store.create(&mine).unwrap()
        };
        let running: Vec<_> = (0..8).map(|_| s.spawn(start)).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert!(states.iter().all(|s| *s == states[0]));
    let store = FileStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), states[0]);
    // nothing is left about but the state, and nobody else can read it
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["ca.json"]);
    assert_eq!((mode(&path), mode(&path.join("ca.json"))), (0o700, 0o600));
}

#[test]
fn replacing_is_for_those_who_know_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(directory.path()).unwrap();
    let a = store.create(&made()).unwrap();
    let b = a.rotate_root(None, now(&system_clock()), Lives::default()).unwrap();
    store.replace(a.revision, &b).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), b);
    let late = store.replace(a.revision, &b).unwrap_err();
    assert!(matches!(late, StoreError::Conflict { expected: 1, found: 2 }), "{late}");
    assert_eq!(mode(&directory.path().join("ca.json")), 0o600);
}

#[test]
fn row_70_a_lost_or_broken_state_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(directory.path()).unwrap();
    assert!(store.load().unwrap().is_none(), "there has never been one");
    let state = store.create(&made()).unwrap();
    store.publish(&state.bundle().unwrap()).unwrap();
    let path = directory.path().join("ca.json");
    fs::remove_file(&path).unwrap();
    let lost = store.load().unwrap_err();
    assert!(matches!(lost, StoreError::Lost { .. }));
    assert!(lost.to_string().contains("bundle.pem") && lost.to_string().contains("Restore the state"), "{lost}");
    // half a file
    let store_again = |text: &[u8]| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        store.load().unwrap_err()
    };
    let whole = serde_json::to_vec(&state).unwrap();
    let cut = store_again(&whole[..whole.len() / 2]);
    assert!(matches!(cut, StoreError::Malformed { .. }), "{cut}");
    assert!(!format!("{cut} {cut:?}").contains("PRIVATE"), "{cut}");
    let odd = store_again(b"{\"format\": 1, \"surprise\": 2}");
    assert!(odd.to_string().contains("unknown field `surprise`"), "{odd}");
    // readable by others
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let open = store.load().unwrap_err();
    assert!(open.to_string().contains("mode 640") && open.to_string().contains("chmod 600"), "{open}");
}

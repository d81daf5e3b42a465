//! `verify` and `verify --repair` during commits and collections: there are no false alarms, and
//! nothing unfinished is moved to quarantine.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olmo_pipe::run::Status;
use olmo_pipe::store::{Action, Output, Repaired, Store, SweepPlan};
use olmo_stage::PortType;
use serde_json::{Value, json};

use super::action;
use crate::run::project::*;

const STAGES: usize = 150;

#[test]
fn verify_and_repair_beside_an_engine_find_nothing_and_move_nothing() {
    let project = Project::new();
    project.stage("s", "echo \"$1\" > \"$2/text\"\n");
    let stages: String = (0..STAGES).map(|n| format!("  s{n}: {{uses: s, with: {{say: word{n}}}}}\n")).collect();
    project.experiment(&stages, "");
    let mut engine = project.spawn(&["run", "e.yaml"]);
    wait_until("the store", || project.path(".olmo-pipe/format").exists());
    let mut rounds = 0;
    while engine.try_wait().unwrap().is_none() {
        for arguments in [&["artifacts", "verify", "--repair", "--json"][..], &["artifacts", "verify", "--json"]] {
            let output = project.run(arguments);
            assert!(output.status.success(), "{arguments:?}, round {rounds}: {}", said(&output));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["problems"], json!([]), "{arguments:?}, round {rounds}");
        }
        rounds += 1;
    }
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(rounds > 3, "{rounds}");
    let moved: Vec<_> = fs::read_dir(project.path(".olmo-pipe/quarantine")).unwrap().collect();
    assert!(moved.is_empty(), "{moved:?}");
    project.succeeds(&["run", "e.yaml"]);
    assert!(project.statuses().values().all(|status| *status == Status::Cached));
}

/// Commits a unique artifact and the finished stage that made it.
fn commit(store: &Store, folder: &std::path::Path, n: usize) -> (olmo_base::ActionKey, Action) {
    let out = folder.join(format!("out{n}"));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("file"), format!("content {n}")).unwrap();
    let model = store.commit_tree(PortType::Model, &out).unwrap();
    let mut key = action(model).key;
    key.params.insert("n".into(), json!(n));
    let action = Action::new(key, [("model".to_owned(), Output::Single(model))].into());
    store.commit_action(action.key.digest(), &action).unwrap();
    (action.key.digest(), action)
}

#[test]
fn a_repair_beside_commits_leaves_each_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let done = AtomicBool::new(false);
    let keys = std::thread::scope(|scope| {
        let commits = scope.spawn(|| {
            let keys: Vec<_> = (0..400).map(|n| commit(&store, dir.path(), n).0).collect();
            done.store(true, Ordering::Relaxed);
            keys
        });
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed) && !commits.is_finished() {
            let problems = store.verify().unwrap();
            assert_eq!(problems, [], "round {rounds}");
            assert_eq!(store.repair(&problems, &|_| Vec::new()).unwrap(), Repaired::default(), "round {rounds}");
            rounds += 1;
        }
        assert!(rounds > 3, "{rounds}");
        commits.join().unwrap()
    });
    assert!(keys.iter().all(|key| store.action(*key).unwrap().is_some()));
}

#[test]
fn verify_beside_collections_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for n in 0..300 {
                commit(&store, dir.path(), n);
                if n % 10 == 0 {
                    // Everything in the store is removed.
                    std::thread::sleep(Duration::from_millis(10));
                    let seen: BTreeSet<_> = store.action_keys().unwrap().into_iter().collect();
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
                    let plan = SweepPlan { actions: seen.clone(), seen, artifacts: BTreeSet::new(), cutoff: now };
                    assert!(store.sweep(&plan).unwrap().actions > 0);
                }
            }
        });
        while !changes.is_finished() {
            let problems = store.verify().unwrap();
            assert_eq!(problems, []);
            assert_eq!(store.repair(&problems, &|_| Vec::new()).unwrap(), Repaired::default());
        }
        changes.join().unwrap();
    });
}

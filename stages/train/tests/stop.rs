//! A run that SIGTERM stops. A process of its own, since the signal reaches all of it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Attempt, data, events, items, params, states, tree, with};
use olmo_stage::{Event, Outcome, StageResult, worker};
use olmo_stage_train::Train;
use serde_json::json;

fn outcome(attempt: &Attempt) -> Outcome {
    attempt.write();
    worker::main_run(&attempt.dir, |_| Some(worker::Entry::of::<Train>()));
    let result: StageResult = serde_json::from_slice(&fs::read(attempt.dir.join("result.json")).unwrap()).unwrap();
    result.outcome
}

#[test]
fn a_stopped_run_saves_its_state_and_the_next_attempt_ends_with_the_bytes_of_an_unbroken_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let params = with(params(), json!({"max_duration": "1500steps", "save_interval": 700, "eval_interval": 500}));
    let attempt = |name: &str| Attempt::new(&dir.path().join(name), &data, params.clone()).input("eval_data", &data);
    let whole = attempt("whole");
    whole.run().unwrap();

    let stopped = attempt("stopped");
    let progress = stopped.dir.join("events.jsonl");
    let watcher = std::thread::spawn(move || {
        // The first lines of progress come long before the last step.
        while !fs::read_to_string(&progress).is_ok_and(|text| text.contains("progress")) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: plain integers; the handler of main_run is in place, since the run has begun.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    });
    assert_eq!(outcome(&stopped), Outcome::Interrupted);
    watcher.join().unwrap();
    let saved = states(&stopped.state_dir);
    assert!(matches!(&saved[..], [name] if name.starts_with("step")), "{saved:?}");

    // A state with one wrong bit in any of its files is not used, nor one whose checkpoint is lost.
    let state = stopped.state_dir.join(&saved[0]);
    let seal = stopped.state_dir.join(format!(".{}.seal", saved[0]));
    let files = tree(&state).into_keys().map(|name| state.join(name)).chain([seal]);
    for (number, file) in files.enumerate() {
        let sound = fs::read(&file).unwrap();
        let mut bad = sound.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 4;
        fs::write(&file, bad).unwrap();
        let mut broken = attempt(&format!("broken{number}"));
        broken.state_dir = stopped.state_dir.clone();
        for label in items(&stopped.dir) {
            broken = broken.item(&stopped.dir, &label);
        }
        broken.run().unwrap();
        fs::write(&file, sound).unwrap();
        assert_eq!(tree(&broken.dir.join("out")), tree(&whole.dir.join("out")), "{}", file.display());
        let warned = |event: &Event| matches!(event, Event::Message { text, .. } if text.contains("cannot be used"));
        assert!(events(&broken.dir).iter().any(warned), "{}", file.display());
    }

    let mut next = attempt("next");
    next.state_dir = stopped.state_dir.clone();
    for label in items(&stopped.dir) {
        next = next.item(&stopped.dir, &label);
    }
    assert_eq!(outcome(&next), Outcome::Succeeded);
    assert_eq!(tree(&next.dir.join("out")), tree(&whole.dir.join("out")));
    let mut all = items(&stopped.dir);
    all.extend(items(&next.dir));
    assert_eq!(all, items(&whole.dir));
}

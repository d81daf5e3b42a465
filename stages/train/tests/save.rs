//! A run that SIGUSR1 asks to save its state. A process of its own, since the signal reaches all of it.

mod common;

use std::fs;
use std::time::Duration;

use common::{Attempt, data, params, states, tree, with};
use olmo_stage::{Outcome, StageResult, worker};
use olmo_stage_train::Train;
use serde_json::json;

#[test]
fn a_run_that_is_asked_to_save_goes_on_and_its_saved_state_can_be_continued() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let params = with(params(), json!({"max_duration": "1500steps", "save_interval": null, "eval_interval": null}));
    let attempt = |name: &str| Attempt::new(&dir.path().join(name), &data, params.clone());
    let outcome = |attempt: &Attempt| {
        attempt.write();
        worker::main_run(&attempt.dir, |_| Some(worker::Entry::of::<Train>()));
        let text = fs::read(attempt.dir.join("result.json")).unwrap();
        serde_json::from_slice::<StageResult>(&text).unwrap().outcome
    };

    let saving = attempt("saving");
    let events = saving.dir.join("events.jsonl");
    let watcher = std::thread::spawn(move || {
        // The first lines of progress come long before the last step.
        while !fs::read_to_string(&events).is_ok_and(|text| text.contains("progress")) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: plain integers; the handler of main_run is in place, since the run has begun.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
    });
    assert_eq!(outcome(&saving), Outcome::Succeeded);
    watcher.join().unwrap();
    let saved = states(&saving.state_dir);
    assert!(matches!(&saved[..], [name] if name.starts_with("step")), "{saved:?}");

    // As if it had been killed after that: it goes on there, to the same bytes.
    let mut next = attempt("next");
    next.state_dir = saving.state_dir.clone();
    assert_eq!(outcome(&next), Outcome::Succeeded);
    assert!(fs::read_to_string(next.dir.join("events.jsonl")).unwrap().contains("continues after"));
    assert_eq!(tree(&next.dir.join("out")), tree(&saving.dir.join("out")));
}

//! A disk that is full while a checkpoint is written. A process of its own, since a limit holds for all of it.

mod common;

use std::fs;
use std::time::Duration;

use common::{Attempt, data, item, items, model_of, params, tree, with};
use olmo_stage::{Outcome, StageResult, worker};
use olmo_stage_train::Train;
use serde_json::{Value, json};

/// Lets no file of this process grow beyond `bytes`, as a full disk would.
fn limit(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: plain integers; without the signal's default action a write fails instead of ending the process.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn a_disk_that_fills_up_stops_the_run_and_the_last_good_checkpoint_stays() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    // Checkpoints are far larger than the other files of an attempt.
    let model = model_of(json!({"d_model": 128, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 512}));
    let params = with(params(), json!({"model": model, "max_duration": "300steps", "save_interval": 50}));
    let attempt = |name: &str| Attempt::new(&dir.path().join(name), &data, params.clone());
    let outcome = |attempt: &Attempt| -> StageResult {
        attempt.write();
        worker::main_run(&attempt.dir, |_| Some(worker::Entry::of::<Train>()));
        serde_json::from_slice(&fs::read(attempt.dir.join("result.json")).unwrap()).unwrap()
    };
    let whole = attempt("whole");
    assert_eq!(outcome(&whole).outcome, Outcome::Succeeded);

    let full = attempt("full");
    let folder = full.dir.join("items/checkpoints/step50");
    let watcher = std::thread::spawn(move || {
        // The item gets its name when it is whole.
        while !folder.exists() {
            std::thread::sleep(Duration::from_micros(200));
        }
        limit(256 * 1024);
    });
    let result = serde_json::to_value(outcome(&full)).unwrap();
    watcher.join().unwrap();
    limit(libc::RLIM_INFINITY);
    let text = result.to_string();
    assert!(text.contains("step") && text.contains("checkpoints"), "{text}");
    assert_eq!(result["outcome"], json!("failed"), "{text}");
    let saved = items(&full.dir);
    assert!(!saved.is_empty() && saved.len() < items(&whole.dir).len(), "{saved:?}");
    let last = saved.last().unwrap();
    assert!(tree(&item(&full.dir, last)) == tree(&item(&whole.dir, last)), "{last} is whole");

    // With space again it goes on there, to the same bytes.
    let rest = attempt("rest").after(&full.dir, &saved);
    assert_eq!(outcome(&rest).outcome, Outcome::Succeeded);
    assert!(tree(&rest.dir.join("out")) == tree(&whole.dir.join("out")));
    let kept: Value =
        serde_json::from_slice(&fs::read(item(&rest.dir, "step300").join("trainer.json")).unwrap()).unwrap();
    assert_eq!(kept["step"], json!(300));
}

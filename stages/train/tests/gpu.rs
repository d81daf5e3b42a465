//! Training as on a GPU: the stage with the CUDA text run by the emulator.
#![cfg(feature = "libtorch")]

mod common;

use common::{
    Attempt, data, events, item, items, metrics, model_of, optimizer, params, resumed_after, tree, weights, with,
};
use olmo_stage::Compute;
use olmo_stage::Event;
use serde_json::{Value, json};

fn emulated() {
    // SAFETY: each test sets the same value before it starts anything, and nothing takes it back.
    unsafe { std::env::set_var("OLMO_PIPE_EMULATE_GPU", "1") };
}

fn model() -> Value {
    model_of(json!({"d_model": 64, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 96}))
}

fn loss(line: &Value) -> f64 {
    line["loss"].as_f64().expect("a loss")
}

#[test]
fn in_f32_the_run_is_that_of_flex_up_to_rounding() {
    emulated();
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let changes = json!({"max_duration": "12steps", "save_interval": null, "model": model(), "z_loss": 1e-4, "precision": "fp32",
        "document_mask": true, "optimizer": optimizer(1e-3), "scheduler": {"t_warmup": 3}});
    let run = |compute: Compute| {
        let dir = dir.path().join(compute.name());
        let attempt = Attempt::new(&dir, &data, with(params(), changes.clone())).on(compute);
        attempt.run().unwrap();
        metrics(&attempt.dir)
    };
    let (flex, gpu) = (run(Compute::FLEX), run(Compute::CUDA));
    assert_eq!(flex.len(), 12);
    let warned = |backend: &str| {
        let is_it = |event: &Event| matches!(event, Event::Message { level: olmo_stage::MessageLevel::Warning, text } if text.contains("OLMO_PIPE_EMULATE_GPU=1"));
        events(&dir.path().join(backend)).iter().any(is_it)
    };
    assert!(warned("libtorch-cuda") && !warned("flex"), "what no key counts is said");
    let perf = std::fs::read_to_string(dir.path().join("libtorch-cuda/perf.jsonl")).unwrap();
    let waits = perf.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["gpu_wait_percent"].as_f64());
    assert!(waits.into_iter().all(|wait| wait.is_some_and(|wait| (0.0..=100.0).contains(&wait))), "{perf}");
    for (flex, gpu) in flex.iter().zip(&gpu) {
        assert!((loss(flex) - loss(gpu)).abs() <= 2e-5, "{flex}\n{gpu}");
        for name in ["step", "tokens", "labels", "lr", "batch"] {
            assert_eq!(flex[name], gpu[name]);
        }
    }
}

#[test]
fn in_bf16_it_learns_and_goes_on_after_a_stop_to_the_same_bytes() {
    emulated();
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = |name: &str, changes: Value| {
        let changes = with(json!({"model": model(), "optimizer": optimizer(3e-3)}), changes);
        Attempt::new(&dir.path().join(name), &data, with(params(), changes)).on(Compute::CUDA)
    };
    let whole = attempt("whole", json!({}));
    whole.run().unwrap();
    let lines = metrics(&whole.dir);
    assert!(loss(&lines[lines.len() - 1]) < loss(&lines[0]) - 0.05, "{} {}", lines[0], lines[lines.len() - 1]);
    assert_eq!(items(&whole.dir), ["step2", "step4", "step6", "step8"]);
    for kept in [1, 3] {
        let labels = &items(&whole.dir)[..kept];
        let last = labels[kept - 1].as_str();
        let rest = attempt(&format!("from {last}"), json!({})).after(&whole.dir, labels);
        rest.run().unwrap();
        assert_eq!(resumed_after(&rest.dir), last, "it goes on there and does not begin again");
        assert!(tree(&rest.dir.join("out")) == tree(&whole.dir.join("out")), "{last}");
    }
    let again = attempt("again", json!({"activation_checkpointing": "whole_layer"}));
    again.run().unwrap();
    assert!(weights(&again.dir) == weights(&whole.dir), "computed again, the same bits");
    let trainer: Value =
        serde_json::from_slice(&std::fs::read(item(&whole.dir, "step8").join("trainer.json")).unwrap()).unwrap();
    assert_eq!(trainer["backend"], json!("libtorch-cuda"));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_where() {
    emulated();
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let changes = json!({"model": model(), "optimizer": optimizer(1e30), "scheduler": {"t_warmup": 0}});
    let attempt = Attempt::new(&dir.path().join("broken"), &data, with(params(), changes)).on(Compute::CUDA);
    let (code, message) = attempt.failure();
    assert_eq!(code, "train::not_finite");
    assert!(message.contains("the weights are unchanged. First bad: "), "{message}");
    let told = events(&attempt.dir).into_iter().any(|event| matches!(event, Event::Message { .. }));
    assert!(told, "what the run needs was said before");
}

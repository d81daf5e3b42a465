//! Training on libtorch's CPU kernels: as exact as on flex, and the same run up to rounding.
#![cfg(feature = "libtorch")]

mod common;

use common::{Attempt, data, item, items, metrics, model_of, optimizer, params, resumed_after, tree, weights, with};
use olmo_stage::Compute;
use serde_json::{Value, json};

/// Wide enough for products to be cut into pieces.
fn wide() -> Value {
    model_of(json!({"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 192}))
}

#[test]
fn flex_and_libtorch_agree_on_the_loss_over_fifty_steps() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let changes = json!({"max_duration": "50steps", "save_interval": null, "model": wide(), "z_loss": 1e-4,
        "optimizer": optimizer(1e-3), "scheduler": {"t_warmup": 5}});
    let run = |compute: Compute, mask: bool| {
        let params = with(with(params(), changes.clone()), json!({"document_mask": mask}));
        let name = format!("{}{mask}", compute.name());
        let attempt = Attempt::new(&dir.path().join(name), &data, params).on(compute);
        attempt.run().unwrap();
        metrics(&attempt.dir)
    };
    for mask in [false, true] {
        let (flex, libtorch) = (run(Compute::FLEX, mask), run(Compute::LIBTORCH, mask));
        assert_eq!(flex.len(), 50);
        let loss = |line: &Value| line["loss"].as_f64().unwrap();
        assert!(loss(&flex[49]) < loss(&flex[0]) - 0.1, "it learns: {} {}", flex[0], flex[49]);
        for (flex, libtorch) in flex.iter().zip(&libtorch) {
            assert!((loss(flex) - loss(libtorch)).abs() <= 1e-5, "{flex}\n{libtorch}");
            for name in ["step", "tokens", "labels", "lr", "batch"] {
                assert_eq!(flex[name], libtorch[name]);
            }
        }
    }
}

#[test]
fn on_libtorch_too_any_number_of_threads_any_policy_and_any_kill_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = |name: &str, changes: Value| {
        let params = with(with(params(), json!({"model": wide()})), changes);
        Attempt::new(&dir.path().join(name), &data, params).on(Compute::LIBTORCH)
    };
    let run = |threads: usize| {
        let attempt = attempt(&threads.to_string(), json!({}));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| attempt.run()).unwrap();
        attempt
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        let other = run(threads);
        assert!(tree(&other.dir.join("out")) == tree(&one.dir.join("out")), "{threads} threads");
        assert!(tree(&other.dir.join("items")) == tree(&one.dir.join("items")), "{threads} threads");
    }
    for policy in ["fine_grained", "whole_layer", "one_in_two"] {
        let other = attempt(policy, json!({"activation_checkpointing": policy}));
        other.run().unwrap();
        assert!(weights(&other.dir) == weights(&one.dir), "{policy}");
    }
    assert_eq!(items(&one.dir), ["step2", "step4", "step6", "step8"]);
    for kept in [1, 3] {
        let labels = &items(&one.dir)[..kept];
        let last = labels[kept - 1].as_str();
        let rest = attempt(&format!("from {last}"), json!({})).after(&one.dir, labels);
        rest.run().unwrap();
        assert_eq!(resumed_after(&rest.dir), last, "it goes on there and does not begin again");
        assert!(tree(&rest.dir.join("out")) == tree(&one.dir.join("out")), "{last}");
    }
    let trainer: Value =
        serde_json::from_slice(&std::fs::read(item(&one.dir, "step8").join("trainer.json")).unwrap()).unwrap();
    assert_eq!(trainer["backend"], json!("libtorch"));
}

#[test]
fn a_run_that_goes_on_with_another_backend_says_that_it_is_not_exact() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let first = Attempt::new(&dir.path().join("first"), &data, params());
    first.run().unwrap();
    let labels = &items(&first.dir)[..2];
    let rest = Attempt::new(&dir.path().join("rest"), &data, params()).on(Compute::LIBTORCH).after(&first.dir, labels);
    rest.run().unwrap();
    let events = std::fs::read_to_string(rest.dir.join("events.jsonl")).unwrap();
    assert!(events.contains("not bit-exact: the first 4 steps ran on flex, the rest runs on libtorch"), "{events}");
}

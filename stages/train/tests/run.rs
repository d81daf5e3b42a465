//! Stage train through the folder of an attempt: what it makes, and that it makes the same however often it is broken off.

mod common;

use std::fs;

use common::{Attempt, data, events, item, items, memmap, metrics, model_of, optimizer, params, tree, weights, with};
use olmo_stage::Event;
use serde_json::{Value, json};

#[test]
fn a_run_learns_and_leaves_a_record_of_every_step_and_checkpoints_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = Attempt::new(
        &dir.path().join("a"),
        &data,
        with(params(), json!({"max_duration": "20ep", "save_interval": 25})),
    );
    attempt.run().unwrap();
    let lines = metrics(&attempt.dir);
    assert_eq!(lines.len(), 60);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], json!(index + 1));
        assert_eq!(line["tokens"], json!((index + 1) * 36));
        assert_eq!(line["epoch"], json!(index / 3));
    }
    let loss = |line: &Value| line["loss"].as_f64().unwrap();
    assert!(loss(&lines[0]) > 3.0, "{}", lines[0]);
    assert!(loss(&lines[59]) < 0.8 * loss(&lines[0]), "{}", lines[59]);
    assert_eq!(lines[59]["lr"].as_f64().unwrap(), 0.1 * 1e-2);
    assert_eq!(items(&attempt.dir), ["step25", "step50", "step60"]);
    let last = item(&attempt.dir, "step60");
    assert_eq!(fs::read(last.join("model/model.safetensors")).unwrap(), weights(&attempt.dir));
    let (config, parameters) = olmo_model::load(&attempt.dir.join("out/model")).unwrap();
    assert_eq!((config.vocab_size, config.eos_token_id(), config.max_sequence_length), (32, Some(0), 12));
    assert!(parameters.flat().iter().all(|value| value.is_finite()));
    // Every file of a checkpoint is there, and none is half written.
    let names: Vec<String> = tree(&last).keys().map(|path| path.display().to_string()).collect();
    assert_eq!(
        names,
        ["metrics.jsonl", "model/config.json", "model/model.safetensors", "optim/optim.safetensors", "trainer.json"]
    );
    let trainer: Value =
        serde_json::from_slice(&fs::read(item(&attempt.dir, "step25").join("trainer.json")).unwrap()).unwrap();
    assert_eq!((&trainer["step"], &trainer["epoch"], &trainer["epoch_position"]), (&json!(25), &json!(8), &json!(3)));
}

#[test]
fn equal_runs_in_two_folders_give_equal_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [a.path(), b.path()] {
        let data = data(dir);
        Attempt::new(&dir.join("attempt"), &data, params()).input("eval_data", &data).run().unwrap();
    }
    for folder in ["attempt/out", "attempt/items"] {
        assert_eq!(tree(&a.path().join(folder)), tree(&b.path().join(folder)));
    }
}

#[test]
fn a_run_that_continues_from_any_checkpoint_ends_with_the_bytes_of_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    // Checkpoints inside an epoch, at its end and after the last step.
    let params = with(params(), json!({"save_interval": 1, "eval_interval": 2}));
    let attempt = |name: &str| Attempt::new(&dir.path().join(name), &data, params.clone()).input("eval_data", &data);
    let whole = attempt("whole");
    whole.run().unwrap();
    for step in 1..=8 {
        let mut broken = attempt(&format!("after{step}"));
        for earlier in 1..=step {
            broken = broken.item(&whole.dir, &format!("step{earlier}"));
        }
        broken.run().unwrap();
        assert_eq!(tree(&broken.dir.join("out")), tree(&whole.dir.join("out")), "after step {step}");
        let rest: Vec<String> = (step + 1..=8).map(|step| format!("step{step}")).collect();
        assert_eq!(items(&broken.dir), rest);
        for label in rest {
            assert_eq!(tree(&item(&broken.dir, &label)), tree(&item(&whole.dir, &label)), "{label} after step {step}");
        }
        let keep = (1..=step).map(|step| format!("step{step}")).collect();
        assert!(events(&broken.dir).contains(&Event::Resumed { step, port: "checkpoints".into(), keep }));
    }
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let whole = Attempt::new(&dir.path().join("whole"), &data, params());
    whole.run().unwrap();
    for (name, file) in [
        ("a", "trainer.json"),
        ("b", "optim/optim.safetensors"),
        ("c", "model/model.safetensors"),
        ("d", "metrics.jsonl"),
    ] {
        let broken = item(&whole.dir, "step4").join(file);
        let sound = fs::read(&broken).unwrap();
        fs::write(&broken, &sound[..sound.len() - 40]).unwrap();
        let again =
            Attempt::new(&dir.path().join(name), &data, params()).item(&whole.dir, "step2").item(&whole.dir, "step4");
        again.run().unwrap();
        fs::write(&broken, sound).unwrap();
        assert_eq!(tree(&again.dir.join("out")), tree(&whole.dir.join("out")), "{file}");
        assert_eq!(items(&again.dir), ["step4", "step6", "step8"]);
        let events = events(&again.dir);
        assert!(events.contains(&Event::Resumed { step: 2, port: "checkpoints".into(), keep: vec!["step2".into()] }));
        let warned = |event: &Event| matches!(event, Event::Message { level: olmo_stage::MessageLevel::Warning, text } if text.contains("step 4"));
        assert!(events.iter().any(warned), "{file}");
    }
}

#[test]
fn training_goes_back_to_before_a_checkpoint_that_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let whole = Attempt::new(&dir.path().join("whole"), &data, params());
    whole.run().unwrap();
    for (name, there, again) in [
        ("first", vec!["step4", "step6"], vec!["step2", "step4", "step6", "step8"]),
        ("middle", vec!["step2", "step6"], vec!["step4", "step6", "step8"]),
        ("none", vec![], vec!["step2", "step4", "step6", "step8"]),
    ] {
        let mut attempt = Attempt::new(&dir.path().join(name), &data, params());
        for label in there {
            attempt = attempt.item(&whole.dir, label);
        }
        // A state of its own that is ahead of the lost checkpoint, sound and sealed.
        fs::create_dir_all(&attempt.state_dir).unwrap();
        let (from, to) = (item(&whole.dir, "step8"), attempt.state_dir.join("step8"));
        for file in tree(&from).keys() {
            fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
        olmo_base::seal::Seal::write(&to).unwrap();
        attempt.run().unwrap();
        assert_eq!(items(&attempt.dir), again, "{name}");
        assert_eq!(tree(&attempt.dir.join("out")), tree(&whole.dir.join("out")), "{name}");
    }
}

#[test]
fn a_state_of_another_run_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let other = Attempt::new(&dir.path().join("other"), &data, with(params(), json!({"seed": 4})));
    other.run().unwrap();
    let whole = Attempt::new(&dir.path().join("whole"), &data, params());
    whole.run().unwrap();
    let again = Attempt::new(&dir.path().join("again"), &data, params()).item(&other.dir, "step4");
    again.run().unwrap();
    assert_eq!(tree(&again.dir.join("out")), tree(&whole.dir.join("out")));
    assert!(events(&again.dir).contains(&Event::Resumed { step: 0, port: "checkpoints".into(), keep: vec![] }));
}

#[test]
fn evaluation_does_not_disturb_training_and_its_lines_stand_after_their_steps() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let without = Attempt::new(&dir.path().join("without"), &data, params());
    let evaluated = Attempt::new(&dir.path().join("with"), &data, with(params(), json!({"eval_interval": 3})))
        .input("eval_data", &data);
    without.run().unwrap();
    evaluated.run().unwrap();
    assert_eq!(weights(&without.dir), weights(&evaluated.dir));
    let (lines, evals): (Vec<Value>, Vec<Value>) =
        metrics(&evaluated.dir).into_iter().partition(|line| line.get("eval_loss").is_none());
    assert_eq!(lines, metrics(&without.dir));
    assert_eq!(evals.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6, 8]);
    for line in evals {
        let (loss, perplexity) = (line["eval_loss"].as_f64().unwrap(), line["eval_perplexity"].as_f64().unwrap());
        assert!((loss.exp() - perplexity).abs() < 1e-9 * perplexity);
    }
}

#[test]
fn the_size_of_a_micro_batch_changes_nothing_but_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let run = |rows: usize| {
        let params =
            with(params(), json!({"global_train_batch_size": 4, "device_train_microbatch_size": rows, "z_loss": 1e-3}));
        let attempt = Attempt::new(&dir.path().join(format!("rows{rows}")), &data, params);
        attempt.run().unwrap();
        metrics(&attempt.dir)
    };
    let whole = run(4);
    for rows in [1, 3, 100] {
        let lines = run(rows);
        for (a, b) in lines.iter().zip(&whole) {
            for name in ["step", "tokens", "labels", "lr", "batch"] {
                assert_eq!(a[name], b[name]);
            }
            for name in ["loss", "z_loss", "grad_norm"] {
                let (a, b) = (a[name].as_f64().unwrap(), b[name].as_f64().unwrap());
                assert!((a - b).abs() <= 2e-4 * b.abs(), "{name} with {rows} rows: {a}, not {b}");
            }
        }
        // The first step starts from equal weights, so that its sums differ by their order alone.
        let (first, expected) = (lines[0]["loss"].as_f64().unwrap(), whole[0]["loss"].as_f64().unwrap());
        assert!((first - expected).abs() <= 1e-6 * expected);
    }
}

#[test]
fn activation_checkpointing_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let run = |policy: &str| {
        let params = with(params(), json!({"activation_checkpointing": policy}));
        let attempt = Attempt::new(&dir.path().join(policy), &data, params);
        attempt.run().unwrap();
        tree(&attempt.dir.join("out"))
    };
    let kept = run("none");
    for policy in ["fine_grained", "whole_layer", "one_in_two"] {
        assert_eq!(run(policy), kept, "{policy}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    // Wide enough for products to be cut into pieces.
    let model = model_of(json!({"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 192}));
    let run = |threads: usize| {
        let attempt =
            Attempt::new(&dir.path().join(threads.to_string()), &data, with(params(), json!({"model": model})));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| attempt.run()).unwrap();
        (tree(&attempt.dir.join("out")), tree(&attempt.dir.join("items")))
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn with_a_document_mask_a_row_of_two_documents_trains_as_two_rows() {
    let dir = tempfile::tempdir().unwrap();
    // The same two documents, once in one row, once in a row each (filled up with what is no target).
    let (first, second) = ([2u32, 5, 9, 4, 7, 3], [8u32, 6, 2, 9, 5, 5]);
    let rows = |name: &str, packed: bool| {
        let folder = dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut writer = common::writer(&folder);
        for document in [first, second] {
            writer.begin_document();
            // The first token of a document has nothing before it that it sees.
            let mut mask = vec![true; 6];
            mask[0] = false;
            writer.append(&document, &mask).unwrap();
            if !packed {
                writer.append(&[1; 6], &[false; 6]).unwrap();
            }
        }
        writer.finish(0, 0).unwrap();
        folder
    };
    let loss = |name: &str, packed: bool, mask: bool| {
        let batch = if packed { 1 } else { 2 };
        let changes = json!({"max_duration": "1steps", "global_train_batch_size": batch, "document_mask": mask,
            "model": with(common::model(), json!({"init_std": 0.3}))});
        let attempt =
            Attempt::new(&dir.path().join(format!("{name}_run")), &rows(name, packed), with(params(), changes));
        attempt.run().unwrap();
        metrics(&attempt.dir)[0]["loss"].as_f64().unwrap()
    };
    let (masked, apart, open) = (loss("a", true, true), loss("b", false, false), loss("c", true, false));
    assert!((masked - apart).abs() < 1e-5 * apart, "{masked} is not {apart}");
    assert!(
        (open - apart).abs() > 1e-3 * apart,
        "without the mask the second document sees the first: {open}, {apart}"
    );
}

#[test]
fn the_number_of_rows_at_once_can_be_chosen_by_memory_and_stays_when_a_run_continues() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let auto = with(params(), json!({"device_train_microbatch_size": null}));
    let whole = Attempt::new(&dir.path().join("auto"), &data, auto.clone());
    whole.run().unwrap();
    let trainer: Value =
        serde_json::from_slice(&fs::read(item(&whole.dir, "step8").join("trainer.json")).unwrap()).unwrap();
    assert_eq!(trainer["device_train_microbatch_size"], json!(3), "three rows of a step fit into any memory");
    // A run that began with other micro-batches, continued: those are kept, so the rest has the bytes of the run that began so.
    let two = Attempt::new(&dir.path().join("two"), &data, with(params(), json!({"device_train_microbatch_size": 2})));
    two.run().unwrap();
    let rest = Attempt::new(&dir.path().join("rest"), &data, auto).item(&two.dir, "step2");
    rest.run().unwrap();
    assert_eq!(weights(&rest.dir), weights(&two.dir));
    let other =
        Attempt::new(&dir.path().join("other"), &data, with(params(), json!({"device_train_microbatch_size": 3})))
            .item(&two.dir, "step2");
    other.run().unwrap();
    let warned = |event: &Event| matches!(event, Event::Message { text, .. } if text.starts_with("not bit-exact") && text.contains("2 rows"));
    assert!(events(&other.dir).iter().any(warned));
}

#[test]
fn times_and_waits_of_every_step_stand_beside_the_attempt_and_in_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = Attempt::new(&dir.path().join("a"), &data, params());
    attempt.run().unwrap();
    let lines = fs::read_to_string(attempt.dir.join("perf.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>()
    );
    for line in lines {
        let wait = line["data_wait_percent"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&wait) && line["tokens_per_second"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["save_stall_seconds"].as_f64().unwrap() >= 0.0);
        assert!(line["gpu_wait_percent"].is_null(), "there is no GPU: {line}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_stops_the_run_and_leaves_the_ones_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = Attempt::new(&dir.path().join("a"), &data, params());
    // A file stands where the second checkpoint's temporary folder would.
    fs::create_dir_all(attempt.dir.join("items/checkpoints")).unwrap();
    fs::write(attempt.dir.join("items/checkpoints/.step4.tmp"), b"in the way").unwrap();
    let (_, message) = attempt.failure();
    assert!(message.contains("step4"), "{message}");
    assert_eq!(items(&attempt.dir), ["step2"]);
    let again = Attempt::new(&dir.path().join("again"), &data, params()).item(&attempt.dir, "step2");
    again.run().unwrap();
    assert_eq!(items(&again.dir), ["step4", "step6", "step8"]);
}

#[test]
fn olmos_norm_divides_by_all_tokens_and_ours_by_the_labels() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let first = |norm: &str| {
        let params = with(params(), json!({"loss_norm": norm, "max_duration": "1steps", "max_grad_norm": null}));
        let attempt = Attempt::new(&dir.path().join(norm), &data, params);
        attempt.run().unwrap();
        metrics(&attempt.dir).remove(0)
    };
    let (labels, olmo) = (first("labels"), first("olmo"));
    let share = labels["labels"].as_f64().unwrap() / 36.0;
    for name in ["loss", "grad_norm"] {
        let (a, b) = (labels[name].as_f64().unwrap() * share, olmo[name].as_f64().unwrap());
        assert!((a - b).abs() <= 1e-5 * b, "{name}: {a}, {b}");
    }
}

#[test]
fn a_step_without_labels_changes_nothing_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let data = memmap(&dir.path().join("data"), 3, |row, t| row == 1 && t > 2);
    let params = with(params(), json!({"global_train_batch_size": 1, "max_duration": "1ep", "save_interval": 1}));
    let attempt = Attempt::new(&dir.path().join("a"), &data, params);
    attempt.run().unwrap();
    let lines = metrics(&attempt.dir);
    let with_labels: Vec<bool> = lines.iter().map(|line| !line["loss"].is_null()).collect();
    assert_eq!(with_labels.iter().filter(|with| **with).count(), 1);
    let weights: Vec<Vec<u8>> = (1..=3)
        .map(|step| fs::read(item(&attempt.dir, &format!("step{step}")).join("model/model.safetensors")).unwrap())
        .collect();
    for step in 1..3 {
        assert_eq!(weights[step] != weights[step - 1], with_labels[step], "step {}", step + 1);
    }
    let trainer: Value =
        serde_json::from_slice(&fs::read(item(&attempt.dir, "step3").join("trainer.json")).unwrap()).unwrap();
    assert_eq!(trainer["optimizer_steps"], json!(1));
    assert!(
        events(&attempt.dir)
            .iter()
            .any(|event| matches!(event, Event::Message { text, .. } if text.starts_with("2 of 3 steps")))
    );
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_before_it_reaches_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let params =
        with(params(), json!({"optimizer": optimizer(1e37), "scheduler": {"t_warmup": 0}, "save_interval": 1}));
    let attempt = Attempt::new(&dir.path().join("a"), &data, params);
    let (code, message) = attempt.failure();
    assert_eq!(code, "train::not_finite");
    assert_eq!(items(&attempt.dir), ["step1"]);
    assert!(message.contains("step 2:") && message.contains("rows"), "{message}");
    assert!(message.contains("First bad: ") && message.contains("transformer."), "{message}");
}

#[test]
fn weights_that_a_step_has_broken_are_neither_saved_nor_handed_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    // The step's size is beyond what f32 holds; the loss before it is sound.
    let broken = json!({"optimizer": optimizer(1e38), "scheduler": {"name": "constant_with_warmup", "t_warmup": 0}});
    for (name, changes) in [
        ("saved", json!({"save_interval": 1})),
        ("handed on", json!({"save_interval": null, "max_duration": "1steps"})),
    ] {
        let params = with(with(params(), broken.clone()), changes);
        let attempt = Attempt::new(&dir.path().join(name), &data, params);
        let (code, message) = attempt.failure();
        assert_eq!(code, "train::not_finite", "{name}");
        assert!(message.starts_with("after step 1: the weight `transformer."), "{name}: {message}");
        assert_eq!(items(&attempt.dir), [""; 0], "{name}");
        assert!(!attempt.dir.join("out/model/model.safetensors").exists(), "{name}");
    }
}

#[test]
fn a_run_starts_from_given_weights_and_keeps_their_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let first = Attempt::new(&dir.path().join("first"), &data, params());
    first.run().unwrap();
    let mut tuned = with(params(), json!({"max_duration": "1steps"}));
    tuned["model"] = Value::Null;
    let init = first.dir.join("out/model");
    let second = Attempt::new(&dir.path().join("second"), &data, tuned.clone()).input("init", &init);
    second.run().unwrap();
    let read = |attempt: &Attempt| olmo_model::load(&attempt.dir.join("out/model")).unwrap();
    assert_eq!(read(&first).0, read(&second).0);
    let furthest =
        read(&first).1.flat().iter().zip(read(&second).1.flat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest > 0.0 && furthest < 0.02, "one step of 5.5e-3 moved a weight by {furthest}");
    let (code, _) = Attempt::new(&dir.path().join("both"), &data, params()).input("init", &init).failure();
    assert_eq!(code, "train::two_models");
    let (code, _) = Attempt::new(&dir.path().join("neither"), &data, tuned).failure();
    assert_eq!(code, "train::no_model");
}

#[test]
fn inputs_that_do_not_go_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = |name: &str, changes: Value| Attempt::new(&dir.path().join(name), &data, with(params(), changes));
    let (code, message) = attempt("small", json!({"global_train_batch_size": 11})).failure();
    assert!(code == "train::too_little_data" && message.contains("10 rows") && message.contains("11"), "{message}");
    let (code, message) =
        attempt("short", json!({"model": with(common::model(), json!({"max_sequence_length": 8}))})).failure();
    assert!(code == "train::sequence_length" && message.contains("12") && message.contains('8'), "{message}");
    let (code, message) = attempt("odd", json!({"model": with(common::model(), json!({"n_heads": 5}))})).failure();
    assert!(code == "train::model_config" && message.contains("n_heads"), "{message}");
    let (code, message) = attempt("long", json!({"max_duration": "3weeks"})).failure();
    assert!(code == "train::max_duration" && message.contains("3weeks"), "{message}");
    let none = memmap(&dir.path().join("none"), 4, |_, t| t == 0);
    let (code, _) = attempt("none_attempt", json!({})).input("eval_data", &none).failure();
    assert_eq!(code, "train::no_labels");
}

#[test]
fn ten_tokens_more_than_a_step_are_two_steps_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let data = data(dir.path());
    let attempt = Attempt::new(&dir.path().join("a"), &data, with(params(), json!({"max_duration": "46T"})));
    attempt.run().unwrap();
    assert_eq!(metrics(&attempt.dir).len(), 2);
    assert_eq!(items(&attempt.dir), ["step2"]);
}

//! Training as on a GPU, with the CUDA text run by the emulator: losses, gradients and steps beside the default build's.
#![cfg(feature = "libtorch")]

use std::sync::Arc;

use olmo_model::device::{Element, Losses, Place};
use olmo_model::{ActivationCheckpointing, Batch, LossOptions, Model, ModelConfig, Parameters, trained};
use olmo_ops::adamw::{self, AdamW, State};
use serde_json::{Value, json};

/// OLMo 2's block in a small size whose widths allow wide access.
fn config(changes: Value) -> ModelConfig {
    let mut fields = json!({
        "d_model": 64, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 96, "layer_norm_type": "rms", "layer_norm_eps": 1e-6,
        "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0, "max_sequence_length": 4096,
        "vocab_size": 59, "weight_tying": false, "init_std": 0.15,
    });
    fields.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
    serde_json::from_value(fields).expect("a config")
}

/// Every variant of the architecture, by name.
fn configs() -> Vec<(&'static str, ModelConfig)> {
    let olmo1 = json!({"layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false, "norm_after": false,
        "layer_norm_eps": 1e-5, "weight_tying": true, "clip_qkv": 2.0});
    let odd =
        json!({"d_model": 36, "n_heads": 3, "n_kv_heads": 1, "mlp_hidden_size": 50, "vocab_size": 31, "clip_qkv": 1.5});
    // More chunks than a block has threads, so that each keeps several.
    let wide = |d_model: usize, heads: usize, mlp: usize| json!({"d_model": d_model, "n_heads": heads, "n_layers": 1, "mlp_hidden_size": mlp, "vocab_size": 31, "clip_qkv": 1.5, "init_std": 0.03});
    vec![
        ("OLMo 2", config(json!({}))),
        ("OLMo 1", config(olmo1)),
        ("norms with weights before", config(json!({"norm_after": false, "attention_layer_norm": false}))),
        ("LayerNorm with weights, QK-norm, clamp", config(json!({"layer_norm_type": "default", "clip_qkv": 2.0}))),
        ("grouped keys", config(json!({"d_model": 64, "n_heads": 4, "n_kv_heads": 2}))),
        ("odd widths", config(odd)),
        ("wide", config(wide(2064, 43, 32))),
        ("wide and odd", config(wide(516, 6, 50))),
    ]
}

fn weights(config: &ModelConfig) -> Parameters {
    let mut parameters = Parameters::init(config, 7).expect("weights");
    // Norm weights that are not all one.
    let norms: Vec<String> =
        parameters.tensors().iter().filter(|spec| spec.shape.len() == 1).map(|spec| spec.name.clone()).collect();
    for name in norms {
        for (index, weight) in parameters.tensor_mut(&name).expect("a tensor").iter_mut().enumerate() {
            *weight = 0.7 + 0.05 * (index % 13) as f32;
        }
    }
    parameters
}

fn batch(config: &ModelConfig, rows: usize, sequence: usize, documents: bool) -> Batch {
    let tokens = rows * sequence;
    let input_ids = (0..tokens).map(|i| ((i * i * 7 + 13 * i) % config.vocab_size) as u32).collect();
    let label_mask = Some((0..tokens).map(|i| i % 4 != 2).collect());
    let starts = |i: usize| ((i % sequence) / 5 * 5) as u32;
    let documents = documents.then(|| (0..tokens).map(starts).collect::<Vec<u32>>().into());
    Batch { input_ids, label_mask, documents, batch: rows, sequence }
}

fn on_gpu(element: Element, config: &ModelConfig, parameters: &Parameters) -> Model {
    let zeros = vec![0f32; parameters.len()];
    Model::on_gpu(Place::Cpu, element, config, parameters, [&zeros, &zeros]).expect("a model")
}

const OPTIONS: LossOptions = LossOptions { denominator: 20.0, z_loss: 1e-3 };

fn losses_and_gradients(model: &Model, batch: &Batch) -> ([f64; 2], Vec<f32>) {
    let mut gradients = vec![0f32; Parameters::zeros(model.config()).expect("weights").len()];
    let output = model.loss_and_gradients(batch, &OPTIONS, &mut gradients).expect("gradients");
    ([output.loss_sum, output.z_sum], gradients)
}

/// The tensor whose gradient is farthest off, and how far in parts of its length.
fn worst<'a>(parameters: &'a Parameters, got: &[f32], want: &[f32]) -> (&'a str, f64) {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = |range: std::ops::Range<usize>| {
        let (got, want) = (&got[range.clone()], &want[range]);
        let mut difference = got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b));
        length(&mut difference) / length(&mut want.iter().map(|x| f64::from(*x))).max(1e-9)
    };
    let all = parameters.tensors().iter().map(|spec| (spec.name.as_str(), off(spec.range.clone())));
    all.max_by(|a, b| a.1.total_cmp(&b.1)).expect("a model has tensors")
}

fn check(element: Element, most: f64) {
    for (name, config) in configs() {
        let parameters = weights(&config);
        let (host, gpu) = (Model::new(&config, &parameters).expect("a model"), on_gpu(element, &config, &parameters));
        for (rows, sequence, documents) in [(2, 17, false), (2, 17, true), (1, 1, false), (3, 8, true)] {
            let batch = batch(&config, rows, sequence, documents);
            let (want, want_gradients) = losses_and_gradients(&host, &batch);
            let (got, got_gradients) = losses_and_gradients(&gpu, &batch);
            // In bf16 some of what is near the clamp's edge falls on its other side, and has another gradient.
            let most = if element == Element::Bf16 && config.clip_qkv.is_some() { 2.0 * most } else { most };
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() <= most * want.abs(), "{name}, {rows} x {sequence}: loss {got}, not {want}");
            }
            let (tensor, off) = worst(&parameters, &got_gradients, &want_gradients);
            assert!(off <= most, "{name}, {rows} x {sequence}, documents {documents}: `{tensor}` is off by {off}");
            let alone = gpu.loss(&batch, &OPTIONS).expect("a loss");
            assert_eq!([alone.loss_sum, alone.z_sum], got, "{name}: the loss alone is the same");
        }
    }
}

#[test]
fn in_f32_losses_and_gradients_are_the_default_builds() {
    check(Element::F32, 2e-5);
}

#[test]
fn in_bf16_losses_and_gradients_are_near() {
    check(Element::Bf16, 4e-2);
}

#[test]
fn a_gradient_off_by_one_percent_would_be_noticed() {
    let (_, config) = configs().swap_remove(0);
    let (parameters, batch) = (weights(&config), batch(&config, 2, 17, false));
    let (_, gradients) = losses_and_gradients(&on_gpu(Element::F32, &config, &parameters), &batch);
    for spec in parameters.tensors() {
        let mut broken = gradients.clone();
        broken[spec.range.clone()].iter_mut().for_each(|value| *value *= 1.01);
        let (name, off) = worst(&parameters, &broken, &gradients);
        assert!(name == spec.name && off > 5e-3, "{name}: {off}");
    }
}

#[test]
fn windows_are_the_default_builds() {
    let config = config(json!({"sliding_window": 4, "n_layers": 4}));
    let (parameters, batch) = (weights(&config), batch(&config, 2, 19, true));
    let (host, gpu) = (Model::new(&config, &parameters).unwrap(), on_gpu(Element::F32, &config, &parameters));
    let (want, want_gradients) = losses_and_gradients(&host, &batch);
    let (got, got_gradients) = losses_and_gradients(&gpu, &batch);
    assert!((got[0] - want[0]).abs() < 1e-4, "{got:?}, not {want:?}");
    assert!(worst(&parameters, &got_gradients, &want_gradients).1 < 2e-5);
}

#[test]
fn what_is_computed_again_changes_no_bit() {
    for (name, config) in configs() {
        for element in [Element::F32, Element::Bf16] {
            let (parameters, batch) = (weights(&config), batch(&config, 2, 17, true));
            let mut model = on_gpu(element, &config, &parameters);
            let all = losses_and_gradients(&model, &batch);
            use ActivationCheckpointing::{FineGrained, OneInTwo, WholeLayer};
            for policy in [FineGrained, WholeLayer, OneInTwo] {
                model.set_activation_checkpointing(policy);
                assert!(losses_and_gradients(&model, &batch) == all, "{name}, {element:?}, {policy:?}");
            }
        }
    }
}

const ADAMW: AdamW = AdamW { learning_rate: 3e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };

#[test]
fn steps_of_two_micro_batches_are_the_default_builds() {
    for (name, config) in configs() {
        let mut parameters = weights(&config);
        let mut gpu = on_gpu(Element::F32, &config, &parameters);
        let mut host = Model::new(&config, &parameters).expect("a model");
        let groups = parameters.weight_decay_groups(true, false);
        let length = parameters.len();
        let (mut exp_avg, mut exp_avg_sq) = (vec![0f32; length], vec![0f32; length]);
        for number in 1..=3u64 {
            let parts = [batch(&config, 1, 11, false), batch(&config, 2, 11, true)];
            let mut gradients = vec![0f32; length];
            let mut nll = 0.0;
            for part in &parts {
                nll += host.loss_and_gradients(part, &OPTIONS, &mut gradients).expect("gradients").loss_sum;
            }
            let norm = olmo_ops::global_norm(&gradients);
            let scale = olmo_ops::clip_coefficient(norm, 0.5);
            host.update(&mut parameters, |weights| {
                let state = State { parameters: weights, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
                adamw::step(&ADAMW, number, state, &gradients, scale, &groups);
            })
            .expect("a step");

            gpu.on_gpu_mut().expect("on a GPU").begin();
            let losses = parts.each_ref().map(|part| gpu.accumulate(part, &OPTIONS).expect("losses"));
            let losses = Losses::all(losses.iter()).expect("losses of two");
            let training = gpu.on_gpu_mut().expect("on a GPU");
            let finished = training.finish(&ADAMW, number, &groups, Some(0.5), &losses);
            assert!((finished.sums.nll - nll).abs() < 1e-4 * nll, "{name}: {} not {nll}", finished.sums.nll);
            assert!((finished.grad_norm - norm).abs() < 1e-4 * norm, "{name}: {} not {norm}", finished.grad_norm);
        }
        let [weights, first, second] = gpu.on_gpu_mut().expect("on a GPU").download();
        for (got, want) in [(&weights, parameters.flat()), (&first, &exp_avg), (&second, &exp_avg_sq)] {
            let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
            let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            // AdamW divides by the root of tiny second moments: rounding shows most where a gradient is almost nought.
            assert!(off <= 2e-2 * largest.min(0.1), "{name}: off by {off}, the largest is {largest}");
        }
    }
}

#[test]
fn frozen_weights_have_no_state_on_the_device_and_never_change() {
    for element in [Element::F32, Element::Bf16] {
        for (name, config) in configs().into_iter().take(3) {
            let parameters = weights(&config);
            let batch = batch(&config, 2, 17, false);
            let (_, all) = losses_and_gradients(&on_gpu(element, &config, &parameters), &batch);
            let layer = "transformer.blocks.1.";
            let trained = trained(&config, |name| !name.starts_with(layer));
            let zeros = vec![0f32; trained.len()];
            let place = Place::Cpu;
            let moments = [&zeros[..], &zeros];
            let mut model =
                Model::on_gpu_with(place, element, &config, &parameters, moments, trained.clone()).expect("a model");
            model.on_gpu_mut().expect("on a GPU").begin();
            let losses = model.accumulate(&batch, &OPTIONS).expect("losses");
            let groups = trained.within(&parameters.weight_decay_groups(true, false));
            let training = model.on_gpu_mut().expect("on a GPU");
            assert_eq!(training.gradients(), trained.pack(&all), "{name}, {element:?}");
            let before = training.device().weights_on_host();
            training.finish(&ADAMW, 1, &groups, Some(0.5), &losses);
            let [weights, exp_avg, exp_avg_sq] = training.download();
            assert_eq!([weights.len(), exp_avg.len(), exp_avg_sq.len()], [trained.len(); 3]);
            let after = training.device().weights_on_host();
            assert_eq!(trained.pack(&after), weights);
            for spec in parameters.tensors() {
                let same = before[spec.range.clone()] == after[spec.range.clone()];
                assert_eq!(same, !spec.name.starts_with(layer), "{name}, {element:?}: {}", spec.name);
            }
        }
    }
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let (_, config) = configs().swap_remove(0);
    let mut parameters = weights(&config);
    parameters.tensor_mut("transformer.wte.weight").expect("a tensor")[3] = f32::NAN;
    let mut model = on_gpu(Element::Bf16, &config, &parameters);
    let batch = batch(&config, 2, 17, false);
    model.on_gpu_mut().expect("on a GPU").begin();
    let losses = model.accumulate(&batch, &OPTIONS).expect("losses");
    let groups = parameters.weight_decay_groups(true, true);
    let training = model.on_gpu_mut().expect("on a GPU");
    let finished = training.finish(&ADAMW, 1, &groups, Some(1.0), &losses);
    assert!(!finished.grad_norm.is_finite(), "{finished:?}");
    let [weights, exp_avg, _] = training.download();
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits();
    assert!(weights.iter().zip(parameters.flat()).all(|(a, b)| same(a, b)) && exp_avg.iter().all(|x| *x == 0.0));
}

#[test]
fn a_width_beyond_the_kernels_is_refused() {
    let config = config(json!({"d_model": 4098, "n_heads": 3, "n_layers": 1}));
    let parameters = Parameters::zeros(&config).expect("weights");
    let zeros = vec![0f32; parameters.len()];
    let Err(error) = Model::on_gpu(Place::Cpu, Element::F32, &config, &parameters, [&zeros, &zeros]) else {
        panic!("4098 is no multiple of 8 and too wide for single access")
    };
    assert!(error.to_string().contains("4098") && error.to_string().contains("multiple of 8"), "{error}");
}

#[test]
fn documents_of_another_batch_are_not_taken_for_those_of_the_last() {
    let (_, config) = configs().swap_remove(0);
    let parameters = weights(&config);
    let (host, gpu) = (Model::new(&config, &parameters).unwrap(), on_gpu(Element::F32, &config, &parameters));
    for documents in [true, false, true] {
        let mut batch = batch(&config, 2, 12, documents);
        if documents {
            // The same numbers in other memory, and other numbers.
            let starts: Vec<u32> = (0..24).map(|i| ((i % 12) / 3 * 3) as u32).collect();
            batch.documents = Some(Arc::from(starts));
        }
        let (want, got) = (losses_and_gradients(&host, &batch).0, losses_and_gradients(&gpu, &batch).0);
        assert!((got[0] - want[0]).abs() < 1e-4 * want[0], "{got:?}, not {want:?}");
    }
}

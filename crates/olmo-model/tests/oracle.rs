//! The model against outputs of OLMo's own code (tests/fixtures/olmo_oracle, whose `_doc` says how they were made).

use std::collections::BTreeMap;
use std::path::Path;

use olmo_model::{Batch, LayerNormType, LossOptions, Model, ModelConfig, Parameters};
use olmo_ops::adamw::{self, AdamW, State};
use olmo_ops::{clip_coefficient, global_norm};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    params: BTreeMap<String, Vec<usize>>,
    num_params: usize,
    logits_0_7_first8: Vec<f64>,
    logits_3_2_first8: Vec<f64>,
    logits_sum: f64,
    logits_abs_sum: f64,
    groups: Vec<Group>,
    grad_norms_step1_preclip: BTreeMap<String, f64>,
    steps: Vec<Step>,
    #[serde(rename = "after4_transformer.blocks.1.ff_out.weight_first8")]
    after4: Vec<f64>,
}

#[derive(Deserialize)]
struct Group {
    weight_decay: f64,
    param_names: Vec<String>,
}

#[derive(Deserialize)]
struct Step {
    step: u64,
    ce: f64,
    z: f64,
    total_grad_norm: f64,
    lr: f64,
    param_abs_sum: f64,
}

const BATCH: usize = 4;
const SEQUENCE: usize = 8;

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/olmo_oracle/golden.json");
    serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("the fixture is JSON")
}

fn variants() -> Vec<(&'static str, ModelConfig, Golden)> {
    let base = json!({
        "d_model": 16, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 64, "layer_norm_type": "rms", "layer_norm_eps": 1e-6,
        "attention_layer_norm": true, "norm_after": true, "max_sequence_length": 8, "vocab_size": 128, "weight_tying": false,
    });
    let config = |changes: Value| -> ModelConfig {
        let mut fields = base.as_object().expect("an object").clone();
        fields.extend(changes.as_object().expect("an object").clone());
        serde_json::from_value(Value::Object(fields)).expect("a config")
    };
    let before = json!({"attention_layer_norm": false, "norm_after": false, "rope_theta": 10000});
    let mut olmo1 = config(before.clone());
    olmo1.layer_norm_type = LayerNormType::Default;
    olmo1.layer_norm_with_affine = false;
    olmo1.layer_norm_eps = 1e-5;
    olmo1.clip_qkv = Some(8.0);
    olmo1.weight_tying = true;
    let tiny = config(before);
    let golden = |name: &str| serde_json::from_value(document()[name].clone()).expect("a golden");
    vec![
        ("olmo2_gqa", config(json!({"n_kv_heads": 2, "rope_theta": 500_000})), golden("olmo2_gqa")),
        ("olmo1", olmo1, golden("olmo1")),
        ("tiny_prenorm_rms", tiny, golden("tiny_prenorm_rms")),
    ]
}

/// The weights of the goldens' closed formula.
fn parameters(config: &ModelConfig) -> Parameters {
    let mut parameters = Parameters::zeros(config).expect("a valid config");
    let names: Vec<String> = parameters.names().map(str::to_owned).collect();
    for (rank, name) in names.iter().enumerate() {
        let values = parameters.tensor_mut(name).expect("a tensor");
        for (index, value) in values.iter_mut().enumerate() {
            let angle = 0.37 * (index + 1) as f64 + (rank + 1) as f64;
            let norm = name.contains("norm") || name.contains("ln_f");
            *value = if norm { 1.0 + 0.1 * angle.cos() } else { 0.3 * angle.sin() } as f32;
        }
    }
    parameters
}

fn batch() -> Batch {
    let document = document();
    let flat = |name: &str| -> Vec<u64> {
        let rows =
            document["_doc"][name].as_array().expect("rows").iter().flat_map(|row| row.as_array().expect("a row"));
        rows.map(|value| value.as_u64().expect("a number")).collect()
    };
    Batch {
        input_ids: flat("ids").into_iter().map(|id| id as u32).collect(),
        label_mask: Some(flat("label_mask").into_iter().map(|label| label == 1).collect()),
        documents: None,
        batch: BATCH,
        sequence: SEQUENCE,
    }
}

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, not {want}");
}

#[test]
fn names_shapes_and_weight_decay_groups_are_olmos() {
    for (name, config, golden) in variants() {
        let parameters = parameters(&config);
        let shapes: BTreeMap<String, Vec<usize>> =
            parameters.tensors().iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        assert_eq!(shapes, golden.params, "{name}");
        assert_eq!(parameters.len(), golden.num_params, "{name}");
        let groups = parameters.weight_decay_groups(true, false);
        for spec in parameters.tensors() {
            let group =
                groups.iter().find(|(range, _)| range.contains(&spec.range.start)).expect("every tensor is in a group");
            assert!(spec.range.end <= group.0.end, "{}", spec.name);
            let theirs = golden
                .groups
                .iter()
                .find(|group| group.param_names.iter().any(|other| other.ends_with(&format!("module.{}", spec.name))));
            assert_eq!(group.1, theirs.expect("OLMo has it too").weight_decay > 0.0, "{name} {}", spec.name);
        }
    }
}

#[test]
fn logits_are_olmos() {
    for (name, config, golden) in variants() {
        let model = Model::new(&config, &parameters(&config), false).expect("a model");
        let logits = model.logits(&batch().input_ids, BATCH, SEQUENCE).expect("logits");
        let place = |row: usize, place: usize| &logits[(row * SEQUENCE + place) * 128..][..8];
        for (got, want) in [(place(0, 7), &golden.logits_0_7_first8), (place(3, 2), &golden.logits_3_2_first8)] {
            for (got, want) in got.iter().zip(want) {
                close(f64::from(*got), *want, 1e-5, name);
            }
        }
        close(logits.iter().map(|&x| f64::from(x)).sum(), golden.logits_sum, 1e-3, name);
        close(logits.iter().map(|&x| f64::from(x).abs()).sum(), golden.logits_abs_sum, 1e-3, name);
    }
}

#[test]
fn losses_gradients_and_four_optimizer_steps_are_olmos() {
    for (name, config, golden) in variants() {
        let mut parameters = parameters(&config);
        let mut model = Model::new(&config, &parameters, true).expect("a model");
        let groups = parameters.weight_decay_groups(true, false);
        let (mut exp_avg, mut exp_avg_sq) = (vec![0f32; parameters.len()], vec![0f32; parameters.len()]);
        let options = LossOptions { denominator: (BATCH * SEQUENCE) as f64, z_loss: 1e-4 };
        for step in &golden.steps {
            let mut gradients = vec![0f32; parameters.len()];
            let output = model.loss_and_gradients(&batch(), &options, &mut gradients).expect("gradients");
            assert_eq!(
                model.loss(&batch(), &options).expect("a loss"),
                output,
                "with gradients or without, the loss is one"
            );
            close(output.loss_sum / options.denominator, step.ce, 1e-6 * step.ce, name);
            close(output.z_sum / options.denominator, step.z, 1e-6 * step.z.max(1e-3), name);
            if step.step == 1 {
                for (tensor, want) in &golden.grad_norms_step1_preclip {
                    let range = parameters.range(tensor).expect("a tensor");
                    close(global_norm(&gradients[range]), *want, 1e-5 * want, &format!("{name} {tensor}"));
                }
            }
            let total = global_norm(&gradients);
            close(total, step.total_grad_norm, 1e-5 * step.total_grad_norm, name);
            let settings = AdamW { learning_rate: step.lr, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
            let change = |weights: &mut [f32]| {
                let state = State { parameters: weights, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
                adamw::step(&settings, step.step, state, &gradients, clip_coefficient(total, 1.0), &groups);
            };
            model.update(&mut parameters, change).expect("the same config");
            let sum: f64 = parameters.flat().iter().map(|&x| f64::from(x).abs()).sum();
            close(sum, step.param_abs_sum, 1e-6 * step.param_abs_sum, name);
        }
        let after = parameters.tensor("transformer.blocks.1.ff_out.weight").expect("a tensor");
        for (got, want) in after.iter().zip(&golden.after4) {
            close(f64::from(*got), *want, 2e-6, name);
        }
    }
}

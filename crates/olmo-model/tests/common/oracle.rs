//! The goldens of OLMo's own code (tests/fixtures/olmo_oracle, whose `_doc` says how they were made), and the models
//! that they are of.
#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::collections::BTreeMap;
use std::path::Path;

use olmo_model::{Batch, LayerNormType, ModelConfig, Parameters};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub params: BTreeMap<String, Vec<usize>>,
    pub num_params: usize,
    pub logits_0_7_first8: Vec<f64>,
    pub logits_3_2_first8: Vec<f64>,
    pub logits_sum: f64,
    pub logits_abs_sum: f64,
    pub groups: Vec<Group>,
    pub grad_norms_step1_preclip: BTreeMap<String, f64>,
    pub steps: Vec<Step>,
    #[serde(rename = "after4_transformer.blocks.1.ff_out.weight_first8")]
    pub after4: Vec<f64>,
}

#[derive(Deserialize)]
pub(crate) struct Group {
    pub weight_decay: f64,
    pub param_names: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Step {
    pub step: u64,
    pub ce: f64,
    pub z: f64,
    pub total_grad_norm: f64,
    pub lr: f64,
    pub param_abs_sum: f64,
}

pub(crate) const BATCH: usize = 4;
pub(crate) const SEQUENCE: usize = 8;

pub(crate) fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/olmo_oracle/golden.json");
    serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("the fixture is JSON")
}

pub(crate) fn variants() -> Vec<(&'static str, ModelConfig, Golden)> {
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
pub(crate) fn parameters(config: &ModelConfig) -> Parameters {
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

pub(crate) fn batch() -> Batch {
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

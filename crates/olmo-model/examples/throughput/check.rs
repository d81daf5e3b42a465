//! A backend's losses and gradients beside those of flex in f32.

use std::sync::Arc;

use olmo_model::{Batch, LossOptions, ModelConfig, Parameters, TensorSpec};
use serde_json::{Value, json};

use crate::sides::Side;
use crate::{Failure, arch};

struct Case {
    name: &'static str,
    arch: &'static str,
    changes: Value,
    batch: usize,
    sequence: usize,
    /// Rows hold several documents that do not see each other.
    documents: bool,
}

/// Where a backend is furthest from right: relative to the size of what is right.
struct Errors {
    loss: f64,
    gradient: f64,
    tensor: String,
}

/// Compares on all models of a size, `small` or `all`, and ends the process with 1 if one differs.
pub(crate) fn run(side: &Side, size: &str) -> Result<(), Failure> {
    let (small, all) = (size == "small", size == "all");
    if !small && !all {
        return Err(format!("check={size}: there are check=small and check=all").into());
    }
    let (loss_limit, gradient_limit) = side.tolerance();
    let mut wrong = false;
    for case in cases(all) {
        let config = case.config()?;
        let parameters = parameters(&config)?;
        let batch = case.batch(config.vocab_size);
        let options = LossOptions { denominator: batch.labels() as f64, z_loss: 1e-4 };
        let right = Side::default().gradients(&config, &parameters, &batch, &options)?;
        let found = side.gradients(&config, &parameters, &batch, &options)?;
        let errors = compare(&parameters, &right, &found);
        let bad = errors.exceed(loss_limit, gradient_limit);
        wrong |= bad;
        println!(
            "  {:<22} loss {:.5}, off by {:.1e}; gradients off by {:.1e} at most ({}){}",
            case.name,
            found.0,
            errors.loss,
            errors.gradient,
            errors.tensor,
            if bad { "  WRONG" } else { "" }
        );
        // A comparison that lets a wrong gradient pass says nothing.
        let mut corrupt = right.clone();
        let size = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        let largest = |t: &&TensorSpec| size(&right.1[t.range.clone()]);
        let tensors = parameters.tensors().iter();
        let tensor = tensors.max_by(|a, b| largest(a).total_cmp(&largest(b))).ok_or("a model without weights")?;
        corrupt.1[tensor.range.clone()].iter_mut().for_each(|value| *value *= 1.0 + 2.0 * gradient_limit as f32);
        if !compare(&parameters, &right, &corrupt).exceed(loss_limit, gradient_limit) {
            return Err(format!("{}: a wrong gradient of {} passed", case.name, tensor.name).into());
        }
    }
    println!("  limits: loss {loss_limit:.0e}, gradients {gradient_limit:.0e}");
    if wrong { Err("losses or gradients differ from the reference".into()) } else { Ok(()) }
}

fn cases(all: bool) -> Vec<Case> {
    let case =
        |name, arch, changes, batch, sequence, documents| Case { name, arch, changes, batch, sequence, documents };
    let mut cases = vec![
        case("olmo1", "olmo1", json!({}), 2, 12, false),
        case("olmo1, no clip", "olmo1", json!({"clip_qkv": null}), 1, 9, false),
        case("olmo2", "olmo2", json!({}), 2, 12, false),
        case("olmo2, grouped keys", "olmo2", json!({"n_heads": 4, "n_kv_heads": 2}), 1, 11, false),
        case("olmo2, documents", "olmo2", json!({}), 2, 13, true),
        case("olmo3, windows", "olmo2", json!({"sliding_window": 4, "full_attention_every": 2}), 1, 14, false),
        case("prenorm", "prenorm", json!({}), 2, 10, false),
        case("one token more", "olmo2", json!({}), 1, 2, false),
    ];
    if all {
        let wide = json!({"d_model": 1024, "n_heads": 8, "n_layers": 2, "mlp_hidden_size": 4096, "vocab_size": 3001});
        let middle = json!({"d_model": 768, "n_heads": 12, "n_layers": 3, "mlp_hidden_size": 6144, "vocab_size": 1000});
        cases.push(case("olmo1, width 1024", "olmo1", wide.clone(), 2, 257, false));
        cases.push(case("olmo2, width 1024", "olmo2", wide.clone(), 2, 256, false));
        cases.push(case("olmo2, width 768", "olmo2", middle, 1, 333, false));
        cases.push(case("documents, width 1024", "olmo2", wide, 2, 300, true));
    }
    cases
}

impl Case {
    fn config(&self) -> Result<ModelConfig, Failure> {
        let mut fields = json!({"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 96, "vocab_size": 61,
            "max_sequence_length": 4096});
        for more in [arch(self.arch)?, self.changes.clone()] {
            fields.as_object_mut().expect("made as an object").extend(more.as_object().cloned().unwrap_or_default());
        }
        Ok(serde_json::from_value(fields)?)
    }

    fn batch(&self, vocabulary: usize) -> Batch {
        let tokens = self.batch * self.sequence;
        let input_ids = (0..tokens).map(|i| ((i * i * 7 + 31 * i + 5) % vocabulary) as u32).collect();
        let label_mask = (0..tokens).map(|i| i % 7 != 3).collect();
        // Documents of a third of a row, and a rest.
        let length = (self.sequence / 3).max(1);
        let start = |i: usize| (i % self.sequence / length * length) as u32;
        let documents = self.documents.then(|| Arc::from((0..tokens).map(start).collect::<Vec<_>>()));
        Batch { input_ids, label_mask: Some(label_mask), documents, batch: self.batch, sequence: self.sequence }
    }
}

/// New weights, with norms that are not all one.
fn parameters(config: &ModelConfig) -> Result<Parameters, Failure> {
    let mut parameters = Parameters::init(config, 7)?;
    let norms: Vec<_> = parameters.tensors().iter().filter(|t| t.shape.len() == 1).map(|t| t.range.clone()).collect();
    for range in norms {
        for (place, value) in parameters.flat_mut()[range].iter_mut().enumerate() {
            *value += ((place * 37 % 19) as f32 - 9.0) / 40.0;
        }
    }
    Ok(parameters)
}

fn compare(parameters: &Parameters, right: &(f64, Vec<f32>), found: &(f64, Vec<f32>)) -> Errors {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let whole = norm(&mut right.1.iter().map(|&value| f64::from(value)));
    let mut errors = Errors { loss: ((found.0 - right.0) / right.0).abs(), gradient: 0.0, tensor: "none".into() };
    for tensor in parameters.tensors() {
        let (a, b) = (&right.1[tensor.range.clone()], &found.1[tensor.range.clone()]);
        let apart = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
        // Rounding of the large ones reaches a tensor whose own gradient is next to nothing.
        let size = norm(&mut a.iter().map(|&value| f64::from(value))).max(1e-3 * whole);
        let error = apart / size;
        if error > errors.gradient || error.is_nan() {
            (errors.gradient, errors.tensor) = (error, tensor.name.clone());
        }
        if error.is_nan() {
            break;
        }
    }
    errors
}

impl Errors {
    fn exceed(&self, loss: f64, gradient: f64) -> bool {
        // NaN exceeds everything.
        !(self.loss <= loss && self.gradient <= gradient)
    }
}

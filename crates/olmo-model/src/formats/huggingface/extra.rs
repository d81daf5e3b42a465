//! Tensors of a Hugging Face folder that are not part of the model: which may be ignored, and why
//! others may not.

use crate::config::ModelConfig;
use crate::formats::tensors::{Tensor, Tensors};

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";
pub(super) const FINAL_NORM: &str = "model.norm.weight";

/// Suffix of rotary tables, which old exports store although they follow from the config.
const ROTARY_TABLE: &str = "rotary_emb.inv_freq";

/// Maximum relative difference between a stored rotary table and the computed one; bf16 has 2^-8.
const ROTARY_TOLERANCE: f32 = 1e-2;

/// Suffixes of tensors that belong to quantized weights (GPTQ, AWQ, bitsandbytes,
/// compressed-tensors, FP8).
const QUANTIZATION: &[&str] = &[
    ".SCB",
    ".absmax",
    ".g_idx",
    ".input_scale",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_map",
    ".qweight",
    ".qzeros",
    ".scales",
    ".weight_format",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_shape",
    ".weight_zero_point",
];

/// Whether the tensor `name` may be ignored because it repeats what the model already has.
///
/// # Errors
/// The reason why not, as the end of a sentence that starts with its name.
pub(super) fn judge(name: &str, all: &Tensors, config: &ModelConfig) -> Result<(), String> {
    let Some(tensor) = all.get(name) else { return Ok(()) };
    let file = tensor.path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    if name == HEAD && config.weight_tying {
        return head(tensor, all).map_err(|why| {
            format!(
                "in {file} {why}, although config.json says `tie_word_embeddings: true`; if the head was trained, set that \
                 to false, else remove the tensor"
            )
        });
    }
    if name.ends_with(ROTARY_TABLE) {
        return rotary_table(tensor, config);
    }
    let quantization = QUANTIZATION.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state");
    Err(if name.contains("lora_") || name.starts_with("base_model.") {
        format!(
            "in {file} is a part of an adapter; merge the adapter into the model first (`merge_and_unload` of peft)"
        )
    } else if quantization {
        format!(
            "in {file} belongs to quantized weights, which are not supported; take the model from before quantization"
        )
    } else if name.ends_with(".bias") {
        format!("in {file} is a bias, and no OLMo model has biases: these weights are of another architecture")
    } else {
        format!("in {file} has no place in this architecture")
    })
}

/// Checks that the head of a tied model equals its embedding: some exports write both.
fn head(head: &Tensor, all: &Tensors) -> Result<(), String> {
    // A missing embedding is reported elsewhere.
    let Some(embedding) = all.get(EMBEDDING) else { return Ok(()) };
    if head.shape != embedding.shape {
        return Err(format!("has shape {:?} and `{EMBEDDING}` has {:?}", head.shape, embedding.shape));
    }
    match head.first_difference(embedding)? {
        None => Ok(()),
        Some((row, a, b)) => Err(format!("differs from `{EMBEDDING}` (first in row {row}: {a} and {b})")),
    }
}

/// Checks that a stored table matches the config's rotary base.
fn rotary_table(tensor: &Tensor, config: &ModelConfig) -> Result<(), String> {
    let half = config.head_width() / 2;
    if tensor.shape != [half] {
        return Err(format!("has shape {:?}, not [{half}]", tensor.shape));
    }
    for (index, found) in tensor.values()?.into_iter().enumerate() {
        let computed = config.rope_theta.powf(-(index as f64) / half as f64) as f32;
        if (found - computed).abs() > computed * ROTARY_TOLERANCE {
            return Err(format!(
                "is not the table of `rope_theta` {}: element {index} is {found}, not {computed}; config.json lacks what \
                 the model was trained with",
                config.rope_theta
            ));
        }
    }
    Ok(())
}

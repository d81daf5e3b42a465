//! Compares the weights in the files of two model folders.
//!
//! It reads the files itself, tensor by tensor, and shares no table of names with the code that
//! loads and saves models, so that it finds what that code loses by mistake.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::file_names::{INDEX_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE, WEIGHTS_FILE};
use super::files::ModelFiles;
use super::tensors::{Tensor, Tensors, safetensors, state_dict};
use crate::error::ModelError;
use crate::weight_type::WeightType;

/// Number of elements to compare at a time.
const AT_ONCE: usize = 1 << 18;

/// The result of comparing two folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightComparison {
    /// Number of compared tensors of the source.
    pub tensors: usize,
    /// One sentence for each tensor that is missing, extra or different.
    pub differences: Vec<String>,
}

/// Compares the weights in folder `export`, under Hugging Face's names, with those in folder
/// `source`, under the names of either format. Compares values, not types: a bf16 equals its f32.
/// The export must contain the source's values rounded to `dtype`, of embedding and head only the
/// first `rows` rows.
///
/// A tensor of the source may be missing from the export if it is a rotary table, or a head that
/// repeats the embedding.
///
/// # Errors
/// A file is missing or damaged.
pub fn compare_weights(
    source: &Path,
    export: &Path,
    dtype: WeightType,
    rows: usize,
) -> Result<WeightComparison, ModelError> {
    let (source, export) = (tensors_of(source)?, tensors_of(export)?);
    // Llama's names: its norms come before attention and MLP.
    let norms_before = export.keys().any(|name| name.ends_with(".input_layernorm.weight"));
    let mut differences = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (name, tensor) in &source {
        let counterparts = counterparts(name, norms_before);
        let present: Vec<(&str, &Tensor)> = counterparts
            .iter()
            .filter_map(|name| export.get_key_value(name))
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        taken.extend(counterparts.iter().cloned());
        if present.len() == counterparts.len() {
            let of_vocabulary = counterparts.iter().any(|name| name == EMBEDDING || name == HEAD);
            let rows = if of_vocabulary { rows } else { usize::MAX };
            differences.extend(difference(name, tensor, &present, dtype, rows)?);
        } else if !may_be_absent(&source, name)? {
            differences.push(format!("`{name}` of the model is not in the export"));
        }
    }
    let new = export.keys().filter(|name| !taken.contains(*name));
    differences.extend(new.map(|name| format!("`{name}` of the export is not in the model")));
    Ok(WeightComparison { tensors: source.len(), differences })
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Names in the export whose concatenated rows are the source's tensor `name`.
fn counterparts(name: &str, norms_before: bool) -> Vec<String> {
    let Some(rest) = name.strip_prefix("transformer.") else { return vec![name.to_owned()] };
    let of_layer = |rest: &str| {
        let (layer, part) = rest.strip_prefix("blocks.")?.split_once('.')?;
        let parts: &[&str] = match part.strip_suffix(".weight")? {
            "att_proj" => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "attn_out" => &["self_attn.o_proj"],
            "q_norm" => &["self_attn.q_norm"],
            "k_norm" => &["self_attn.k_norm"],
            "ff_proj" => &["mlp.up_proj", "mlp.gate_proj"],
            "ff_out" => &["mlp.down_proj"],
            "attn_norm" if norms_before => &["input_layernorm"],
            "ff_norm" if norms_before => &["post_attention_layernorm"],
            "attn_norm" => &["post_attention_layernorm"],
            "ff_norm" => &["post_feedforward_layernorm"],
            _ => return None,
        };
        Some(parts.iter().map(|part| format!("model.layers.{layer}.{part}.weight")).collect())
    };
    match rest {
        "wte.weight" => vec!["model.embed_tokens.weight".into()],
        "ff_out.weight" => vec!["lm_head.weight".into()],
        "ln_f.weight" => vec!["model.norm.weight".into()],
        rest => of_layer(rest).unwrap_or_else(|| vec![name.to_owned()]),
    }
}

/// Whether the export is complete without the source's tensor `name`.
fn may_be_absent(source: &Tensors, name: &str) -> Result<bool, ModelError> {
    if name.ends_with("rotary_emb.inv_freq") {
        return Ok(true);
    }
    let (Some(head), Some(embedding)) = (source.get(name), source.get(EMBEDDING)) else { return Ok(false) };
    let embedding = [(EMBEDDING, embedding)];
    Ok(name == HEAD && difference(name, head, &embedding, WeightType::Float32, usize::MAX)?.is_none())
}

/// How the first `rows` rows of the source's tensor `name`, rounded to `dtype`, differ from the
/// concatenated tensors `parts` of the export.
fn difference(
    name: &str,
    own: &Tensor,
    parts: &[(&str, &Tensor)],
    dtype: WeightType,
    rows: usize,
) -> Result<Option<String>, ModelError> {
    let mut shape = own.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = rows.min(*first);
    }
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let shapes: Vec<&[usize]> = parts.iter().map(|(_, part)| &part.shape[..]).collect();
    let widths: BTreeSet<Option<&usize>> =
        shapes.iter().copied().chain([&shape[..]]).filter(|shape| shape.len() > 1).map(<[usize]>::last).collect();
    if shapes.iter().copied().map(count).sum::<usize>() != count(&shape) || widths.len() > 1 {
        return Ok(Some(format!("`{name}` has shape {shape:?} in the model and {shapes:?} in the export")));
    }
    let open = |tensor: &Tensor, name: &str| {
        tensor.open().map_err(|why| ModelError::folder(&tensor.path, format!("`{name}` {why}")))
    };
    let opened = open(own, name)?;
    let mut place = 0;
    for (part, tensor) in parts {
        let other = open(tensor, part)?;
        let length = count(&tensor.shape);
        let (mut ours, mut theirs) = (vec![0.0; AT_ONCE.min(length)], vec![0.0; AT_ONCE.min(length)]);
        for start in (0..length).step_by(AT_ONCE) {
            let size = AT_ONCE.min(length - start);
            let (ours, theirs) = (&mut ours[..size], &mut theirs[..size]);
            let read = opened.read(place + start, ours).and_then(|()| other.read(start, theirs));
            read.map_err(|why| ModelError::folder(&tensor.path, format!("`{part}` {why}")))?;
            for value in &mut *ours {
                *value = dtype.round(*value);
            }
            if let Some((a, b)) = ours.iter().zip(&*theirs).find(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(Some(format!("`{name}` holds {a} in the model and `{part}` holds {b} in the export")));
            }
        }
        place += length;
    }
    Ok(None)
}

/// The tensors of a folder whose names are ours or Hugging Face's.
fn tensors_of(folder: &Path) -> Result<Tensors, ModelError> {
    let files = Arc::new(ModelFiles::list(folder)?);
    if files.has(WEIGHTS_FILE) || files.has(INDEX_FILE) {
        return safetensors(&files, &files.weight_files(WEIGHTS_FILE, INDEX_FILE)?);
    }
    state_dict(&files, &files.weight_files(PYTORCH_FILE, PYTORCH_INDEX_FILE)?, str::to_owned)
}

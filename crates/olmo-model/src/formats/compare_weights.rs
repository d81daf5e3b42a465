//! Compares the weights in the files of two model folders.
//!
//! It reads the files itself, tensor by tensor, and shares no table of names with the code that
//! loads and saves models, so that it finds what that code loses by mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use olmo_base::IoContext as _;
use safetensors::Dtype;

use super::weight_files::{Entry, element_size, entries, weight_files, widen};
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
/// The export must contain the source's values rounded to `dtype`.
///
/// A tensor of the source may be missing from the export if it is a rotary table, or a head that
/// repeats the embedding.
///
/// # Errors
/// A file is missing or damaged.
pub fn compare_weights(source: &Path, export: &Path, dtype: WeightType) -> Result<WeightComparison, ModelError> {
    let (source, export) = (Tensors::open(source)?, Tensors::open(export)?);
    // Llama's names: its norms come before attention and MLP.
    let norms_before = export.entries.keys().any(|name| name.ends_with(".input_layernorm.weight"));
    let mut differences = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for name in source.entries.keys() {
        let counterparts = counterparts(name, norms_before);
        let present: Vec<&str> =
            counterparts.iter().map(String::as_str).filter(|name| export.entries.contains_key(*name)).collect();
        taken.extend(counterparts.iter().cloned());
        if present.len() == counterparts.len() {
            differences.extend(difference(&source, name, &export, &present, dtype)?);
        } else if !may_be_absent(&source, name)? {
            differences.push(format!("`{name}` of the model is not in the export"));
        }
    }
    let new = export.entries.keys().filter(|name| !taken.contains(*name));
    differences.extend(new.map(|name| format!("`{name}` of the export is not in the model")));
    Ok(WeightComparison { tensors: source.entries.len(), differences })
}

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
    let embedding = "model.embed_tokens.weight";
    Ok(name == "lm_head.weight"
        && source.entries.contains_key(embedding)
        && difference(source, name, source, &[embedding], WeightType::Float32)?.is_none())
}

/// How the tensor `name` of `source`, rounded to `dtype`, differs from the concatenated tensors
/// `parts` of `export`.
fn difference(
    source: &Tensors,
    name: &str,
    export: &Tensors,
    parts: &[&str],
    dtype: WeightType,
) -> Result<Option<String>, ModelError> {
    let mut own = source.stream(name)?;
    let others = parts.iter().map(|part| export.stream(part)).collect::<Result<Vec<_>, _>>()?;
    let widths: BTreeSet<Option<&usize>> =
        others.iter().chain([&own]).filter(|stream| stream.shape.len() > 1).map(|stream| stream.shape.last()).collect();
    let count: usize = others.iter().map(|stream| stream.count).sum();
    if count != own.count || widths.len() > 1 {
        let shapes: Vec<&[usize]> = others.iter().map(|stream| &stream.shape[..]).collect();
        return Ok(Some(format!("`{name}` has shape {:?} in the model and {shapes:?} in the export", own.shape)));
    }
    for mut other in others {
        let part = other.name.clone();
        while let Some(theirs) = other.next(AT_ONCE)? {
            let mut ours = own.next(theirs.len())?.unwrap_or_default();
            for value in &mut ours {
                *value = dtype.round(*value);
            }
            if let Some((a, b)) = ours.iter().zip(&theirs).find(|(a, b)| a != b && a.to_bits() != b.to_bits()) {
                return Ok(Some(format!("`{name}` holds {a} in the model and `{part}` holds {b} in the export")));
            }
        }
    }
    Ok(None)
}

/// The tensors of a folder, with their file and position.
struct Tensors {
    files: Vec<(PathBuf, File)>,
    entries: BTreeMap<String, (usize, Entry)>,
}

impl Tensors {
    fn open(folder: &Path) -> Result<Tensors, ModelError> {
        let (mut files, mut all) = (Vec::new(), BTreeMap::new());
        for path in weight_files(folder)? {
            let file = File::open(&path).context(&path)?;
            for (name, entry) in entries(&path)? {
                all.insert(name, (files.len(), entry));
            }
            files.push((path, file));
        }
        Ok(Tensors { files, entries: all })
    }

    fn stream(&self, name: &str) -> Result<Stream<'_>, ModelError> {
        let (file, entry) = &self.entries[name];
        let (path, file) = &self.files[*file];
        let bad = |why: String| ModelError::folder(path, format!("`{name}` {why}"));
        let size = element_size(entry.dtype).ok_or_else(|| bad(format!("has type {}", entry.dtype)))?;
        let count = entry.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length));
        let bytes = count.and_then(|count| count.checked_mul(size)).map(|bytes| bytes as u64);
        let count = count.filter(|_| bytes == entry.end.checked_sub(entry.start));
        let count = count.ok_or_else(|| bad(format!("of shape {:?} does not have as many bytes", entry.shape)))?;
        let (shape, dtype) = (entry.shape.clone(), entry.dtype);
        Ok(Stream { name: name.to_owned(), path, file, shape, dtype, size, count, at: entry.start, left: count })
    }
}

/// The elements of a tensor, read from its file on demand.
struct Stream<'f> {
    name: String,
    path: &'f Path,
    file: &'f File,
    shape: Vec<usize>,
    dtype: Dtype,
    size: usize,
    count: usize,
    at: u64,
    left: usize,
}

impl Stream<'_> {
    /// The next elements, at most `most`; `None` at the end.
    fn next(&mut self, most: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let count = self.left.min(most);
        if count == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; count * self.size];
        self.file.read_exact_at(&mut bytes, self.at).context(self.path)?;
        self.at += bytes.len() as u64;
        self.left -= count;
        let mut values = vec![0.0; count];
        widen(self.dtype, &bytes, &mut values).map_err(|why| ModelError::folder(self.path, why))?;
        Ok(Some(values))
    }
}

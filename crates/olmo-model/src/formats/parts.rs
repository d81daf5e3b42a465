//! [`Part`]: a tensor of a format as a range of the flat array.

use std::collections::HashSet;
use std::ops::Range;

pub(super) use super::tensors::Part;
use super::tensors::Tensors;
use crate::config::ModelConfig;
use crate::layout;

impl Part {
    /// What is wrong with the tensor that has this part's name, by its shape; `None` as the shape: it is missing.
    pub(crate) fn misfit(&self, shape: Option<&[usize]>) -> Option<String> {
        match shape {
            None => Some(format!("`{}` is missing", self.name)),
            Some(shape) if *shape != self.shape => {
                Some(format!("`{}` has shape {shape:?}, not {:?}", self.name, self.shape))
            }
            Some(_) => None,
        }
    }
}

/// The names of a format's tensors. Those of a block follow `blocks`, a point and its number, and all
/// end with `.weight`.
pub(crate) struct Names {
    pub embedding: &'static str,
    pub head: &'static str,
    pub final_norm: &'static str,
    pub blocks: &'static str,
    pub queries: &'static str,
    pub keys: &'static str,
    pub values: &'static str,
    pub attention_output: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub up: &'static str,
    pub gate: &'static str,
    pub down: &'static str,
    pub attention_norm: &'static str,
    pub mlp_norm: &'static str,
}

impl Names {
    /// Every tensor of a format and the part of our tensors that it is: fused projections are split,
    /// nothing is permuted. A tensor that the config lacks is left out.
    pub(crate) fn parts(&self, config: &ModelConfig) -> Vec<Part> {
        let specs = layout::layout(config);
        let (q, kv, mlp) = (config.query_width(), config.kv_width(), config.mlp_width());
        let mut parts = Vec::new();
        let mut add = |name: String, own: String, rows: Option<Range<usize>>| {
            let Ok(index) = specs.binary_search_by(|spec| spec.name.cmp(&own)) else { return };
            let (range, shape) = (specs[index].range.clone(), &specs[index].shape);
            let (range, shape) = match rows {
                None => (range, shape.clone()),
                Some(rows) => {
                    let width = shape[1];
                    (range.start + rows.start * width..range.start + rows.end * width, vec![rows.len(), width])
                }
            };
            parts.push(Part { name: format!("{name}.weight"), shape, range });
        };
        add(self.embedding.into(), layout::wte(), None);
        add(self.head.into(), layout::head(), None);
        add(self.final_norm.into(), layout::final_norm(), None);
        for layer in 0..config.n_layers {
            let table = [
                (self.queries, "att_proj", Some(0..q)),
                (self.keys, "att_proj", Some(q..q + kv)),
                (self.values, "att_proj", Some(q + kv..q + 2 * kv)),
                (self.attention_output, "attn_out", None),
                (self.q_norm, "q_norm", None),
                (self.k_norm, "k_norm", None),
                (self.up, "ff_proj", Some(0..mlp)),
                (self.gate, "ff_proj", Some(mlp..2 * mlp)),
                (self.down, "ff_out", None),
                (self.attention_norm, "attn_norm", None),
                (self.mlp_norm, "ff_norm", None),
            ];
            for (name, own, rows) in table {
                add(format!("{}.{layer}.{name}", self.blocks), layout::block(layer, own), rows);
            }
        }
        parts
    }
}

/// Decides whether a tensor that is not a part may be ignored; the error gives the reason why not, as
/// the end of a sentence that starts with its name.
pub(crate) type Judge<'j> = &'j dyn Fn(&str, &Tensors) -> Result<(), String>;

/// For a format in which every tensor is a part.
pub(crate) fn no_extras(_: &str, _: &Tensors) -> Result<(), String> {
    Err("has no place in this architecture".into())
}

/// Checks that every part has a tensor of its shape, and every other tensor is ignored by `judge`.
///
/// # Errors
/// All tensors that are missing, misshapen or unknown.
pub(crate) fn check_tensors(parts: &[Part], tensors: &Tensors, judge: Judge<'_>) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for part in parts {
        problems.extend(part.misfit(tensors.get(&part.name).map(|tensor| &tensor.shape[..])));
    }
    let names: HashSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    for name in tensors.keys().filter(|name| !names.contains(name.as_str())) {
        problems.extend(judge(name, tensors).err().map(|why| format!("`{name}` {why}")));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

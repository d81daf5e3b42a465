//! [`Part`]: a tensor of a format as a range of the flat array, and reading all parts of a model.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use olmo_ops::{Matrices, Matrix};
use rayon::prelude::*;

use super::file_names::WEIGHTS_FILE;
use super::weight_files::{Incoming, IncomingTensors, WeightFiles};
use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};
use crate::layout;
use crate::parameters::Parameters;

/// A tensor in a file and the position of its elements in the flat array.
pub(crate) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

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

/// Decides whether a tensor that is not a part may be ignored; the error gives the reason why not.
pub(crate) type Judge<'j> = &'j dyn Fn(&str, &IncomingTensors<'_>) -> Result<(), String>;

/// For a format in which every tensor is a part.
pub(crate) fn no_extras(_: &str, _: &IncomingTensors<'_>) -> Result<(), String> {
    Err("has no place in this architecture".into())
}

/// Reads every part. A tensor that is neither a part nor ignored by `judge` is an error.
pub(crate) fn read(
    folder: &Path,
    config: &ModelConfig,
    parts: &[Part],
    judge: Judge<'_>,
) -> Result<Parameters, ModelError> {
    let files = WeightFiles::open(folder)?;
    let incoming = files.tensors()?;
    let found = found(folder, parts, &incoming, judge)?;
    // Allocate only now that the files are known to be as large as the config says: a wrong config
    // must not request all memory.
    let mut parameters = Parameters::zeros(config)?;
    let problem = |(part, tensor): (&Part, &Incoming<'_>)| {
        let reason = tensor.read_into(&mut parameters.flat_mut()[part.range.clone()]).err()?;
        Some(format!("`{}` in {} {reason}", part.name, tensor.path.display()))
    };
    let problems: Vec<String> = found.into_iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(parameters) } else { Err(refuse(folder, problems)) }
}

/// Maps every part, like [`read`]. Only matrices in f32 or bf16 stay in the file.
pub(crate) fn map(folder: &Path, parts: &[Part], judge: Judge<'_>) -> Result<Matrices, ModelError> {
    let files = WeightFiles::open(folder)?;
    let incoming = files.tensors()?;
    let found = found(folder, parts, &incoming, judge)?;
    let mapped: Vec<Result<(Range<usize>, Matrix), String>> = found
        .into_par_iter()
        .map(|(part, tensor)| {
            let matrix = tensor.matrix(part.shape.len() > 1);
            let matrix = matrix.map_err(|reason| format!("`{}` in {} {reason}", part.name, tensor.path.display()))?;
            Ok((part.range.clone(), matrix))
        })
        .collect();
    let mut problems = Vec::new();
    let matrices = Matrices::new(mapped.into_iter().filter_map(|part| part.map_err(|why| problems.push(why)).ok()));
    if problems.is_empty() { Ok(matrices) } else { Err(refuse(folder, problems)) }
}

/// Each part with its tensor.
fn found<'a>(
    folder: &Path,
    parts: &'a [Part],
    incoming: &'a IncomingTensors<'a>,
    judge: Judge<'_>,
) -> Result<Vec<(&'a Part, &'a Incoming<'a>)>, ModelError> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for part in parts {
        let tensor = incoming.get(&part.name);
        match part.misfit(tensor.map(|tensor| &tensor.shape[..])) {
            Some(problem) => problems.push(problem),
            None => found.extend(tensor.map(|tensor| (part, tensor))),
        }
    }
    let names: HashSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    for name in incoming.keys().filter(|name| !names.contains(name.as_str())) {
        problems.extend(judge(name, incoming).err().map(|why| format!("`{name}` {why}")));
    }
    if problems.is_empty() { Ok(found) } else { Err(refuse(folder, problems)) }
}

fn refuse(folder: &Path, problems: Vec<String>) -> ModelError {
    ModelError::Tensors { path: folder.join(WEIGHTS_FILE), problems: shortened(problems) }
}

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

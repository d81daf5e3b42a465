//! [`Part`]: a tensor of a format as a range of the flat array, and reading all parts of a model.

use std::collections::HashSet;
use std::path::Path;

use super::file_names::WEIGHTS_FILE;
use super::weight_files::{IncomingTensors, WeightFiles};
use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};
use crate::layout::layout;
use crate::parameters::Parameters;

/// A tensor in a file and the position of its elements in the flat array.
pub(crate) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: std::ops::Range<usize>,
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
        problems.extend(judge(name, &incoming).err().map(|why| format!("`{name}` {why}")));
    }
    let refuse =
        |problems: Vec<String>| ModelError::Tensors { path: folder.join(WEIGHTS_FILE), problems: shortened(problems) };
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    // Allocate only now that the files are known to be as large as the config says: a wrong config
    // must not request all memory.
    let mut parameters = Parameters::zeros(config)?;
    for (part, tensor) in found {
        if let Err(reason) = tensor.read_into(&mut parameters.flat_mut()[part.range.clone()]) {
            problems.push(format!("`{}` in {} {reason}", part.name, tensor.path.display()));
        }
    }
    if problems.is_empty() { Ok(parameters) } else { Err(refuse(problems)) }
}

pub(crate) fn check_fit(config: &ModelConfig, parameters: &Parameters) -> Result<(), ModelError> {
    config.validate()?;
    if parameters.tensors() != layout(config) {
        return Err(ModelError::Input("the parameters are those of another model config".into()));
    }
    Ok(())
}

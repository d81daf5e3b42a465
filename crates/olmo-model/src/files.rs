//! Shared by both formats of a model folder: reads the JSON config, and reads weights into the flat
//! array.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::folder;
use crate::layout::layout;
use crate::parameters::Parameters;
use crate::tensors::{IncomingTensors, WEIGHTS_FILE, WeightFiles};

/// Name of the config file, in both formats.
pub const CONFIG_FILE: &str = "config.json";

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

/// Shortens a list that may be long: a wrong architecture is wrong in every layer.
pub(crate) fn shortened(mut problems: Vec<String>) -> Vec<String> {
    const MOST: usize = 12;
    if problems.len() > MOST {
        let rest = problems.len() - MOST;
        problems.truncate(MOST);
        problems.push(format!("and {rest} more"));
    }
    problems
}

pub(crate) fn check_fit(config: &ModelConfig, parameters: &Parameters) -> Result<(), ModelError> {
    config.validate()?;
    if parameters.tensors() != layout(config) {
        return Err(ModelError::Input("the parameters are those of another model config".into()));
    }
    Ok(())
}

/// The unparsed fields of the config.
pub(crate) fn read_config(folder: &Path) -> Result<Map<String, Value>, ModelError> {
    read_object(&folder.join(CONFIG_FILE))
}

/// The JSON object in the file `path`.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let text = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::folder(path, "is not a JSON object")),
        Err(error) => {
            let reason = folder::lfs_pointer(&text).unwrap_or_else(|| format!("is not JSON: {error}"));
            Err(ModelError::folder(path, reason))
        }
    }
}

/// Writes an indented JSON file with a trailing newline; creates the folder.
pub(crate) fn write_json(folder: &Path, name: &str, value: Value) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    let path = folder.join(name);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|error| ModelError::io(&path, error))
}

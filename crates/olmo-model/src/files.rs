//! What both formats of a model folder share: a config as JSON, and weights read into their places.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::layout;
use crate::parameters::Parameters;
use crate::tensors::{WEIGHTS_FILE, WeightFiles};

/// The config's file name, in both formats.
pub const CONFIG_FILE: &str = "config.json";

/// A tensor of a file and where its elements lie in the flat array.
pub(crate) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: std::ops::Range<usize>,
}

/// Reads every part. A tensor of the files that is neither a part nor, by its name's end, ignored is a problem.
pub(crate) fn read(
    folder: &Path,
    config: &ModelConfig,
    parts: &[Part],
    ignored: &[&str],
) -> Result<Parameters, ModelError> {
    let files = WeightFiles::open(folder)?;
    let mut incoming = files.tensors()?;
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for part in parts {
        match incoming.remove(&part.name) {
            None => problems.push(format!("`{}` is missing", part.name)),
            Some(tensor) if tensor.shape != part.shape => {
                problems.push(format!("`{}` has shape {:?}, not {:?}", part.name, tensor.shape, part.shape));
            }
            Some(tensor) => found.push((part, tensor)),
        }
    }
    let unknown = incoming.keys().filter(|name| !ignored.iter().any(|end| name.ends_with(end)));
    problems.extend(unknown.map(|name| format!("`{name}` has no place in this architecture")));
    let refuse =
        |problems: Vec<String>| ModelError::Tensors { path: folder.join(WEIGHTS_FILE), problems: shortened(problems) };
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    // Only now is it certain that the files are as large as the config says: a wrong config must not ask for all memory.
    let mut parameters = Parameters::zeros(config)?;
    for (part, tensor) in found {
        if let Err(reason) = tensor.read_into(&mut parameters.flat_mut()[part.range.clone()]) {
            problems.push(format!("`{}` in {} {reason}", part.name, tensor.path.display()));
        }
    }
    if problems.is_empty() { Ok(parameters) } else { Err(refuse(problems)) }
}

/// A wrong architecture is wrong in every layer; the first few say it all.
fn shortened(mut problems: Vec<String>) -> Vec<String> {
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

/// The config's fields, not yet understood.
pub(crate) fn read_config(folder: &Path) -> Result<Map<String, Value>, ModelError> {
    read_object(&folder.join(CONFIG_FILE))
}

/// The JSON object in the file `path`.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let text = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::folder(path, "is not a JSON object")),
        Err(error) => Err(ModelError::folder(path, format!("is not JSON: {error}"))),
    }
}

/// Writes a JSON file, indented and with a last newline; makes the folder.
pub(crate) fn write_json(folder: &Path, name: &str, value: Value) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    let path = folder.join(name);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|error| ModelError::io(&path, error))
}

//! A model as a folder in our own format: `config.json` and `model.safetensors` under OLMo's names.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::huggingface::{self, load_huggingface};
use crate::layout::{TensorSpec, layout};
use crate::parameters::Parameters;
use crate::tensors::{self, Outgoing, WeightFiles};

/// The config's file name, in both formats.
pub const CONFIG_FILE: &str = "config.json";
/// The weights' file name, in both formats.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The version of the native folder, under `format` in its config.
const FORMAT: u64 = 1;

/// Reads a model folder, native or Hugging Face (`model_type` in its config tells).
///
/// # Errors
/// A file is missing or damaged, the config is not valid or not supported, or a tensor is missing, unknown or misshapen.
pub fn load(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    if read_config(folder)?.contains_key(huggingface::MODEL_TYPE) {
        load_huggingface(folder)
    } else {
        load_native(folder)
    }
}

/// Reads a native model folder.
///
/// # Errors
/// As [`load`].
pub fn load_native(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let path = folder.join(CONFIG_FILE);
    let mut fields = read_config(folder)?;
    match fields.remove("format").as_ref().map(Value::as_u64) {
        Some(Some(FORMAT)) => {}
        None => {
            return Err(ModelError::folder(
                &path,
                "is no model config: it has neither `format` (ours) nor `model_type` (Hugging Face)",
            ));
        }
        Some(_) => {
            return Err(ModelError::folder(
                &path,
                format!("has another `format` than {FORMAT}, the one this program reads"),
            ));
        }
    }
    let config: ModelConfig =
        serde_json::from_value(Value::Object(fields)).map_err(|error| ModelError::folder(&path, error.to_string()))?;
    config.validate()?;
    let part = |spec: TensorSpec| Part { name: spec.name, shape: spec.shape, range: spec.range };
    let parts: Vec<Part> = layout(&config).into_iter().map(part).collect();
    let parameters = read(folder, &config, &parts, &[])?;
    Ok((config, parameters))
}

/// The config in the file `config` of a native model, with the weights in the file `weights` held against
/// it by the header of that file alone: names and shapes, no values. `None` for a Hugging Face config.
///
/// # Errors
/// As [`load_native`], as far as a header tells.
pub fn inspect(config: &Path, weights: &Path) -> Result<Option<ModelConfig>, ModelError> {
    let text = std::fs::read(config).map_err(|error| ModelError::io(config, error))?;
    let mut fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| ModelError::folder(config, error.to_string()))?;
    if fields.contains_key(huggingface::MODEL_TYPE) {
        return Ok(None);
    }
    fields.remove("format");
    let parsed: ModelConfig =
        serde_json::from_value(Value::Object(fields)).map_err(|error| ModelError::folder(config, error.to_string()))?;
    parsed.validate()?;
    let shapes = tensors::shapes(weights)?;
    for spec in layout(&parsed) {
        match shapes.get(&spec.name) {
            None => return Err(ModelError::folder(weights, format!("has no tensor `{}`", spec.name))),
            Some(shape) if *shape != spec.shape => {
                let why = format!("has `{}` with shape {shape:?}, and the config asks for {:?}", spec.name, spec.shape);
                return Err(ModelError::folder(weights, why));
            }
            Some(_) => {}
        }
    }
    Ok(Some(parsed))
}

/// Writes a native model into `folder` (made if absent). Equal models give equal bytes.
///
/// # Errors
/// The parameters are those of another config, or the folder cannot be written.
pub fn save_native(folder: &Path, config: &ModelConfig, parameters: &Parameters) -> Result<(), ModelError> {
    check_fit(config, parameters)?;
    let mut fields = Map::from_iter([("format".to_owned(), Value::from(FORMAT))]);
    if let Ok(Value::Object(own)) = serde_json::to_value(config) {
        fields.extend(own);
    }
    write_json(folder, CONFIG_FILE, Value::Object(fields))?;
    let outgoing: Vec<Outgoing<'_>> = parameters
        .tensors()
        .iter()
        .map(|spec| Outgoing {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            values: &parameters.flat()[spec.range.clone()],
        })
        .collect();
    tensors::write(folder, &outgoing)
}

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
    let path = folder.join(CONFIG_FILE);
    let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::folder(&path, "is not a JSON object")),
        Err(error) => Err(ModelError::folder(&path, format!("is not JSON: {error}"))),
    }
}

/// Writes a JSON file, indented and with a last newline; makes the folder.
pub(crate) fn write_json(folder: &Path, name: &str, value: Value) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    let path = folder.join(name);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|error| ModelError::io(&path, error))
}

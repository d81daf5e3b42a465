//! Fills the parameters of a model from tensors that a checkpoint lists by name.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use olmo_base::Diagnose as _;
use olmo_pickle::DType;
use safetensors::Dtype;

use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};
use crate::formats::parts::Part;
use crate::formats::weight_files::widen;
use crate::parameters::Parameters;

/// The type and shape of each tensor of a checkpoint, by name.
pub(super) type Listed = BTreeMap<String, (DType, Vec<u64>)>;

/// Reads the elements of a tensor, little endian.
pub(super) type ReadTensor<'r> = &'r dyn Fn(&str) -> Result<Vec<u8>, olmo_pickle::Error>;

/// An error of the file layer as one of the model in `path`.
pub(super) fn model_error(path: &Path, error: &olmo_pickle::Error) -> ModelError {
    match error.hint() {
        Some(hint) => ModelError::folder(path, format!("{error}; {hint}")),
        None => ModelError::folder(path, error.to_string()),
    }
}

/// Reads every part. Listed tensors that are no parts are errors, unless their names are in
/// `ignored`.
///
/// # Errors
/// All tensors that are missing, unknown, misshapen, of another type, or not finite.
pub(super) fn fill(
    path: &Path,
    config: &ModelConfig,
    parts: &[Part],
    listed: &Listed,
    ignored: &[&str],
    read: ReadTensor<'_>,
) -> Result<Parameters, ModelError> {
    let mut problems = Vec::new();
    for part in parts {
        let shape =
            listed.get(&part.name).map(|(_, shape)| shape.iter().map(|size| *size as usize).collect::<Vec<_>>());
        problems.extend(part.misfit(shape.as_deref()));
    }
    let names: HashSet<&str> = parts.iter().map(|part| part.name.as_str()).chain(ignored.iter().copied()).collect();
    let unknown = listed.keys().filter(|name| !names.contains(name.as_str()));
    problems.extend(unknown.map(|name| format!("`{name}` has no place in this architecture")));
    let refuse = |problems| ModelError::Tensors { path: path.to_owned(), problems: shortened(problems) };
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    // The shapes fit the config, so it asks for no more memory than the files have.
    let mut parameters = Parameters::zeros(config)?;
    for part in parts {
        let bytes = read(&part.name).map_err(|error| model_error(path, &error))?;
        let dtype = listed.get(&part.name).map_or(DType::Bool, |(dtype, _)| *dtype);
        let target = &mut parameters.flat_mut()[part.range.clone()];
        if let Err(reason) = convert(dtype, &bytes, target) {
            problems.push(format!("`{}` {reason}", part.name));
        }
    }
    if problems.is_empty() { Ok(parameters) } else { Err(refuse(problems)) }
}

fn convert(dtype: DType, bytes: &[u8], target: &mut [f32]) -> Result<(), String> {
    let known = match dtype {
        DType::Float32 => Dtype::F32,
        DType::Bfloat16 => Dtype::BF16,
        DType::Float16 => Dtype::F16,
        other => return Err(format!("has type {other}, not float32, bfloat16 or float16")),
    };
    widen(known, bytes, target)?;
    match target.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(format!("holds {} at element {index}", target[index])),
    }
}

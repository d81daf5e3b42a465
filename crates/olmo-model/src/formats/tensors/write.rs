//! Writes safetensors: one file, or shards with an index as `transformers` names them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, View};
use serde_json::json;

use crate::error::ModelError;
use crate::formats::file_names::{INDEX_FILE, WEIGHTS_FILE};
use crate::formats::json::write_json;
use crate::weight_source::{WeightSource, read_encoded};
use crate::weight_type::WeightType;

/// A tensor in a file and the position of its elements in the flat array.
#[derive(Clone)]
pub(crate) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

impl Part {
    fn bytes(&self, dtype: WeightType) -> usize {
        self.range.len() * dtype.size()
    }
}

/// A tensor that is read when it is written. The format's library cannot return an error from there,
/// so the first one is kept.
struct Written<'a> {
    tensor: &'a Part,
    source: &'a dyn WeightSource,
    dtype: WeightType,
    failed: &'a RefCell<Option<ModelError>>,
}

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            WeightType::Float32 => Dtype::F32,
            WeightType::Bfloat16 => Dtype::BF16,
            WeightType::Float16 => Dtype::F16,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        if self.failed.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        Cow::Owned(read_encoded(self.source, &self.tensor.range, self.dtype).unwrap_or_else(|error| {
            *self.failed.borrow_mut() = Some(error);
            Vec::new()
        }))
    }
    fn data_len(&self) -> usize {
        self.tensor.bytes(self.dtype)
    }
}

/// Writes `tensors` of `source` to `folder` as `dtype`, tensor by tensor: to `model.safetensors`, or,
/// if they have more than `most` bytes, to shards of at most that size and an index. A tensor that is
/// larger has a shard of its own. The bytes depend only on the tensors, their order, the type and
/// `most`.
///
/// # Errors
/// The source cannot be read, or the folder cannot be written.
pub(crate) fn write(
    folder: &Path,
    tensors: &[Part],
    source: &dyn WeightSource,
    dtype: WeightType,
    most: Option<u64>,
) -> Result<(), ModelError> {
    let shards = split(tensors, dtype, most.unwrap_or(u64::MAX));
    if let [whole] = &shards[..] {
        return write_file(&folder.join(WEIGHTS_FILE), whole, source, dtype);
    }
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_file(&folder.join(&file), shard, source, dtype)?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
    }
    let parameters: usize = tensors.iter().map(|tensor| tensor.range.len()).sum();
    let metadata = json!({"total_parameters": parameters, "total_size": parameters * dtype.size()});
    // Last: readers look for it first.
    write_json(folder, INDEX_FILE, json!({"metadata": metadata, "weight_map": map}))
}

/// The tensors of each shard, in order; by the rule of `huggingface_hub`.
fn split(tensors: &[Part], dtype: WeightType, most: u64) -> Vec<Vec<&Part>> {
    let (mut shards, mut current, mut size) = (Vec::new(), Vec::new(), 0);
    for tensor in tensors {
        let bytes = tensor.bytes(dtype) as u64;
        if bytes > most {
            shards.push(vec![tensor]);
            continue;
        }
        if size + bytes > most {
            shards.push(std::mem::take(&mut current));
            size = 0;
        }
        current.push(tensor);
        size += bytes;
    }
    if !current.is_empty() {
        shards.push(current);
    }
    shards
}

fn write_file(path: &Path, tensors: &[&Part], source: &dyn WeightSource, dtype: WeightType) -> Result<(), ModelError> {
    // `transformers` rejects files without this entry. Only one, since several would be written in
    // random order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = RefCell::new(None);
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Written { tensor, source, dtype, failed: &failed }));
    let written = safetensors::serialize_to_file(views, Some(metadata), path);
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    written.map_err(|error| ModelError::folder(path, format!("cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_filled_in_order_and_a_larger_tensor_has_its_own() {
        let tensors: Vec<Part> =
            [10, 10, 50, 5, 20].map(|size| Part { name: size.to_string(), shape: vec![size], range: 0..size }).into();
        let sizes = |dtype, most| -> Vec<Vec<usize>> {
            split(&tensors, dtype, most).iter().map(|shard| shard.iter().map(|t| t.range.len()).collect()).collect()
        };
        assert_eq!(sizes(WeightType::Float32, 100), [vec![50], vec![10, 10, 5], vec![20]]);
        assert_eq!(sizes(WeightType::Bfloat16, 100), [vec![10, 10], vec![50], vec![5, 20]]);
        assert_eq!(sizes(WeightType::Float32, u64::MAX).len(), 1);
    }
}

//! Tensors in safetensors files.

use std::ops::Range;
use std::sync::Arc;

use olmo_ops::MappedBytes;
use olmo_pickle::{DType, Files as _, Part, ReadAt};
use safetensors::{Dtype, SafeTensors};

use super::tensor::{Content, Tensor, Tensors};
use crate::error::ModelError;
use crate::formats::files::ModelFiles;
use crate::formats::lfs_pointer::lfs_pointer;

/// A range of a file.
struct InFile {
    files: Arc<ModelFiles>,
    name: String,
    range: Range<usize>,
}

impl Content for InFile {
    fn open(&self) -> Result<Box<dyn ReadAt>, String> {
        let file = self.files.open(&self.name).map_err(|error| format!("cannot be read: {error}"))?;
        let part = Part::new(file, self.range.start as u64, self.range.len() as u64);
        Ok(Box::new(part.ok_or("lies beyond the end of its file")?))
    }

    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String> {
        let map = self.files.map(&self.name).map_err(|error| error.to_string())?;
        Ok(Some((map, self.range.clone())))
    }
}

/// The tensors in the safetensors files `names`. Only headers are read.
///
/// # Errors
/// A file is missing or damaged, or a tensor is in two files.
pub(crate) fn safetensors(files: &Arc<ModelFiles>, names: &[String]) -> Result<Tensors, ModelError> {
    let mut all = Tensors::new();
    for file in names {
        let map = files.map(file)?;
        let bytes = &map[..];
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
            let reason = lfs_pointer(bytes);
            files.refuse(file, reason.unwrap_or_else(|| format!("is not a safetensors file: {error}")))
        })?;
        for (name, view) in tensors.tensors() {
            let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let range = start..start + view.data().len();
            let content = InFile { files: files.clone(), name: file.clone(), range };
            let dtype = weight_type(view.dtype());
            let dtype = dtype.ok_or_else(|| unknown_type(files, file, &name, view.dtype()))?;
            let tensor = Tensor::new(files.named(file), dtype, view.shape().to_vec(), content);
            if all.insert(name.clone(), tensor).is_some() {
                return Err(files.refuse(file, format!("`{name}` is also in another shard")));
            }
        }
    }
    Ok(all)
}

fn unknown_type(files: &ModelFiles, file: &str, name: &str, dtype: Dtype) -> ModelError {
    files.refuse(file, format!("`{name}` has type {dtype}, which this program does not know"))
}

fn weight_type(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::Float64,
        Dtype::F32 => DType::Float32,
        Dtype::F16 => DType::Float16,
        Dtype::BF16 => DType::Bfloat16,
        Dtype::F8_E4M3 => DType::Float8E4m3fn,
        Dtype::F8_E5M2 => DType::Float8E5m2,
        Dtype::I64 => DType::Int64,
        Dtype::I32 => DType::Int32,
        Dtype::I16 => DType::Int16,
        Dtype::I8 => DType::Int8,
        Dtype::U64 => DType::Uint64,
        Dtype::U32 => DType::Uint32,
        Dtype::U16 => DType::Uint16,
        Dtype::U8 => DType::Uint8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

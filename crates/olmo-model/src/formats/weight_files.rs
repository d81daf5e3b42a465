//! Reads and writes `model.safetensors`. Reads shards and half precision; writes one file in f32 or
//! bf16.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use memmap2::Mmap;
use olmo_base::IoContext as _;
use olmo_ops::{Elements, MappedBytes, Matrix};
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors, View};
use serde_json::Value;

use super::file_names::{INDEX_FILE, WEIGHTS_FILE};
use super::json::read_object;
use super::lfs_pointer::lfs_pointer;
use crate::error::{ModelError, shortened};
use crate::weight_type::WeightType;

/// A tensor to write.
pub(crate) struct Outgoing<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

/// A tensor and the type to write it in.
struct Written<'a>(&'a Outgoing<'a>, WeightType);

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self.1 {
            WeightType::Float32 => Dtype::F32,
            WeightType::Bfloat16 => Dtype::BF16,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.values.iter();
        Cow::Owned(match self.1 {
            WeightType::Float32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            WeightType::Bfloat16 => values.flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        })
    }
    fn data_len(&self) -> usize {
        match self.1 {
            WeightType::Float32 => size_of_val(self.0.values),
            WeightType::Bfloat16 => self.0.values.len() * size_of::<bf16>(),
        }
    }
}

/// Writes `tensors` to `folder` as `dtype`. The bytes depend only on the tensors and the type (the
/// format sorts by name).
pub(crate) fn write(folder: &Path, tensors: &[Outgoing<'_>], dtype: WeightType) -> Result<(), ModelError> {
    let path = folder.join(WEIGHTS_FILE);
    // `transformers` rejects files without this entry. Only one, since several would be written in
    // random order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Written(tensor, dtype)));
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .map_err(|error| ModelError::folder(&path, format!("cannot be written: {error}")))
}

/// A model's weight files, mapped.
pub(crate) struct WeightFiles(Vec<(PathBuf, Arc<Mmap>)>);

/// All tensors of a model's weight files, by name.
pub(crate) type IncomingTensors<'a> = BTreeMap<String, Incoming<'a>>;

/// A tensor that was read, still in the file's precision.
pub(crate) struct Incoming<'a> {
    pub path: &'a Path,
    pub shape: Vec<usize>,
    dtype: Dtype,
    bytes: &'a [u8],
    file: &'a Arc<Mmap>,
}

impl WeightFiles {
    /// Maps `model.safetensors`, or the shards listed in an index.
    pub(super) fn open(folder: &Path) -> Result<WeightFiles, ModelError> {
        let map = |path: PathBuf| -> Result<(PathBuf, Arc<Mmap>), ModelError> {
            let file = std::fs::File::open(&path).context(&path)?;
            // SAFETY: artifacts are read-only copies that are never written to once complete; a
            // model that a user names must not be changed while it is read.
            let bytes = unsafe { Mmap::map(&file) }.context(&path)?;
            Ok((path, Arc::new(bytes)))
        };
        weight_files(folder)?.into_iter().map(map).collect::<Result<_, _>>().map(WeightFiles)
    }

    /// All tensors, by name.
    pub(super) fn tensors(&self) -> Result<IncomingTensors<'_>, ModelError> {
        let mut all = BTreeMap::new();
        for (path, file) in &self.0 {
            let bytes = &file[..];
            let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
                let reason = lfs_pointer(bytes);
                ModelError::folder(path, reason.unwrap_or_else(|| format!("is not a safetensors file: {error}")))
            })?;
            for (name, view) in tensors.tensors() {
                let (shape, dtype, bytes) = (view.shape().to_vec(), view.dtype(), view.data());
                let tensor = Incoming { path, shape, dtype, bytes, file };
                if all.insert(name.clone(), tensor).is_some() {
                    return Err(ModelError::folder(path, format!("`{name}` is also in another shard")));
                }
            }
        }
        Ok(all)
    }
}

/// A tensor in a safetensors file.
pub(crate) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Offset of its bytes from the start of the file.
    pub start: u64,
    pub end: u64,
}

/// The tensors in the safetensors file `path`, from its header alone.
pub(crate) fn entries(path: &Path) -> Result<BTreeMap<String, Entry>, ModelError> {
    use std::io::Read as _;
    /// The limit of the `safetensors` crate.
    const MOST: u64 = 100_000_000;
    let bad = |why: String| ModelError::folder(path, format!("is not a safetensors file: {why}"));
    let mut file = std::fs::File::open(path).context(path)?;
    let mut beginning = Vec::new();
    file.by_ref().take(8).read_to_end(&mut beginning).context(path)?;
    let Ok(length) = <[u8; 8]>::try_from(&beginning[..]) else {
        return Err(bad(format!("it has {} bytes", beginning.len())));
    };
    let length = u64::from_le_bytes(length);
    if length > MOST {
        file.take(1024).read_to_end(&mut beginning).context(path)?;
        return Err(match lfs_pointer(&beginning) {
            Some(reason) => ModelError::folder(path, reason),
            None => bad(format!("its header has {length} bytes")),
        });
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).context(path)?;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let mut entries = BTreeMap::new();
    for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let info: TensorInfo = serde_json::from_value(value).map_err(|error| bad(format!("`{name}`: {error}")))?;
        let place = |offset: usize| (8 + length).checked_add(offset as u64);
        let (Some(start), Some(end)) = (place(info.data_offsets.0), place(info.data_offsets.1)) else {
            return Err(bad(format!("`{name}` lies beyond any file")));
        };
        entries.insert(name, Entry { dtype: info.dtype, shape: info.shape, start, end });
    }
    Ok(entries)
}

/// The weight files of a model folder: `model.safetensors`, or the shards listed in an index.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let (index, single) = (folder.join(INDEX_FILE), folder.join(WEIGHTS_FILE));
    if single.is_file() || !index.is_file() {
        return Ok(vec![single]);
    }
    let shards = shards(folder, &index)?;
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| !shard.exists())
        .filter_map(|shard| Some(format!("`{}`", shard.file_name()?.to_string_lossy())))
        .collect();
    if missing.is_empty() {
        return Ok(shards);
    }
    let reason = format!(
        "names {} shards, and {} of them are not in the folder: {}; fetch them too",
        shards.len(),
        missing.len(),
        shortened(missing).join(", ")
    );
    Err(ModelError::folder(&index, reason))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index_fields = read_object(index)?;
    let map = index_fields
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| ModelError::folder(index, "has no `weight_map`"))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // A name with a path could point outside the folder.
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != **name)) {
        return Err(ModelError::folder(index, format!("names a shard `{name}` that is not in this folder")));
    }
    if names.is_empty() {
        return Err(ModelError::folder(index, "names no shards"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

impl Incoming<'_> {
    /// Converts the elements to f32 into `target`, which must have the same length. bf16 and f16
    /// widen exactly.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(super) fn read_into(&self, target: &mut [f32]) -> Result<(), String> {
        widen(self.dtype, self.bytes, target)?;
        match target.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(format!("holds {} at element {index}", target[index])),
        }
    }

    /// The elements as a weight: in the file if they are aligned, are not f16 and `in_file` is set,
    /// otherwise as a copy in f32.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(super) fn matrix(&self, in_file: bool) -> Result<Matrix, String> {
        let start = self.bytes.as_ptr() as usize - self.file.as_ptr() as usize;
        let (range, file) = (start..start + self.bytes.len(), self.file.clone() as MappedBytes);
        let mapped = match self.dtype {
            Dtype::F32 if in_file => Elements::mapped(file, range).map(Matrix::F32),
            Dtype::BF16 if in_file => Elements::mapped(file, range).map(Matrix::Bf16),
            _ => None,
        };
        let Some(matrix) = mapped else {
            let mut values = vec![0f32; self.shape.iter().product()];
            self.read_into(&mut values)?;
            return Ok(Matrix::F32(values.into()));
        };
        match matrix.first_not_finite() {
            None => Ok(matrix),
            Some((index, value)) => Err(format!("holds {value} at element {index}")),
        }
    }

    /// The first row that differs from `other`, a tensor of the same shape, and its first two
    /// differing values.
    ///
    /// # Errors
    /// The elements of one of them cannot be weights.
    pub(super) fn first_difference(&self, other: &Incoming<'_>) -> Result<Option<(usize, f32, f32)>, String> {
        if self.dtype == other.dtype && self.bytes == other.bytes {
            return Ok(None);
        }
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let (mut own, mut others) = (vec![0.0; width], vec![0.0; width]);
        let row_bytes = |dtype: Dtype| width * element_size(dtype).unwrap_or(1);
        let rows = self.bytes.chunks(row_bytes(self.dtype)).zip(other.bytes.chunks(row_bytes(other.dtype)));
        for (row, (a, b)) in rows.enumerate() {
            widen(self.dtype, a, &mut own)?;
            widen(other.dtype, b, &mut others)?;
            if let Some((a, b)) = own.iter().zip(&others).find(|(a, b)| a != b) {
                return Ok(Some((row, *a, *b)));
            }
        }
        Ok(None)
    }
}

/// Size in bytes of an element of a weight type.
pub(crate) fn element_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::BF16 | Dtype::F16 => Some(2),
        _ => None,
    }
}

/// Converts `bytes` to f32 into `target`, which must have the same number of elements. bf16 and f16
/// widen exactly.
///
/// # Errors
/// The type is not a weight type.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], target: &mut [f32]) -> Result<(), String> {
    let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        Dtype::F32 => {
            for (target, bytes) in target.iter_mut().zip(bytes.chunks_exact(4)) {
                *target = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        Dtype::BF16 => {
            target.iter_mut().zip(pairs()).for_each(|(target, half)| *target = f32::from_bits(u32::from(half) << 16));
        }
        Dtype::F16 => target.iter_mut().zip(pairs()).for_each(|(target, half)| *target = widen_f16(half)),
        other => return Err(format!("has type {other}, not f32, bf16 or f16")),
    }
    Ok(())
}

fn widen_f16(half: u16) -> f32 {
    let (sign, exponent, mantissa) =
        (u32::from(half >> 15) << 31, u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    match exponent {
        // Zero and subnormals: an integer multiple of 2^-24.
        0 => f32::from_bits(sign | (mantissa as f32 * 2f32.powi(-24)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_widens_exactly() {
        let known = [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
        ];
        for (half, value) in known {
            assert_eq!(widen_f16(half).to_bits(), f32::to_bits(value), "{half:#x}");
        }
        assert!(widen_f16(0x7c00).is_infinite() && widen_f16(0x7e00).is_nan());
    }

    #[test]
    fn a_shard_outside_the_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join(INDEX_FILE), r#"{"weight_map": {"a": "../other.safetensors"}}"#)
            .expect("written");
        let error = WeightFiles::open(folder.path()).err().expect("refused");
        assert!(error.to_string().contains("not in this folder"), "{error}");
    }
}

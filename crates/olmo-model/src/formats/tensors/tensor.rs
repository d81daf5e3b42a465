//! [`Tensor`]: a tensor in a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use olmo_ops::{BLOCK, BlockType, Elements, MappedBytes, Matrix};
use olmo_pickle::{DType, ReadAt};

use super::elements::widen;
use super::encoding::Encoding;

/// Number of elements that are converted at a time.
const AT_ONCE: usize = 1 << 18;

/// The tensors of a model's files under the names of their format.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Where the elements of a tensor are.
pub(crate) trait Content: Send + Sync {
    /// All elements, little endian, in the order of the indices.
    ///
    /// # Errors
    /// The file is missing or damaged.
    fn open(&self) -> Result<Box<dyn ReadAt>, String>;

    /// A mapped file and the range of it that holds all elements, if one does.
    ///
    /// # Errors
    /// The file is missing or damaged.
    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String>;
}

/// A tensor in the files of a model, in the file's precision.
pub(crate) struct Tensor {
    /// The file, as messages call it.
    pub path: PathBuf,
    pub encoding: Encoding,
    pub shape: Vec<usize>,
    content: Box<dyn Content>,
}

impl Tensor {
    pub(crate) fn new(
        path: PathBuf,
        encoding: impl Into<Encoding>,
        shape: Vec<usize>,
        content: impl Content + 'static,
    ) -> Self {
        Self { path, encoding: encoding.into(), shape, content: Box::new(content) }
    }

    /// Opens the elements for reading. Files without a range of their own for the tensor are read now.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(crate) fn open(&self) -> Result<OpenTensor, String> {
        if let Encoding::Plain(dtype) = self.encoding {
            // Tells of another type than a weight's.
            widen(dtype, &[], &mut [])?;
        }
        let reader = self.content.open()?;
        let elements = self.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length));
        let width = self.shape.last().copied().unwrap_or(1);
        let bytes = elements.and_then(|count| self.encoding.bytes_of(count, width));
        if bytes.map(|bytes| bytes as u64) != Some(reader.length()) {
            return Err(format!("of shape {:?} has {} bytes", self.shape, reader.length()));
        }
        Ok(OpenTensor { reader, encoding: self.encoding })
    }

    /// All elements as f32.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(crate) fn values(&self) -> Result<Vec<f32>, String> {
        let open = self.open()?;
        // As large as the file says, which was just checked.
        let mut values = vec![0.0; self.shape.iter().product()];
        open.read(0, &mut values)?;
        Ok(values)
    }

    /// The elements as a weight: in the file if they are aligned there, are neither f16 nor q4_1 and
    /// `in_file` is set, otherwise as a copy, in f32 unless `in_file` is set and they are bf16 or in
    /// blocks. Elements in the file are looked at only if `checks` is set.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(crate) fn matrix(&self, in_file: bool, checks: bool) -> Result<Matrix, String> {
        let is_kept = match self.encoding {
            Encoding::Plain(dtype) => dtype != DType::Float16,
            Encoding::Blocks(kind) => kind != BlockType::Q4_1,
        };
        let place = if in_file && is_kept { self.content.map()? } else { None };
        let mapped = match (self.encoding, place) {
            (Encoding::Plain(DType::Float32), Some((file, range))) => Elements::mapped(file, range).map(Matrix::F32),
            (Encoding::Plain(DType::Bfloat16), Some((file, range))) => Elements::mapped(file, range).map(Matrix::Bf16),
            (Encoding::Blocks(kind), Some((file, range))) => {
                Elements::mapped(file, range).map(|blocks| Matrix::Blocks(kind, blocks))
            }
            (Encoding::Blocks(kind), None) if in_file && is_kept => {
                let open = self.open()?;
                let mut blocks = vec![0; open.reader.length() as usize];
                open.reader.read_exact_at(&mut blocks, 0).map_err(|error| format!("cannot be read: {error}"))?;
                Some(Matrix::Blocks(kind, blocks.into()))
            }
            _ => None,
        };
        let Some(matrix) = mapped else {
            let values = self.values()?;
            return Ok(match self.encoding {
                Encoding::Plain(DType::Bfloat16) if in_file => {
                    let bits: Vec<u16> = values.iter().map(|value| (value.to_bits() >> 16) as u16).collect();
                    Matrix::Bf16(bits.into())
                }
                _ => Matrix::F32(values.into()),
            });
        };
        match if checks { matrix.first_not_finite() } else { None } {
            None => Ok(matrix),
            Some((index, value)) => Err(format!("holds {value} at element {index}")),
        }
    }

    /// The first row that differs from `other`, a tensor of the same shape, and its first two
    /// differing values.
    ///
    /// # Errors
    /// The elements of one of them cannot be weights.
    pub(crate) fn first_difference(&self, other: &Tensor) -> Result<Option<(usize, f32, f32)>, String> {
        let (own, others) = (self.open()?, other.open()?);
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let count: usize = self.shape.iter().product();
        let (mut a, mut b) = (vec![0.0; AT_ONCE.min(count)], vec![0.0; AT_ONCE.min(count)]);
        for start in (0..count).step_by(AT_ONCE) {
            let length = AT_ONCE.min(count - start);
            own.read(start, &mut a[..length])?;
            others.read(start, &mut b[..length])?;
            let mut pairs = a[..length].iter().zip(&b[..length]);
            if let Some(index) = pairs.position(|(a, b)| a != b) {
                return Ok(Some(((start + index) / width, a[index], b[index])));
            }
        }
        Ok(None)
    }
}

/// The elements of a tensor, opened for reading.
pub(crate) struct OpenTensor {
    reader: Box<dyn ReadAt>,
    encoding: Encoding,
}

impl OpenTensor {
    /// Reads the elements from `start` on into `target`, as f32.
    ///
    /// # Errors
    /// The reason why the elements cannot be weights.
    pub(crate) fn read(&self, start: usize, target: &mut [f32]) -> Result<(), String> {
        let dtype = match self.encoding {
            Encoding::Plain(dtype) => dtype,
            Encoding::Blocks(kind) => return self.read_blocks(kind, start, target),
        };
        let size = dtype.size();
        let mut bytes = vec![0; target.len().min(AT_ONCE) * size];
        for (index, piece) in target.chunks_mut(AT_ONCE).enumerate() {
            let first = start + index * AT_ONCE;
            let bytes = &mut bytes[..piece.len() * size];
            let read = self.reader.read_exact_at(bytes, (first * size) as u64);
            read.map_err(|error| format!("cannot be read: {error}"))?;
            widen(dtype, bytes, piece)?;
            if let Some(place) = piece.iter().position(|value| !value.is_finite()) {
                return Err(format!("holds {} at element {}", piece[place], first + place));
            }
        }
        Ok(())
    }

    /// Reads the elements from `start` on, of whole blocks.
    fn read_blocks(&self, kind: BlockType, start: usize, target: &mut [f32]) -> Result<(), String> {
        let (mut blocks, mut values) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < target.len() {
            let first = start + done;
            let length = (target.len() - done).min(AT_ONCE);
            let (from, to) = (first / BLOCK, (first + length).div_ceil(BLOCK));
            blocks.resize((to - from) * kind.size(), 0);
            let read = self.reader.read_exact_at(&mut blocks, (from * kind.size()) as u64);
            read.map_err(|error| format!("cannot be read: {error}"))?;
            values.resize((to - from) * BLOCK, 0.0);
            kind.decode(&blocks, &mut values);
            let piece = &values[first - from * BLOCK..][..length];
            if let Some(place) = piece.iter().position(|value| !value.is_finite()) {
                return Err(format!("holds {} at element {}", piece[place], first + place));
            }
            target[done..done + length].copy_from_slice(piece);
            done += length;
        }
        Ok(())
    }
}

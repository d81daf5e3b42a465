//! Writes a model as a GGUF file, with the names, metadata and bytes of llama.cpp's converter.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use olmo_base::IoContext as _;
use olmo_ops::{BLOCK, BlockType};
use olmo_pickle::DType;

use super::architecture::{Architecture, EMBEDDING, HEAD, order_key, permuted_row};
use super::config;
use super::header::{ALIGNMENT, MAGIC, Metadata, type_number};
use super::value::write_text;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::GGUF_FILE;
use crate::formats::parts::Part;
use crate::formats::tensors::Encoding;
use crate::weight_source::{WeightSource, check_fit, read_encoded};
use crate::weight_type::WeightType;

/// The type of a model's matrices in a GGUF file. Vectors are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// All matrices in a plain type.
    Plain(WeightType),
    /// Blocks; matrices whose rows are no whole blocks are f16.
    Blocks(BlockType),
}

impl GgufType {
    /// The type of a tensor.
    pub(crate) fn of_tensor(self, name: &str, shape: &[usize], is_tied: bool) -> Encoding {
        let [.., width] = shape else { return DType::Float32.into() };
        if shape.len() < 2 {
            return DType::Float32.into();
        }
        match self {
            GgufType::Plain(WeightType::Float32) => DType::Float32.into(),
            GgufType::Plain(WeightType::Bfloat16) => DType::Bfloat16.into(),
            GgufType::Plain(WeightType::Float16) => DType::Float16.into(),
            GgufType::Blocks(_) if !width.is_multiple_of(BLOCK) => DType::Float16.into(),
            // llama.cpp also gives the head more bits.
            GgufType::Blocks(BlockType::Q4_0) if name == HEAD || (is_tied && name == EMBEDDING) => {
                BlockType::Q8_0.into()
            }
            GgufType::Blocks(kind) => kind.into(),
        }
    }

    /// Its number in `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            GgufType::Plain(WeightType::Float32) => 0,
            GgufType::Plain(WeightType::Float16) => 1,
            GgufType::Plain(WeightType::Bfloat16) => 32,
            GgufType::Blocks(BlockType::Q4_0) => 2,
            GgufType::Blocks(BlockType::Q4_1) => 3,
            GgufType::Blocks(BlockType::Q8_0) => 7,
        }
    }
}

/// A tensor to write.
struct Outgoing {
    part: Part,
    encoding: Encoding,
    /// Heads whose rows have another order in the file.
    permuted_heads: Option<usize>,
}

/// Writes `model.gguf` to `folder`. `tokenizer` are the keys that describe the tokenizer. Equal models
/// give equal bytes. Weights are read tensor by tensor.
///
/// # Errors
/// [`ModelError::NotExportable`] if no architecture of llama.cpp can express the config; a weight that
/// the type cannot hold; or an I/O error.
pub fn save_gguf(
    folder: &Path,
    config: &ModelConfig,
    source: &dyn WeightSource,
    to: GgufType,
    tokenizer: &Metadata,
) -> Result<(), ModelError> {
    check_fit(source, config)?;
    let architecture = Architecture::of(config)?;
    let mut parts = architecture.written_parts(config);
    parts.sort_by_key(|part| order_key(&part.name));
    let parameters = parts.iter().map(|part| part.range.len() as u64).sum();
    let outgoing: Vec<Outgoing> = parts
        .into_iter()
        .map(|part| Outgoing {
            encoding: to.of_tensor(&part.name, &part.shape, config.weight_tying),
            permuted_heads: architecture.permuted_heads(config, &part.name),
            part,
        })
        .collect();
    let mut metadata = config::describe(architecture, config, parameters, to.file_type());
    metadata.extend(tokenizer.iter().map(|(key, value)| (key.to_owned(), value.clone())));
    let path = folder.join(GGUF_FILE);
    std::fs::create_dir_all(folder).context(folder)?;
    let mut file = BufWriter::new(File::create(&path).context(&path)?);
    let header = header(&metadata, &outgoing);
    file.write_all(&header).context(&path)?;
    for tensor in &outgoing {
        let bytes = encoded(source, tensor)?;
        file.write_all(&bytes).context(&path)?;
        file.write_all(&padding(bytes.len())).context(&path)?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).context(&path)?;
    Ok(())
}

/// Zeros after `length` bytes, up to the next aligned place.
fn padding(length: usize) -> Vec<u8> {
    vec![0; length.next_multiple_of(ALIGNMENT) - length]
}

fn header(metadata: &Metadata, tensors: &[Outgoing]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        write_text(key, &mut bytes);
        value.write(&mut bytes);
    }
    let mut offset = 0;
    for Outgoing { part, encoding, .. } in tensors {
        write_text(&part.name, &mut bytes);
        bytes.extend((part.shape.len() as u32).to_le_bytes());
        part.shape.iter().rev().for_each(|length| bytes.extend((*length as u64).to_le_bytes()));
        bytes.extend(type_number(*encoding).to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        let reversed: Vec<usize> = part.shape.iter().rev().copied().collect();
        offset += encoding.bytes(&reversed).map_or(0, |size| size.next_multiple_of(ALIGNMENT));
    }
    bytes.extend(padding(bytes.len()));
    bytes
}

/// The bytes of a tensor in the file.
fn encoded(source: &dyn WeightSource, tensor: &Outgoing) -> Result<Vec<u8>, ModelError> {
    let Outgoing { part, encoding, permuted_heads } = tensor;
    let bytes = match *encoding {
        Encoding::Plain(DType::Float16) => read_encoded(source, &part.range, WeightType::Float16)?,
        Encoding::Plain(DType::Bfloat16) => read_encoded(source, &part.range, WeightType::Bfloat16)?,
        Encoding::Plain(_) => read_encoded(source, &part.range, WeightType::Float32)?,
        Encoding::Blocks(kind) => {
            let mut blocks = Vec::with_capacity(part.range.len() / BLOCK * kind.size());
            let rows = part.shape.iter().product::<usize>() / BLOCK;
            let mut values = vec![0f32; BLOCK * rows.min(1 << 13)];
            for start in part.range.clone().step_by(values.len().max(1)) {
                let length = values.len().min(part.range.end - start);
                source.read_into(start, &mut values[..length])?;
                kind.encode(&values[..length], &mut blocks);
            }
            blocks
        }
    };
    let Some(heads) = permuted_heads else { return Ok(bytes) };
    let rows = part.shape[0];
    let (row_size, width) = (bytes.len() / rows, rows / heads);
    let mut permuted = vec![0; bytes.len()];
    for (row, content) in bytes.chunks_exact(row_size).enumerate() {
        let place = permuted_row(row, width) * row_size;
        permuted[place..place + row_size].copy_from_slice(content);
    }
    Ok(permuted)
}

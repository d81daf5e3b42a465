//! `optim.safetensors`: both moments, written and read in parts.
//!
//! Where a moment is in the file follows from the model alone. So ranks that hold different parts
//! can write to the same file, and its bytes do not depend on how many there are.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use memmap2::Mmap;
use olmo_model::Parameters;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, json};

use crate::learner::LearnerState;

const KINDS: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const FLOAT: usize = size_of::<f32>();
/// Number of values that are converted and written at once.
const PIECE: usize = 1 << 16;

/// A tensor in the file.
struct Entry {
    name: String,
    /// Index in [`KINDS`].
    kind: usize,
    shape: Vec<usize>,
    /// Its range in the flat array.
    range: Range<usize>,
}

/// The tensors in the order of the file: by name, as the crate `safetensors` writes them.
fn entries(parameters: &Parameters) -> Vec<Entry> {
    let of_kind = |(kind, prefix): (usize, &&str)| {
        let entry = move |tensor: &olmo_model::TensorSpec, prefix: &str| Entry {
            name: format!("{prefix}.{}", tensor.name),
            kind,
            shape: tensor.shape.clone(),
            range: tensor.range.clone(),
        };
        parameters.tensors().iter().map(|tensor| entry(tensor, prefix)).collect::<Vec<_>>()
    };
    let mut entries: Vec<Entry> = KINDS.iter().enumerate().flat_map(of_kind).collect();
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    entries
}

/// The header of the file, its length included.
fn header(entries: &[Entry]) -> Vec<u8> {
    let mut at = 0;
    let mut tensors = Vec::new();
    for entry in entries {
        let end = at + entry.range.len() * FLOAT;
        let info = json!({"dtype": "F32", "shape": entry.shape, "data_offsets": [at, end]});
        tensors.push((entry.name.clone(), info));
        at = end;
    }
    let mut text = serde_json::Value::Object(tensors.into_iter().collect::<Map<_, _>>()).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Creates the file `path` for the moments of `parameters`, with its header and full length.
pub(super) fn create(path: &Path, parameters: &Parameters) -> io::Result<()> {
    let header = header(&entries(parameters));
    let mut file = File::create_new(path)?;
    file.write_all(&header)?;
    file.set_len((header.len() + KINDS.len() * parameters.len() * FLOAT) as u64)
}

/// Writes the moments that `state` holds into the file `path`, durably.
pub(super) fn write(path: &Path, state: &LearnerState) -> io::Result<()> {
    let entries = entries(&state.parameters);
    let mut at = header(&entries).len() as u64;
    let file = File::options().write(true).open(path)?;
    for entry in &entries {
        let moments = [&state.exp_avg, &state.exp_avg_sq][entry.kind];
        let own = entry.range.start.max(state.shard.start)..entry.range.end.min(state.shard.end);
        let mut offset = at + (own.start.saturating_sub(entry.range.start) * FLOAT) as u64;
        if !own.is_empty() {
            for values in moments[own.start - state.shard.start..own.end - state.shard.start].chunks(PIECE) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_all_at(&bytes, offset)?;
                offset += bytes.len() as u64;
            }
        }
        at += (entry.range.len() * FLOAT) as u64;
    }
    file.sync_all()
}

/// Both moments of the range `shard` of `parameters`, from the file `path`.
///
/// # Errors
/// Why the file does not fit.
pub(super) fn read(path: &Path, parameters: &Parameters, shard: &Range<usize>) -> Result<[Vec<f32>; 2], String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    // SAFETY: the file belongs to a checkpoint, which is never written to after its final rename.
    let bytes = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let entries = entries(parameters);
    if tensors.len() != entries.len() {
        return Err(format!("has {} tensors, expected {}", tensors.len(), entries.len()));
    }
    let mut moments = KINDS.map(|_| vec![0.0; shard.len()]);
    for Entry { name, kind, shape, range } in &entries {
        let view = tensors.tensor(name).map_err(|e| e.to_string())?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(format!("`{name}` has {:?} {:?}, expected F32 {shape:?}", view.dtype(), view.shape()));
        }
        let own = range.start.max(shard.start)..range.end.min(shard.end);
        if own.is_empty() {
            continue;
        }
        let values = &view.data().as_chunks().0[own.start - range.start..own.end - range.start];
        let to = &mut moments[*kind][own.start - shard.start..own.end - shard.start];
        to.iter_mut().zip(values).for_each(|(to, bytes)| *to = f32::from_le_bytes(*bytes));
    }
    Ok(moments)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use olmo_model::ModelConfig;
    use safetensors::View;

    use super::*;
    use crate::shard::Strategy;

    /// A tensor for the crate `safetensors`, whose file is the definition.
    struct Whole<'a>(&'a [usize], &'a [f32]);

    impl View for Whole<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::F32
        }
        fn shape(&self) -> &[usize] {
            self.0
        }
        fn data(&self) -> Cow<'_, [u8]> {
            self.1.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()
        }
        fn data_len(&self) -> usize {
            size_of_val(self.1)
        }
    }

    fn parameters() -> Parameters {
        let config: ModelConfig = serde_json::from_value(json!({"d_model": 48, "n_heads": 2, "n_layers": 2,
            "mlp_hidden_size": 64, "layer_norm_type": "rms", "attention_layer_norm": true, "norm_after": true,
            "max_sequence_length": 8, "vocab_size": 71}))
        .unwrap();
        Parameters::init(&config, 3).unwrap()
    }

    #[test]
    fn ranks_write_the_file_that_safetensors_writes_and_each_reads_its_part() {
        let dir = tempfile::tempdir().unwrap();
        let parameters = parameters();
        let length = parameters.len();
        let moments = [1.0f32, -2.0].map(|factor| (0..length).map(|i| factor * i as f32).collect::<Vec<f32>>());
        let whole = dir.path().join("whole");
        let tensors = KINDS.iter().zip(&moments).flat_map(|(kind, flat)| {
            let named = move |tensor: &'_ olmo_model::TensorSpec| format!("{kind}.{}", tensor.name);
            parameters.tensors().iter().map(move |t| (named(t), Whole(&t.shape, &flat[t.range.clone()])))
        });
        safetensors::serialize_to_file(tensors, None, &whole).unwrap();
        for size in [1, 2, 3, 7] {
            let path = dir.path().join(format!("parts-{size}"));
            create(&path, &parameters).unwrap();
            for rank in (0..size).rev() {
                let shard = Strategy::Zero1.shard(length, rank, size);
                let [exp_avg, exp_avg_sq] = moments.each_ref().map(|moment| Arc::new(moment[shard.clone()].to_vec()));
                let parameters = parameters.clone();
                write(&path, &LearnerState { parameters, shard, exp_avg, exp_avg_sq, optimizer_steps: 1 }).unwrap();
            }
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&whole).unwrap(), "{size} ranks");
            for rank in 0..size {
                let shard = Strategy::Zero1.shard(length, rank, size);
                let read = read(&whole, &parameters, &shard).unwrap();
                assert!(read == moments.each_ref().map(|moment| moment[shard.clone()].to_vec()));
            }
        }
    }
}

//! Imports id files written by OLMo's scripts, Dolma or open-instruct. They have no header: the
//! params supply what is not recorded, and everything that can be checked is checked.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use olmo_data::memmap::boundaries_csv;
use olmo_data::{Layout, Manifest, MemmapWriter, TextTokenizer};
use olmo_stage::{Context, StageError};

use crate::header;
use crate::params::{IdType, MemmapParams};

/// Number of rows to read at a time.
const ROWS: usize = 256;

/// The files of all items in port `port`, in the order given; those of a folder sorted by name.
fn files(context: &Context, port: &str) -> Result<Vec<PathBuf>, StageError> {
    let mut all = Vec::new();
    for item in context.inputs(port) {
        let entries = std::fs::read_dir(&item.path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(|e| StageError::io(&item.path, e))?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).filter(|path| path.is_file()).collect();
        paths.sort();
        all.append(&mut paths);
    }
    Ok(all)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().escape_debug().to_string()
}

fn refuse(code: &str, message: String) -> StageError {
    StageError::fail(code, message)
}

/// Rejects files with a header. `raw` is the numpy type of their values.
fn check_raw(port: &str, paths: &[PathBuf], raw: &str) -> Result<(), StageError> {
    for path in paths {
        let refusal = header::refusal(port, &name(path), path, raw).map_err(|e| StageError::io(path, e))?;
        if let Some((message, hint)) = refusal {
            return Err(refuse("memmap::header", message).hint(hint));
        }
    }
    Ok(())
}

/// Reads the files of port `input_ids` into a memmap. Only the whole rows of each file are used, as
/// in OLMo.
pub(crate) fn import(params: &MemmapParams, length: u64, context: &mut Context) -> Result<Manifest, StageError> {
    let (ids, masks, bounds) =
        (files(context, "input_ids")?, files(context, "label_mask")?, files(context, "boundaries")?);
    let Some(dtype) = params.dtype.dtype() else {
        return Err(refuse("memmap::dtype", "id files do not record whether they hold uint16 or uint32".into())
            .hint("set `dtype: uint16` (what OLMo 1 and `prepare_tulu_data.py` write) or `dtype: uint32` (OLMo 2)"));
    };
    check_raw("input_ids", &ids, dtype.as_str())?;
    check_raw("label_mask", &masks, "bool")?;
    for (what, found) in [("label_mask", masks.len()), ("boundaries", bounds.len())] {
        if found != 0 && found != ids.len() {
            let message = format!("`{what}` has {found} files, `input_ids` has {}", ids.len());
            return Err(refuse("memmap::params", message).hint("give one for each id file, in the same order"));
        }
    }
    let Some(tokenizer) = context.optional_input("tokenizer") else {
        return Err(refuse("memmap::params", "cannot import ids without a `tokenizer`".into())
            .hint("bind port `tokenizer` to the tokenizer that produced them"));
    };
    let tokenizer = TextTokenizer::open(&tokenizer)?;
    let special = tokenizer.special();
    tokenizer.record().write(&context.output("memmap")?)?;
    let layout = Layout {
        sequence_length: length as usize,
        vocab_size: special.vocab_size,
        tokenizer: tokenizer.digest(),
        eos_token_id: special.eos_token_id,
        pad_token_id: special.pad_token_id,
    };
    let options = params.options(length, special.vocab_size, context.request.threads);
    let mut writer = MemmapWriter::with_options(&context.output("memmap")?, layout, options)?;
    let row = length as usize * dtype.bytes();
    let mut left_out = 0;
    for (file, path) in ids.iter().enumerate() {
        let size = path.metadata().map_err(|e| StageError::io(path, e))?.len();
        if !size.is_multiple_of(dtype.bytes() as u64) {
            let message = format!("{}: has {size} bytes, not a whole number of {} values", name(path), dtype.as_str());
            return Err(refuse("memmap::dtype", message).hint("set the `dtype` the file was written with"));
        }
        let tokens = size / dtype.bytes() as u64;
        let rows = size / row as u64;
        left_out += tokens - rows * length;
        let mask = masks.get(file);
        if let Some(mask) = mask {
            let found = mask.metadata().map_err(|e| StageError::io(mask, e))?.len();
            if found != tokens {
                let message = format!("{}: has {found} bytes, {} has {tokens} ids", name(mask), name(path));
                return Err(refuse("memmap::label_mask", message));
            }
        }
        let starts = match bounds.get(file) {
            Some(path) => boundaries_csv::read(path)?,
            // Without boundaries, each row is one document.
            None => (0..rows).map(|row| row * length).collect(),
        };
        copy(&mut writer, path, mask, &starts, rows, params.dtype, context)?;
    }
    if left_out > 0 {
        context.warning(format!("{left_out} tokens after the last whole row of their file are dropped"));
    }
    Ok(writer.finish(0, 0)?)
}

fn copy(
    writer: &mut MemmapWriter,
    path: &Path,
    mask_path: Option<&PathBuf>,
    starts: &[u64],
    rows: u64,
    dtype: IdType,
    context: &mut Context,
) -> Result<(), StageError> {
    let open = |path: &Path| std::fs::File::open(path).map_err(|e| StageError::io(path, e));
    let length = writer.sequence_length();
    let width = dtype.dtype().map_or(2, olmo_data::Dtype::bytes);
    let mut ids_file = open(path)?;
    let mut mask_file = mask_path.map(|path| open(path)).transpose()?;
    let mut starts = starts.iter().copied().peekable();
    let mut done = 0u64;
    while done < rows {
        context.check_stop()?;
        context.progress(done, rows, "rows", format!("importing {}", name(path)));
        let now = (rows - done).min(ROWS as u64) as usize;
        let mut bytes = vec![0; now * length * width];
        ids_file.read_exact(&mut bytes).map_err(|e| StageError::io(path, e))?;
        let ids: Vec<u32> = match width {
            2 => bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
        };
        let mut mask = vec![1u8; ids.len()];
        if let (Some(file), Some(path)) = (&mut mask_file, mask_path) {
            file.read_exact(&mut mask).map_err(|e| StageError::io(path, e))?;
            if let Some(byte) = mask.iter().find(|byte| **byte > 1) {
                let message = format!("{}: contains the byte {byte}, expected only 0 and 1", name(path));
                return Err(refuse("memmap::label_mask", message));
            }
        }
        let mask: Vec<bool> = mask.into_iter().map(|byte| byte == 1).collect();
        let first = done * length as u64;
        let mut at = 0;
        while at < ids.len() {
            if starts.next_if_eq(&(first + at as u64)).is_some() {
                writer.begin_document();
            }
            let next = starts.peek().map_or(ids.len(), |start| (start.saturating_sub(first) as usize).min(ids.len()));
            if next <= at {
                let message = format!("boundaries of {}: not in ascending order", name(path));
                return Err(refuse("memmap::boundaries", message));
            }
            writer.append(&ids[at..next], &mask[at..next]).map_err(|e| {
                let failed: StageError = e.into();
                failed.hint(format!(
                    "{} may have a dtype other than {:?}, or ids of another tokenizer",
                    name(path),
                    dtype
                ))
            })?;
            at = next;
        }
        done += now as u64;
    }
    Ok(())
}

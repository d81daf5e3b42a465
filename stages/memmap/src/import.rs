//! Imports id files written by OLMo's scripts, Dolma or open-instruct. They have no header: the
//! params supply what is not recorded, and everything that can be checked is checked.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use olmo_base::units::bytes as bytes_as_text;
use olmo_data::memmap::{RemoteFile, boundaries_csv, find_numpy_header};
use olmo_data::{Dtype, Layout, Manifest, MemmapWriter, TextTokenizer};
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
    let remote = remote_files(&ids)?;
    let layout = Layout {
        sequence_length: length as usize,
        vocab_size: special.vocab_size,
        tokenizer: tokenizer.digest(),
        eos_token_id: special.eos_token_id,
        pad_token_id: special.pad_token_id,
    };
    if !remote.is_empty() {
        return import_remote(params, &layout, dtype, remote, context);
    }
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

/// Ending of the file that stands for one on a server.
const REMOTE: &str = ".remote.json";

/// The files on servers that `paths` stand for. Empty if all are local.
fn remote_files(paths: &[PathBuf]) -> Result<Vec<RemoteFile>, StageError> {
    let (remote, local): (Vec<_>, Vec<_>) = paths.iter().partition(|path| name(path).ends_with(REMOTE));
    if let (Some(remote), Some(local)) = (remote.first(), local.first()) {
        let message = format!(
            "`input_ids` has {}, which stays on its server, beside {}, which does not",
            name(remote).trim_end_matches(REMOTE),
            name(local)
        );
        return Err(refuse("memmap::params", message).hint("write `#by-range` after all addresses or after none"));
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read(path).map_err(|e| StageError::io(path, e))?;
        RemoteFile::from_json(&text).map_err(|why| refuse("memmap::remote", format!("{}: {why}", name(path))))
    };
    remote.into_iter().map(read).collect()
}

/// Writes the manifest of rows that stay on their servers.
fn import_remote(
    params: &MemmapParams,
    layout: &Layout,
    dtype: Dtype,
    files: Vec<RemoteFile>,
    context: &mut Context,
) -> Result<Manifest, StageError> {
    let unusable = [
        ("label_mask", !context.inputs("label_mask").is_empty()),
        ("boundaries", !context.inputs("boundaries").is_empty()),
        ("instance_filter", params.instance_filter.is_some()),
        ("csv_boundaries", params.csv_boundaries),
        ("file_mib", params.file_mib > 0),
    ];
    let unusable: Vec<String> =
        unusable.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!("`{name}`")).collect();
    if !unusable.is_empty() {
        let message = format!("{} need all ids, but those of `#by-range` stay on their server", unusable.join(", "));
        return Err(refuse("memmap::params", message)
            .hint("leave them out, or write the addresses without `#by-range`, so that the files are fetched"));
    }
    let width = dtype.bytes() as u64;
    if let Some(file) = files.iter().find(|file| !file.size.is_multiple_of(width)) {
        let message = format!("{}: has {} bytes, not a whole number of {} values", file.url, file.size, dtype.as_str());
        return Err(refuse("memmap::dtype", message).hint("set the `dtype` the file was written with"));
    }
    if let Some(file) = find_numpy_header(&files)? {
        let message = format!("{}: begins with numpy's header; ids that are read by range have none", file.url);
        return Err(refuse("memmap::header", message)
            .hint("write its address without `#by-range`, and convert it with `numpy.load(f).tofile(g)`"));
    }
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let manifest = Manifest::of_remote(layout, dtype, files);
    let left_out = bytes / width - manifest.count;
    if left_out > 0 {
        context.warning(format!("{left_out} tokens after the last whole row of their file are dropped"));
    }
    context.message(format!(
        "{} stay on their server and are not verified as a whole: each row is read when it is used",
        bytes_as_text(bytes)
    ));
    manifest.write(&context.output("memmap")?)?;
    Ok(manifest)
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

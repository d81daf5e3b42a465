//! Raw files for `data …`: reads them as stage `fetch` does with `format: auto`, into a dataset in a
//! temporary folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_base::journal;
use olmo_stage::protocol::{EVENTS, InputItem, PROTOCOL_VERSION, REQUEST};
use olmo_stage::worker::{Entry, write_json};
use olmo_stage::{Context, Event, Request, StageError};
use olmo_stage_fetch::Fetch;
use serde_json::json;
use tempfile::TempDir;

/// Files that mark a folder as an artifact: each artifact has one of them.
const ARTIFACTS: [&str; 3] = ["data.parquet", "tokens.parquet", "input_ids.npy"];

/// A dataset made from raw files.
pub(crate) struct Raw {
    /// Folder of the dataset.
    pub dataset: PathBuf,
    /// Messages from `fetch`.
    pub messages: Vec<String>,
    /// The temporary folder, removed on drop.
    _folder: TempDir,
}

/// Reads the file or folder at `path` into a dataset, at most `limit` records per file (0: all). Bad
/// records are skipped and counted. Returns `None` if `path` is an artifact.
///
/// # Errors
/// If nothing exists at `path`, or `fetch` cannot read it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Raw>, StageError> {
    let found = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => StageError::fail("data::missing", format!("there is no {}", path.display()))
            .hint("name a file, a folder, or an artifact: RUN:STAGE.PORT, a tag or the first digits of its digest"),
        _ => StageError::io(path, e),
    })?;
    if found.is_dir() && ARTIFACTS.iter().any(|name| path.join(name).is_file()) {
        return Ok(None);
    }
    let folder = tempfile::tempdir().map_err(|e| StageError::io(&std::env::temp_dir(), e))?;
    let attempt = folder.path();
    let mut input = path.to_owned();
    if found.is_file() {
        // `fetch` expects a folder with the file in it, under its own name.
        input = attempt.join("input");
        let whole = path.canonicalize().map_err(|e| StageError::io(path, e))?;
        let link = input.join(path.file_name().unwrap_or_default());
        let made = std::fs::create_dir(&input).and_then(|()| std::os::unix::fs::symlink(whole, &link));
        made.map_err(|e| StageError::io(&link, e))?;
    }
    let entry = Entry::of::<Fetch>();
    let contract = (entry.describe)().contract;
    let request = Request {
        protocol: PROTOCOL_VERSION,
        stage: contract.stage,
        version: contract.version,
        params: json!({"format": "auto", "on_error": "skip", "limit": limit}),
        inputs: BTreeMap::from([("files".to_owned(), vec![InputItem { label: None, path: input }])]),
        outputs: contract.outputs.into_keys().collect(),
        state_dir: attempt.join("state"),
        items: BTreeMap::new(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        ranks: 1,
        compute: olmo_stage::Compute::FLEX,
    };
    write_json(&attempt.join(REQUEST), &request)?;
    let mut context = Context::open(attempt).map_err(|e| StageError::io(attempt, e))?;
    (entry.run)(&mut context)?;
    let events = journal::read::<Event>(&attempt.join(EVENTS)).map_err(|e| StageError::io(attempt, e))?;
    let messages = events.into_iter().filter_map(|event| match event {
        Event::Message { text, .. } => Some(text),
        _ => None,
    });
    Ok(Some(Raw { dataset: context.output("dataset")?, messages: messages.collect(), _folder: folder }))
}

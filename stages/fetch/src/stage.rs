//! The stage: reads the files line by line, so that their size does not matter.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use olmo_data::Conversation;
use olmo_data::dataset::{DatasetWriter, Record};
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::line::{BadLine, parse_messages, parse_text};

/// Bad lines that a message shows; the rest is counted.
const SHOWN: usize = 20;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON lines: `{"dataset", "id", "messages": [{"role", "content"}]}`.
    #[default]
    Messages,
    /// One document per line that is not blank.
    Text,
}

/// What a bad line means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The stage fails and shows the bad lines.
    #[default]
    Fail,
    /// Bad lines are left out and counted, with a warning.
    Skip,
}

/// Params of stage `fetch`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchParams {
    /// What the files hold: `messages` (JSON lines of conversations) or `text` (a document a line).
    pub format: Format,
    /// What a bad line means: `fail` or `skip` (left out and counted).
    pub on_error: OnError,
}

/// Stage `fetch`.
pub struct Fetch;

impl Stage for Fetch {
    type Params = FetchParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: FetchParams, context: &mut Context) -> Result<(), StageError> {
        let files = source_files(context)?;
        match params.format {
            Format::Messages => fetch::<Conversation>(&files, params, parse_messages, context),
            Format::Text => fetch::<String>(&files, params, |line, _| parse_text(line), context),
        }
    }
}

/// The files of port `files`, in the order given.
fn source_files(context: &Context) -> Result<Vec<PathBuf>, StageError> {
    let mut files = Vec::new();
    for item in context.inputs("files") {
        let entries = std::fs::read_dir(&item.path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(|e| StageError::io(&item.path, e))?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).filter(|path| path.is_file()).collect();
        paths.sort();
        files.append(&mut paths);
    }
    if files.is_empty() {
        return Err(
            StageError::fail("fetch::no_files", "there are no files to read").hint("name at least one in `files`")
        );
    }
    Ok(files)
}

fn fetch<T: Record>(
    files: &[PathBuf],
    params: FetchParams,
    parse: impl Fn(&[u8], u64) -> Result<Option<T>, BadLine>,
    context: &mut Context,
) -> Result<(), StageError> {
    let mut total = 0;
    for path in files {
        total += path.metadata().map_err(|e| StageError::io(path, e))?.len();
    }
    let mut writer = DatasetWriter::create(&context.output("dataset")?)?;
    let (mut done, mut bad, mut shown) = (0, 0u64, Vec::new());
    for path in files {
        let name = file_name(path);
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(|e| StageError::io(path, e))?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|e| StageError::io(path, e))?;
            if read == 0 {
                break;
            }
            done += read as u64;
            if number % 1024 == 1 {
                context.check_stop()?;
                context.progress(done, total, "bytes", format!("reading {name}"));
            }
            let text = if number == 1 { line.strip_prefix(UTF8_MARK).unwrap_or(&line) } else { &line };
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            match parse(text, writer.records() + bad + 1) {
                Ok(Some(record)) => writer.push(record)?,
                Ok(None) => {}
                Err(reason) => {
                    bad += 1;
                    if shown.len() < SHOWN {
                        shown.push(format!("{name}:{number}: {reason}"));
                    }
                }
            }
        }
    }
    context.progress(done, total, "bytes", "read");
    let bad_lines = || {
        let more = if bad > shown.len() as u64 {
            format!("\n… and {} more", bad - shown.len() as u64)
        } else {
            String::new()
        };
        let (lines, are) = if bad == 1 { ("line", "is") } else { ("lines", "are") };
        (format!("{bad} {lines}"), are, format!("{}{more}", shown.join("\n")))
    };
    if bad > 0 && params.on_error == OnError::Fail {
        let (lines, are, list) = bad_lines();
        return Err(StageError::fail("fetch::bad_lines", format!("{lines} {are} bad:\n{list}"))
            .hint("mend these lines, or leave them out with `on_error: skip`"));
    }
    if bad > 0 {
        let (lines, are, list) = bad_lines();
        context.warning(format!("{lines} {are} left out:\n{list}"));
    }
    if writer.records() == 0 {
        let what = if T::KIND == olmo_data::dataset::Kind::Text { "document" } else { "conversation" };
        let names: Vec<String> = files.iter().map(|path| file_name(path)).collect();
        let message = format!("there is not one {what} in {} ({bad} lines left out)", names.join(", "));
        return Err(StageError::fail("fetch::empty", message).hint("check `files` and `format`"));
    }
    let manifest = writer.finish(bad)?;
    context.message(format!("{} {}", manifest.records, manifest.kind.as_str()));
    Ok(())
}

/// The name of a file for a person; control characters are escaped.
fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .flat_map(|c| {
            let escaped: Vec<char> = if c.is_control() { c.escape_default().collect() } else { vec![c] };
            escaped
        })
        .collect()
}

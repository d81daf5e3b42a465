//! Detects the format of files: `format: auto`, and whether documents are lines of text or of JSON.
//! Only the first records of each file matter, never its name, and the result is reported.

use std::cell::Cell;
use std::io::{BufRead, Read as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use olmo_stage::{Context, StageError};
use serde_json::{Map, Value};

use crate::failure::{unopened, unreadable};
use crate::format::Format;
use crate::json_array::array_elements;
use crate::open::{Content, LONGEST, file_name, open, read_line};
use crate::params::FetchParams;
use crate::record::{Layout, describe_keys, filled_keys, list_keys};

/// Number of records to examine.
const SAMPLE: usize = 64;
/// Maximum number of bytes to examine.
const SAMPLE_BYTES: usize = 32 << 20;
/// Minimum tenths of valid lines in a JSON lines file: one line in ten may be damaged.
const TENTHS: usize = 9;
/// Maximum number of files in a message.
const SHOWN: usize = 10;

/// The first records of a file.
enum Sample {
    /// The columns of a table.
    Columns(Vec<String>),
    /// The values of a JSON array, or the JSON objects among the first `lines` lines.
    Values { values: Vec<Value>, lines: usize },
    /// A JSON object that spans several lines.
    Spread(Map<String, Value>),
}

/// How to read each of `files`.
///
/// # Errors
/// A file cannot be opened, its format cannot be detected, or some files hold documents and others
/// conversations.
pub(crate) fn layouts(params: &FetchParams, files: &[&Path], context: &mut Context) -> Result<Vec<Layout>, StageError> {
    if !matches!(params.format, Format::Text | Format::Auto) {
        return Ok(files.iter().map(|_| Layout::new(params, params.format, true)).collect());
    }
    let mut found = Vec::new();
    for path in files {
        context.check_stop()?;
        found.push(layout(params, path, context)?);
    }
    // A file without records gets the format of the others.
    let first = found.iter().flatten().map(|layout| layout.format).next();
    let fallback = first.unwrap_or(if params.format == Format::Text { Format::Text } else { Format::Messages });
    let layouts: Vec<Layout> = found
        .into_iter()
        .map(|layout| layout.unwrap_or_else(|| Layout::new(params, fallback, fallback != Format::Text)))
        .collect();
    let text = layouts.iter().position(|layout| layout.format == Format::Text);
    let chats = layouts.iter().position(|layout| layout.format != Format::Text);
    if let (Some(text), Some(chats)) = (text, chats) {
        let message =
            format!("{} holds text documents, {} holds conversations", file_name(files[text]), file_name(files[chats]));
        return Err(StageError::fail("fetch::mixed", message).hint("use two fetch stages"));
    }
    report(params, files, &layouts, context);
    Ok(layouts)
}

fn report(params: &FetchParams, files: &[&Path], layouts: &[Layout], context: &mut Context) {
    let list = |chosen: Vec<String>| {
        let more = if chosen.len() > SHOWN { format!(" and {} more", chosen.len() - SHOWN) } else { String::new() };
        chosen.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ") + &more
    };
    let named = files.iter().zip(layouts);
    if params.format == Format::Auto {
        let format = |layout: &Layout| match (layout.format, layout.json) {
            (Format::Text, true) => format!("`text` (JSON, key `{}`)", layout.text_key()),
            (format, _) => format!("`{}`", format.as_str()),
        };
        let chosen = named.map(|(path, layout)| format!("{} is {}", file_name(path), format(layout))).collect();
        context.message(format!("format: {}", list(chosen)));
        return;
    }
    let json: Vec<String> = named.filter(|(_, layout)| layout.json).map(|(path, _)| file_name(path)).collect();
    if !json.is_empty() {
        context.message(format!("documents are read from the JSON key `{}` in {}", layouts[0].text_key(), list(json)));
    }
}

/// How to read the file at `path`; `None` if it has no records.
fn layout(params: &FetchParams, path: &Path, context: &mut Context) -> Result<Option<Layout>, StageError> {
    let name = file_name(path);
    let text = Layout::new(params, Format::Text, true);
    let (values, lines) = match sample(path)? {
        Sample::Columns(_) if params.format == Format::Text => {
            // The reader reports a missing column and lists the columns.
            return Ok(Some(text));
        }
        Sample::Columns(columns) => {
            let keys: Vec<&str> = columns.iter().map(String::as_str).collect();
            let format = format_of(params, &keys).ok_or_else(|| unknown(&name, "columns", &keys))?;
            return Ok(Some(Layout::new(params, format, true)));
        }
        Sample::Spread(record) => {
            let message = format!(
                "{name}: contains JSON objects that span several lines, with the keys {}",
                describe_keys(&filled_keys(&record))
            );
            let hint = format!("write each object on its own line: jq -c . '{name}' > lines.jsonl");
            return Err(StageError::fail("fetch::format", message).hint(hint));
        }
        Sample::Values { lines: 0, .. } => return Ok(None),
        Sample::Values { values, lines } => (values, lines),
    };
    let records: Vec<&Map<String, Value>> = values.iter().filter_map(Value::as_object).collect();
    let most = |count: usize| count * 10 >= lines * TENTHS;
    let is_document = |record: &&&Map<String, Value>| {
        record.get(text.text_key()).is_some_and(|value| value.is_string() || value.is_null())
    };
    // An array of strings.
    let documents = match values.iter().all(Value::is_string) && !values.is_empty() {
        true => lines,
        false => records.iter().filter(is_document).count(),
    };
    if params.format == Format::Auto {
        for format in [Format::Messages, Format::Sharegpt, Format::Alpaca, Format::PromptCompletion] {
            let fits = |record: &&&Map<String, Value>| format_of(params, &filled_keys(record)) == Some(format);
            if most(records.iter().filter(fits).count()) {
                return Ok(Some(Layout::new(params, format, true)));
            }
        }
    }
    if most(documents) {
        return Ok(Some(text));
    }
    if most(records.len()) {
        let record = records.iter().find(|record| !is_document(record)).copied();
        return Err(unknown(&name, "keys", &record.map(filled_keys).unwrap_or_default()));
    }
    if documents > 0 {
        context.warning(format!(
            "{name}: {documents} of the first {lines} lines are JSON with the key `{}`, the others are not: every line is \
             read as a plain text document",
            text.text_key()
        ));
    }
    Ok(Some(Layout::new(params, Format::Text, false)))
}

/// The format of a record with these keys, taking into account keys set in the params.
fn format_of(params: &FetchParams, keys: &[&str]) -> Option<Format> {
    if !params.messages_field.is_empty() && keys.contains(&params.messages_field.as_str()) {
        return Some(Format::Messages);
    }
    match Format::of_keys(keys) {
        None if !params.text_field.is_empty() && keys.contains(&params.text_field.as_str()) => Some(Format::Text),
        format => format,
    }
}

/// The error for records that are JSON or a table but match no format.
fn unknown(name: &str, what: &str, keys: &[&str]) -> StageError {
    match Format::of_keys(keys) {
        Some(format) if format != Format::Text => {
            let message = format!("{name}: contains no documents; its records have the {what} {}", describe_keys(keys));
            StageError::fail("fetch::format", message).hint(format!("set `format: {}`", format.as_str()))
        }
        _ => {
            let message = format!("{name}: its records have the {what} {}, which match no format", list_keys(keys));
            StageError::fail("fetch::format", message).hint(
                "set the key: `text_field` for documents, `messages_field` for conversations; write texts that happen to be \
                 JSON as {\"text\": \"…\"}",
            )
        }
    }
}

fn sample(path: &Path) -> Result<Sample, StageError> {
    let name = file_name(path);
    let open = || open(path, &Arc::default(), &[]).map_err(|e| unopened(&name, e));
    match open()? {
        Content::Table { columns, .. } => return Ok(Sample::Columns(columns)),
        Content::Lines(reader, Some(b'[')) => {
            if let Some(values) = array_head(reader) {
                return Ok(Sample::Values { lines: values.len(), values });
            }
        }
        Content::Lines(..) => {}
    }
    let Content::Lines(mut reader, first) = open()? else { return Ok(Sample::Values { values: Vec::new(), lines: 0 }) };
    let (mut values, mut lines, mut bytes, mut number) = (Vec::new(), 0, 0, 0);
    let mut line = Vec::new();
    while lines < SAMPLE && bytes < SAMPLE_BYTES {
        line.clear();
        number += 1;
        match read_line(&mut *reader, &mut line, LONGEST << 20).map_err(|e| unreadable(&name, Some(number), &e))? {
            0 => break,
            read => bytes += read,
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        if line.trim_ascii_start().starts_with(b"{") {
            values.extend(serde_json::from_slice::<Value>(&line).ok());
        }
    }
    if values.is_empty() && lines > 0 && first == Some(b'{') {
        let Content::Lines(reader, _) = open()? else { return Ok(Sample::Values { values, lines }) };
        let mut whole = serde_json::Deserializer::from_reader(reader.take(SAMPLE_BYTES as u64)).into_iter::<Value>();
        if let Some(Ok(Value::Object(record))) = whole.next() {
            return Ok(Sample::Spread(record));
        }
    }
    Ok(Sample::Values { values, lines })
}

/// The first values of a JSON array; `None` if the file is not an array or contains anything other
/// than objects and strings.
fn array_head(reader: Box<dyn BufRead>) -> Option<Vec<Value>> {
    let values = Rc::<Cell<Vec<Value>>>::default();
    let full = Cell::new(false);
    let ended = array_elements(reader, SAMPLE, &mut |batch: Vec<Value>| {
        let mut all = values.take();
        all.extend(batch);
        full.set(all.len() >= SAMPLE);
        values.set(all);
        !full.get()
    });
    let values = values.take();
    let sound = full.get() || ended.is_ok();
    let alike = values.iter().all(Value::is_object) || values.iter().all(Value::is_string);
    (sound && alike && !values.is_empty()).then_some(values)
}

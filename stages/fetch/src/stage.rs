//! The stage: reads its sources in blocks of a few megabytes, so that memory use does not grow with
//! their size, parses each block in parallel and takes the records in order, so that the output
//! does not depend on the number of threads.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use olmo_data::dataset::{self, Kind};
use olmo_data::{Conversation, DataError};
use olmo_stage::{Context, Stage, StageError, Threads};
use serde_json::Value;

use crate::detect;
use crate::failure::{unopened, unreadable};
use crate::format::Format;
use crate::json_array::array_elements;
use crate::open::{BLOCK, Batches, Content, LONGEST, file_name, open, read_line};
use crate::params::FetchParams;
use crate::record::{BadRecord, Layout, Notes, Read as Parsed, describe_keys};
use crate::sink::{Item, Sink};
use crate::table;

/// Overhead counted per line: short lines take more memory for bookkeeping than for their text.
const PER_LINE: usize = 64;
/// Number of values of a JSON array to process at a time.
const VALUES: usize = 1024;
/// Fewest records that a thread parses at a time.
const PARSED: usize = 16;

/// Stage `fetch`.
pub struct Fetch;

impl Stage for Fetch {
    type Params = FetchParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: FetchParams, context: &mut Context) -> Result<(), StageError> {
        let files = context.input_files("files")?;
        let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let layouts = detect::layouts(&params, &paths, context)?;
        let sources: Vec<(&Path, &Layout)> = paths.into_iter().zip(&layouts).collect();
        let text = match layouts.first() {
            Some(layout) => layout.format == Format::Text,
            None => params.format == Format::Text || (params.format == Format::Auto && documents_are_mixed(context)?),
        };
        if text {
            return fetch::<String>(&params, &sources, |dir| Ok(Box::new(dataset::text_batches(dir)?)), context);
        }
        fetch::<Conversation>(&params, &sources, |dir| Ok(Box::new(dataset::message_batches(dir)?)), context)
    }
}

/// Whether the first item of port `datasets` holds documents.
fn documents_are_mixed(context: &Context) -> Result<bool, StageError> {
    let Some(first) = context.inputs("datasets").first() else { return Ok(false) };
    Ok(dataset::manifest(&first.path)?.kind == Kind::Text)
}

type Whole<T> = Box<dyn Iterator<Item = Result<Vec<T>, DataError>>>;

fn fetch<T: Item>(
    params: &FetchParams,
    files: &[(&Path, &Layout)],
    whole: impl Fn(&Path) -> Result<Whole<T>, DataError>,
    context: &mut Context,
) -> Result<(), StageError> {
    let datasets: Vec<PathBuf> = context.inputs("datasets").iter().map(|item| item.path.clone()).collect();
    let sources = files.len() + datasets.len();
    if sources == 0 {
        return Err(StageError::fail("fetch::no_files", "there is nothing to read")
            .hint("give at least one item in `files` or `datasets`"));
    }
    if !params.weights.is_empty() && params.weights.len() != sources {
        let message = format!("`weights` has {} numbers, but there are {sources} sources", params.weights.len());
        return Err(
            StageError::fail("fetch::params", message).hint("give one weight for each file and dataset, in order")
        );
    }
    if let Some(weight) = params.weights.iter().find(|weight| !(0.0..=1e6).contains(*weight)) {
        return Err(StageError::fail("fetch::params", format!("weight {weight} is not between 0 and 1000000")));
    }
    let mut total = 0;
    for (path, _) in files {
        total += path.metadata().map_err(|e| StageError::io(path, e))?.len();
    }
    let threads = Arc::new(Threads::new(context.request.threads)?);
    let mut reading = Reading { sink: Sink::create(params, context)?, threads, read: Arc::default(), total, context };
    for (source, (path, layout)) in files.iter().enumerate() {
        reading.sink.begin(source);
        reading.file(path, layout)?;
    }
    for (i, dir) in datasets.iter().enumerate() {
        reading.sink.begin(files.len() + i);
        for batch in whole(dir)? {
            reading.context.check_stop()?;
            for (n, record) in batch?.into_iter().enumerate() {
                reading.sink.push(Ok((record, Notes::default())), || format!("dataset {}, record {n}", i + 1))?;
            }
            if reading.sink.full() {
                break;
            }
        }
    }
    reading.context.progress(total, total, "bytes", "read");
    let mut names: Vec<String> = files.iter().map(|(path, _)| file_name(path)).collect();
    names.extend((0..datasets.len()).map(|i| format!("dataset {}", i + 1)));
    reading.sink.finish(&names, reading.context)?;
    Ok(())
}

/// Reads the files.
struct Reading<'a, T: Item> {
    sink: Sink<'a, T>,
    threads: Arc<Threads>,
    read: Arc<AtomicU64>,
    total: u64,
    context: &'a mut Context,
}

impl<T: Item> Reading<'_, T> {
    fn file(&mut self, path: &Path, layout: &Layout) -> Result<(), StageError> {
        let name = file_name(path);
        match open(path, &self.read, &layout.columns()).map_err(|e| unopened(&name, e))? {
            Content::Lines(reader, Some(b'[')) if layout.json => self.array(&name, layout, reader),
            Content::Lines(reader, _) => self.lines(&name, layout, reader),
            Content::Table { columns, batches } => {
                check_columns(&name, layout, &columns)?;
                self.table(&name, layout, batches)
            }
        }
    }

    fn pause(&mut self, name: &str) -> Result<(), StageError> {
        self.context.check_stop()?;
        let read = self.read.load(Ordering::Relaxed).min(self.total.saturating_sub(1));
        self.context.progress(read, self.total, "bytes", format!("reading {name}"));
        Ok(())
    }

    fn lines(&mut self, name: &str, layout: &Layout, reader: Box<dyn BufRead + Send>) -> Result<(), StageError> {
        let blocks = Blocks { name: name.to_owned(), reader, number: 0, ended: false };
        let threads = &self.threads.clone();
        // Reading, which may decompress, parsing and writing go on at the same time.
        std::thread::scope(|scope| {
            let blocks = threads.ahead(scope, blocks);
            let parsed = blocks.map(|block| (block.parse::<T>(layout, threads), block));
            self.blocks(name, threads.ahead(scope, parsed))
        })
    }

    /// Takes the records of parsed blocks, until one is enough. The rest of the iterator is dropped.
    fn blocks(&mut self, name: &str, blocks: impl Iterator<Item = (Vec<Parsed<T>>, Block)>) -> Result<(), StageError> {
        for (parsed, block) in blocks {
            self.pause(name)?;
            for (line, record) in block.lines.iter().zip(parsed) {
                if let Some(record) = record.transpose() {
                    self.sink.push(record, || format!("{name}:{}:", line.number))?;
                }
            }
            if let Some(failed) = block.failed {
                return Err(failed);
            }
            if self.sink.full() {
                break;
            }
        }
        Ok(())
    }

    fn values(&mut self, name: &str, layout: &Layout, first: u64, values: &[Value]) -> Result<(), StageError> {
        let parsed: Vec<Parsed<T>> = self.threads.map(values, PARSED, |value| T::of_value(layout, value));
        for (i, record) in parsed.into_iter().enumerate() {
            if let Some(record) = record.transpose() {
                self.sink.push(record, || format!("{name}: record {}:", first + i as u64))?;
            }
        }
        self.pause(name)
    }

    fn table(&mut self, name: &str, layout: &Layout, batches: Batches) -> Result<(), StageError> {
        let mut first = 1;
        for batch in batches {
            let place = |e: String| {
                StageError::fail("fetch::table", format!("{name}: after record {}: {e}", first - 1))
                    .hint("the file is damaged, truncated, or compressed in a way that this build does not support")
            };
            let rows = table::rows(&batch.map_err(place)?).map_err(place)?;
            self.values(name, layout, first, &rows)?;
            first += rows.len() as u64;
            if self.sink.full() {
                break;
            }
        }
        Ok(())
    }

    /// Reads a JSON array of records, value by value.
    fn array(&mut self, name: &str, layout: &Layout, reader: Box<dyn BufRead>) -> Result<(), StageError> {
        let mut failure = None;
        let mut first = 1;
        let taken = array_elements(reader, VALUES, &mut |values: Vec<Value>| {
            let count = values.len() as u64;
            let done = self.values(name, layout, first, &values);
            first += count;
            done.map_err(|e| failure = Some(e)).is_ok() && !self.sink.full()
        });
        match (failure, taken) {
            (Some(failure), _) => Err(failure),
            (None, Ok(())) => Ok(()),
            // Reading stopped before the end of the array.
            (None, Err(_)) if self.sink.full() => Ok(()),
            (None, Err(e)) => {
                Err(StageError::fail("fetch::array", format!("{name}: after record {}: is not JSON: {e}", first - 1))
                    .hint("the file starts with `[`, so it was read as one JSON array of records"))
            }
        }
    }
}

/// Rejects a table without the columns that its format needs.
fn check_columns(name: &str, layout: &Layout, columns: &[String]) -> Result<(), StageError> {
    let has = |key: &&str| columns.iter().any(|column| column == key);
    let Some(missing) = layout.needed().into_iter().find(|any| !any.iter().any(has)) else { return Ok(()) };
    let keys: Vec<&str> = columns.iter().map(String::as_str).collect();
    let message = format!("{name}: has no column `{}`; it has {}", missing.join("` or `"), describe_keys(&keys));
    let hint = match Format::of_keys(&keys) {
        Some(format) => format!("set `format: {}`, or `format: auto`", format.as_str()),
        None => "set the column: `messages_field` for conversations, `text_field` for documents".into(),
    };
    Err(StageError::fail("fetch::columns", message).hint(hint))
}

/// Reads lines in blocks.
struct Blocks {
    name: String,
    reader: Box<dyn BufRead + Send>,
    /// Number of lines read.
    number: u64,
    ended: bool,
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.ended {
            return None;
        }
        let mut block = Block { bytes: Vec::with_capacity(BLOCK), lines: Vec::new(), failed: None };
        let mut taken = 0;
        while taken < BLOCK {
            let start = block.bytes.len();
            match read_line(&mut *self.reader, &mut block.bytes, LONGEST << 20) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => {
                    self.number += 1;
                    taken += read;
                    let too_long = read - 1 > LONGEST << 20;
                    if too_long {
                        block.bytes.truncate(start);
                    } else if block.bytes[start..].trim_ascii().is_empty() {
                        // Blank lines are ignored in every format.
                        block.bytes.truncate(start);
                        continue;
                    }
                    taken += PER_LINE;
                    block.lines.push(Line { number: self.number, start, end: block.bytes.len(), too_long });
                }
                Err(e) => {
                    block.failed = Some(unreadable(&self.name, Some(self.number + 1), &e));
                    self.ended = true;
                    break;
                }
            }
        }
        Some(block)
    }
}

/// Some lines, stored back to back. A line that is too long is not stored.
struct Block {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Why nothing can be read after them.
    failed: Option<StageError>,
}

impl Block {
    fn parse<T: Item>(&self, layout: &Layout, threads: &Threads) -> Vec<Parsed<T>> {
        let one = |line: &Line| match line.too_long {
            true => Err(BadRecord::TooLong(LONGEST)),
            false => T::of_line(layout, &self.bytes[line.start..line.end]),
        };
        threads.map(&self.lines, PARSED, one)
    }
}

/// A line in a block.
struct Line {
    /// Line number in the file, from 1.
    number: u64,
    start: usize,
    end: usize,
    too_long: bool,
}

//! The stage: encodes batches in parallel and writes them in order, so that the output does not
//! depend on the number of threads.
//!
//! Records are written in parts, each complete in itself. After a stop, the stage finds the
//! complete parts in its state folder and continues after them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use olmo_base::seal::Seal;
use olmo_base::{failpoint, journal};
use olmo_data::dataset::Rows;
use olmo_data::tokens::{self, TokensManifest, TokensWriter, part_name};
use olmo_data::{DataError, TextTokenizer, TokenizerRecord, dataset};
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError, Threads};

use crate::encoder::{Encoder, Scratch};
use crate::params::{Layout, OnError, TokenizeParams, TooLong};
use crate::part::{Encoded, Part};
use crate::rules;

/// Number of records after which a part is complete.
const PART: u64 = 1 << 16;
/// Number of records that a thread encodes at a time.
const CHUNK: usize = 128;
const PARTS: &str = "parts.jsonl";

/// Stage `tokenize`.
pub struct Tokenize;

impl Stage for Tokenize {
    type Params = TokenizeParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &TokenizeParams, question: &Question) -> Vec<Finding> {
        rules::check(params, question)
    }

    fn run(params: TokenizeParams, context: &mut Context) -> Result<(), StageError> {
        if params.max_length.is_some_and(|length| length < 2) {
            return Err(StageError::fail("tokenize::params", "`max_length` is below 2, so no token could be a target"));
        }
        let documents = context.input("documents")?;
        let tokenizer = TextTokenizer::open(&context.input("tokenizer")?)?;
        let chat_template = context.optional_input("chat_template").map(|dir| read_only_file(&dir)).transpose()?;
        let total = dataset::manifest(&documents)?.records;
        let encoder = Encoder::new(tokenizer, &params, chat_template.as_deref(), context)?;
        let mut writing = Writing::start(&params, encoder.tokenizer.special().vocab_size, context)?;
        let counted = Counted { done: writing.records(), total };
        if params.is_plain() {
            let encode =
                |rows: &_, row, _, scratch: &mut _, encoded: &mut _| encoder.plain(rows, row, scratch, encoded);
            encode_all(dataset::text_rows(&documents)?, encode, counted, &mut writing, context)?;
        } else {
            let encode = |rows: &_, row, number, scratch: &mut _, encoded: &mut _| {
                encoder.conversation(rows, row, number, scratch, encoded)
            };
            encode_all(dataset::chat_rows(&documents)?, encode, counted, &mut writing, context)?;
        }
        writing.finish(&params, &encoder, context)
    }
}

#[derive(Clone, Copy)]
struct Counted {
    /// Records in complete parts.
    done: u64,
    /// All records.
    total: u64,
}

/// Encodes all records after the completed ones and writes them in order. With several threads,
/// reading, encoding and writing run concurrently.
fn encode_all<R: Rows>(
    batches: impl Iterator<Item = Result<R, DataError>> + Send,
    encode: impl Fn(&R, usize, u64, &mut Scratch, &mut Encoded) -> Result<(), StageError> + Send + Sync,
    counted: Counted,
    writing: &mut Writing,
    context: &mut Context,
) -> Result<(), StageError> {
    let Counted { done, total } = counted;
    let threads = Threads::new(context.request.threads)?;
    let (threads, encode) = (&threads, &encode);
    // Number of records read.
    let mut seen = 0;
    let mut encode_batch = move |rows: R| {
        let count = rows.count();
        let first = seen;
        seen += count as u64;
        let skipped = done.saturating_sub(first).min(count as u64) as usize;
        // The documents of one thread need not be copied together.
        let chunk = if threads.are_many() { CHUNK } else { count.max(1) };
        let chunks: Vec<Range<usize>> =
            (skipped..count).step_by(chunk).map(|start| start..count.min(start + chunk)).collect();
        let one = |chunk: &Range<usize>| {
            let (mut scratch, mut encoded) = (Scratch::default(), Encoded::default());
            encoded.documents.reserve(chunk.len());
            for row in chunk.clone() {
                encode(&rows, row, first + row as u64, &mut scratch, &mut encoded)?;
            }
            Ok(encoded)
        };
        // The first error in record order, whichever thread found it.
        let encoded = threads.map(&chunks, 1, one).into_iter().collect::<Result<Vec<Encoded>, StageError>>();
        encoded.map(|encoded| (seen, encoded))
    };
    std::thread::scope(|scope| {
        let batches = threads.ahead(scope, batches);
        let encoded = batches.map(move |batch| encode_batch(batch?));
        for batch in threads.ahead(scope, encoded) {
            let (seen, encoded) = batch?;
            context.check_stop()?;
            writing.take(encoded)?;
            context.progress(seen, total, "documents", "tokenising");
        }
        Ok(())
    })
}

/// The text of the single file in folder `dir`.
fn read_only_file(dir: &Path) -> Result<String, StageError> {
    let entries = std::fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let files: Vec<PathBuf> = entries.map_err(|e| StageError::io(dir, e))?.into_iter().map(|e| e.path()).collect();
    let [path] = files.as_slice() else {
        let message = format!("`chat_template` holds {} files, expected one", files.len());
        return Err(StageError::fail("tokenize::params", message));
    };
    std::fs::read_to_string(path).map_err(|e| StageError::io(path, e))
}

/// Number of problems to show, and the number after which a stage that will fail stops at once.
const SHOWN: usize = 5;
const MOST_PROBLEMS: u64 = 1000;

/// Writes and counts the encoded records, in order.
struct Writing {
    state: PathBuf,
    vocab_size: u32,
    parts: Vec<Part>,
    journal: journal::Writer<Part>,
    /// The part being written.
    open: Option<(TokensWriter, Part)>,
    on_error: OnError,
    /// The first problems of this attempt, and their total number.
    problems: (Vec<String>, u64),
}

impl Writing {
    fn start(params: &TokenizeParams, vocab_size: u32, context: &mut Context) -> Result<Self, StageError> {
        let state = context.state_dir()?;
        let path = state.join(PARTS);
        let written = journal::read_prefix::<Part>(&path).map_err(|e| StageError::io(&path, e))?;
        let mut parts = written.records;
        let mut lost = written.damage;
        for part in 0..parts.len() {
            if let Err(why) = Seal::check(&state.join(part_name(part))) {
                lost = Some(format!("{}: {why}", part_name(part)));
                parts.truncate(part);
                break;
            }
        }
        if let Some(why) = &lost {
            std::fs::remove_file(&path).map_err(|e| StageError::io(&path, e))?;
            context.warning(format!(
                "the work of an earlier attempt is damaged ({why}); starting again from record {}",
                parts.iter().map(|part| part.records).sum::<u64>() + 1
            ));
        }
        let mut journal = journal::Writer::open(&path, true).map_err(|e| StageError::io(&path, e))?;
        if lost.is_some() {
            parts.iter().try_for_each(|part| journal.append(part)).map_err(|e| StageError::io(&path, e))?;
        }
        let on_error = params.on_error;
        let writing = Self { state, vocab_size, parts, journal, open: None, on_error, problems: (Vec::new(), 0) };
        let done = writing.records();
        if done > 0 {
            context.message(format!("continues after the {done} records tokenized by an earlier attempt"));
        }
        Ok(writing)
    }

    /// Records in complete parts.
    fn records(&self) -> u64 {
        self.parts.iter().map(|part| part.records).sum()
    }

    /// Writes the records of a batch. A part ends only between batches, which are the same in each
    /// attempt.
    fn take(&mut self, batch: Vec<Encoded>) -> Result<(), StageError> {
        let (mut documents, mut problems) = (Vec::with_capacity(batch.len()), Vec::new());
        let mut counts = Part::default();
        for mut encoded in batch {
            counts.add(&encoded.part);
            problems.append(&mut encoded.problems);
            documents.push(encoded.documents);
        }
        for problem in problems {
            self.problems.1 += 1;
            if self.problems.0.len() < SHOWN {
                self.problems.0.push(problem);
            }
            if self.on_error == OnError::Fail && self.problems.1 == MOST_PROBLEMS {
                return Err(self.failure());
            }
        }
        if counts.records == 0 {
            return Ok(());
        }
        let (writer, part) = match &mut self.open {
            Some(open) => open,
            none => {
                let path = self.state.join(part_name(self.parts.len()));
                none.insert((TokensWriter::create(&path, self.vocab_size)?, Part::default()))
            }
        };
        part.add(&counts);
        writer.write(&documents)?;
        if part.records >= PART { self.close() } else { Ok(()) }
    }

    /// The error that reports the problems.
    fn failure(&self) -> StageError {
        let (shown, count) = &self.problems;
        let more = count.saturating_sub(shown.len() as u64);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        let message = format!("{count} conversations cannot be labelled:\n  {}{more}", shown.join("\n  "));
        StageError::fail("tokenize::labels", message).hint(
            "fix the template or these conversations, mark the trained text with `{% generation %}` in the template, or set \
             `on_error: skip` to drop them",
        )
    }

    /// Completes the part being written.
    fn close(&mut self) -> Result<(), StageError> {
        if self.on_error == OnError::Fail && self.problems.1 > 0 {
            // Do not keep such a part: the next attempt would treat it as valid.
            return Err(self.failure());
        }
        let Some((writer, mut part)) = self.open.take() else { return Ok(()) };
        part.counts = writer.close()?;
        let path = self.state.join(part_name(self.parts.len()));
        std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|e| StageError::io(&path, e))?;
        Seal::write(&path).map_err(|e| StageError::io(&path, e))?;
        let path = self.state.join(PARTS);
        self.journal.append(&part).map_err(|e| StageError::io(&path, e))?;
        self.parts.push(part);
        failpoint("tokenize.part");
        Ok(())
    }

    fn finish(mut self, params: &TokenizeParams, encoder: &Encoder, context: &mut Context) -> Result<(), StageError> {
        let tokenizer = &encoder.tokenizer;
        self.close()?;
        let mut all = Part::default();
        self.parts.iter().for_each(|part| all.add(part));
        let special = tokenizer.special();
        if all.counts.documents == 0 {
            let roles: Vec<&str> = params.train_on.roles.iter().map(|role| role.as_str()).collect();
            let message = format!(
                "none of {} conversations has a turn to train ({}) within its first {} tokens",
                all.records,
                roles.join(", "),
                params.max_length(tokenizer)
            );
            return Err(StageError::fail("tokenize::nothing_left", message)
                .hint("raise `max_length`, or check that the data has turns of these roles"));
        }
        let out = context.output("tokens")?;
        for part in 0..self.parts.len() {
            let (from, to) = (self.state.join(part_name(part)), out.join(part_name(part)));
            // The state folder may be on another file system.
            if std::fs::rename(&from, &to).is_err() {
                std::fs::copy(&from, &to).map_err(|e| StageError::io(&from, e))?;
            }
        }
        let chat = encoder.chat.as_ref().map(|chat| chat.record().clone());
        TokenizerRecord { chat, ..tokenizer.record().clone() }.write(&out)?;
        let dropped = all.unlabelled + all.problems + if params.too_long == TooLong::Drop { all.too_long } else { 0 };
        let manifest = TokensManifest {
            format: 1,
            tokenizer: tokenizer.digest(),
            vocab_size: special.vocab_size,
            eos_token_id: special.eos_token_id,
            pad_token_id: special.pad_token_id,
            template: match (params.template, &encoder.chat) {
                (Some(layout), _) => layout.as_str().into(),
                (None, Some(chat)) => chat.record().template.clone(),
                (None, None) => Layout::Plain.as_str().into(),
            },
            documents: 0,
            dropped,
            truncated: if params.too_long == TooLong::Truncate { all.too_long } else { 0 },
            tokens: 0,
            labels: 0,
            max_length: params.max_length(tokenizer),
        };
        let manifest = tokens::finish(&out, manifest, all.counts)?;
        if all.problems > 0 {
            let shown = self.problems.0.first().map(|first| format!("; the first: {first}")).unwrap_or_default();
            context.warning(format!(
                "{} of {} conversations are skipped: they cannot be labelled{shown}",
                all.problems, all.records
            ));
        }
        report(&manifest, &all, params, encoder, context);
        Ok(())
    }
}

/// Reports truncated, dropped and unusual records.
fn report(manifest: &TokensManifest, all: &Part, params: &TokenizeParams, encoder: &Encoder, context: &mut Context) {
    let special = encoder.tokenizer.special();
    let (records, length) = (all.records, manifest.max_length);
    if all.unlabelled > 0 {
        context.warning(format!(
            "{} of {records} conversations are skipped: they have nothing to train within the first {length} tokens",
            all.unlabelled
        ));
    }
    if all.too_long > 0 && !params.is_plain() {
        let what = match params.too_long {
            TooLong::Truncate => "are truncated at",
            TooLong::Drop => "are dropped: they have more than",
            TooLong::Split => "are split into documents of at most",
        };
        context.warning(format!("{} of {records} conversations {what} {length} tokens", all.too_long));
    }
    if all.endless > 0 {
        context.warning(format!(
            "{} trained turns have no stop token after them: the template writes none there",
            all.endless
        ));
    }
    if all.shortened > 0 {
        context.warning(format!(
            "{} trained turns are only partly trained: the template omits the rest of their content, as the templates of \
             reasoning models do for earlier answers",
            all.shortened
        ));
    }
    if all.unwritten_tools > 0 {
        context.warning(format!(
            "{} of {records} conversations have tools or tool calls that the chat template does not write: use a template \
             that does, in `chat_template`",
            all.unwritten_tools
        ));
    }
    for (token, count) in &all.control_tokens {
        let token = encoder.control_tokens.name(*token).unwrap_or_default().escape_debug().to_string();
        let what = if token == special.eos_token { "the eos token" } else { "a control token" };
        context.warning(format!(
            "{count} records contain the text `{token}`, which is encoded as {what} in the middle of the record"
        ));
    }
    context.message(format!(
        "{} documents, {} tokens, {} of them targets; eos `{}` is id {}, pad `{}` is id {}",
        manifest.documents,
        manifest.tokens,
        manifest.labels,
        special.eos_token,
        special.eos_token_id,
        special.pad_token,
        special.pad_token_id
    ));
    if let Some(chat) = &encoder.chat {
        let stops: Vec<String> =
            chat.record().stop_tokens.iter().map(|stop| format!("`{}` (id {})", stop.token, stop.id)).collect();
        context.message(format!("an answer ends with {}", stops.join(" or ")));
    }
}

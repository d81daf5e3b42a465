//! The stage: encodes batches in parallel and writes them in order, so that the output does not
//! depend on the number of threads.
//!
//! Records are written in parts, each complete in itself. After a stop, the stage finds the
//! complete parts in its state folder and continues after them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use olmo_base::seal::Seal;
use olmo_base::{failpoint, journal};
use olmo_data::tokens::{self, TokensCounts, TokensManifest, TokensWriter, part_name};
use olmo_data::{DataError, TextTokenizer, TokenizerRecord, dataset};
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::encoder::{Encoded, Encoder};
use crate::params::{Layout, OnError, TokenizeParams, TooLong};
use crate::rules;

/// Number of records in a part.
const PART: u64 = 1 << 16;
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
        let mut writing = Writing::start(&params, context)?;
        let counted = Counted { done: writing.records(), total };
        if params.is_plain() {
            let encode = |text: &String, _| encoder.plain(text);
            encode_all(dataset::text_batches(&documents)?, encode, counted, &mut writing, context)?;
        } else {
            let encode = |conversation: &_, number| encoder.conversation(conversation, number);
            encode_all(dataset::message_batches(&documents)?, encode, counted, &mut writing, context)?;
        }
        writing.finish(&params, &encoder, context)
    }
}

/// Maximum number of batches queued between reading and encoding, and between encoding and writing.
const WAITING: usize = 6;

#[derive(Clone, Copy)]
struct Counted {
    /// Records in complete parts.
    done: u64,
    /// All records.
    total: u64,
}

/// Encodes all records after the completed ones and writes them in order. With more than one
/// thread, reading, encoding and writing run concurrently.
fn encode_all<T: Send + Sync>(
    batches: impl Iterator<Item = Result<Vec<T>, DataError>> + Send,
    encode: impl Fn(&T, u64) -> Result<Encoded, StageError> + Sync,
    counted: Counted,
    writing: &mut Writing,
    context: &mut Context,
) -> Result<(), StageError> {
    let threads = context.request.threads;
    if threads == 1 {
        let mut encoding = Encoding { pool: None, encode, counted, seen: 0, context };
        for batch in batches {
            let records = encoding.batch(&batch?)?;
            records.into_iter().try_for_each(|record| writing.push(record))?;
        }
        return Ok(());
    }
    // Reading and writing each use less than half a thread and mostly wait for encoding.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| StageError::fail("tokenize::threads", e.to_string()))?;
    std::thread::scope(|scope| {
        let (read, to_encode) = sync_channel(WAITING);
        let (encoded, to_write) = sync_channel::<Vec<Encoded>>(WAITING);
        scope.spawn(move || {
            for batch in batches {
                // The receiver is gone: there was an error.
                if read.send(batch).is_err() {
                    break;
                }
            }
        });
        let writer = scope.spawn(move || {
            let mut records = to_write.into_iter().flatten();
            records.try_for_each(|record| writing.push(record))
        });
        let mut encoding = Encoding { pool: Some(pool), encode, counted, seen: 0, context };
        let mut done = Ok(());
        for batch in to_encode {
            match batch.map_err(StageError::from).and_then(|batch| encoding.batch(&batch)) {
                Ok(records) => {
                    // The writer reports the reason.
                    if encoded.send(records).is_err() {
                        break;
                    }
                }
                Err(e) => {
                    done = Err(e);
                    break;
                }
            }
        }
        drop(encoded);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(done)
    })
}

/// Encodes batches in parallel.
struct Encoding<'c, E> {
    /// Absent with one thread.
    pool: Option<rayon::ThreadPool>,
    encode: E,
    counted: Counted,
    /// Records seen, including those in complete parts.
    seen: u64,
    context: &'c mut Context,
}

impl<E> Encoding<'_, E> {
    fn batch<T: Sync>(&mut self, records: &[T]) -> Result<Vec<Encoded>, StageError>
    where
        E: Fn(&T, u64) -> Result<Encoded, StageError> + Sync,
    {
        self.context.check_stop()?;
        let Counted { done, total } = self.counted;
        let skipped = done.saturating_sub(self.seen).min(records.len() as u64);
        let (first, records) = (self.seen + skipped, &records[skipped as usize..]);
        let encode = &self.encode;
        let one = |(i, record)| encode(record, first + i as u64);
        let encoded: Vec<_> = match &self.pool {
            Some(pool) => pool.install(|| records.par_iter().with_min_len(16).enumerate().map(one).collect()),
            None => records.iter().enumerate().map(one).collect(),
        };
        self.seen = first + records.len() as u64;
        self.context.progress(self.seen, total, "documents", "tokenising");
        // The first error in record order, whichever thread found it.
        encoded.into_iter().collect()
    }
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

/// A complete part, as recorded in the journal.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Part {
    /// Number of records in the part.
    records: u64,
    counts: TokensCounts,
    /// Records dropped because nothing in them could be trained.
    unlabelled: u64,
    /// Records dropped because they could not be rendered or labelled.
    problems: u64,
    too_long: u64,
    /// Trained turns without a stop token at the end, and trained turns that the template shortens.
    endless: u64,
    shortened: u64,
    /// Records with tools or tool calls that the template does not write.
    unwritten_tools: u64,
    /// Records whose own text encodes to a control token, per token.
    control_tokens: BTreeMap<u32, u64>,
}

impl Part {
    fn add(&mut self, other: &Part) {
        self.records += other.records;
        self.counts += other.counts;
        self.unlabelled += other.unlabelled;
        self.problems += other.problems;
        self.too_long += other.too_long;
        self.endless += other.endless;
        self.shortened += other.shortened;
        self.unwritten_tools += other.unwritten_tools;
        for (token, records) in &other.control_tokens {
            *self.control_tokens.entry(*token).or_default() += records;
        }
    }
}

/// Number of problems to show, and the number after which a stage that will fail stops at once.
const SHOWN: usize = 5;
const MOST_PROBLEMS: u64 = 1000;

/// Writes and counts the encoded records, in order.
struct Writing {
    state: PathBuf,
    parts: Vec<Part>,
    journal: journal::Writer<Part>,
    /// The part being written.
    open: Option<(TokensWriter, Part)>,
    on_error: OnError,
    /// The first problems of this attempt, and their total number.
    problems: (Vec<String>, u64),
}

impl Writing {
    fn start(params: &TokenizeParams, context: &mut Context) -> Result<Self, StageError> {
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
        let writing = Self { state, parts, journal, open: None, on_error: params.on_error, problems: (Vec::new(), 0) };
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

    fn push(&mut self, record: Encoded) -> Result<(), StageError> {
        let (writer, part) = match &mut self.open {
            Some(open) => open,
            none => {
                let path = self.state.join(part_name(self.parts.len()));
                none.insert((TokensWriter::create(&path)?, Part::default()))
            }
        };
        part.records += 1;
        part.unlabelled += u64::from(record.unlabelled);
        part.too_long += u64::from(record.too_long);
        part.endless += record.endless;
        part.shortened += record.shortened;
        part.unwritten_tools += u64::from(record.unwritten_tools);
        for token in record.control_tokens {
            *part.control_tokens.entry(token).or_default() += 1;
        }
        if let Some(problem) = record.problem {
            part.problems += 1;
            self.problems.1 += 1;
            if self.problems.0.len() < SHOWN {
                self.problems.0.push(problem);
            }
            if self.on_error == OnError::Fail && self.problems.1 == MOST_PROBLEMS {
                return Err(self.failure());
            }
        }
        for document in record.documents {
            writer.push(document)?;
        }
        if part.records == PART { self.close() } else { Ok(()) }
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

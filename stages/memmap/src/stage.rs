//! The stage: streams documents from Parquet into rows, and reports what was truncated or dropped.

use olmo_data::tokens::TokensReader;
use olmo_data::{Layout, Manifest, MemmapWriter, Pack, Packer, TokenizerRecord};
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError, Threads};

use crate::import;
use crate::params::MemmapParams;
use crate::rules;

/// A row length chosen by the stage is a multiple of this.
const ROUND: u64 = 64;

/// Stage `memmap`.
pub struct Memmap;

impl Stage for Memmap {
    type Params = MemmapParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &MemmapParams, question: &Question) -> Vec<Finding> {
        rules::check(params, question)
    }

    fn run(params: MemmapParams, context: &mut Context) -> Result<(), StageError> {
        if let Some(length) = params.sequence_length.filter(|length| !(2..=1 << 32).contains(length)) {
            let message =
                format!("sequence_length is {length}; a row needs at least two tokens, one to predict the other");
            return Err(StageError::fail("memmap::params", message));
        }
        let given = (context.optional_input("tokens"), !context.inputs("input_ids").is_empty());
        let (manifest, (documents, tokens)) = match (given, params.sequence_length) {
            ((Some(tokens), false), Some(length)) => pack(&params, length, &tokens, context)?,
            ((Some(tokens), false), None) if params.pack != Pack::Concat => {
                let length = longest_document(&tokens, context)?;
                pack(&params, length, &tokens, context)?
            }
            ((None, true), Some(length)) => {
                let manifest = import::import(&params, length, context)?;
                let documents = (manifest.documents, manifest.count);
                (manifest, documents)
            }
            ((Some(_), false) | (None, true), None) => {
                return Err(StageError::fail("memmap::params", rules::NO_LENGTH).hint(rules::NO_LENGTH_HINT));
            }
            _ => {
                let message = "give either `tokens`, or `input_ids` and `tokenizer` to import id files";
                return Err(StageError::fail("memmap::params", message));
            }
        };
        let length = manifest.sequence_length;
        if manifest.instances == 0 {
            let message = format!("{documents} documents with {tokens} tokens in all do not fill one row of {length}");
            return Err(StageError::fail("memmap::too_small", message)
                .hint("lower sequence_length, give more data, or use `pack: whole`, which pads"));
        }
        if manifest.labels == 0 {
            let message = format!("no token in {} rows is a target", manifest.instances);
            return Err(StageError::fail("memmap::no_labels", message)
                .hint("raise sequence_length: the rows may end before the answers"));
        }
        if manifest.truncated > 0 {
            let message = format!("{} of {documents} documents are truncated at the end of a row", manifest.truncated);
            context.warning(format!("{message} of {length} tokens"));
        }
        if manifest.dropped > 0 {
            let why = if params.pack == Pack::Concat {
                "they come after the last full row"
            } else {
                "truncated to a row, they have no target"
            };
            context.warning(format!("{} of {documents} documents are dropped: {why}", manifest.dropped));
        }
        if manifest.filtered > 0 {
            let (some, all) = (manifest.filtered, manifest.instances);
            context.warning(format!("{some} of {all} rows are repetitive; their labels are removed"));
        }
        context.message(format!(
            "{} rows of {length} {} tokens, {} documents, {:.1} % of the tokens are targets, {:.1} % padding",
            manifest.instances,
            manifest.dtype.as_str(),
            manifest.documents,
            100.0 * manifest.labels as f64 / manifest.count as f64,
            100.0 * manifest.padding as f64 / manifest.count as f64,
        ));
        Ok(())
    }
}

/// Row length that fits every document of the tokens in folder `dir`: the length of the longest
/// one, rounded up to a multiple of [`ROUND`], but never above the `max_length` of stage
/// `tokenize`.
fn longest_document(dir: &std::path::Path, context: &mut Context) -> Result<u64, StageError> {
    let reader = TokensReader::open(dir)?;
    let (total, most) = (reader.manifest().documents, reader.manifest().max_length);
    let mut longest = 0;
    for (done, document) in reader.enumerate() {
        longest = longest.max(document?.input_ids.len() as u64);
        if done % 1024 == 0 {
            context.check_stop()?;
            context.progress(done as u64, total, "documents", "measuring");
        }
    }
    Ok(longest.next_multiple_of(ROUND).min(most.max(longest)).max(2))
}

/// Packs the documents of the tokens in folder `dir` into rows of `length` tokens. Also returns the
/// number of documents and of tokens.
fn pack(
    params: &MemmapParams,
    length: u64,
    dir: &std::path::Path,
    context: &mut Context,
) -> Result<(Manifest, (u64, u64)), StageError> {
    let threads = Threads::new(context.request.threads)?;
    let reader = TokensReader::open(dir)?;
    TokenizerRecord::read(dir)?.write(&context.output("memmap")?)?;
    let tokens = reader.manifest().clone();
    let layout = Layout {
        sequence_length: length as usize,
        vocab_size: tokens.vocab_size,
        tokenizer: tokens.tokenizer,
        eos_token_id: tokens.eos_token_id,
        pad_token_id: tokens.pad_token_id,
    };
    let options = params.options(length, tokens.vocab_size, context.request.threads);
    let writer = MemmapWriter::with_options(&context.output("memmap")?, layout, options);
    let writer = writer.map_err(|e| {
        let failed: StageError = e.into();
        failed.hint("set `dtype: auto` or `dtype: uint32`: larger ids would wrap around")
    })?;
    let mut packer = Packer::new(params.pack, writer);
    let mut done = 0;
    // Reading goes on beside writing.
    std::thread::scope(|scope| {
        threads.ahead(scope, reader.batches()).try_for_each(|batch| -> Result<(), StageError> {
            context.check_stop()?;
            context.progress(done, tokens.documents, "documents", "packing");
            let batch = batch?;
            done += batch.len() as u64;
            Ok(batch.into_iter().try_for_each(|document| packer.push(document))?)
        })
    })?;
    let manifest = packer.finish()?;
    context.progress(tokens.documents, tokens.documents, "documents", "packed");
    Ok((manifest, (tokens.documents, tokens.tokens)))
}

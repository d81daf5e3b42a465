//! The stage: documents stream from Parquet into rows; what was cut or left out is said.

use olmo_data::tokens::TokensReader;
use olmo_data::{ChatRecord, Layout, Manifest, MemmapWriter, Pack, Packer};
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};

use crate::import;
use crate::params::MemmapParams;
use crate::rules;

/// Row lengths that are not given are multiples of it.
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
            let message = format!("sequence_length is {length}; a row needs two tokens, one to predict the other");
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
                let message = "give either `tokens`, or `input_ids` and `tokenizer` to import files of ids";
                return Err(StageError::fail("memmap::params", message));
            }
        };
        let length = manifest.sequence_length;
        if manifest.instances == 0 {
            let message = format!("{documents} documents of {tokens} tokens together do not fill one row of {length}");
            return Err(StageError::fail("memmap::too_small", message)
                .hint("lower sequence_length, give more data, or use `pack: whole`, which pads"));
        }
        if manifest.labels == 0 {
            let message = format!("not one token of {} rows is a target", manifest.instances);
            return Err(StageError::fail("memmap::no_labels", message)
                .hint("raise sequence_length: the answers may lie behind the ends of the rows"));
        }
        if manifest.truncated > 0 {
            let message = format!("{} of {documents} documents are cut off at the end of a row", manifest.truncated);
            context.warning(format!("{message} of {length} tokens"));
        }
        if manifest.dropped > 0 {
            let why = if params.pack == Pack::Concat {
                "they lie behind the last full row"
            } else {
                "cut to a row they have no target"
            };
            context.warning(format!("{} of {documents} documents are left out: {why}", manifest.dropped));
        }
        if manifest.filtered > 0 {
            let (some, all) = (manifest.filtered, manifest.instances);
            context.warning(format!("{some} of {all} rows repeat themselves and lost their labels"));
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

/// Tokens in rows that hold every document of the tokens in folder `dir`: the longest document's, rounded up to a multiple of
/// [`ROUND`], but not beyond what stage `tokenize` keeps of a conversation.
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

/// Packs the documents of the tokens in folder `dir` into rows of `length` tokens; also says how many there were, and how many tokens.
fn pack(
    params: &MemmapParams,
    length: u64,
    dir: &std::path::Path,
    context: &mut Context,
) -> Result<(Manifest, (u64, u64)), StageError> {
    let reader = TokensReader::open(dir)?;
    ChatRecord::carry(dir, &context.output("memmap")?)?;
    let tokens = reader.manifest().clone();
    let layout = Layout {
        sequence_length: length as usize,
        vocab_size: tokens.vocab_size,
        tokenizer: tokens.tokenizer,
        eos_token_id: tokens.eos_token_id,
        pad_token_id: tokens.pad_token_id,
    };
    let writer = MemmapWriter::with_options(&context.output("memmap")?, layout, params.options(length, tokens.vocab_size));
    let writer = writer.map_err(|e| {
        let failed: StageError = e.into();
        failed.hint("set `dtype: auto` or `dtype: uint32`: larger ids would wrap to wrong ones")
    })?;
    let mut packer = Packer::new(params.pack, writer);
    for (done, document) in reader.enumerate() {
        packer.push(document?)?;
        if done % 1024 == 0 {
            context.check_stop()?;
            context.progress(done as u64, tokens.documents, "documents", "packing");
        }
    }
    let manifest = packer.finish()?;
    context.progress(tokens.documents, tokens.documents, "documents", "packed");
    Ok((manifest, (tokens.documents, tokens.tokens)))
}

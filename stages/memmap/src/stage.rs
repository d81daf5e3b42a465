//! The stage: documents stream from Parquet into rows; what was cut or left out is said.

use olmo_data::tokens::TokensReader;
use olmo_data::{Layout, MemmapWriter, Pack, Packer};
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Params of stage `memmap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemmapParams {
    /// Tokens in a row: the model's `max_sequence_length` or less.
    #[schemars(range(min = 2))]
    pub sequence_length: u64,
    /// `whole` fills rows with whole documents and pads the rest, `concat` runs on over the ends of
    /// rows and drops the tail, `padded` puts one document into a row.
    #[serde(default = "whole")]
    pub pack: Pack,
}

fn whole() -> Pack {
    Pack::Whole
}

/// Stage `memmap`.
pub struct Memmap;

impl Stage for Memmap {
    type Params = MemmapParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: MemmapParams, context: &mut Context) -> Result<(), StageError> {
        let length = params.sequence_length;
        if !(2..=1 << 32).contains(&length) {
            let message = format!("sequence_length is {length}; a row needs two tokens, one to predict the other");
            return Err(StageError::fail("memmap::params", message));
        }
        let reader = TokensReader::open(&context.input("tokens")?)?;
        let tokens = reader.manifest().clone();
        let layout = Layout {
            sequence_length: length as usize,
            vocab_size: tokens.vocab_size,
            tokenizer: tokens.tokenizer,
            eos_token_id: tokens.eos_token_id,
            pad_token_id: tokens.pad_token_id,
        };
        let mut packer = Packer::new(params.pack, MemmapWriter::create(&context.output("memmap")?, layout)?);
        for (done, document) in reader.enumerate() {
            packer.push(document?)?;
            if done % 1024 == 0 {
                context.check_stop()?;
                context.progress(done as u64, tokens.documents, "documents", "packing");
            }
        }
        let manifest = packer.finish()?;
        context.progress(tokens.documents, tokens.documents, "documents", "packed");
        if manifest.instances == 0 {
            let message = format!(
                "{} documents of {} tokens together do not fill one row of {length}",
                tokens.documents, tokens.tokens
            );
            return Err(StageError::fail("memmap::too_small", message)
                .hint("lower sequence_length, give more data, or use `pack: whole`, which pads"));
        }
        if manifest.labels == 0 {
            let message = format!("not one token of {} rows is a target", manifest.instances);
            return Err(StageError::fail("memmap::no_labels", message)
                .hint("raise sequence_length: the answers may lie behind the ends of the rows"));
        }
        if manifest.truncated > 0 {
            let message =
                format!("{} of {} documents are cut off at the end of a row", manifest.truncated, tokens.documents);
            context.warning(format!("{message} of {length} tokens"));
        }
        if manifest.dropped > 0 {
            let why = if params.pack == Pack::Concat {
                "they lie behind the last full row"
            } else {
                "cut to a row they have no target"
            };
            context.warning(format!("{} of {} documents are left out: {why}", manifest.dropped, tokens.documents));
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

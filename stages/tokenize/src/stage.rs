//! The stage: batches are encoded in parallel and written in order, so that the number of threads
//! does not show in the output.

use olmo_data::dataset;
use olmo_data::tokens::{TokensManifest, TokensWriter};
use olmo_data::{Conversation, Document, Role, Template, TextTokenizer};
use olmo_stage::{Context, Stage, StageError};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of this many documents one has its labels decoded and compared with the text; so have the
/// first ones.
const CHECK_EVERY: u64 = 64;
const CHECK_FIRST: u64 = 256;

/// How a record becomes one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// A conversation, as OLMo's `prepare_tulu_data.py` writes it; the assistant's answers are labelled.
    #[default]
    Tulu,
    /// A document with eos behind it; every token is labelled.
    Plain,
}

/// Params of stage `tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeParams {
    /// `tulu` for conversations, `plain` for documents.
    pub template: Layout,
    /// Tokens kept of a conversation; the rest is cut off, without an eos in its place. Plain
    /// documents stay whole.
    #[schemars(range(min = 2))]
    pub max_length: u64,
}

impl Default for TokenizeParams {
    fn default() -> Self {
        Self { template: Layout::Tulu, max_length: 2048 }
    }
}

/// Stage `tokenize`.
pub struct Tokenize;

impl Stage for Tokenize {
    type Params = TokenizeParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: TokenizeParams, context: &mut Context) -> Result<(), StageError> {
        if params.max_length < 2 {
            return Err(StageError::fail("tokenize::params", "max_length is below 2, so no token could be a target"));
        }
        let documents = context.input("documents")?;
        let tokenizer = TextTokenizer::open(&context.input("tokenizer")?)?;
        let total = dataset::manifest(&documents)?.records;
        let encoder = Encoder { tokenizer, max_length: params.max_length as usize };
        let mut work = Work::new(total, context)?;
        match params.template {
            Layout::Tulu => {
                let encode = |conversation: &Conversation, number| encoder.conversation(conversation, number);
                for batch in dataset::message_batches(&documents)? {
                    work.batch(&batch?, encode, context)?;
                }
            }
            Layout::Plain => {
                let encode = |text: &String, _| encoder.plain(text);
                for batch in dataset::text_batches(&documents)? {
                    work.batch(&batch?, encode, context)?;
                }
            }
        }
        work.finish(&params, &encoder.tokenizer, context)
    }
}

/// What became of a record.
struct Encoded {
    /// `None`: nothing of it could be trained.
    document: Option<Document>,
    truncated: bool,
    /// Its text holds the string of the eos token.
    holds_eos: bool,
}

/// What the threads share.
struct Encoder {
    tokenizer: TextTokenizer,
    max_length: usize,
}

impl Encoder {
    fn holds_eos(&self, text: &str) -> bool {
        text.contains(&self.tokenizer.special().eos_token)
    }

    fn plain(&self, text: &str) -> Result<Encoded, StageError> {
        let document = self.tokenizer.encode_plain(text)?;
        Ok(Encoded { document: Some(document), truncated: false, holds_eos: self.holds_eos(text) })
    }

    /// `number` counts the records from 0.
    fn conversation(&self, conversation: &Conversation, number: u64) -> Result<Encoded, StageError> {
        let holds_eos = conversation.messages.iter().any(|message| self.holds_eos(&message.content));
        if !conversation.messages.iter().any(|message| message.role == Role::Assistant) {
            return Ok(Encoded { document: None, truncated: false, holds_eos });
        }
        let rendered = Template::Tulu.render(&conversation.messages, &self.tokenizer.special().eos_token, false);
        let mut document = self.tokenizer.encode(&rendered)?;
        if number < CHECK_FIRST || number.is_multiple_of(CHECK_EVERY) {
            self.tokenizer.check_labels(&rendered, &document)?.map_err(|mismatch| {
                let place = format!("conversation `{}` (record {})", conversation.id.escape_debug(), number + 1);
                StageError::fail("tokenize::labels", format!("{place}: {mismatch}"))
                    .hint("this tokenizer cannot label this template: it changes text, or merges it across the ends of a turn")
            })?;
        }
        let cut = document.truncate(self.max_length);
        let document = (document.labels() > 0).then_some(document);
        Ok(Encoded { document, truncated: cut > 0, holds_eos })
    }
}

/// What is written and counted, in order.
struct Work {
    pool: rayon::ThreadPool,
    writer: TokensWriter,
    total: u64,
    done: u64,
    dropped: u64,
    truncated: u64,
    holding_eos: u64,
}

impl Work {
    fn new(total: u64, context: &Context) -> Result<Self, StageError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(context.request.threads)
            .build()
            .map_err(|e| StageError::fail("tokenize::threads", e.to_string()))?;
        let writer = TokensWriter::create(&context.output("tokens")?)?;
        Ok(Self { pool, writer, total, done: 0, dropped: 0, truncated: 0, holding_eos: 0 })
    }

    /// Encodes `records` in parallel and writes them in order.
    fn batch<T: Sync>(
        &mut self,
        records: &[T],
        encode: impl Fn(&T, u64) -> Result<Encoded, StageError> + Sync,
        context: &mut Context,
    ) -> Result<(), StageError> {
        context.check_stop()?;
        let first = self.done;
        let encoded: Vec<Result<Encoded, StageError>> = self.pool.install(|| {
            let numbered = records.par_iter().enumerate();
            numbered.map(|(i, record)| encode(record, first + i as u64)).collect()
        });
        for record in encoded {
            let record = record?;
            self.holding_eos += u64::from(record.holds_eos);
            match record.document {
                Some(document) => {
                    self.truncated += u64::from(record.truncated);
                    self.writer.push(document)?;
                }
                None => self.dropped += 1,
            }
        }
        self.done += records.len() as u64;
        context.progress(self.done, self.total, "documents", "tokenising");
        Ok(())
    }

    fn finish(
        self,
        params: &TokenizeParams,
        tokenizer: &TextTokenizer,
        context: &mut Context,
    ) -> Result<(), StageError> {
        let special = tokenizer.special();
        if self.writer.documents() == 0 {
            let message = format!(
                "of {} conversations not one has an assistant's answer within its first {} tokens",
                self.done, params.max_length
            );
            return Err(StageError::fail("tokenize::nothing_left", message)
                .hint("raise max_length, or check that the data has turns of role `assistant`"));
        }
        let manifest = self.writer.finish(TokensManifest {
            format: 1,
            tokenizer: tokenizer.digest(),
            vocab_size: special.vocab_size,
            eos_token_id: special.eos_token_id,
            pad_token_id: special.pad_token_id,
            template: match params.template {
                Layout::Tulu => Template::Tulu.as_str().into(),
                Layout::Plain => "plain".into(),
            },
            documents: 0,
            dropped: self.dropped,
            truncated: self.truncated,
            tokens: 0,
            labels: 0,
            max_length: params.max_length,
        })?;
        if manifest.dropped > 0 {
            context.warning(format!(
                "{} of {} conversations are left out: they have no assistant's answer within the first {} tokens",
                manifest.dropped, self.done, manifest.max_length
            ));
        }
        if manifest.truncated > 0 {
            let (some, length) = (manifest.truncated, manifest.max_length);
            context.warning(format!("{some} of {} conversations are cut off at {length} tokens", self.done));
        }
        if self.holding_eos > 0 {
            context.warning(format!(
                "{} records hold the text `{}`, which becomes a real eos token in the middle of them",
                self.holding_eos, special.eos_token
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
        Ok(())
    }
}

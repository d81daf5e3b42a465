//! [`Encoder`]: one record as documents of ids with labels. Threads share it.

use olmo_data::{Conversation, Document, JinjaTemplate, Labels, Rendered, Template, TextTokenizer};
use olmo_stage::StageError;

use crate::params::{Layout, TokenizeParams, TooLong};

/// Of this many documents one has its labels decoded and compared with the text; so have the
/// first ones.
const CHECK_EVERY: u64 = 64;
const CHECK_FIRST: u64 = 256;

/// What became of a record.
#[derive(Default)]
pub struct Encoded {
    pub documents: Vec<Document>,
    /// Nothing of it could be trained.
    pub unlabelled: bool,
    /// It was longer than allowed.
    pub too_long: bool,
    /// Its text holds the string of the eos token.
    pub holds_eos: bool,
}

enum Writer {
    BuiltIn(Template),
    Jinja { template: Box<JinjaTemplate>, ends: Vec<String> },
    Piecewise,
}

/// What the threads share.
pub struct Encoder {
    pub tokenizer: TextTokenizer,
    writer: Writer,
    labels: Labels,
    max_length: usize,
    too_long: TooLong,
}

impl Encoder {
    /// `chat_template` is the source that layout `jinja` needs.
    pub fn new(
        tokenizer: TextTokenizer,
        params: &TokenizeParams,
        chat_template: Option<&str>,
    ) -> Result<Self, StageError> {
        let labels = params.train_on.labels();
        if labels.roles.is_empty() {
            return Err(StageError::fail("tokenize::params", "`train_on.roles` is empty, so nothing would be trained"));
        }
        let writer = match (params.template.built_in(), params.template, chat_template) {
            (None, Layout::Jinja, None) => {
                return Err(StageError::fail(
                    "tokenize::params",
                    "template `jinja` needs a file in port `chat_template`",
                )
                .hint("add `chat_template: PATH` beside `template: jinja`, or take a built-in template"));
            }
            (None, Layout::Jinja, Some(source)) => {
                let template =
                    JinjaTemplate::new(source).map_err(|e| StageError::fail("tokenize::template", e.to_string()))?;
                Writer::Jinja {
                    template: Box::new(template),
                    ends: tokenizer.added_tokens().into_iter().map(|(_, token)| token).collect(),
                }
            }
            (_, _, Some(_)) => {
                let message =
                    format!("port `chat_template` is given, but the template is `{}`", params.template.as_str());
                return Err(StageError::fail("tokenize::params", message).hint("set `template: jinja`"));
            }
            (Some(template), _, None) => Writer::BuiltIn(template),
            (None, _, None) => Writer::Piecewise,
        };
        if params.template == Layout::PrepareTuluData && labels != Labels::default() {
            return Err(StageError::fail(
                "tokenize::params",
                "template `prepare_tulu_data` has the script's own labels",
            )
            .hint("leave `train_on` as it is, or use template `tulu`"));
        }
        Ok(Self { tokenizer, writer, labels, max_length: params.max_length as usize, too_long: params.too_long })
    }

    fn holds_eos(&self, text: &str) -> bool {
        text.contains(&self.tokenizer.special().eos_token)
    }

    pub fn plain(&self, text: &str) -> Result<Encoded, StageError> {
        let document = self.tokenizer.encode_plain(text)?;
        Ok(Encoded { documents: vec![document], holds_eos: self.holds_eos(text), ..Encoded::default() })
    }

    /// `number` counts the records from 0.
    pub fn conversation(&self, conversation: &Conversation, number: u64) -> Result<Encoded, StageError> {
        let place = || format!("conversation `{}` (record {})", conversation.id.escape_debug(), number + 1);
        let messages = &conversation.messages;
        let mut encoded =
            Encoded { holds_eos: messages.iter().any(|m| self.holds_eos(m.text())), ..Encoded::default() };
        if !messages.iter().any(|message| self.labels.roles.contains(&message.role)) {
            encoded.unlabelled = true;
            return Ok(encoded);
        }
        let special = self.tokenizer.special();
        let document = match &self.writer {
            Writer::Piecewise => self
                .tokenizer
                .encode_piecewise(messages)
                .map_err(|e| StageError::fail("tokenize::piecewise", format!("{}: {e}", place())))?,
            Writer::BuiltIn(template) => {
                self.whole(template.render(messages, &special.eos_token, false), number, place)?
            }
            Writer::Jinja { template, ends } => {
                let tokens = [
                    ("bos_token", special.eos_token.as_str()),
                    ("eos_token", special.eos_token.as_str()),
                    ("pad_token", special.pad_token.as_str()),
                ];
                let rendered = template.render(messages, &tokens, ends, false).map_err(|e| {
                    StageError::fail("tokenize::template", format!("{}: {e}", place())).hint(
                        "mend the template or this conversation; labels are only set where it is sure what they say",
                    )
                })?;
                self.whole(rendered, number, place)?
            }
        };
        self.fit(document, &mut encoded);
        Ok(encoded)
    }

    /// The rendered conversation as one text, its labels by offsets.
    fn whole(&self, rendered: Rendered, number: u64, place: impl Fn() -> String) -> Result<Document, StageError> {
        let rendered = if self.labels == Labels::default() { rendered } else { rendered.with(&self.labels) };
        let document = self.tokenizer.encode(&rendered)?;
        if number < CHECK_FIRST || number.is_multiple_of(CHECK_EVERY) {
            self.tokenizer.check_labels(&rendered, &document)?.map_err(|mismatch| {
                StageError::fail("tokenize::labels", format!("{}: {mismatch}", place())).hint(
                    "this tokenizer cannot label this template: it changes text, or merges it across the ends of a turn",
                )
            })?;
        }
        Ok(document)
    }

    /// Brings a document to the length that is allowed.
    fn fit(&self, mut document: Document, encoded: &mut Encoded) {
        encoded.too_long = document.input_ids.len() > self.max_length;
        match self.too_long {
            TooLong::Drop if encoded.too_long => return,
            TooLong::Split => {
                let ids = document.input_ids.chunks(self.max_length);
                let parts = ids.zip(document.label_mask.chunks(self.max_length));
                let part = |(ids, mask): (&[u32], &[bool])| Document { input_ids: ids.into(), label_mask: mask.into() };
                encoded.documents.extend(parts.map(part).filter(|part| part.labels() > 0));
            }
            TooLong::Truncate | TooLong::Drop => {
                document.truncate(self.max_length);
                encoded.documents.extend((document.labels() > 0).then_some(document));
            }
        }
        encoded.unlabelled = encoded.documents.is_empty();
        encoded.too_long &= !encoded.unlabelled;
    }
}

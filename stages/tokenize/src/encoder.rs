//! [`Encoder`]: encodes one record as documents of ids with labels. Threads share it.

use std::collections::BTreeSet;

use olmo_data::chat::Source;
use olmo_data::tokenizer::control_tokens::ControlTokens;
use olmo_data::{Chat, ChatError, Conversation, Document, Labels, Message, Template, TextTokenizer};
use olmo_stage::{Context, StageError};

use crate::params::{Layout, TokenizeParams, TooLong};

/// The result of encoding a record.
#[derive(Default)]
pub(crate) struct Encoded {
    pub documents: Vec<Document>,
    /// Why the record cannot be rendered or labelled.
    pub problem: Option<String>,
    /// No token could be trained.
    pub unlabelled: bool,
    /// The record was longer than `max_length`.
    pub too_long: bool,
    /// Number of trained turns whose text has no stop token at the end.
    pub endless: u64,
    /// Number of trained turns that the template shortens.
    pub shortened: u64,
    /// The record has tools or tool calls, but the template does not write them.
    pub unwritten_tools: bool,
    /// Control tokens that the record's own text encodes to, each once.
    pub control_tokens: BTreeSet<u32>,
}

/// State shared by the threads.
pub(crate) struct Encoder {
    pub tokenizer: TextTokenizer,
    /// Absent for documents.
    pub chat: Option<Chat>,
    /// Encodes piece by piece, as OLMo's script does.
    piecewise: bool,
    labels: Labels,
    max_length: usize,
    too_long: TooLong,
    pub control_tokens: ControlTokens,
}

impl Encoder {
    /// `chat_template` is the source for layout `jinja`.
    pub(crate) fn new(
        tokenizer: TextTokenizer,
        params: &TokenizeParams,
        chat_template: Option<&str>,
        context: &mut Context,
    ) -> Result<Self, StageError> {
        let fail = |message: &str| StageError::fail("tokenize::params", message);
        let labels = params.train_on.labels();
        if labels.roles.is_empty() {
            return Err(fail("`train_on.roles` is empty, so nothing would be trained"));
        }
        if params.template == Some(Layout::Jinja) && chat_template.is_none() {
            return Err(fail("template `jinja` needs a file in port `chat_template`")
                .hint("add `chat_template: PATH`, or use a built-in template"));
        }
        if params.template != Some(Layout::Jinja) && chat_template.is_some() {
            return Err(
                fail("port `chat_template` is given, but `template` is not `jinja`").hint("set `template: jinja`")
            );
        }
        let piecewise = params.template == Some(Layout::PrepareTuluData);
        if piecewise && labels != Labels::default() {
            return Err(fail("template `prepare_tulu_data` uses the script's own labels, so `train_on` has no effect")
                .hint("remove `train_on`, or use template `tulu`"));
        }
        let chat = match params.is_plain() {
            true => None,
            false => Some(chat(&tokenizer, params, chat_template)?),
        };
        if chat.as_ref().is_some_and(Chat::misses_bos) {
            context.warning(
                "the chat template writes `bos_token`, but the tokenizer has none, so nothing is written in its place; set \
                 `bos_token` of stage tokenizer if the model needs one",
            );
        }
        let control_tokens = ControlTokens::new(&tokenizer);
        let max_length = params.max_length(&tokenizer) as usize;
        Ok(Self { tokenizer, chat, piecewise, labels, max_length, too_long: params.too_long, control_tokens })
    }

    pub(crate) fn plain(&self, text: &str) -> Result<Encoded, StageError> {
        let document = self.tokenizer.encode_plain(text)?;
        let control_tokens = self.control_tokens.find(&self.tokenizer, text)?.into_iter().collect();
        Ok(Encoded { documents: vec![document], control_tokens, ..Encoded::default() })
    }

    /// `number` is the record's index, from 0.
    pub(crate) fn conversation(&self, conversation: &Conversation, number: u64) -> Result<Encoded, StageError> {
        let messages = &conversation.messages;
        let mut control_tokens = BTreeSet::new();
        for message in messages {
            control_tokens.extend(self.control_tokens.find(&self.tokenizer, message.text())?);
        }
        let mut encoded = Encoded { control_tokens, ..Encoded::default() };
        let Some(chat) = &self.chat else { return Ok(encoded) };
        if self.piecewise {
            let place = || format!("conversation `{}` (record {})", conversation.id.escape_debug(), number + 1);
            let document = self
                .tokenizer
                .encode_piecewise(messages)
                .map_err(|e| StageError::fail("tokenize::piecewise", format!("{}: {e}", place())))?;
            self.fit(document, &mut encoded);
            return Ok(encoded);
        }
        let rendered = match chat.render(conversation, &self.labels) {
            Ok(rendered) => rendered,
            Err(error) => {
                let id = conversation.id.escape_debug();
                encoded.problem = Some(format!("conversation `{id}` (record {}): {error}", number + 1));
                return Ok(encoded);
            }
        };
        encoded.unwritten_tools = self.unwritten_tools(conversation);
        encoded.endless = rendered.endless;
        encoded.shortened = rendered.shortened;
        self.fit(self.tokenizer.encode_conversation(&rendered)?, &mut encoded);
        Ok(encoded)
    }

    /// Whether the conversation has tools or tool calls that the template never reads.
    fn unwritten_tools(&self, conversation: &Conversation) -> bool {
        let reads = |name: &str| self.chat.as_ref().is_some_and(|chat| chat.record().chat_template.contains(name));
        let called = |message: &Message| {
            ["tool_calls", "function_calls", "functions"]
                .into_iter()
                .any(|name| message.fields.contains_key(name) && !reads(name))
        };
        conversation.tools.is_some() && !reads("tools") || conversation.messages.iter().any(called)
    }

    /// Applies `max_length` to a document.
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

/// The chat template: the tokenizer's, otherwise that of the params.
fn chat(tokenizer: &TextTokenizer, params: &TokenizeParams, chat_template: Option<&str>) -> Result<Chat, StageError> {
    let failed = |e: ChatError| StageError::fail("tokenize::template", e.to_string()).hint(e.hint());
    let named = params.source(chat_template);
    match (tokenizer.chat(), named) {
        (Some(record), Some(named)) if !named.is_of(record) => {
            let other = Chat::of_tokenizer(&named, tokenizer, params.date.as_deref()).map_err(failed)?;
            let message = format!("the tokenizer has {record}, but the params set {}", other.record());
            Err(StageError::fail("tokenize::other_template", message).hint(
                "set the template once, in stage tokenizer, and remove `template` and `chat_template` from stage tokenize",
            ))
        }
        (Some(record), _) => Chat::of_record(record.clone()).map_err(failed),
        (None, named) => {
            let source = named.unwrap_or(Source::BuiltIn(Template::Tulu));
            Chat::of_tokenizer(&source, tokenizer, params.date.as_deref()).map_err(failed)
        }
    }
}

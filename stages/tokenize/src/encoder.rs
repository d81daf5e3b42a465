//! [`Encoder`]: encodes records as documents of ids with labels. Threads share it.

use std::collections::BTreeSet;

use olmo_data::chat::Source;
use olmo_data::dataset::{ChatRows, TextRows};
use olmo_data::tokenizer::control_tokens::ControlTokens;
use olmo_data::{
    Chat, ChatError, Conversation, DocumentBuffer, LabelRuns, Labels, Message, Rendered, Template, TextTokenizer,
};
use olmo_stage::{Context, StageError};

use crate::params::{Layout, TokenizeParams, TooLong};
use crate::part::Encoded;

/// Memory that is used again for each record.
#[derive(Default)]
pub(crate) struct Scratch {
    rendered: Rendered,
    /// A piece of the text.
    text: String,
    document: DocumentBuffer,
    /// The labels of a part of the document.
    labels: LabelRuns,
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

    /// Encodes document `row`.
    pub(crate) fn plain(
        &self,
        rows: &TextRows,
        row: usize,
        scratch: &mut Scratch,
        encoded: &mut Encoded,
    ) -> Result<(), StageError> {
        let text = rows.text(row);
        let document = &mut scratch.document;
        self.tokenizer.encode_plain(text, document)?;
        encoded.part.records += 1;
        self.count_control_tokens([text], encoded)?;
        encoded.documents.push(&document.input_ids, &document.labels);
        Ok(())
    }

    /// Encodes conversation `row`; `number` is its index in the dataset, from 0.
    pub(crate) fn conversation(
        &self,
        rows: &ChatRows,
        row: usize,
        number: u64,
        scratch: &mut Scratch,
        encoded: &mut Encoded,
    ) -> Result<(), StageError> {
        encoded.part.records += 1;
        self.count_control_tokens(rows.messages(row).map(|message| message.text()), encoded)?;
        let Some(chat) = &self.chat else { return Ok(()) };
        let place = || format!("conversation `{}` (record {})", rows.id(row).escape_debug(), number + 1);
        let Scratch { rendered, text, document, .. } = scratch;
        if self.piecewise {
            self.tokenizer
                .encode_piecewise(rows.messages(row), text, document)
                .map_err(|e| StageError::fail("tokenize::piecewise", format!("{}: {e}", place())))?;
            self.fit(scratch, encoded);
            return Ok(());
        }
        match chat.built_in() {
            Some(template) => {
                template.write(rows.messages(row), &chat.record().eos_token, false, rendered);
                rendered.label(&self.labels);
            }
            None => match chat.render(&rows.conversation(row)?, &self.labels) {
                Ok(found) => *rendered = found,
                Err(error) => {
                    encoded.problems.push(format!("{}: {error}", place()));
                    encoded.part.problems += 1;
                    return Ok(());
                }
            },
        }
        if rows.has_tools(row) || rows.has_fields(row) {
            encoded.part.unwritten_tools += u64::from(self.unwritten_tools(&rows.conversation(row)?));
        }
        encoded.part.endless += rendered.endless;
        encoded.part.shortened += rendered.shortened;
        self.tokenizer.encode_rendered(rendered, document)?;
        self.fit(scratch, encoded);
        Ok(())
    }

    /// Counts a record for each control token that its texts encode to.
    fn count_control_tokens<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t str>,
        encoded: &mut Encoded,
    ) -> Result<(), StageError> {
        let mut found = BTreeSet::new();
        for text in texts {
            found.extend(self.control_tokens.find(&self.tokenizer, text)?);
        }
        for token in found {
            *encoded.part.control_tokens.entry(token).or_default() += 1;
        }
        Ok(())
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

    /// Takes the document of a record, after applying `max_length` to it.
    fn fit(&self, scratch: &mut Scratch, encoded: &mut Encoded) {
        let Scratch { document, labels: part, .. } = scratch;
        let DocumentBuffer { input_ids, labels } = document;
        let too_long = input_ids.len() > self.max_length;
        if too_long && self.too_long == TooLong::Drop {
            encoded.part.too_long += 1;
            return;
        }
        let before = encoded.documents.len();
        if !too_long {
            if labels.targets() > 0 {
                encoded.documents.push(input_ids, labels);
            }
        } else {
            let parts = if self.too_long == TooLong::Split { usize::MAX } else { 1 };
            for (i, ids) in input_ids.chunks(self.max_length).take(parts).enumerate() {
                let start = i * self.max_length;
                part.clear();
                part.extend_from(labels, start..start + ids.len());
                if part.targets() > 0 {
                    encoded.documents.push(ids, part);
                }
            }
        }
        let is_unlabelled = encoded.documents.len() == before;
        encoded.part.unlabelled += u64::from(is_unlabelled);
        encoded.part.too_long += u64::from(too_long && !is_unlabelled);
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

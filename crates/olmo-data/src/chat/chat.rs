//! [`Chat`]: renders conversations as text, and knows where an answer ends.
//!
//! A chat is a template with its special tokens and stop tokens. It belongs to a tokenizer. Every
//! artifact made with it records it in `chat.json`, and every stage that runs the model reads it
//! from there, so that training, evaluation and export use the same text.

use olmo_base::Digest;

use super::error::ChatError;
use super::jinja_template::JinjaTemplate;
use super::probe::Probe;
use super::template_source::Source;
use super::turns;
use crate::conversation::{Conversation, Labels, Rendered, Template};
use crate::formats::json_file;
use crate::tokenizer::chat_record::{ChatRecord, JINJA};
use crate::tokenizer::{SpecialStrings, TextTokenizer};

/// A template with its special tokens.
#[derive(Clone, Debug)]
pub struct Chat {
    pub(super) record: ChatRecord,
    built_in: Option<Template>,
    template: JinjaTemplate,
    probe: Probe,
}

impl Chat {
    /// A chat for the tokenizer with these special tokens. `added` lists the strings and ids of its
    /// added tokens.
    ///
    /// # Errors
    /// The template is invalid, cannot render a simple conversation, or writes no token after an
    /// answer.
    pub fn new(
        source: &Source,
        special: &SpecialStrings,
        added: &[(u32, String)],
        date: Option<&str>,
        tokenizer: Digest,
    ) -> Result<Self, ChatError> {
        let mut chat = Self::parts(source, special, date, tokenizer)?;
        chat.record.stop_tokens = chat.probe.find_stop_tokens(added, &chat.record.eos_token)?;
        Ok(chat)
    }

    /// A chat without its stop tokens.
    pub(super) fn parts(
        source: &Source,
        special: &SpecialStrings,
        date: Option<&str>,
        tokenizer: Digest,
    ) -> Result<Self, ChatError> {
        let (name, chat_template) = match source {
            Source::BuiltIn(template) => (template.as_str(), template.jinja().to_owned()),
            Source::Jinja(source) => (JINJA, source.clone()),
        };
        Self::of_record(ChatRecord {
            format: json_file::FORMAT,
            template: name.to_owned(),
            chat_template,
            date: date.map(str::to_owned),
            bos_token: special.bos.clone(),
            eos_token: special.eos.clone(),
            pad_token: special.pad.clone(),
            unk_token: special.unk.clone(),
            stop_tokens: Vec::new(),
            tokenizer,
        })
    }

    /// A chat for `tokenizer`; see [`Chat::new`].
    pub fn of_tokenizer(source: &Source, tokenizer: &TextTokenizer, date: Option<&str>) -> Result<Self, ChatError> {
        Self::new(source, &tokenizer.special_strings(), tokenizer.added_tokens(), date, tokenizer.digest())
    }

    /// The chat described by `record`.
    pub fn of_record(record: ChatRecord) -> Result<Self, ChatError> {
        let template = JinjaTemplate::parse(&record)?;
        let built_in = Template::ALL
            .into_iter()
            .find(|template| template.as_str() == record.template && template.jinja() == record.chat_template);
        let probe = Probe::run(&template)?;
        Ok(Self { record, built_in, template, probe })
    }

    pub fn record(&self) -> &ChatRecord {
        &self.record
    }

    /// Whether the template reads `bos_token` but the tokenizer has none.
    pub fn misses_bos(&self) -> bool {
        self.record.bos_token.is_none() && self.template.reads("bos_token")
    }

    /// Ids of the tokens that end an answer.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        self.record.stop_tokens.iter().map(|stop| stop.id).collect()
    }

    /// The text before an answer to `conversation`, which ends with the turn to answer.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, ChatError> {
        Ok(self.template.write(conversation, true)?.text)
    }

    /// The text that the template writes before an answer, but not when it is asked for a prompt
    /// (`add_generation_prompt`). `None` if prompts are complete. A model cannot tell from an
    /// incomplete prompt that it should answer.
    pub fn missing_prompt(&self) -> Option<&str> {
        Some(self.probe.missing.as_str()).filter(|missing| !missing.is_empty())
    }

    /// The template, if it is built in. It renders as [`Chat::render`] does.
    pub fn built_in(&self) -> Option<Template> {
        self.built_in
    }

    /// Renders a conversation as text, with the parts selected by `labels` marked as trained.
    ///
    /// # Errors
    /// An error of the template, or a trained turn that does not appear exactly once in the text.
    pub fn render(&self, conversation: &Conversation, labels: &Labels) -> Result<Rendered, ChatError> {
        if let Some(template) = self.built_in {
            let rendered = template.render(&conversation.messages, &self.record.eos_token, false);
            return Ok(rendered.with(labels));
        }
        let rendering = self.template.write(conversation, false)?;
        let stops = self.record.stop_tokens.iter().map(|stop| stop.token.as_str()).collect::<Vec<_>>();
        turns::label(rendering, &conversation.messages, labels, &self.probe, &stops, &self.template)
    }
}

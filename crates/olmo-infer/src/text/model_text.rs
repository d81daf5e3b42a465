//! [`ModelText`]: a model's tokenizer, with its chat format if it has one.

use std::path::Path;

use olmo_data::chat::ModelTokenizer;
use olmo_data::{Chat, ChatRecord, Conversation, TextTokenizer};
use olmo_model::{GGUF_FILE, ModelConfig};
use olmo_stage::StageError;

use super::gguf;
use super::prompts::Content;
use crate::chat::{check_prompt, check_vocabulary, template_error};

/// A model's tokenizer, with its chat format if it has one.
pub struct ModelText {
    tokenizer: TextTokenizer,
    chat: Option<Chat>,
    /// Ids that end a text: eos, and those of `generation_config.json`.
    end_of_text: Vec<u32>,
    /// The command or stage, for codes of errors.
    stage: &'static str,
}

/// Where a tokenizer may be, beside the model's folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerPlaces<'a> {
    /// The folder that the user named: an artifact of type tokenizer, or one with Hugging Face's files.
    pub named: Option<&'a Path>,
    /// Objects by digest, for models that record the digest of their tokenizer.
    pub objects: Option<&'a Path>,
}

impl ModelText {
    /// The tokenizer and chat format of the model in `folder`, or in the GGUF file of that path: the named tokenizer, otherwise the one
    /// in the folder, otherwise the one that the model records. `date` is today's date for
    /// `strftime_now`.
    ///
    /// # Errors
    /// There is no tokenizer, or a file is malformed.
    pub fn open(
        folder: &Path,
        places: TokenizerPlaces<'_>,
        date: Option<&str>,
        stage: &'static str,
    ) -> Result<ModelText, StageError> {
        let inside = [folder.to_owned(), folder.join("tokenizer")];
        let inside = inside.iter().find(|folder| folder.join("tokenizer.json").is_file());
        if let Some(place) = places.named.or(inside.map(|_| folder)) {
            let mut text = match place.join("special_tokens.json").is_file() {
                true => ModelText::of_artifact(place, stage)?,
                false => ModelText::of_huggingface(place, date, stage)?,
            };
            // What the model was trained with, rather than what its tokenizer suggests.
            if let Some(record) = ChatRecord::read(folder)? {
                text.chat = Some(text.chat_of(record)?);
            }
            return Ok(text);
        }
        if folder.is_file() || folder.join(GGUF_FILE).is_file() {
            let metadata = olmo_model::read_gguf_metadata(folder)
                .map_err(|error| StageError::fail(&format!("{stage}::model"), error.to_string()))?;
            let model = gguf::read(folder, &metadata, stage)?;
            return ModelText::of_model(model, date, stage);
        }
        let missing = || {
            StageError::fail(&format!("{stage}::tokenizer"), format!("{} has no tokenizer", folder.display()))
                .hint("name its folder with --tokenizer FOLDER")
        };
        let (Some(objects), Some(record)) = (places.objects, ChatRecord::read(folder)?) else { return Err(missing()) };
        let hex = record.tokenizer.hex();
        let bytes = std::fs::read(objects.join(&hex[..2]).join(&hex[2..])).map_err(|_| missing())?;
        let pad = record.pad_token.as_deref().unwrap_or(&record.eos_token);
        let tokenizer = TextTokenizer::from_bytes(Path::new("tokenizer.json"), &bytes, &record.eos_token, pad)?;
        let mut text = ModelText::of_tokenizer(tokenizer, stage);
        text.chat = Some(text.chat_of(record)?);
        Ok(text)
    }

    fn of_tokenizer(tokenizer: TextTokenizer, stage: &'static str) -> ModelText {
        ModelText { end_of_text: vec![tokenizer.special().eos_token_id], chat: None, tokenizer, stage }
    }

    fn of_artifact(folder: &Path, stage: &'static str) -> Result<ModelText, StageError> {
        let mut text = ModelText::of_tokenizer(TextTokenizer::open(folder)?, stage);
        if let Some(record) = text.tokenizer.chat().cloned() {
            text.chat = Some(text.chat_of(record)?);
        }
        Ok(text)
    }

    fn of_huggingface(folder: &Path, date: Option<&str>, stage: &'static str) -> Result<ModelText, StageError> {
        let model = ModelTokenizer::read(folder).map_err(|error| template_error(stage, &error))?;
        ModelText::of_model(model, date, stage)
    }

    fn of_model(model: ModelTokenizer, date: Option<&str>, stage: &'static str) -> Result<ModelText, StageError> {
        let chat = model.own_chat(date).map_err(|error| template_error(stage, &error))?;
        let stops = model.stop_token_ids().to_vec();
        let mut text = ModelText::of_tokenizer(model.tokenizer, stage);
        text.chat = chat;
        text.end_of_text.extend(stops);
        text.end_of_text.sort_unstable();
        text.end_of_text.dedup();
        Ok(text)
    }

    fn chat_of(&self, record: ChatRecord) -> Result<Chat, StageError> {
        Chat::of_record(record).map_err(|error| template_error(self.stage, &error))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The chat format.
    ///
    /// # Errors
    /// The model has none, or its template cannot ask for an answer.
    pub fn chat(&self) -> Result<&Chat, StageError> {
        let Some(chat) = &self.chat else {
            let what = "the model has no chat template (chat_template.jinja, or `chat_template` in tokenizer_config.json), so it \
                        cannot answer messages";
            return Err(StageError::fail(&format!("{}::template", self.stage), what)
                .hint("give a text to continue instead, or a model that was trained on chats"));
        };
        check_prompt(chat, self.stage)?;
        Ok(chat)
    }

    /// The command or stage, for codes of errors.
    pub fn stage(&self) -> &'static str {
        self.stage
    }

    /// Ids of the tokens that end a text that is continued.
    pub fn end_of_text_ids(&self) -> &[u32] {
        &self.end_of_text
    }

    /// Ids of the tokens that end an answer in a conversation.
    ///
    /// # Errors
    /// See [`ModelText::chat`].
    pub fn end_of_answer_ids(&self) -> Result<Vec<u32>, StageError> {
        Ok(self.chat()?.stop_token_ids())
    }

    /// The text of a conversation, followed by the header of the assistant's answer.
    ///
    /// # Errors
    /// See [`ModelText::chat`]; also if the template rejects the conversation.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, StageError> {
        self.chat()?.prompt(conversation).map_err(|error| template_error(self.stage, &error))
    }

    /// The ids of a prompt. Nothing is added to a text.
    ///
    /// # Errors
    /// The prompt is empty, or the template rejects its messages.
    pub fn encode(&self, content: &Content) -> Result<Vec<u32>, StageError> {
        let ids = match content {
            Content::Text(text) => self.tokenizer.encode_text(text)?,
            Content::Messages(messages) => {
                let conversation = Conversation { messages: messages.clone(), ..Conversation::default() };
                self.tokenizer.encode_text(&self.prompt(&conversation)?)?
            }
            Content::Tokens(ids) => ids.clone(),
        };
        if ids.is_empty() {
            return Err(StageError::fail(&format!("{}::empty", self.stage), "the prompt is empty")
                .hint("give at least one character"));
        }
        Ok(ids)
    }

    /// Rejects a model with a smaller vocabulary than the tokenizer's.
    ///
    /// # Errors
    /// `vocabulary`, after the name of the stage.
    pub fn check_vocabulary(&self, config: &ModelConfig) -> Result<(), StageError> {
        check_vocabulary(config, self.tokenizer.special(), self.stage)
    }
}

//! [`ChatModel`]: conversations as prompts, and answers as text.

use std::path::Path;

use olmo_data::{Chat, ChatError, Conversation, Message, Role, SpecialTokens, TextTokenizer};
use olmo_model::{ModelConfig, VocabularyMismatch};
use olmo_stage::StageError;

/// A tokenizer with a chat format.
pub struct ChatModel {
    tokenizer: TextTokenizer,
    chat: Chat,
    /// The stage that asks, for codes of errors.
    stage: &'static str,
}

impl ChatModel {
    /// The tokenizer and its chat format. Codes of errors begin with `stage`.
    pub fn new(tokenizer: TextTokenizer, chat: Chat, stage: &'static str) -> ChatModel {
        ChatModel { tokenizer, chat, stage }
    }

    /// Opens a Hugging Face model folder. `date` is today's date for `strftime_now`.
    ///
    /// # Errors
    /// A file is missing or malformed, or the special tokens do not match the tokenizer.
    pub fn of_huggingface(dir: &Path, date: Option<&str>, stage: &'static str) -> Result<ChatModel, StageError> {
        let (tokenizer, chat) = Chat::of_huggingface(dir, date).map_err(|error| template_error(stage, &error))?;
        Ok(ChatModel::new(tokenizer, chat, stage))
    }

    /// Rejects a model that was trained with another tokenizer: see [`check_tokenizer`].
    ///
    /// # Errors
    /// See [`check_tokenizer`].
    pub fn check_tokenizer(&self, config: &ModelConfig) -> Result<(), StageError> {
        check_tokenizer(config, self.tokenizer.special(), self.stage)
    }

    /// Rejects a model with a smaller vocabulary than the tokenizer's in its folder. Its eos may
    /// differ: generation stops at the chat's stop tokens.
    ///
    /// # Errors
    /// `vocabulary`, after the name of the stage.
    pub fn check_folder(&self, config: &ModelConfig) -> Result<(), StageError> {
        let special = self.tokenizer.special();
        match config.accepts(special.vocab_size as usize, special.eos_token_id) {
            Err(mismatch @ VocabularyMismatch::TooLarge { .. }) => Err(refused(mismatch, special, self.stage)
                .hint("the folder's files do not belong together; export the model again")),
            _ => Ok(()),
        }
    }

    /// Ids of the stop tokens.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        self.chat.stop_token_ids()
    }

    /// The ids of a conversation, followed by the header of the assistant's answer.
    ///
    /// # Errors
    /// The template rejects the conversation, or renders nothing.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, StageError> {
        let text = self.chat.prompt(conversation).map_err(|error| template_error(self.stage, &error))?;
        let ids = self.tokenizer.encode_text(&text)?;
        if ids.is_empty() {
            let code = format!("{}::template", self.stage);
            return Err(StageError::fail(&code, "the chat template renders the prompt as empty text"));
        }
        Ok(ids)
    }

    /// The ids of a conversation whose next turn is the assistant's answer to `prompt`.
    ///
    /// # Errors
    /// See [`ChatModel::prompt`].
    pub fn question(&self, system: Option<&str>, prompt: &str) -> Result<Vec<u32>, StageError> {
        let system = system.map(|content| Message::new(Role::System, content));
        let messages = system.into_iter().chain([Message::new(Role::User, prompt)]).collect();
        self.prompt(&Conversation { messages, ..Conversation::default() })
    }

    /// The text of `ids`, without special tokens.
    ///
    /// # Errors
    /// The tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, StageError> {
        Ok(self.tokenizer.decode(ids, true)?)
    }
}

/// Rejects a tokenizer that does not match the ids of a model: one with a larger vocabulary, or
/// another id that ends documents.
///
/// # Errors
/// `vocabulary` or `eos`, after the name of the `stage`.
pub fn check_tokenizer(config: &ModelConfig, special: &SpecialTokens, stage: &str) -> Result<(), StageError> {
    config.accepts(special.vocab_size as usize, special.eos_token_id).map_err(|mismatch| {
        refused(mismatch, special, stage).hint("give the tokenizer that the model was trained with")
    })
}

fn refused(mismatch: VocabularyMismatch, special: &SpecialTokens, stage: &str) -> StageError {
    let kind = match mismatch {
        VocabularyMismatch::TooLarge { .. } => "vocabulary",
        VocabularyMismatch::OtherEos { .. } => "eos",
    };
    StageError::fail(&format!("{stage}::{kind}"), mismatch.of_tokenizer(&special.eos_token))
}

fn template_error(stage: &str, error: &ChatError) -> StageError {
    StageError::fail(&format!("{stage}::template"), error.to_string()).hint(error.hint())
}

//! [`ChatModel`]: conversations as prompts, and answers as text.

use std::path::Path;

use olmo_data::{Chat, ChatError, Conversation, DataError, Message, Role, SpecialTokens, TextTokenizer};
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
        check_vocabulary(config, self.tokenizer.special(), self.stage)
    }

    /// Rejects a template that cannot ask for an answer: it writes text before an answer, but not
    /// when it is asked for a prompt.
    ///
    /// # Errors
    /// `template`, after the name of the stage.
    pub fn check_prompt(&self) -> Result<(), StageError> {
        check_prompt(&self.chat, self.stage)
    }

    /// The ids of `text`. Strings of added tokens become those tokens; nothing is added.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokenizer.encode_text(text)
    }

    /// The token that stands for an empty context: bos, or eos if the tokenizer has no bos.
    ///
    /// # Errors
    /// The tokenizer cannot encode its bos token.
    pub fn prefix_token(&self) -> Result<u32, DataError> {
        let special = self.tokenizer.special();
        let bos = special.bos_token.as_deref().map(|bos| self.tokenizer.encode_text(bos)).transpose()?;
        Ok(match bos.as_deref() {
            Some([bos]) => *bos,
            _ => special.eos_token_id,
        })
    }

    /// The token that begins a text, if the tokenizer has one that is not also its eos.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    pub fn first_token(&self) -> Result<Option<u32>, DataError> {
        let special = self.tokenizer.special();
        let bos = special.bos_token.as_deref().map(|bos| self.tokenizer.encode_text(bos)).transpose()?;
        Ok(match bos.as_deref() {
            Some([bos]) if *bos != special.eos_token_id => Some(*bos),
            _ => None,
        })
    }

    /// Ids of the tokens that end a text.
    pub fn end_of_text_ids(&self) -> Vec<u32> {
        vec![self.tokenizer.special().eos_token_id]
    }

    /// Ids of the stop tokens.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        self.chat.stop_token_ids()
    }

    /// The text of a conversation, followed by the header of the assistant's answer.
    ///
    /// # Errors
    /// The template rejects the conversation.
    pub fn prompt_text(&self, conversation: &Conversation) -> Result<String, StageError> {
        self.chat.prompt(conversation).map_err(|error| template_error(self.stage, &error))
    }

    /// The ids of a conversation, followed by the header of the assistant's answer.
    ///
    /// # Errors
    /// The template rejects the conversation, or renders nothing.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, StageError> {
        let ids = self.tokenizer.encode_text(&self.prompt_text(conversation)?)?;
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

/// Rejects a tokenizer with a larger vocabulary than the model's.
///
/// # Errors
/// `vocabulary`, after the name of the `stage`.
pub(crate) fn check_vocabulary(config: &ModelConfig, special: &SpecialTokens, stage: &str) -> Result<(), StageError> {
    match config.accepts(special.vocab_size as usize, special.eos_token_id) {
        Err(mismatch @ VocabularyMismatch::TooLarge { .. }) => {
            Err(refused(mismatch, special, stage)
                .hint("the folder's files do not belong together; export the model again"))
        }
        _ => Ok(()),
    }
}

/// Rejects a template that cannot ask for an answer: see [`ChatModel::check_prompt`].
///
/// # Errors
/// `template`, after the name of the `stage`.
pub(crate) fn check_prompt(chat: &Chat, stage: &str) -> Result<(), StageError> {
    let Some(missing) = chat.missing_prompt() else { return Ok(()) };
    let what = format!(
        "the chat template writes `{}` before an answer, but has no generation prompt, so the model would not answer",
        missing.escape_debug()
    );
    Err(StageError::fail(&format!("{stage}::template"), what)
        .hint("write it in the template under `{% if add_generation_prompt %}`, or use another template"))
}

fn refused(mismatch: VocabularyMismatch, special: &SpecialTokens, stage: &str) -> StageError {
    let kind = match mismatch {
        VocabularyMismatch::TooLarge { .. } => "vocabulary",
        VocabularyMismatch::OtherEos { .. } => "eos",
    };
    StageError::fail(&format!("{stage}::{kind}"), mismatch.of_tokenizer(&special.eos_token))
}

pub(crate) fn template_error(stage: &str, error: &ChatError) -> StageError {
    StageError::fail(&format!("{stage}::template"), error.to_string()).hint(error.hint())
}

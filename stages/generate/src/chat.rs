//! [`Chat`]: the tokenizer and the chat template of an exported model.

use std::path::Path;

use olmo_data::{Conversation, Message, Role, TextTokenizer};
use olmo_model::{ModelConfig, VocabularyMismatch};
use olmo_stage::StageError;

/// Encodes conversations as ids, and decodes ids.
pub(crate) struct Chat {
    tokenizer: TextTokenizer,
    chat: olmo_data::Chat,
}

impl Chat {
    /// Opens the files in folder `dir`. `date` is today's date for `strftime_now`.
    ///
    /// # Errors
    /// A file is missing or malformed, or the special tokens do not match the tokenizer.
    pub(crate) fn open(dir: &Path, date: Option<&str>) -> Result<Self, StageError> {
        let (tokenizer, chat) = olmo_data::Chat::of_huggingface(dir, date)
            .map_err(|e| StageError::fail("generate::template", e.to_string()).hint(e.hint()))?;
        Ok(Self { tokenizer, chat })
    }

    /// Rejects a model whose vocabulary is smaller than the tokenizer's.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<(), StageError> {
        let special = self.tokenizer.special();
        // The eos of an export may differ: generation stops at the chat's stop tokens.
        let accepted = config.accepts(special.vocab_size as usize, special.eos_token_id);
        let Err(VocabularyMismatch::TooLarge { size, of_model }) = accepted else { return Ok(()) };
        let what = format!("tokenizer.json has {size} ids, the model has {of_model}");
        Err(StageError::fail("generate::vocabulary", what)
            .hint("the folder's files do not belong together; export the model again"))
    }

    /// Ids of the stop tokens.
    pub(crate) fn stop_token_ids(&self) -> Vec<u32> {
        self.chat.stop_token_ids()
    }

    /// The ids of a conversation whose next turn is the assistant's answer to `prompt`.
    pub(crate) fn prompt(&self, system: Option<&str>, prompt: &str) -> Result<Vec<u32>, StageError> {
        let system = system.map(|content| Message::new(Role::System, content));
        let messages = system.into_iter().chain([Message::new(Role::User, prompt)]).collect();
        let text = self
            .chat
            .prompt(&Conversation { messages, ..Conversation::default() })
            .map_err(|e| StageError::fail("generate::template", e.to_string()).hint(e.hint()))?;
        let ids = self.tokenizer.encode_text(&text)?;
        if ids.is_empty() {
            return Err(StageError::fail("generate::template", "the chat template renders the prompt as empty text"));
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, StageError> {
        Ok(self.tokenizer.decode(ids, true)?)
    }
}

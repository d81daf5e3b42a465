//! [`Prompt`]: the part of a conversation that the model sees, and the expected answer.

use olmo_data::conversation::strip;
use olmo_data::{Chat, Conversation, Role, SpecialTokens, TextTokenizer};
use olmo_model::{ModelConfig, VocabularyMismatch};
use olmo_stage::StageError;

/// A prompt and its expected answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prompt {
    /// Family of the conversation.
    pub dataset: String,
    pub id: String,
    /// Index in the dataset, from 0.
    pub record: usize,
    /// The last turn before the answer, without surrounding whitespace.
    pub question: String,
    pub input_ids: Vec<u32>,
    /// Without surrounding whitespace.
    pub expected: String,
}

/// The prompts of `conversations`, in order: all turns before the last assistant turn, followed by
/// the header of the answer. Skips conversations without an assistant turn.
///
/// # Errors
/// The template rejects a conversation; the error names its index and id.
pub(crate) fn prompts(
    conversations: &[Conversation],
    chat: &Chat,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Prompt>, StageError> {
    let prompt = |(record, conversation): (usize, &Conversation)| {
        let messages = &conversation.messages;
        let last = messages.iter().rposition(|message| message.role == Role::Assistant)?;
        let question = Conversation { messages: messages[..last].to_vec(), ..conversation.clone() };
        let text = chat.prompt(&question).map_err(|e| {
            let id = conversation.id.escape_debug();
            StageError::fail("eval::template", format!("record {record} (id `{id}`): {e}")).hint(e.hint())
        });
        let encoded = text.and_then(|text| Ok(tokenizer.encode_text(&text)?));
        Some(encoded.map(|input_ids| Prompt {
            dataset: conversation.dataset.clone(),
            id: conversation.id.clone(),
            record,
            question: last.checked_sub(1).map(|turn| strip(messages[turn].text()).to_owned()).unwrap_or_default(),
            input_ids,
            expected: strip(messages[last].text()).to_owned(),
        }))
    };
    conversations.iter().enumerate().filter_map(prompt).collect()
}

/// Rejects a tokenizer that does not match the model's ids.
pub(crate) fn check_tokenizer(config: &ModelConfig, special: &SpecialTokens) -> Result<(), StageError> {
    let Err(mismatch) = config.accepts(special.vocab_size as usize, special.eos_token_id) else { return Ok(()) };
    let code = match mismatch {
        VocabularyMismatch::TooLarge { .. } => "eval::vocabulary",
        VocabularyMismatch::OtherEos { .. } => "eval::eos",
    };
    Err(StageError::fail(code, mismatch.of_tokenizer(&special.eos_token))
        .hint("give the tokenizer that the model was trained with"))
}

//! [`Prompt`]: the part of a conversation that the model sees, and the expected answer.

use olmo_data::conversation::strip;
use olmo_data::{Conversation, Role};
use olmo_infer::ChatModel;
use olmo_stage::StageError;

/// A prompt and its expected answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prompt {
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
pub(super) fn prompts(conversations: &[Conversation], chat: &ChatModel) -> Result<Vec<Prompt>, StageError> {
    let prompt = |(record, conversation): (usize, &Conversation)| {
        let messages = &conversation.messages;
        let last = messages.iter().rposition(|message| message.role == Role::Assistant)?;
        let question = Conversation { messages: messages[..last].to_vec(), ..conversation.clone() };
        let encoded = chat
            .prompt(&question)
            .map_err(|error| error.about(&format!("record {record} (id `{}`)", conversation.id.escape_debug())));
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

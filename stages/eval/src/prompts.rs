//! [`Prompt`]: the part of a conversation that is asked, and the answer that is expected.

use olmo_data::chat::strip;
use olmo_data::{Chat, Conversation, Role, SpecialTokens, TextTokenizer};
use olmo_model::ModelConfig;
use olmo_stage::StageError;

/// A question with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The family.
    pub dataset: String,
    pub id: String,
    /// Position in the dataset, from 0.
    pub record: usize,
    /// The last turn before the answer, without surrounding white space.
    pub question: String,
    pub input_ids: Vec<u32>,
    /// Without surrounding white space.
    pub expected: String,
}

/// The prompts of `conversations`, in order: all turns before the last assistant turn, and the line after which it begins.
/// Conversations without an assistant turn have no answer to compare with and are left out.
///
/// # Errors
/// A conversation that the template refuses, named by its position and id.
pub fn prompts(
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

/// Refuses a tokenizer whose ids mean something else to the model.
pub fn check_tokenizer(config: &ModelConfig, special: &SpecialTokens) -> Result<(), StageError> {
    const HINT: &str = "give the tokenizer that the model was trained with";
    if special.vocab_size as usize > config.vocab_size {
        let what = format!("the tokenizer has {} ids, the model knows {}", special.vocab_size, config.vocab_size);
        return Err(StageError::fail("eval::vocabulary", what).hint(HINT));
    }
    match config.eos_token_id() {
        Some(eos) if !config.eos_token_ids.contains(&special.eos_token_id) => {
            let what = format!(
                "the tokenizer's eos `{}` is id {}, the model's is id {eos}",
                special.eos_token.escape_debug(),
                special.eos_token_id
            );
            Err(StageError::fail("eval::eos", what).hint(HINT))
        }
        _ => Ok(()),
    }
}

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
    pub input_ids: Vec<u32>,
    /// Without surrounding white space.
    pub expected: String,
}

/// The prompts of `conversations`, in order: all turns before the last assistant turn, and the line after which it begins.
///
/// # Errors
/// A conversation without an assistant turn, named by its position and id.
pub fn prompts(
    conversations: &[Conversation],
    chat: &Chat,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Prompt>, StageError> {
    let prompt = |(record, conversation): (usize, &Conversation)| {
        let messages = &conversation.messages;
        let Some(last) = messages.iter().rposition(|message| message.role == Role::Assistant) else {
            let id = conversation.id.escape_debug();
            let what = format!("record {record} (id `{id}`) has no assistant turn: there is no answer to compare with");
            return Err(StageError::fail("eval::no_answer", what));
        };
        let question = Conversation { messages: messages[..last].to_vec(), ..conversation.clone() };
        let text = chat.prompt(&question).map_err(|e| {
            let id = conversation.id.escape_debug();
            StageError::fail("eval::template", format!("record {record} (id `{id}`): {e}")).hint(e.hint())
        })?;
        Ok(Prompt {
            dataset: conversation.dataset.clone(),
            id: conversation.id.clone(),
            input_ids: tokenizer.encode_text(&text)?,
            expected: strip(messages[last].text()).to_owned(),
        })
    };
    conversations.iter().enumerate().map(prompt).collect()
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

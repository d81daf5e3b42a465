//! Params of stage `tokenize`.

use olmo_data::chat::Source;
use olmo_data::{Labels, Role, Template, TextTokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a record is rendered as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The text of OLMo's `prepare_tulu_data.py`, encoded in one piece.
    Tulu,
    /// The format of OLMo 2's instruct models.
    Olmo2,
    /// ChatML: turns between `<|im_start|>` and `<|im_end|>`.
    Chatml,
    /// The exact ids of OLMo's `prepare_tulu_data.py`: like `tulu`, but each header and content is
    /// encoded separately.
    PrepareTuluData,
    /// The Jinja template in port `chat_template`.
    Jinja,
    /// A document followed by eos; every token is labelled.
    Plain,
}

impl Layout {
    /// The name in YAML and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tulu => "tulu",
            Self::Olmo2 => "olmo2",
            Self::Chatml => "chatml",
            Self::PrepareTuluData => "prepare_tulu_data",
            Self::Jinja => "jinja",
            Self::Plain => "plain",
        }
    }

    /// The built-in template, if the layout uses one.
    pub fn built_in(self) -> Option<Template> {
        match self {
            Self::Tulu | Self::PrepareTuluData => Some(Template::Tulu),
            Self::Olmo2 => Some(Template::Olmo2),
            Self::Chatml => Some(Template::Chatml),
            Self::Jinja | Self::Plain => None,
        }
    }
}

/// What to do with a conversation that cannot be rendered or labelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Fail and list such conversations.
    #[default]
    Fail,
    /// Drop it, count it, and warn.
    Skip,
}

/// What to do with a conversation of more than `max_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Cut off the rest, without adding an eos.
    #[default]
    Truncate,
    /// Drop it and count it.
    Drop,
    /// Split it into several documents.
    Split,
}

/// Which turns of the trained roles are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// All of them.
    #[default]
    All,
    /// Only the last one.
    Last,
}

/// Which parts of a conversation are trained, that is, get labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOn {
    /// Roles whose turns are trained. A `weight` of 0 or 1 on a message overrides this, and
    /// `{% generation %}` tags in the template override both.
    pub roles: Vec<Role>,
    /// Whether the token that ends a trained turn is trained too, so that the model learns to stop.
    pub end_of_turn: bool,
    /// Which of these turns are trained: `all`, or only the `last`.
    pub turns: Turns,
}

impl Default for TrainOn {
    fn default() -> Self {
        Self { roles: vec![Role::Assistant], end_of_turn: true, turns: Turns::All }
    }
}

impl TrainOn {
    pub fn labels(&self) -> Labels {
        let last_turn_only = self.turns == Turns::Last;
        Labels { roles: self.roles.clone(), end_of_turn: self.end_of_turn, last_turn_only }
    }
}

/// Params of stage `tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeParams {
    /// How a record is rendered as text: `tulu`, `olmo2`, `chatml` or `jinja` (port
    /// `chat_template`) for conversations, `prepare_tulu_data` for the exact ids of OLMo's script,
    /// `plain` for documents. Null: the tokenizer's own template, or `tulu` if it has none.
    #[schemars(
        with = "Option<String>",
        extend("enum" = ["tulu", "olmo2", "chatml", "prepare_tulu_data", "jinja", "plain", null])
    )]
    pub template: Option<Layout>,
    /// Maximum number of tokens in a conversation; null: the maximum of the model that the
    /// tokenizer comes from, or 2048. Plain documents are never shortened.
    #[schemars(range(min = 2))]
    pub max_length: Option<u64>,
    /// What to do with a longer conversation: `truncate` it, `drop` it, or `split` it into several
    /// documents.
    pub too_long: TooLong,
    /// Which parts of a conversation are trained.
    pub train_on: TrainOn,
    /// What to do with a conversation that cannot be rendered or labelled: `fail`, or `skip` (drop
    /// it and count it).
    pub on_error: OnError,
    /// Today's date for chat templates that ask for it (`strftime_now`), such as `2026-01-31`. The
    /// system clock is never used.
    pub date: Option<String>,
}

impl Default for TokenizeParams {
    fn default() -> Self {
        Self {
            template: None,
            max_length: None,
            too_long: TooLong::Truncate,
            train_on: TrainOn::default(),
            on_error: OnError::Fail,
            date: None,
        }
    }
}

/// Maximum number of tokens in a conversation if neither the params nor a model set it.
const DEFAULT_MAX_LENGTH: u64 = 2048;

impl TokenizeParams {
    /// Maximum number of tokens in a conversation encoded with `tokenizer`.
    pub fn max_length(&self, tokenizer: &TextTokenizer) -> u64 {
        self.max_length.or(tokenizer.special().model_max_length).unwrap_or(DEFAULT_MAX_LENGTH)
    }

    /// Whether the records are documents rather than conversations.
    pub fn is_plain(&self) -> bool {
        self.template == Some(Layout::Plain)
    }

    /// The template that the params select; `chat_template` is the file for `jinja`.
    pub fn source(&self, chat_template: Option<&str>) -> Option<Source> {
        let layout = self.template?;
        layout.built_in().map(Source::BuiltIn).or_else(|| Some(Source::Jinja(chat_template?.to_owned())))
    }
}

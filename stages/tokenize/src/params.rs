//! Params of stage `tokenize`.

use olmo_data::chat::Source;
use olmo_data::{Labels, Role, Template, TextTokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a record becomes one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// A conversation with the text that OLMo's `prepare_tulu_data.py` writes, encoded as one.
    Tulu,
    /// A conversation as OLMo 2's instruct models have it.
    Olmo2,
    /// A conversation between `<|im_start|>` and `<|im_end|>`.
    Chatml,
    /// The ids of OLMo's `prepare_tulu_data.py`: as `tulu`, but each header and content is encoded by itself.
    PrepareTuluData,
    /// A conversation as the file in port `chat_template` writes it.
    Jinja,
    /// A document with eos behind it; every token is labelled.
    Plain,
}

impl Layout {
    /// As it stands in YAML and in manifests.
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

    /// The built-in template, if it is one.
    pub fn built_in(self) -> Option<Template> {
        match self {
            Self::Tulu | Self::PrepareTuluData => Some(Template::Tulu),
            Self::Olmo2 => Some(Template::Olmo2),
            Self::Chatml => Some(Template::Chatml),
            Self::Jinja | Self::Plain => None,
        }
    }
}

/// What a conversation that cannot be labelled means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The stage fails and shows such conversations.
    #[default]
    Fail,
    /// It is left out and counted, with a warning.
    Skip,
}

/// What happens to a conversation of more than `max_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// The rest is cut off, without an eos in its place.
    #[default]
    Truncate,
    /// It is left out and counted.
    Drop,
    /// It becomes several documents.
    Split,
}

/// Which turns of a conversation are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// Every one of the trained roles.
    #[default]
    All,
    /// Only the last one of the trained roles.
    Last,
}

/// Which parts of a conversation are trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOn {
    /// The roles whose turns are trained. A message with a `weight` of 0 or 1 decides for itself; `{% generation %}` tags in a
    /// template decide for all.
    pub roles: Vec<Role>,
    /// Whether the token that ends such a turn is trained too, so that a model learns to stop.
    pub end_of_turn: bool,
    /// `all` their turns or only the `last`.
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
    /// `tulu`, `olmo2`, `chatml` or `jinja` (port `chat_template`) for conversations, `prepare_tulu_data` for exactly the ids of
    /// OLMo's script, `plain` for documents. Null: the tokenizer's own template, or `tulu` if it has none.
    #[schemars(
        with = "Option<String>",
        extend("enum" = ["tulu", "olmo2", "chatml", "prepare_tulu_data", "jinja", "plain", null])
    )]
    pub template: Option<Layout>,
    /// Tokens kept of a conversation; null: as many as the model takes that the tokenizer comes with, else 2048. Plain documents
    /// stay whole.
    #[schemars(range(min = 2))]
    pub max_length: Option<u64>,
    /// What happens to a longer conversation: `truncate` cuts it off, `drop` leaves it out, `split` makes several documents of it.
    pub too_long: TooLong,
    /// Which parts of a conversation are trained.
    pub train_on: TrainOn,
    /// What a conversation that the template refuses, or that cannot be labelled, means: `fail` or `skip` (left out and counted).
    pub on_error: OnError,
    /// What a chat template that asks for today's date (`strftime_now`) gets, such as `2026-01-31`: a run does not read the clock.
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

/// Tokens kept of a conversation where neither params nor a model say it.
const DEFAULT_MAX_LENGTH: u64 = 2048;

impl TokenizeParams {
    /// Tokens kept of a conversation that `tokenizer` encodes.
    pub fn max_length(&self, tokenizer: &TextTokenizer) -> u64 {
        self.max_length.or(tokenizer.special().model_max_length).unwrap_or(DEFAULT_MAX_LENGTH)
    }

    /// Whether the records are documents, not conversations.
    pub fn is_plain(&self) -> bool {
        self.template == Some(Layout::Plain)
    }

    /// The template that the params name; `chat_template` is the file for `jinja`.
    pub fn source(&self, chat_template: Option<&str>) -> Option<Source> {
        let layout = self.template?;
        layout.built_in().map(Source::BuiltIn).or_else(|| Some(Source::Jinja(chat_template?.to_owned())))
    }
}

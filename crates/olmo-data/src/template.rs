//! A conversation as text: the chat templates, and which bytes of the text are trained.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// Every role, in the order in which messages to people list them.
    pub const ALL: [Role; 3] = [Role::System, Role::User, Role::Assistant];

    /// As it stands in data and in templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// A role that no template knows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown role `{}`, expected system, user or assistant", .0.escape_debug())]
pub struct UnknownRole(pub String);

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The byte ranges of `text` that are trained, in order: each assistant turn's content
    /// (without surrounding white space) and the eos behind it.
    pub labelled: Vec<Range<usize>>,
}

/// How a conversation becomes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// What OLMo's `prepare_tulu_data.py` makes: eos as the first token, a line `<|role|>` before
    /// each turn, contents without surrounding white space, eos behind each assistant turn.
    Tulu,
}

impl Template {
    /// Every template, for sweeps.
    pub const ALL: [Template; 1] = [Template::Tulu];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tulu => "tulu",
        }
    }

    /// The line before a turn of `role`, with its newline.
    pub fn header(self, role: Role) -> String {
        match self {
            Self::Tulu => format!("<|{role}|>\n"),
        }
    }

    /// `messages` as text. `eos` is the eos token's string; `add_generation_prompt` appends the
    /// line after which the assistant is to answer.
    pub fn render(self, messages: &[Message], eos: &str, add_generation_prompt: bool) -> Rendered {
        let mut text = eos.to_owned();
        let mut labelled = Vec::new();
        for message in messages {
            text.push_str(&self.header(message.role));
            let start = text.len();
            text.push_str(strip(&message.content));
            if message.role == Role::Assistant {
                text.push_str(eos);
                labelled.push(start..text.len());
            }
            text.push('\n');
        }
        if add_generation_prompt {
            text.push_str(&self.header(Role::Assistant));
        }
        Rendered { text, labelled }
    }

    /// The template in Jinja; `apply_chat_template` of Hugging Face makes the same text with it
    /// (given `eos_token`).
    pub fn jinja(self) -> &'static str {
        match self {
            Self::Tulu => concat!(
                "{{ eos_token }}",
                "{% for message in messages %}",
                "{{ '<|' + message['role'] + '|>\\n' + (message['content'] | trim) }}",
                "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}",
                "{{ '\\n' }}",
                "{% endfor %}",
                "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
            ),
        }
    }
}

/// `text` without the white space around it, as Python's `str.strip` sees white space: Unicode's
/// and the four separators U+001C to U+001F.
pub fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Vec<Message> {
        vec![
            Message::new(Role::System, "Be short.\n"),
            Message::new(Role::User, " What is 2+2? "),
            Message::new(Role::Assistant, "\t4.\u{1f}"),
            Message::new(Role::User, "Thanks"),
            Message::new(Role::Assistant, "You're welcome!"),
        ]
    }

    #[test]
    fn tulu_text_is_that_of_prepare_tulu_data() {
        let rendered = Template::Tulu.render(&chat(), "<eos>", false);
        assert_eq!(
            rendered.text,
            "<eos><|system|>\nBe short.\n<|user|>\nWhat is 2+2?\n<|assistant|>\n4.<eos>\n\
             <|user|>\nThanks\n<|assistant|>\nYou're welcome!<eos>\n"
        );
        let bodies: Vec<&str> = rendered.labelled.iter().map(|range| &rendered.text[range.clone()]).collect();
        assert_eq!(bodies, ["4.<eos>", "You're welcome!<eos>"]);
    }

    #[test]
    fn a_prompt_is_the_prefix_of_the_conversation_it_asks_for() {
        let whole = Template::Tulu.render(&chat(), "<eos>", false).text;
        let prompt = Template::Tulu.render(&chat()[..4], "<eos>", true).text;
        assert_eq!(whole.strip_prefix(&prompt), Some("You're welcome!<eos>\n"));
    }

    #[test]
    fn an_unknown_role_is_named() {
        assert_eq!("tool".parse::<Role>(), Err(UnknownRole("tool".into())));
        assert_eq!("user".parse::<Role>(), Ok(Role::User));
    }
}

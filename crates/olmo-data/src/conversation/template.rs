//! [`Template`]: the built-in chat templates, in Rust and in Jinja.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::message::{Message, MessageRef, Role, strip};
use super::rendered::{Labels, Rendered, Turn};

/// How a conversation is rendered as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// The format of OLMo's `prepare_tulu_data.py`: eos as the first token, a line `<|role|>`
    /// before each turn, contents without surrounding whitespace, and eos after each assistant
    /// turn.
    Tulu,
    /// The template of OLMo 2's instruct models: like `tulu`, but contents are unchanged and
    /// nothing follows the last eos.
    Olmo2,
    /// `<|im_start|>role`, the unchanged content, and `<|im_end|>`, which ends an answer.
    Chatml,
}

impl Template {
    /// Every template, for sweeps.
    pub const ALL: [Template; 3] = [Template::Tulu, Template::Olmo2, Template::Chatml];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tulu => "tulu",
            Self::Olmo2 => "olmo2",
            Self::Chatml => "chatml",
        }
    }

    /// The tokens other than eos that the template writes and a tokenizer for it needs.
    pub fn control_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Tulu | Self::Olmo2 => &[],
            Self::Chatml => &["<|im_start|>", "<|im_end|>"],
        }
    }

    /// The line before a turn of `role`, including its newline.
    pub fn header(self, role: Role) -> String {
        let mut header = String::new();
        self.write_header(role, &mut header);
        header
    }

    fn write_header(self, role: Role, text: &mut String) {
        let [before, after] = match self {
            Self::Tulu | Self::Olmo2 => ["<|", "|>\n"],
            Self::Chatml => ["<|im_start|>", "\n"],
        };
        text.extend([before, role.as_str(), after]);
    }

    /// Renders `messages` as text, with the labels of [`Labels::default`]. `eos` is the string of
    /// the eos token; `add_generation_prompt` appends the header of the assistant's answer.
    pub fn render(self, messages: &[Message], eos: &str, add_generation_prompt: bool) -> Rendered {
        let mut rendered = Rendered::default();
        self.write(messages.iter().map(MessageRef::from), eos, add_generation_prompt, &mut rendered);
        rendered.with(&Labels::default())
    }

    /// Renders `messages` into `rendered`, whose content it replaces and whose memory it uses again. The
    /// labels are not set.
    pub fn write<'m>(
        self,
        messages: impl ExactSizeIterator<Item = MessageRef<'m>>,
        eos: &str,
        add_generation_prompt: bool,
        rendered: &mut Rendered,
    ) {
        let Rendered { text, turns, .. } = rendered;
        text.clear();
        turns.clear();
        if self != Self::Chatml {
            text.push_str(eos);
        }
        let count = messages.len();
        for (i, message) in messages.enumerate() {
            self.write_header(message.role, text);
            let start = text.len();
            text.push_str(if self == Self::Tulu { strip(message.text()) } else { message.text() });
            let body = start..text.len();
            let assistant = message.role == Role::Assistant;
            match self {
                Self::Chatml => text.push_str("<|im_end|>"),
                Self::Tulu | Self::Olmo2 if assistant => text.push_str(eos),
                Self::Tulu | Self::Olmo2 => {}
            }
            // These templates write only content, so a turn without it, such as a tool call, is not
            // trained.
            let trained = if message.content.is_none() { Some(false) } else { message.trained };
            turns.push(Turn { role: message.role, trained, end: body.end..text.len(), body, shortened: false });
            if self != Self::Olmo2 || !assistant || i + 1 < count {
                text.push('\n');
            }
        }
        // OLMo 2's template writes no header for an empty conversation.
        if add_generation_prompt && (self != Self::Olmo2 || count > 0) {
            self.write_header(Role::Assistant, text);
        }
    }

    /// The template in Jinja. Hugging Face's `apply_chat_template` renders the same text with it,
    /// given `eos_token`.
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
            // OLMo 2's own template writes `bos_token`, which equals its eos.
            Self::Olmo2 => concat!(
                "{{ eos_token }}",
                "{% for message in messages %}",
                "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}",
                "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}",
                "{% if message['role'] != 'assistant' or not loop.last %}{{ '\\n' }}{% endif %}",
                "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
                "{% endfor %}",
            ),
            Self::Chatml => concat!(
                "{% for message in messages %}",
                "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
                "{% endfor %}",
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
            ),
        }
    }
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
}

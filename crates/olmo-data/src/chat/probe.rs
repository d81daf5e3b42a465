//! Finds what a template writes around an answer, by rendering simple conversations.

use super::error::ChatError;
use super::jinja_template::JinjaTemplate;
use crate::conversation::{Conversation, Message, Role};
use crate::jinja::Rendering;
use crate::tokenizer::chat_record::StopToken;

/// The text around the answers of a simple conversation.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    /// The text added by `add_generation_prompt`; may be empty.
    pub generation_prompt: String,
    /// The template's own text between a question and its answer.
    pub before_answer: String,
    /// The part of the text before an answer that a prompt for it lacks; empty if only whitespace is
    /// missing.
    pub missing: String,
    /// The template's own text after the last answer.
    after_last: String,
    /// The template's own text between an answer and the next question, if it writes any.
    after_answer: Option<String>,
}

const QUESTIONS: [&str; 2] = ["Which colour?", "And which shape?"];
const ANSWERS: [&str; 2] = ["Blue it is", "Round it is"];

/// Alternating questions and answers, `count` messages in all.
fn conversation(count: usize, system: bool) -> Conversation {
    let mut messages = Vec::new();
    if system {
        messages.push(Message::new(Role::System, "Answer the question"));
    }
    for i in 0..count {
        let turn = i / 2;
        messages.push(if i % 2 == 0 {
            Message::new(Role::User, QUESTIONS[turn])
        } else {
            Message::new(Role::Assistant, ANSWERS[turn])
        });
    }
    Conversation { messages, ..Conversation::default() }
}

/// The position of the text of message `turn`.
fn span(rendering: &Rendering, turn: usize) -> Option<(usize, usize)> {
    let mut pieces = rendering.pieces.iter().filter(|piece| piece.turn == turn);
    let first = pieces.next()?;
    let last = pieces.next_back().unwrap_or(first);
    Some((first.range.start, last.range.end))
}

/// The first of the tokens in `text`, the longest one at that position.
fn first_token<'t>(text: &str, added: &'t [(u32, String)]) -> Option<&'t (u32, String)> {
    let places = added.iter().filter(|(_, token)| !token.trim().is_empty());
    let places = places.filter_map(|added| Some((text.find(added.1.as_str())?, added)));
    places.min_by_key(|(at, (_, token))| (*at, std::cmp::Reverse(token.len()))).map(|(_, added)| added)
}

impl Probe {
    /// Renders simple conversations with `template`.
    ///
    /// # Errors
    /// The template cannot render them, or writes no answer.
    pub(super) fn run(template: &JinjaTemplate) -> Result<Self, ChatError> {
        // Some templates require a system turn, others reject one.
        let written = template.write(&conversation(2, false), false);
        let system = written.is_err();
        let one = match written {
            Ok(one) => one,
            Err(error) => template.write(&conversation(2, true), false).map_err(|_| error)?,
        };
        let first = usize::from(system);
        let Some((answer, end)) = span(&one, first + 1) else {
            let reason = "the template does not write answers";
            return Err(ChatError::Turn { turn: first + 2, role: Role::Assistant, reason });
        };
        let question_end = span(&one, first).map_or(0, |(_, end)| end);
        let mut probe = Probe {
            before_answer: one.text.get(question_end..answer).unwrap_or_default().to_owned(),
            after_last: one.text[end..].to_owned(),
            ..Probe::default()
        };
        if let Ok(two) = template.write(&conversation(4, system), false)
            && let (Some((_, end)), Some((next, _))) = (span(&two, first + 1), span(&two, first + 2))
        {
            probe.after_answer = two.text.get(end..next).map(str::to_owned);
        }
        let question = conversation(1, system);
        if let (Ok(without), Ok(with)) = (template.write(&question, false), template.write(&question, true)) {
            let (a, b) = (without.text.as_bytes(), with.text.as_bytes());
            let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            probe.generation_prompt = with.text.get(common..).unwrap_or_default().to_owned();
            let missing = one.text[..answer].strip_prefix(with.text.as_str()).unwrap_or_default();
            probe.missing = missing.trim().to_owned();
        }
        Ok(probe)
    }

    /// The tokens that end an answer: what the template writes after the last answer, what it
    /// writes after an earlier one, and eos.
    ///
    /// # Errors
    /// No token follows an answer.
    pub(super) fn find_stop_tokens(
        &self,
        added: &[(u32, String)],
        eos_token: &str,
    ) -> Result<Vec<StopToken>, ChatError> {
        let in_prompt = |token: &str| self.generation_prompt.contains(token);
        let last = first_token(&self.after_last, added).filter(|(_, token)| !in_prompt(token));
        // Between an answer and a question, the first token may start the question. It ends the
        // answer only if it also ends the last answer, or ends a question before an answer.
        let ends_a_question = |token: &str| match self.before_answer.rfind(&self.generation_prompt) {
            Some(at) if !self.generation_prompt.is_empty() => self.before_answer[..at].contains(token),
            _ => false,
        };
        let between = self.after_answer.as_deref().and_then(|text| first_token(text, added));
        let between = between.filter(|(_, token)| !in_prompt(token) && ends_a_question(token));
        let Some(_) = last.or(between) else {
            return Err(ChatError::NoStop { after: self.after_last.clone() });
        };
        let eos = added.iter().find(|(_, token)| token == eos_token);
        let mut stops: Vec<StopToken> = Vec::new();
        for (id, token) in [between, last, eos].into_iter().flatten() {
            if !stops.iter().any(|stop| stop.id == *id) {
                stops.push(StopToken { token: token.clone(), id: *id });
            }
        }
        Ok(stops)
    }
}

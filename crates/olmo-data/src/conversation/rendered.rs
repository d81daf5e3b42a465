//! [`Rendered`]: a conversation as text, and its trained bytes.

use std::ops::Range;

use super::message::Role;

/// The position of a turn in the text of its conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub role: Role,
    /// Overrides whether turns of this role are trained.
    pub trained: Option<bool>,
    /// Byte range of the content, as rendered by the template.
    pub body: Range<usize>,
    /// Byte range from there to the end of the turn's stop token; may be empty.
    pub end: Range<usize>,
    /// Whether the template omits a part of the content.
    pub shortened: bool,
}

/// A conversation as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The turns, in order.
    pub turns: Vec<Turn>,
    /// The trained byte ranges of `text`, in order.
    pub labelled: Vec<Range<usize>>,
    /// Number of trained turns without a stop token.
    pub endless: u64,
    /// Number of trained turns that the template shortens.
    pub shortened: u64,
}

/// Which parts of a conversation are trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Roles whose turns are trained, unless a message overrides this.
    pub roles: Vec<Role>,
    /// Whether the text that ends a turn is trained with it.
    pub end_of_turn: bool,
    /// Whether only the last turn of these roles is trained.
    pub last_turn_only: bool,
}

impl Default for Labels {
    /// The assistant's turns and their ends.
    fn default() -> Self {
        Self { roles: vec![Role::Assistant], end_of_turn: true, last_turn_only: false }
    }
}

impl Rendered {
    /// `text` with `turns`; those selected by `labels` are trained.
    pub fn new(text: String, turns: Vec<Turn>, labels: &Labels) -> Self {
        let mut rendered = Self { text, turns, ..Self::default() };
        rendered.label(labels);
        rendered
    }

    /// Sets the labels.
    pub fn label(&mut self, labels: &Labels) {
        let is_trained = |turn: &Turn| turn.trained.unwrap_or(labels.roles.contains(&turn.role));
        let first = match labels.last_turn_only {
            true => self.turns.iter().rposition(is_trained).unwrap_or(self.turns.len()),
            false => 0,
        };
        self.labelled.clear();
        (self.endless, self.shortened) = (0, 0);
        for turn in self.turns[first..].iter().filter(|turn| is_trained(turn)) {
            let range = turn.body.start..if labels.end_of_turn { turn.end.end } else { turn.body.end };
            self.labelled.extend((!range.is_empty()).then_some(range));
            self.endless += u64::from(labels.end_of_turn && turn.end.is_empty());
            self.shortened += u64::from(turn.shortened);
        }
    }

    /// The same text with other labels.
    pub fn with(mut self, labels: &Labels) -> Self {
        self.label(labels);
        self
    }
}

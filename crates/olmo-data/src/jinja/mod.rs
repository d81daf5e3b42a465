//! Chat templates: Jinja2 as configured by transformers, with the origin of every byte tracked.
//!
//! A template renders exactly the text of `apply_chat_template`, or fails with an error that names
//! the unsupported feature. The language is implemented here because labels depend on exact
//! equality and on the origin of each byte; see docs/decisions.md.

mod arguments;
mod builtins;
mod date;
mod error;
mod python;
mod run;
mod session;
mod syntax;
mod text;
pub(crate) mod unicode;
mod value;

use std::collections::HashSet;
use std::ops::Range;

pub use date::Date;
pub use error::{Error, Kind as ErrorKind};
pub use text::Piece;

use run::Interpreter;
use syntax::ast::Stmt;
use syntax::parser;
use value::{Scope, Value};

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    body: Vec<Stmt>,
    names: HashSet<String>,
    has_generation_tags: bool,
}

/// The inputs of a template.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// One object per message; a missing key is undefined. Their texts are traced to the message's
    /// index, except `role` and `name`.
    pub messages: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Other variables, such as `tools`, `bos_token` and `add_generation_prompt`.
    pub others: Vec<(String, serde_json::Value)>,
    /// Today's date for `strftime_now`.
    pub date: Option<Date>,
}

/// Limits of one rendering.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Maximum number of interpreter steps.
    pub fuel: u64,
    /// Maximum number of bytes of text.
    pub longest: usize,
}

/// The text of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendering {
    pub text: String,
    /// The bytes supplied by messages, in order.
    pub pieces: Vec<Piece>,
    /// The ranges between `{% generation %}` tags, in order.
    pub generations: Vec<Range<usize>>,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The template is invalid, or uses an unsupported tag.
    pub fn parse(source: &str) -> Result<Self, Error> {
        let parsed = parser::parse(source)?;
        Ok(Self { body: parsed.body, names: parsed.names, has_generation_tags: parsed.has_generation_tags })
    }

    /// Whether the template reads a variable with this name.
    pub fn reads(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether the template marks the trained text with `{% generation %}`.
    pub fn has_generation_tags(&self) -> bool {
        self.has_generation_tags
    }

    /// Renders the template with `variables`.
    ///
    /// # Errors
    /// An exception that Python would raise, an unsupported feature, or work beyond `bounds`.
    pub fn render(&self, variables: &Variables, bounds: Bounds) -> Result<Rendering, Error> {
        let mut root = Vec::new();
        for (name, value) in &variables.others {
            root.push((name.clone(), Value::of_json(value, None)?));
        }
        let mut messages = Vec::with_capacity(variables.messages.len());
        for (turn, message) in variables.messages.iter().enumerate() {
            let mut dict = value::Dict::default();
            for (key, value) in message {
                let turn = (!matches!(key.as_str(), "role" | "name")).then_some(turn);
                dict.insert(key.as_str().into(), Value::of_json(value, turn)?);
            }
            messages.push(Value::Dict(std::rc::Rc::new(dict)));
        }
        if !messages.is_empty() {
            root.push(("messages".into(), Value::list(messages)));
        }
        let root = Scope::root(root);
        let interpreter = Interpreter::new(bounds.fuel, bounds.longest, variables.date);
        let (out, generations) = interpreter.run(&self.body, &root)?;
        let (text, pieces) = out.into_parts();
        Ok(Rendering { text, pieces, generations })
    }
}

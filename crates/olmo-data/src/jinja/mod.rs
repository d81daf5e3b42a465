//! Chat templates: Jinja2 as transformers sets it up, in which every byte of the text knows its
//! origin.
//!
//! A template either gives the text that `apply_chat_template` gives, or an error that names what
//! is not supported. The language is implemented here because equality in every corner, and the
//! origin of each byte, are what labels depend on; see docs/decisions.md.

mod builtins;
mod error;
mod numbers;
mod repr;
mod run;
mod syntax;
mod text;
pub(crate) mod unicode;
mod value;

use std::collections::HashSet;
use std::ops::Range;

pub use builtins::date::Date;
pub use error::{Error, Kind as ErrorKind};
pub use text::Piece;

use run::Interpreter;
use run::scope::Scope;
use syntax::ast::Stmt;
use syntax::parser;
use value::Value;

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    body: Vec<Stmt>,
    names: HashSet<String>,
    has_generation_tags: bool,
}

/// What a template reads.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// Each an object; without one the variable is undefined. The texts in them are traced to their
    /// number, but for `role` and `name`.
    pub messages: Vec<serde_json::Map<String, serde_json::Value>>,
    /// The other variables, such as `tools`, `bos_token` and `add_generation_prompt`.
    pub others: Vec<(String, serde_json::Value)>,
    /// What `strftime_now` takes for today.
    pub date: Option<Date>,
}

/// Bounds of one rendering.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Steps of the interpreter.
    pub fuel: u64,
    /// Bytes of text.
    pub longest: usize,
}

/// The text of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendering {
    pub text: String,
    /// Which bytes the messages supplied, in order.
    pub pieces: Vec<Piece>,
    /// What stands between `{% generation %}` tags, in order.
    pub generations: Vec<Range<usize>>,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// It is not valid, or uses a tag that is not supported.
    pub fn parse(source: &str) -> Result<Self, Error> {
        let parsed = parser::parse(source)?;
        Ok(Self { body: parsed.body, names: parsed.names, has_generation_tags: parsed.has_generation_tags })
    }

    /// Whether the template reads a variable of this name.
    pub fn reads(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether the template marks what is trained, with `{% generation %}`.
    pub fn has_generation_tags(&self) -> bool {
        self.has_generation_tags
    }

    /// The text that the template makes of `variables`.
    ///
    /// # Errors
    /// What Python would raise, what is not supported, or work beyond `bounds`.
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

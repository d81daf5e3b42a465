//! [`Source`]: the origin of a template.

use crate::conversation::Template;
use crate::tokenizer::chat_record::ChatRecord;

/// The origin of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    BuiltIn(Template),
    Jinja(String),
}

impl Source {
    /// Whether `record` has the same template.
    pub fn is_of(&self, record: &ChatRecord) -> bool {
        match self {
            Self::BuiltIn(template) => template.as_str() == record.template,
            Self::Jinja(source) => *source == record.chat_template,
        }
    }
}

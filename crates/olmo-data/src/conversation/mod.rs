//! Conversations, and their text with the trained parts.

mod message;
mod rendered;
mod template;

pub use message::{Conversation, Message, MessageRef, Role, UnknownRole, strip};
pub use rendered::{Labels, Rendered, Turn};
pub use template::Template;

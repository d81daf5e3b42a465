//! Runs a template.

mod calls;
mod expressions;
mod interpreter;
mod statements;

pub(super) use interpreter::Interpreter;

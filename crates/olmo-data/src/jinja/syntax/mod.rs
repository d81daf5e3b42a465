//! Parses the text of a template into a syntax tree.

pub(super) mod ast;
mod expressions;
mod lexer;
pub(super) mod parser;

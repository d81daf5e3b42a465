//! Parses the text of a template into a syntax tree.

pub mod ast;
mod expressions;
mod lexer;
pub mod parser;

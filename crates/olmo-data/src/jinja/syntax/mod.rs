//! From the text of a template to its tree.

pub mod ast;
mod expressions;
mod lexer;
pub mod parser;

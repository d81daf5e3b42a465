//! Tests that span modules.

mod order;
mod readers;

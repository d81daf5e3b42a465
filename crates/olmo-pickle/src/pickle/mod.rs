//! Pickles: [`parse`] reads protocols 0 to 5 as data, and [`write`](fn@write) writes protocols 2
//! and 4.
//!
//! `globals` has the table of the classes that are understood. Any other class stays an object with
//! its name and arguments, which is harmless, and [`unknown_classes`] lists them.

mod build;
mod cursor;
mod globals;
mod machine;
mod write;

use std::collections::BTreeSet;

use crate::document::Document;
use crate::error::Error;
use machine::Machine;
pub use write::{Item, Protocol, write};

/// Bytes of the longest pickle. Node numbers have 32 bits.
const LONGEST: usize = 1 << 30;

/// Reads one pickle, which must be all of `bytes`. References to storages are refused.
///
/// # Errors
/// The bytes are not a pickle, or it contains itself, or it uses what cannot become data.
/// The message has the offset in the pickle.
pub fn parse(bytes: &[u8]) -> Result<Document, Error> {
    parse_with(bytes, false)
}

/// Reads the pickle of a `torch.save` file: references to storages become tensors.
pub(crate) fn parse_with_storages(bytes: &[u8]) -> Result<Document, Error> {
    parse_with(bytes, true)
}

fn parse_with(bytes: &[u8], storages: bool) -> Result<Document, Error> {
    if bytes.len() > LONGEST {
        return Err(Error::unsupported(format!("the pickle has {} bytes, more than 1 GiB", bytes.len())));
    }
    let (nodes, root) = Machine::new(bytes, storages).run()?;
    Document::new(nodes, root, bytes.len())
}

/// The names of the classes in `document` that the table does not have, sorted.
pub fn unknown_classes(document: &Document) -> BTreeSet<String> {
    let classes = document.object_classes();
    classes.filter(|class| !globals::is_known(class.module, class.name)).map(|class| class.to_string()).collect()
}

#[cfg(test)]
mod tests;

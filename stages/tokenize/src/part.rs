//! [`Part`]: counts of encoded records. [`Encoded`]: such records.

use std::collections::BTreeMap;

use olmo_data::Documents;
use olmo_data::tokens::TokensCounts;
use serde::{Deserialize, Serialize};

/// Counts of some records; those of a complete part are in the journal.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Part {
    pub records: u64,
    /// Counts of the documents written.
    pub counts: TokensCounts,
    /// Records dropped because nothing in them could be trained.
    pub unlabelled: u64,
    /// Records dropped because they could not be rendered or labelled.
    pub problems: u64,
    pub too_long: u64,
    /// Trained turns without a stop token at the end, and trained turns that the template shortens.
    pub endless: u64,
    pub shortened: u64,
    /// Records with tools or tool calls that the template does not write.
    pub unwritten_tools: u64,
    /// Records whose own text encodes to a control token, per token.
    pub control_tokens: BTreeMap<u32, u64>,
}

impl Part {
    pub(crate) fn add(&mut self, other: &Part) {
        self.records += other.records;
        self.counts += other.counts;
        self.unlabelled += other.unlabelled;
        self.problems += other.problems;
        self.too_long += other.too_long;
        self.endless += other.endless;
        self.shortened += other.shortened;
        self.unwritten_tools += other.unwritten_tools;
        for (token, records) in &other.control_tokens {
            *self.control_tokens.entry(*token).or_default() += records;
        }
    }
}

/// Encoded records.
#[derive(Default)]
pub(crate) struct Encoded {
    pub documents: Documents,
    /// Without the counts of the documents.
    pub part: Part,
    /// Why records cannot be rendered or labelled.
    pub problems: Vec<String>,
}

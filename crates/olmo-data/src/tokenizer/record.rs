//! [`TokenizerRecord`]: what every artifact says of the tokenizer of its tokens.

use std::path::Path;

use super::chat_record::ChatRecord;
use super::probes::Probes;
use crate::error::DataError;

/// The files that are handed from artifact to artifact, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerRecord {
    /// How conversations are rendered.
    pub chat: Option<ChatRecord>,
    /// What the tokenizer makes of some texts.
    pub probes: Option<Probes>,
}

impl TokenizerRecord {
    /// Reads the record in folder `dir`.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        Ok(Self { chat: ChatRecord::read(dir)?, probes: Probes::read(dir)? })
    }

    /// Writes the record in folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        if let Some(chat) = &self.chat {
            chat.write(dir)?;
        }
        if let Some(probes) = &self.probes {
            probes.write(dir)?;
        }
        Ok(())
    }
}

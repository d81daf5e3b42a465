//! [`AnswerFile`]: answers that survive an interruption.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_base::journal::{self, Writer};
use olmo_base::{Digest, LockedFile, files};
use olmo_stage::StageError;
use serde::{Deserialize, Serialize};

use super::record::AnswerRecord;

/// Answers, in a journal until all are there. Whoever opens it again with the same settings goes on
/// where it ended.
pub struct AnswerFile {
    journal: PathBuf,
    writer: Writer<Line>,
    /// By the index of the prompt.
    records: BTreeMap<u64, AnswerRecord>,
    /// No other process writes the journal.
    _lock: LockedFile,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first line: the digest of everything that answers depend on.
    Settings(String),
    Answer(Box<AnswerRecord>),
}

/// Why a journal cannot be used.
const CODE: &str = "generate::unfinished";

impl AnswerFile {
    /// Opens or creates the journal at `journal`, for answers that depend on `settings`.
    ///
    /// # Errors
    /// Another process writes it; it is damaged, or belongs to other settings.
    pub fn open(journal: &Path, settings: Digest) -> Result<AnswerFile, StageError> {
        let io = |error| StageError::io(journal, error);
        let refuse = |why: &str| {
            StageError::fail(CODE, format!("{} {why}", journal.display()))
                .hint("remove it to begin again, or name another output")
        };
        let file = files::open_or_create_regular(journal).map_err(io)?;
        let lock = LockedFile::try_from_file(file).map_err(io)?;
        let lock = lock.ok_or_else(|| refuse("is being written by another process"))?;
        let contents = journal::read_prefix::<Line>(journal).map_err(io)?;
        if let Some(damage) = contents.damage {
            return Err(refuse(&format!("is damaged: {damage}")));
        }
        let settings = settings.to_string();
        let mut writer = Writer::open(journal, false).map_err(io)?;
        let mut records = BTreeMap::new();
        let mut lines = contents.records.into_iter();
        match lines.next() {
            None => writer.append(&Line::Settings(settings)).map_err(io)?,
            Some(Line::Settings(found)) if found == settings => {}
            Some(_) => return Err(refuse("has unfinished answers of another model, other prompts or other options")),
        }
        for line in lines {
            if let Line::Answer(record) = line {
                records.insert(record.index, *record);
            }
        }
        Ok(AnswerFile { journal: journal.to_owned(), writer, records, _lock: lock })
    }

    /// Whether the prompt with this index has its answers.
    pub fn has(&self, index: u64) -> bool {
        self.records.contains_key(&index)
    }

    /// Number of prompts with answers.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no prompt has answers.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the answers to a prompt.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn add(&mut self, record: AnswerRecord) -> Result<(), StageError> {
        self.writer
            .append(&Line::Answer(Box::new(record.clone())))
            .map_err(|error| StageError::io(&self.journal, error))?;
        self.records.insert(record.index, record);
        Ok(())
    }

    /// All answers, in the order of their prompts.
    pub fn records(&self) -> impl Iterator<Item = &AnswerRecord> {
        self.records.values()
    }

    /// Writes all answers to `output` as JSON Lines, in the order of their prompts, and removes the
    /// journal.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(self, output: &Path) -> Result<(), StageError> {
        // With a folder, whose entry is made durable too.
        let output = &std::path::absolute(output).map_err(|error| StageError::io(output, error))?;
        let mut text = String::new();
        for record in self.records.values() {
            text += &serde_json::to_string(record).map_err(|error| StageError::io(output, error.into()))?;
            text.push('\n');
        }
        files::write(output, text.as_bytes(), files::Durability::Machine)
            .map_err(|error| StageError::io(output, error))?;
        std::fs::remove_file(&self.journal).map_err(|error| StageError::io(&self.journal, error))
    }
}

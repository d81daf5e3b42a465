//! [`TextRows`] and [`ChatRows`]: rows of a dataset. Their texts stay in the reader's buffers.

use std::path::{Path, PathBuf};

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, ListArray, RecordBatch, StringArray};
use serde_json::{Map, Value};

use crate::conversation::{Conversation, Message, MessageRef, Role};
use crate::error::DataError;
use crate::formats::parquet_file::items_of;

/// Rows of a dataset.
pub trait Rows: Send + Sync {
    /// Number of rows.
    fn count(&self) -> usize;
}

/// Documents.
pub struct TextRows(StringArray);

impl TextRows {
    /// `batch` must have the columns of documents.
    pub(super) fn new(batch: &RecordBatch) -> Self {
        Self(batch.column(0).as_string::<i32>().clone())
    }

    /// The text of document `row`.
    pub fn text(&self, row: usize) -> &str {
        self.0.value(row)
    }
}

impl Rows for TextRows {
    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Conversations.
pub struct ChatRows {
    /// The file, for messages.
    path: PathBuf,
    datasets: StringArray,
    ids: StringArray,
    /// The messages of each row.
    lists: ListArray,
    /// Of all messages.
    roles: Vec<Role>,
    contents: StringArray,
    trained: Option<BooleanArray>,
    fields: Option<StringArray>,
    /// JSON.
    tools: Option<StringArray>,
    documents: Option<StringArray>,
}

impl ChatRows {
    /// `batch` must have the columns of conversations. Rejects unknown roles.
    pub(super) fn new(path: &Path, batch: &RecordBatch) -> Result<Self, DataError> {
        let text = |column: &ArrayRef| column.as_string::<i32>().clone();
        let lists = batch.column(2).as_list::<i32>().clone();
        let turns = lists.values().as_struct();
        let (datasets, ids) = (text(batch.column(0)), text(batch.column(1)));
        let names = turns.column(0).as_string::<i32>();
        let mut roles = Vec::with_capacity(names.len());
        for row in 0..lists.len() {
            for turn in items_of(&lists, row) {
                roles.push(names.value(turn).parse().map_err(|e| broken(path, ids.value(row), format!("{e}")))?);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            datasets,
            ids,
            roles,
            contents: text(turns.column(1)),
            trained: turns.column_by_name("trained").map(|column| column.as_boolean().clone()),
            fields: turns.column_by_name("fields").map(text),
            tools: batch.column_by_name("tools").map(text),
            documents: batch.column_by_name("documents").map(text),
            lists,
        })
    }

    /// The id of conversation `row`.
    pub fn id(&self, row: usize) -> &str {
        self.ids.value(row)
    }

    /// The messages of conversation `row`, without their further fields.
    pub fn messages(&self, row: usize) -> impl ExactSizeIterator<Item = MessageRef<'_>> + Clone {
        items_of(&self.lists, row).map(move |turn| MessageRef {
            role: self.roles[turn],
            content: optional(Some(&self.contents), turn),
            trained: self.trained.as_ref().filter(|column| !column.is_null(turn)).map(|column| column.value(turn)),
        })
    }

    /// Whether conversation `row` has tools.
    pub fn has_tools(&self, row: usize) -> bool {
        optional(self.tools.as_ref(), row).is_some()
    }

    /// Whether a message of conversation `row` has further fields.
    pub fn has_fields(&self, row: usize) -> bool {
        items_of(&self.lists, row).any(|turn| optional(self.fields.as_ref(), turn).is_some())
    }

    /// A copy of conversation `row`.
    ///
    /// # Errors
    /// What must be JSON is not.
    pub fn conversation(&self, row: usize) -> Result<Conversation, DataError> {
        let id = self.id(row);
        let json = |name: &str, column: Option<&StringArray>| {
            let parsed = optional(column, row).map(serde_json::from_str::<Value>).transpose();
            parsed.map_err(|e| broken(&self.path, id, format!("`{name}`: {e}")))
        };
        let (tools, documents) = (json("tools", self.tools.as_ref())?, json("documents", self.documents.as_ref())?);
        let message = |(turn, message): (usize, MessageRef<'_>)| {
            let fields = match optional(self.fields.as_ref(), turn) {
                Some(text) => {
                    serde_json::from_str(text).map_err(|e| broken(&self.path, id, format!("`fields`: {e}")))?
                }
                None => Map::new(),
            };
            let MessageRef { role, content, trained } = message;
            Ok(Message { role, content: content.map(str::to_owned), trained, fields })
        };
        let messages = items_of(&self.lists, row).zip(self.messages(row)).map(message);
        Ok(Conversation {
            messages: messages.collect::<Result<_, DataError>>()?,
            dataset: self.datasets.value(row).to_owned(),
            id: id.to_owned(),
            tools,
            documents,
        })
    }
}

impl Rows for ChatRows {
    fn count(&self) -> usize {
        self.lists.len()
    }
}

/// The text in `row` of a column that may be missing.
fn optional(column: Option<&StringArray>, row: usize) -> Option<&str> {
    let column = column?;
    (!column.is_null(row)).then(|| column.value(row))
}

fn broken(path: &Path, id: &str, reason: String) -> DataError {
    DataError::broken(path, format!("conversation {id}: {reason}"))
}

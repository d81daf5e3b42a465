//! [`ReferenceError`]: why a text does not refer to an artifact.

use olmo_base::{Diagnose, nearest};

use crate::run::RunError;
use crate::store::StoreError;

/// Why a text does not refer to an artifact. [`ReferenceError::hint`] says how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("`{text}` does not refer to an artifact: {why}")]
    Form { text: String, why: String },
    #[error("there is no tag `{text}`, and it is not the beginning of a digest")]
    Unknown { text: String, tags: Vec<String> },
    #[error("there is no run and no experiment `{text}`")]
    UnknownRun { text: String },
    #[error("run {run} has no stage and no result `{text}`")]
    UnknownStage { run: String, text: String, known: Vec<String> },
    #[error("stage `{stage}` of run {run} has no outputs yet: it is {status}")]
    NothingYet { run: String, stage: String, status: &'static str },
    #[error("stage `{stage}` of run {run} ran for several items")]
    WhichItem { run: String, stage: String, items: Vec<String> },
    #[error("stage `{stage}` of run {run} has no item `{item}`")]
    UnknownItem { run: String, stage: String, item: String, items: Vec<String> },
    #[error("stage `{stage}` of run {run} has no output `{port}`")]
    UnknownPort { run: String, stage: String, port: String, known: Vec<String> },
    #[error("`{port}` of stage `{stage}` is a list")]
    WhichLabel { stage: String, port: String, labels: Vec<String> },
    #[error("the list `{port}` of stage `{stage}` has no `{label}`")]
    UnknownLabel { stage: String, port: String, label: String, labels: Vec<String> },
    #[error("`{port}` of stage `{stage}` is not a list, so it has no [label]")]
    NoList { stage: String, port: String },
}

impl Diagnose for ReferenceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store(e) => e.code(),
            Self::Run(e) => e.code(),
            Self::Form { .. } => "reference::form",
            Self::Unknown { .. } => "reference::unknown",
            Self::UnknownRun { .. } => "reference::unknown_run",
            Self::UnknownStage { .. } => "reference::unknown_stage",
            Self::NothingYet { .. } => "reference::nothing_yet",
            Self::WhichItem { .. } => "reference::which_item",
            Self::UnknownItem { .. } => "reference::unknown_item",
            Self::UnknownPort { .. } => "reference::unknown_port",
            Self::WhichLabel { .. } => "reference::which_label",
            Self::UnknownLabel { .. } => "reference::unknown_label",
            Self::NoList { .. } => "reference::no_list",
        }
    }

    fn hint(&self) -> Option<String> {
        let help = |word: &str, known: &[String]| nearest::help(word, known.iter().map(String::as_str));
        match self {
            Self::Store(e) => e.hint(),
            Self::Run(e) => e.hint(),
            Self::Form { .. } => Some(
                "use a tag, the first digits of a digest, RUN:STAGE.PORT, RUN:STAGE.PORT[LABEL] or RUN:RESULT".into(),
            ),
            Self::Unknown { text, tags } => help(text, tags)
                .or_else(|| Some("`olmo-pipe artifacts list` and `artifacts tags` list what is available".into())),
            Self::UnknownRun { .. } => Some(
                "RUN is the start of an ID from `olmo-pipe runs list`, the name of an experiment, or `latest`".into(),
            ),
            Self::UnknownStage { text, known, .. } => help(text, known),
            Self::NothingYet { .. } => Some("`olmo-pipe runs show RUN` shows its progress".into()),
            Self::WhichItem { stage, items, .. } => {
                Some(format!("use {stage}[ITEM].PORT, where ITEM is one of {}", some(items)))
            }
            Self::UnknownItem { item, items, .. } => help(item, items),
            Self::UnknownPort { port, known, .. } => help(port, known),
            Self::WhichLabel { port, labels, .. } => {
                Some(format!("use {port}[LABEL], where LABEL is one of {}, or `first` or `last`", some(labels)))
            }
            Self::UnknownLabel { label, labels, .. } => help(label, labels),
            Self::NoList { .. } => Some("leave out the [label]".into()),
        }
    }
}

/// Lists the first few of `words`.
fn some(words: &[String]) -> String {
    match words.len() {
        0 => "none yet".into(),
        1..=8 => words.join(", "),
        more => format!("{}, … ({more} in total)", words[..7].join(", ")),
    }
}

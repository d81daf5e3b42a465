//! [`ReferenceError`]: why a text names no artifact.

use olmo_base::{Diagnose, nearest};

use crate::run::RunError;
use crate::store::StoreError;

/// Why a text names no artifact. [`ReferenceError::hint`] is the way out.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("`{text}` names no artifact: {why}")]
    Form { text: String, why: String },
    #[error("there is no tag `{text}`, and it is not the beginning of a digest")]
    Unknown { text: String, tags: Vec<String> },
    #[error("there is no run and no experiment `{text}`")]
    UnknownRun { text: String },
    #[error("run {run} has no stage and no result `{text}`")]
    UnknownStage { run: String, text: String, known: Vec<String> },
    #[error("stage `{stage}` of run {run} has made nothing yet: it is {status}")]
    NothingYet { run: String, stage: String, status: &'static str },
    #[error("stage `{stage}` of run {run} ran for each of several items")]
    WhichItem { run: String, stage: String, items: Vec<String> },
    #[error("stage `{stage}` of run {run} has no item `{item}`")]
    UnknownItem { run: String, stage: String, item: String, items: Vec<String> },
    #[error("stage `{stage}` of run {run} has no output `{port}`")]
    UnknownPort { run: String, stage: String, port: String, known: Vec<String> },
    #[error("`{port}` of stage `{stage}` is a list")]
    WhichLabel { stage: String, port: String, labels: Vec<String> },
    #[error("the list `{port}` of stage `{stage}` has no `{label}`")]
    UnknownLabel { stage: String, port: String, label: String, labels: Vec<String> },
    #[error("`{port}` of stage `{stage}` is no list, so it takes no [label]")]
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
                "write a tag, the first digits of a digest, RUN:STAGE.PORT, RUN:STAGE.PORT[LABEL] or RUN:RESULT".into(),
            ),
            Self::Unknown { text, tags } => help(text, tags)
                .or_else(|| Some("`olmo-pipe artifacts list` and `artifacts tags` show what there is".into())),
            Self::UnknownRun { .. } => Some(
                "RUN is the beginning of an id that `olmo-pipe runs list` shows, an experiment's name, or `latest`"
                    .into(),
            ),
            Self::UnknownStage { text, known, .. } => help(text, known),
            Self::NothingYet { .. } => Some("`olmo-pipe runs show RUN` says how far it is".into()),
            Self::WhichItem { stage, items, .. } => {
                Some(format!("write {stage}[ITEM].PORT, with ITEM one of {}", some(items)))
            }
            Self::UnknownItem { item, items, .. } => help(item, items),
            Self::UnknownPort { port, known, .. } => help(port, known),
            Self::WhichLabel { port, labels, .. } => {
                Some(format!("write {port}[LABEL], with LABEL one of {}, or `first` or `last`", some(labels)))
            }
            Self::UnknownLabel { label, labels, .. } => help(label, labels),
            Self::NoList { .. } => Some("leave the [label] out".into()),
        }
    }
}

/// The first few of many words.
fn some(words: &[String]) -> String {
    match words.len() {
        0 => "none yet".into(),
        1..=8 => words.join(", "),
        more => format!("{}, … ({more} in all)", words[..7].join(", ")),
    }
}

//! [`Probes`]: `probes.json`, the ids that a tokenizer gives to some texts. With them tokenizers can
//! be told apart where one of them is not at hand.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_base::IoContext as _;
use serde::{Deserialize, Serialize};

use super::encode::Encode as _;
use super::every_kind::EveryKind;
use crate::error::DataError;
use crate::formats::json_file;

/// The file in an artifact.
pub const PROBES: &str = "probes.json";

/// Contractions, numbers, code, spaces and scripts: what tokenizers split differently. None contains
/// a control token, because a tokenizer may have more of them than the model it comes from.
const TEXTS: &[&str] = &[
    "Hello, world! I'm sure you'll say WE'LL DON'T 'S it'ſ",
    "In 2026 there were 1234567 lamps; 3.14159 and 1/2, x²+½ = Ⅷ.",
    "def f(x):\n\tif x <= 0:\r\n        return [x, -1]  # done\n\n\n",
    "  two  spaces \u{a0}\u{3000} and\u{200b} none\u{85}\u{2028}",
    "na\u{ef}ve caf\u{e9} Ελληνικά Русский العربية हिन्दी ไทย 漢字かな 한국어",
    "🦀👩\u{200d}👩\u{200d}👧 e\u{301} \u{301}\u{301} \u{1112}\u{1161} \u{fffd}\u{feff}\u{1f}",
];

/// `probes.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probes {
    format: u32,
    /// By text, its ids with spaces between them.
    ids: BTreeMap<String, String>,
}

/// A text that two tokenizers encode differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub text: String,
    /// The ids in the first and in the second.
    pub ids: [String; 2],
}

impl Probes {
    /// The ids that `encode` gives. A text that it cannot encode is left out.
    pub(super) fn of(encode: impl Fn(&str) -> Option<Vec<u32>>) -> Self {
        let one = |text: &&str| Some(((*text).to_owned(), spelled(&encode(text)?)));
        Self { format: json_file::FORMAT, ids: TEXTS.iter().filter_map(one).collect() }
    }

    /// The ids that the `tokenizer.json` at `path` gives.
    pub fn of_tokenizer(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).context(path)?;
        let tokenizer = EveryKind::read(&bytes).map_err(|e| DataError::tokenizer(path, e))?;
        Ok(Self::of(|text| tokenizer.ids(text).ok().flatten()))
    }

    /// Reads the `probes.json` at `path`.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        json_file::read(path)
    }

    /// Reads `probes.json` in folder `dir`; `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, DataError> {
        let path = dir.join(PROBES);
        if path.exists() { Self::from_file(&path).map(Some) } else { Ok(None) }
    }

    /// Writes `probes.json` in folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        json_file::write(&dir.join(PROBES), self)
    }

    /// The first text that `other` has too, with other ids.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        self.ids.iter().find_map(|(text, ids)| {
            let theirs = other.ids.get(text).filter(|theirs| *theirs != ids)?;
            Some(Difference { text: text.clone(), ids: [ids.clone(), theirs.clone()] })
        })
    }

    /// Whether `encode` gives these ids to every text that it encodes.
    pub(super) fn agree(&self, encode: impl Fn(&str) -> Option<Vec<u32>>) -> bool {
        self.ids.iter().all(|(text, ids)| encode(text).is_none_or(|found| spelled(&found) == *ids))
    }
}

fn spelled(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

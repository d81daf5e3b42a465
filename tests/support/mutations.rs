//! Sample files and mutations of them, for property tests of all code that parses files.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Texts that a mutation inserts, which parsers often handle wrongly.
const WORDS: [&str; 22] = [
    "",
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e999",
    "0.5",
    "18446744073709551616",
    "../",
    "/",
    "\\u0000",
    "\\ud800",
    "\u{202e}",
    "\u{0}",
    "\"format\":2",
    "\"files\":{}",
];

/// All samples of `kind`, with their names.
pub(crate) fn corpus(kind: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|root| root.join("tests/fixtures/corpora"))
        .find(|folder| folder.is_dir())
        .unwrap()
        .join(kind);
    let mut samples: Vec<(String, String)> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    samples.sort();
    assert!(!samples.is_empty(), "no samples of {kind}");
    samples
}

/// One of `texts`, with some parts cut, doubled or overwritten.
pub(crate) fn mutated(texts: Vec<String>) -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0usize..24, 0..WORDS.len(), any::<bool>());
    (any::<prop::sample::Index>(), prop::collection::vec(change, 0..6)).prop_map(move |(which, changes)| {
        let mut text: Vec<char> = which.get(&texts).chars().collect();
        for (at, cut, word, twice) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            let mut new: Vec<char> = WORDS[word].chars().collect();
            if twice {
                new.extend_from_slice(&text[start..end]);
                new.extend_from_slice(&text[start..end]);
            }
            text.splice(start..end, new);
        }
        text.into_iter().collect()
    })
}

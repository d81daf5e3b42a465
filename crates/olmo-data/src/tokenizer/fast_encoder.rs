//! [`FastEncoder`]: the same ids as `tokenizers`, faster.
//!
//! A byte-level BPE encodes one word at a time, and text has few distinct words. So
//! [`super::words`] splits the text, and the ids of words are cached; a new word is encoded by the
//! tokenizer's own model. Everything else (another kind of tokenizer, text that its normaliser
//! would change) takes the slow path, with the same result.

use std::sync::{Mutex, PoisonError};

use ahash::AHashMap;
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::{Model as _, ModelWrapper, Tokenizer};
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

use super::words::Splitter;

/// Number of words in a cache before it is cleared; about ten megabytes.
const MOST_WORDS: usize = 1 << 17;
/// Longer words are not cached, because they rarely repeat.
const LONGEST: usize = 64;

/// Added tokens, matched before anything else: leftmost, then longest.
struct Added {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Added {
    fn of(tokens: &[(String, u32)]) -> Option<Self> {
        let patterns = tokens.iter().map(|(content, _)| content);
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok()?;
        Some(Self { automaton, ids: tokens.iter().map(|(_, id)| *id).collect() })
    }

    /// Calls `each` with every added token in `text` and every stretch between them; none is empty.
    fn split<'t>(&self, text: &'t str, mut each: impl FnMut(&'t str, Option<u32>) -> bool) -> bool {
        let mut from = 0;
        for found in self.automaton.find_iter(text) {
            if found.start() > from && !each(&text[from..found.start()], None) {
                return false;
            }
            if !each(&text[found.range()], Some(self.ids[found.pattern()])) {
                return false;
            }
            from = found.end();
        }
        from == text.len() || each(&text[from..], None)
    }
}

/// Ids of words, in one arena.
#[derive(Default)]
struct Cache {
    /// Words of up to 15 bytes: the bytes, with their number in the last byte.
    short: AHashMap<u128, (u32, u32)>,
    long: AHashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
    /// The word in the alphabet of the model.
    letters: String,
}

/// Encodes text like the tokenizer it was built from, which is passed in again for new words.
pub(crate) struct FastEncoder {
    splitter: Splitter,
    /// Whether the normaliser is NFC; otherwise there is none.
    nfc: bool,
    /// Matched in the original text.
    raw: Added,
    /// Matched in the normalised text between those.
    normalized: Added,
    /// Number of bytes per token, by id; 0 for ids outside the model.
    lengths: Vec<u32>,
    letters: [char; 256],
    caches: Mutex<Vec<Cache>>,
}

/// The result of an encoding: the ids, and where each starts in the text.
#[derive(Default)]
pub(crate) struct Ids {
    pub ids: Vec<u32>,
    pub starts: Vec<usize>,
}

impl FastEncoder {
    /// `None` if only `tokenizer`'s own code can encode its kind.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let none = |affix: &Option<String>| affix.as_deref().is_none_or(str::is_empty);
        let plain = model.dropout.is_none_or(|dropout| dropout == 0.0)
            && !model.byte_fallback
            && none(&model.continuing_subword_prefix)
            && none(&model.end_of_word_suffix);
        let splitter = Splitter::of(&serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?)?;
        let nfc = match tokenizer.get_normalizer().map(serde_json::to_value) {
            None => false,
            Some(Ok(Value::Object(map))) if map.get("type") == Some(&"NFC".into()) => true,
            Some(_) => return None,
        };
        if !plain {
            return None;
        }
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.single_word || token.lstrip || token.rstrip || (token.normalized && !token.content.is_ascii()) {
                return None;
            }
            if token.normalized { &mut normalized } else { &mut raw }.push((token.content, id));
        }
        let letters = letters();
        let bytes: AHashMap<char, u8> = letters.iter().enumerate().map(|(byte, c)| (*c, byte as u8)).collect();
        let vocabulary = model.get_vocab();
        let mut lengths = vec![0; vocabulary.values().max().map_or(0, |id| *id as usize + 1)];
        for (token, id) in vocabulary {
            if token.chars().all(|c| bytes.contains_key(&c)) {
                lengths[id as usize] = token.chars().count() as u32;
            }
        }
        let (raw, normalized) = (Added::of(&raw)?, Added::of(&normalized)?);
        Some(Self { splitter, nfc, raw, normalized, lengths, letters, caches: Mutex::new(Vec::new()) })
    }

    /// The ids of `text`; `None` if it must take the slow path.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str, with_starts: bool) -> Option<Ids> {
        let mut cache = self.lock().pop().unwrap_or_default();
        let mut out = Ids::default();
        out.ids.reserve(text.len() / 3);
        let whole = self.raw.split(text, |stretch, id| match id {
            Some(id) => {
                out.push(id, stretch.as_ptr() as usize - text.as_ptr() as usize, with_starts);
                true
            }
            None if self.nfc && !stretch.is_ascii() && is_nfc_quick(stretch.chars()) != IsNormalized::Yes => false,
            None => self.normalized.split(stretch, |piece, id| {
                let at = piece.as_ptr() as usize - text.as_ptr() as usize;
                match id {
                    Some(id) => {
                        out.push(id, at, with_starts);
                        true
                    }
                    None => self.words(tokenizer, piece, at, &mut cache, &mut out, with_starts),
                }
            }),
        });
        if cache.short.len() + cache.long.len() > MOST_WORDS || cache.ids.len() > 8 * MOST_WORDS {
            cache = Cache::default();
        }
        self.lock().push(cache);
        whole.then_some(out)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Cache>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn words(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        mut at: usize,
        cache: &mut Cache,
        out: &mut Ids,
        with_starts: bool,
    ) -> bool {
        let mut known = true;
        self.splitter.split(text, |word| {
            let Some((from, to)) = known.then(|| self.word(tokenizer, word, cache)).flatten() else {
                known = false;
                return;
            };
            let ids = &cache.ids[from as usize..to as usize];
            out.ids.extend_from_slice(ids);
            if with_starts {
                let mut start = at;
                for id in ids {
                    out.starts.push(start);
                    start += self.lengths[*id as usize] as usize;
                }
            }
            at += word.len();
        });
        known
    }

    /// Position of the ids of `word` in the arena; `None` if the model drops part of the word.
    fn word(&self, tokenizer: &Tokenizer, word: &str, cache: &mut Cache) -> Option<(u32, u32)> {
        let short = (word.len() < 16).then(|| {
            let mut key = [0; 16];
            key[..word.len()].copy_from_slice(word.as_bytes());
            key[15] = word.len() as u8;
            u128::from_ne_bytes(key)
        });
        let found = match short {
            Some(key) => cache.short.get(&key),
            None => cache.long.get(word),
        };
        if let Some(found) = found {
            return Some(*found);
        }
        cache.letters.clear();
        cache.letters.extend(word.bytes().map(|byte| self.letters[byte as usize]));
        let tokens = tokenizer.get_model().tokenize(&cache.letters).ok()?;
        let length = |id: u32| self.lengths.get(id as usize).copied().unwrap_or(0) as usize;
        if tokens.iter().map(|token| length(token.id)).sum::<usize>() != word.len() {
            return None;
        }
        let from = cache.ids.len() as u32;
        cache.ids.extend(tokens.iter().map(|token| token.id));
        let place = (from, cache.ids.len() as u32);
        match short {
            Some(key) => drop(cache.short.insert(key, place)),
            None if word.len() <= LONGEST => drop(cache.long.insert(word.into(), place)),
            None => {}
        }
        Some(place)
    }
}

impl Ids {
    fn push(&mut self, id: u32, start: usize, with_starts: bool) {
        self.ids.push(id);
        if with_starts {
            self.starts.push(start);
        }
    }
}

/// The character that byte-level tokenizers use for each byte: the byte itself if it is printable,
/// otherwise one from U+0100 on.
fn letters() -> [char; 256] {
    let mut above = 0x100;
    std::array::from_fn(|byte| {
        let visible = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if visible {
            byte as u32
        } else {
            above += 1;
            above - 1
        };
        char::from_u32(code).unwrap_or('?')
    })
}

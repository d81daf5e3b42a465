//! Tokenizers: `tokenizer.json` (Hugging Face's format) with `special_tokens.json` next to it, and
//! the encoding of documents and conversations.
//!
//! A conversation is encoded as one text, as with `apply_chat_template`, and a token is labelled if
//! it contains a character of a labelled range, as in transformers' assistant mask. OLMo's script
//! encodes piece by piece; for contents without surrounding whitespace both give the same ids.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use olmo_base::{Digest, IoContext as _};
use serde_json::Value;

use super::byte_level_bpe::ByteLevelBpe;
use super::chat_record::ChatRecord;
use super::encode::{AddedToken, Encode, Tokens};
use super::every_kind::EveryKind;
use super::normalizer::Normalizer;
use super::parts::Parts;
use super::probes::Probes;
use super::record::TokenizerRecord;
use super::special_tokens::{SpecialStrings, SpecialTokens};
use super::tokenizer_json;
use crate::conversation::{MessageRef, Rendered, Role, Template, strip};
use crate::error::DataError;
use crate::formats::documents::{Document, DocumentBuffer};
use crate::formats::json_file;
use crate::formats::label_runs::LabelRuns;

const TOKENIZER: &str = "tokenizer.json";
const SPECIAL_TOKENS: &str = "special_tokens.json";
const NO_LIBRARY: &str = "no library encodes this text";

/// A tokenizer with known eos and pad tokens.
pub struct TextTokenizer {
    path: PathBuf,
    every_kind: Lazy,
    /// For the kind of tokenizer that it encodes faster.
    byte_level_bpe: Option<ByteLevelBpe>,
    /// The strings of the added tokens, by id.
    added_tokens: Vec<(u32, String)>,
    /// What is done to a text before added tokens are looked for.
    normalizer: Normalizer,
    special: SpecialTokens,
    digest: Digest,
    /// If set, the post-processor excludes spaces from token ranges; the value is whether the first
    /// token keeps its space.
    trims_spaces: Option<bool>,
    record: TokenizerRecord,
    /// The ids of template `tulu`'s header of each role, made when first needed.
    tulu_headers: Vec<OnceLock<Vec<u32>>>,
}

impl TextTokenizer {
    /// Opens the tokenizer artifact in folder `dir`. Rejects one whose `special_tokens.json`
    /// contradicts its `tokenizer.json`.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let declared: SpecialTokens = json_file::read(&dir.join(SPECIAL_TOKENS))?;
        let path = dir.join(TOKENIZER);
        let bytes = std::fs::read(&path).context(&path)?;
        let record = TokenizerRecord::read(dir)?;
        if let Some(known) = record.probes.as_ref().and_then(|probes| Self::known(&path, &bytes, &declared, probes)) {
            return Ok(Self { record, ..known });
        }
        let mut opened = Self::from_bytes(&path, &bytes, &declared.eos_token, &declared.pad_token)?;
        opened.special.bos_token.clone_from(&declared.bos_token);
        opened.special.unk_token.clone_from(&declared.unk_token);
        opened.special.model_max_length = declared.model_max_length;
        if opened.special != declared {
            let reason = format!("contains {declared:?}, but {TOKENIZER} next to it has {:?}", opened.special);
            return Err(DataError::Manifest { path: dir.join(SPECIAL_TOKENS), reason });
        }
        opened.record.chat = record.chat;
        Ok(opened)
    }

    /// The tokenizer of which `declared` and `probes` were recorded, if the faster library alone
    /// shows that they are right.
    fn known(path: &Path, bytes: &[u8], declared: &SpecialTokens, probes: &Probes) -> Option<Self> {
        let file = Parts::read(bytes).ok()?;
        let settings = Settings::of(&file);
        let library = ByteLevelBpe::read(file)?;
        let added = library.added_tokens();
        let pad = |(id, token): &(u32, AddedToken)| *id == declared.pad_token_id && token.content == declared.pad_token;
        let right = library.vocab_size() == declared.vocab_size as usize
            && library.encode(&declared.eos_token).is_some_and(|ids| ids == [declared.eos_token_id])
            && added.iter().any(pad)
            && probes.agree(|text| library.encode(text));
        let every_kind = Lazy { content: bytes.to_owned(), read: OnceLock::new() };
        let opened = Self::new(path, settings, added, every_kind, declared.clone(), Digest::of(bytes));
        right.then(|| Self { byte_level_bpe: Some(library), ..opened })
    }

    fn new(
        path: &Path,
        settings: Settings,
        added: Vec<(u32, AddedToken)>,
        every_kind: Lazy,
        special: SpecialTokens,
        digest: Digest,
    ) -> Self {
        let normalized = added.iter().any(|(_, token)| token.normalized);
        Self {
            path: path.to_owned(),
            every_kind,
            byte_level_bpe: None,
            added_tokens: added.into_iter().map(|(id, token)| (id, token.content)).collect(),
            normalizer: if normalized { settings.normalizer } else { Normalizer::None },
            special,
            digest,
            trims_spaces: settings.trims_spaces,
            record: TokenizerRecord::default(),
            tulu_headers: Role::ALL.map(|_| OnceLock::new()).into(),
        }
    }

    /// Reads the `tokenizer.json` at `path`, in which the strings `eos_token` and `pad_token` must
    /// each be one token.
    pub fn from_file(path: &Path, eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).context(path)?;
        Self::from_bytes(path, &bytes, eos_token, pad_token)
    }

    /// Like [`TextTokenizer::from_file`], for the content `bytes`; `path` is used in messages.
    pub fn from_bytes(path: &Path, bytes: &[u8], eos_token: &str, pad_token: &str) -> Result<Self, DataError> {
        // With dropout, equal texts could get different ids.
        let cleaned = tokenizer_json::clean(bytes);
        let content = cleaned.as_ref().map_or(bytes, |cleaned| &cleaned.bytes);
        if content.starts_with(b"version https://git-lfs.github.com/spec/") {
            let reason = "is a git-lfs pointer, not the file; run `git lfs pull` in its repository";
            return Err(DataError::tokenizer(path, reason));
        }
        let file = Parts::read(content).map_err(|e| DataError::tokenizer(path, e))?;
        let settings = Settings::of(&file);
        let bos_token = bos_of(file.setting("post_processor"));
        let unk_token = file.setting("model")["unk_token"].as_str().map(str::to_owned);
        // Each takes a tenth of a second for a large vocabulary.
        let (every_kind, byte_level_bpe) = rayon::join(|| EveryKind::read(content), || ByteLevelBpe::read(file));
        let every_kind = every_kind.map_err(|e| DataError::tokenizer(path, e))?;
        let added = every_kind.added_tokens();
        let byte_level_bpe = byte_level_bpe.filter(|library| {
            // The strings of added tokens, between others.
            let mut strings = added.iter().map(|(_, token)| format!("a{0} {0}\n{0}{0}", token.content));
            strings.all(|probe| library.agrees(&probe, &every_kind))
        });
        let eos_token_id = special_id(path, &every_kind, "eos_token", eos_token)?;
        // Padding is written by id, never encoded.
        let pad_token_id = match every_kind.token_to_id(pad_token) {
            Some(id) => id,
            None => special_id(path, &every_kind, "pad_token", pad_token)?,
        };
        let vocab_size = match &byte_level_bpe {
            Some(library) => library.vocab_size() as u32,
            None => every_kind.vocabulary().into_values().max().unwrap_or(0) + 1,
        };
        let special = SpecialTokens {
            format: json_file::FORMAT,
            eos_token: eos_token.to_owned(),
            eos_token_id,
            pad_token: pad_token.to_owned(),
            pad_token_id,
            vocab_size,
            bos_token: bos_token.filter(|token| every_kind.token_to_id(token).is_some()),
            unk_token,
            model_max_length: None,
        };
        let every_kind = Lazy { content: Vec::new(), read: OnceLock::from(Ok(every_kind)) };
        let mut opened = Self::new(path, settings, added, every_kind, special, Digest::of(bytes));
        let probes = Probes::of(|text| opened.encode_text(text).ok());
        opened.byte_level_bpe = byte_level_bpe.filter(|library| probes.agree(|text| library.encode(text)));
        opened.record.probes = Some(probes);
        Ok(opened)
    }

    /// The strings of `ids` in the `tokenizer.json` with content `bytes`; `path` is used in
    /// messages.
    pub fn token_names(path: &Path, bytes: &[u8], ids: &[u32]) -> Result<Vec<Option<String>>, DataError> {
        let tokenizer = EveryKind::read(bytes).map_err(|e| DataError::tokenizer(path, e))?;
        Ok(ids.iter().map(|id| tokenizer.id_to_token(*id)).collect())
    }

    /// Writes the artifact to folder `dir`: `special_tokens.json`, `probes.json`, and `bytes`, the
    /// content of the `tokenizer.json` that `self` was read from.
    pub fn save(&self, dir: &Path, bytes: &[u8]) -> Result<(), DataError> {
        let path = dir.join(TOKENIZER);
        std::fs::write(&path, bytes).context(&path)?;
        self.record.write(dir)?;
        json_file::write(&dir.join(SPECIAL_TOKENS), &self.special)
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Sets the bos token, overriding the tokenizer's file.
    pub fn with_bos(mut self, token: &str) -> Result<Self, DataError> {
        special_id(&self.path, self.every_kind()?, "bos_token", token)?;
        self.special.bos_token = Some(token.to_owned());
        Ok(self)
    }

    /// Sets the bos and unk tokens, overriding the tokenizer's file.
    pub fn with_special_strings(mut self, special: &SpecialStrings) -> Self {
        self.special.bos_token.clone_from(&special.bos);
        self.special.unk_token.clone_from(&special.unk);
        self
    }

    /// Records the maximum sequence length of the model that the tokenizer comes from.
    pub fn with_model_max_length(mut self, length: Option<u64>) -> Self {
        self.special.model_max_length = length;
        self
    }

    /// The special tokens, as chat templates see them.
    pub fn special_strings(&self) -> SpecialStrings {
        SpecialStrings {
            bos: self.special.bos_token.clone(),
            eos: self.special.eos_token.clone(),
            pad: Some(self.special.pad_token.clone()),
            unk: self.special.unk_token.clone(),
        }
    }

    /// The chat format recorded for this tokenizer, if any.
    pub fn chat(&self) -> Option<&ChatRecord> {
        self.record.chat.as_ref()
    }

    /// What every artifact made with this tokenizer says of it.
    pub fn record(&self) -> &TokenizerRecord {
        &self.record
    }

    /// Digest of `tokenizer.json`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The string of token `id`.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.every_kind().ok()?.id_to_token(id)
    }

    /// The library that reads every kind of tokenizer.
    fn every_kind(&self) -> Result<&EveryKind, DataError> {
        self.every_kind.get().map_err(|reason| DataError::tokenizer(&self.path, reason))
    }

    /// Encodes every text with the library that reads every kind of tokenizer, for comparisons. The
    /// ids are the same.
    pub fn without_shortcuts(self) -> Self {
        Self { byte_level_bpe: None, ..self }
    }

    /// Whether a library that encodes faster is used.
    pub fn has_shortcut(&self) -> bool {
        self.byte_level_bpe.is_some()
    }

    /// The strings of the added tokens, by id.
    pub fn added_tokens(&self) -> &[(u32, String)] {
        &self.added_tokens
    }

    /// Whether the added tokens in `text` are surely those whose strings are in it: a normaliser
    /// could turn other text into one.
    pub(super) fn keeps(&self, text: &str) -> bool {
        self.normalizer.keeps(text)
    }

    /// The first answer of the libraries, fastest first.
    fn ask<'t, T>(
        &'t self,
        mut question: impl FnMut(&'t dyn Encode) -> Result<Option<T>, tokenizers::Error>,
    ) -> Result<T, DataError> {
        let failed = |e| DataError::tokenizer(&self.path, e);
        if let Some(library) = &self.byte_level_bpe
            && let Some(answer) = question(library).map_err(failed)?
        {
            return Ok(answer);
        }
        question(self.every_kind()?).map_err(failed)?.ok_or_else(|| DataError::tokenizer(&self.path, NO_LIBRARY))
    }

    /// The ids of `text`. Strings of added tokens become those tokens; nothing is added.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.ask(|library| library.ids(text))
    }

    /// Encodes a conversation as OLMo's `prepare_tulu_data.py` does: eos, then the header and the
    /// content of each turn, each encoded separately. An assistant's content is followed by eos and
    /// a newline, of which the newline is not trained. `text` is used as memory.
    ///
    /// # Errors
    /// As in the script's assertion, the second-to-last token of an assistant turn is not eos.
    pub fn encode_piecewise<'m>(
        &self,
        messages: impl Iterator<Item = MessageRef<'m>>,
        text: &mut String,
        document: &mut DocumentBuffer,
    ) -> Result<(), DataError> {
        let eos = self.special.eos_token_id;
        document.clear();
        document.input_ids.push(eos);
        document.labels.push(false, 1);
        for (i, message) in messages.enumerate() {
            let header = self.tulu_header(message.role)?;
            document.input_ids.extend_from_slice(header);
            document.labels.push(false, header.len());
            let is_answer = message.role == Role::Assistant;
            text.clear();
            text.push_str(strip(message.text()));
            if is_answer {
                text.push_str(&self.special.eos_token);
            }
            text.push('\n');
            let before = document.input_ids.len();
            self.ask(|library| library.append(text, &mut document.input_ids))?;
            document.labels.push(is_answer, document.input_ids.len() - before);
            if !is_answer {
                continue;
            }
            if document.input_ids.iter().nth_back(1) != Some(&eos) {
                let reason = format!(
                    "the answer of message {} does not end with eos (id {eos}) and one token for the newline",
                    i + 1
                );
                return Err(DataError::tokenizer(&self.path, reason));
            }
            document.labels.unlabel_last();
        }
        Ok(())
    }

    /// The ids of template `tulu`'s header of `role`.
    fn tulu_header(&self, role: Role) -> Result<&[u32], DataError> {
        let header = &self.tulu_headers[role as usize];
        match header.get() {
            Some(ids) => Ok(ids),
            None => {
                let ids = self.encode_text(&Template::Tulu.header(role))?;
                Ok(header.get_or_init(|| ids))
            }
        }
    }

    /// Encodes a pre-training document: its ids followed by eos, with every token labelled.
    pub fn encode_plain(&self, text: &str, document: &mut DocumentBuffer) -> Result<(), DataError> {
        document.clear();
        self.ask(|library| library.append(text, &mut document.input_ids))?;
        document.input_ids.push(self.special.eos_token_id);
        document.labels.push(true, document.input_ids.len());
        Ok(())
    }

    /// The ids of `text`, each with its byte range.
    pub fn encode(&self, text: &str) -> Result<Tokens<'_>, DataError> {
        self.ask(|library| library.tokens(text))
    }

    /// Encodes a rendered conversation: its ids, with the tokens that contain a labelled byte as labels.
    pub fn encode_rendered(&self, rendered: &Rendered, document: &mut DocumentBuffer) -> Result<(), DataError> {
        let text = rendered.text.as_str();
        let trimmed = |range: &Range<usize>, first: bool| match self.trims_spaces {
            Some(keeps_first) => without_spaces(text, range, keeps_first && first),
            None => range.clone(),
        };
        document.clear();
        if let Some(library) = &self.byte_level_bpe
            && library.append(text, &mut document.input_ids).is_ok_and(|encoded| encoded.is_some())
        {
            let DocumentBuffer { input_ids, labels } = document;
            let (mut ids, lengths, mut end) = (input_ids.iter(), library.lengths(), 0);
            let place = |_| {
                let start = end;
                end += ids.next().map_or(0, |id| lengths.get(*id));
                start..end
            };
            // Otherwise the places would be wrong, and with them the labels.
            if label_tokens(input_ids.len(), place, trimmed, &rendered.labelled, labels) == text.len() {
                return Ok(());
            }
            document.clear();
        }
        let tokens = self.every_kind()?.tokens(text).map_err(|e| DataError::tokenizer(&self.path, e))?;
        let tokens = tokens.ok_or_else(|| DataError::tokenizer(&self.path, NO_LIBRARY))?;
        let ranges = tokens.ranges();
        label_tokens(ranges.len(), |token| ranges[token].clone(), trimmed, &rendered.labelled, &mut document.labels);
        document.input_ids = tokens.ids;
        Ok(())
    }

    /// As [`TextTokenizer::encode_rendered`], into memory of its own.
    pub fn encode_conversation(&self, rendered: &Rendered) -> Result<Document, DataError> {
        let mut document = DocumentBuffer::default();
        self.encode_rendered(rendered, &mut document)?;
        Ok(document.into())
    }

    /// The text of `ids`.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        self.every_kind()?.decode(ids, skip_special_tokens).map_err(|e| DataError::tokenizer(&self.path, e))
    }
}

/// What a `tokenizer.json` says beside its tokens.
struct Settings {
    normalizer: Normalizer,
    trims_spaces: Option<bool>,
}

impl Settings {
    fn of(file: &Parts<'_>) -> Self {
        let normalizer = Normalizer::of(file.setting("normalizer"));
        Self { normalizer, trims_spaces: trims_spaces(file.setting("post_processor")) }
    }
}

/// The tokenizer as the library for every kind has it, read when it is first needed: that takes as
/// long as encoding some megabytes.
struct Lazy {
    content: Vec<u8>,
    read: OnceLock<Result<EveryKind, String>>,
}

impl Lazy {
    fn get(&self) -> Result<&EveryKind, &String> {
        self.read.get_or_init(|| EveryKind::read(&self.content).map_err(|e| e.to_string())).as_ref()
    }
}

/// Appends to `labels` which of `count` tokens contain a byte of a labelled range. `place` gives the
/// bytes of each token in turn, once; both they and `labelled` are in order. `trimmed` is the part of a
/// token's bytes that counts, and is told whether it is the first token. Returns the end of the last
/// token.
fn label_tokens(
    count: usize,
    place: impl FnMut(usize) -> Range<usize>,
    trimmed: impl Fn(&Range<usize>, bool) -> Range<usize>,
    labelled: &[Range<usize>],
    labels: &mut LabelRuns,
) -> usize {
    let mut walk = Walk::new(count, place);
    for (i, span) in labelled.iter().enumerate() {
        labels.push(false, walk.skip(|range| range.end <= span.start));
        while walk.is_at(|range| range.start < span.end) {
            // Whatever counts of a token that ends inside the span lies in the span.
            let ends_inside = |range: &Range<usize>| range.end > span.start && range.end < span.end;
            labels.push(true, walk.skip(|range| range.start >= span.start && ends_inside(range)));
            if walk.is_at(|range| range.start < span.end) {
                let counts = trimmed(&walk.range, walk.token == 0);
                // The next span may begin in this token.
                let mut spans = labelled[i..].iter().take_while(|span| span.start < walk.range.end);
                labels.push(spans.any(|span| counts.start < span.end && counts.end > span.start), 1);
                walk.advance();
            }
        }
    }
    labels.push(false, walk.skip(|_| true));
    walk.range.end
}

/// Tokens in turn, each with its bytes.
struct Walk<P> {
    token: usize,
    count: usize,
    /// The bytes of the token, or of the last one after the end.
    range: Range<usize>,
    place: P,
}

impl<P: FnMut(usize) -> Range<usize>> Walk<P> {
    fn new(count: usize, mut place: P) -> Self {
        let range = if count > 0 { place(0) } else { 0..0 };
        Self { token: 0, count, range, place }
    }

    fn is_at(&self, such: impl Fn(&Range<usize>) -> bool) -> bool {
        self.token < self.count && such(&self.range)
    }

    fn advance(&mut self) {
        self.token += 1;
        if self.token < self.count {
            self.range = (self.place)(self.token);
        }
    }

    /// Goes to the first token that is not such, and returns the number of tokens before it.
    fn skip(&mut self, such: impl Fn(&Range<usize>) -> bool) -> usize {
        let first = self.token;
        while self.is_at(&such) {
            self.advance();
        }
        self.token - first
    }
}

/// `range` without the spaces at both ends of its text, as the byte-level post-processor of
/// `tokenizers` has it; `keeps_leading`: with those at its start.
fn without_spaces(text: &str, range: &Range<usize>, keeps_leading: bool) -> Range<usize> {
    let token = &text.as_bytes()[range.clone()];
    let leading = token.iter().take_while(|byte| **byte == b' ').count();
    let trailing = token.iter().rev().take_while(|byte| **byte == b' ').count();
    let start = if keeps_leading { range.start } else { range.start + leading };
    start..(range.end - trailing).max(start)
}

/// Whether a byte-level post-processor trims spaces, and if so, whether it keeps those of the first
/// token.
fn trims_spaces(post_processor: &Value) -> Option<bool> {
    match post_processor["type"].as_str()? {
        "ByteLevel" if post_processor["trim_offsets"].as_bool() == Some(true) => {
            Some(post_processor["add_prefix_space"].as_bool().unwrap_or(true))
        }
        "Sequence" => post_processor["processors"].as_array()?.iter().find_map(trims_spaces),
        _ => None,
    }
}

/// The token that a post-processor puts before a text.
fn bos_of(post_processor: &Value) -> Option<String> {
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => Some(post_processor["single"].get(0)?["SpecialToken"]["id"].as_str()?.to_owned()),
        "Sequence" => post_processor["processors"].as_array()?.iter().find_map(bos_of),
        _ => None,
    }
}

fn special_id(path: &Path, tokenizer: &EveryKind, what: &str, token: &str) -> Result<u32, DataError> {
    if let Some(id) = tokenizer.token_to_id(token) {
        // A string in the vocabulary that is not an added token is split during encoding.
        let whole = tokenizer.ids(token).is_ok_and(|ids| ids.is_some_and(|ids| ids == [id]));
        if whole {
            return Ok(id);
        }
        let reason = format!("{what} `{token}` is id {id}, but it is not encoded as that one token in text");
        return Err(DataError::tokenizer(path, reason));
    }
    // Prefer a token whose name states its role to one that is only spelled alike.
    let roles: &[&str] = if what == "pad_token" { &["pad"] } else { &["eos", "endoftext", "end_of_text", "</s>"] };
    let near = |candidate: &str| {
        let named = roles.iter().any(|role| candidate.to_lowercase().contains(role));
        strsim::jaro_winkler(token, candidate) + if named { 1.0 } else { 0.0 }
    };
    let mut added: Vec<(u32, String)> =
        tokenizer.added_tokens().into_iter().map(|(id, token)| (id, token.content)).collect();
    added.sort_by(|(a, x), (b, y)| near(y).total_cmp(&near(x)).then(a.cmp(b)));
    let nearest: Vec<String> = added.iter().take(4).map(|(id, token)| format!("`{token}` (id {id})")).collect();
    let help = match added.first() {
        None => "it has no added tokens".into(),
        Some((_, first)) => {
            let first = serde_json::to_string(first).unwrap_or_default();
            format!("nearest: {}; to take the first, set `{what}: {first}`", nearest.join(", "))
        }
    };
    Err(DataError::SpecialToken { path: path.to_owned(), reason: format!("has no token `{token}` for {what}; {help}") })
}

//! Checks every record for problems before training.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::conversation::{Message, Role};
use crate::error::DataError;
use crate::formats::dataset::{self, Kind};
use crate::memmap::Dtype;
use crate::tokenizer::TextTokenizer;
use crate::tokenizer::control_tokens::ControlTokens;
use crate::view::html::{escape, page};
use crate::view::kind::{ArtifactKind, kind};
use crate::view::plain::plain;
use crate::view::preview;
use crate::view::sequences::Sequences;

/// Maximum number of records listed in a finding.
const EXAMPLES: usize = 5;
/// Number of sequences shown on the page.
const SHOWN: usize = 3;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A problem or property of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Stable code: `duplicate`, `no_label`, …
    pub code: &'static str,
    pub message: String,
    /// Number of affected records; 0 if the finding describes all of them.
    pub count: u64,
    /// Indices of the first affected records, from 0.
    pub examples: Vec<u64>,
}

/// All findings for an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub format: u32,
    pub records: u64,
    pub findings: Vec<Finding>,
    /// The first sequences as markup, for the page.
    #[serde(skip)]
    shown: Vec<(String, String)>,
}

/// Counts control tokens.
struct Counted<'t> {
    tokenizer: &'t TextTokenizer,
    tokens: ControlTokens,
    /// Occurrences by token.
    found: BTreeMap<u32, Occurrences>,
}

/// Occurrences of a control token.
#[derive(Default)]
struct Occurrences {
    times: u64,
    records: u64,
    /// The first of these records, and the last one.
    examples: Vec<u64>,
    last: Option<u64>,
}

impl<'t> Counted<'t> {
    fn new(tokenizer: &'t TextTokenizer) -> Self {
        Self { tokenizer, tokens: ControlTokens::new(tokenizer), found: BTreeMap::new() }
    }

    /// Counts the control tokens that the texts of record `number` are encoded to.
    fn add<'m>(&mut self, texts: impl IntoIterator<Item = &'m str>, number: u64) -> Result<(), DataError> {
        for text in texts {
            for id in self.tokens.find(self.tokenizer, text)? {
                self.count(id, number);
            }
        }
        Ok(())
    }

    /// Counts token `id` in record `number`, if it is a control token.
    fn count(&mut self, id: u32, number: u64) {
        if self.tokens.name(id).is_none() {
            return;
        }
        let found = self.found.entry(id).or_default();
        found.times += 1;
        if found.last.replace(number) != Some(number) {
            found.records += 1;
            if found.examples.len() < EXAMPLES {
                found.examples.push(number);
            }
        }
    }

    /// One finding per token found; `message` receives its string, its id and the number of
    /// occurrences.
    fn findings(self, level: Level, code: &'static str, message: impl Fn(&str, u32, &str) -> String) -> Vec<Finding> {
        let finding = |(id, found): (u32, Occurrences)| {
            let token = self.tokens.name(id).map(|token| plain(token).replace('\n', "\\n")).unwrap_or_default();
            let times = if found.times == 1 { "once".to_owned() } else { format!("{} times", found.times) };
            let (count, examples) = (found.records, found.examples);
            Finding { level, code, message: message(&token, id, &times), count, examples }
        };
        self.found.into_iter().map(finding).collect()
    }
}

/// Counts problems while iterating over records.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, (u64, Vec<u64>)>);

impl Tally {
    fn add(&mut self, code: &'static str, number: u64) {
        let (count, examples) = self.0.entry(code).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(number);
        }
    }

    fn report(mut self, code: &'static str, level: Level, message: &str, findings: &mut Vec<Finding>) -> Self {
        if let Some((count, examples)) = self.0.remove(code) {
            findings.push(Finding { level, code, message: message.to_owned(), count, examples });
        }
        self
    }
}

fn whole_finding(level: Level, code: &'static str, message: String) -> Finding {
    Finding { level, code, message, count: 0, examples: Vec::new() }
}

/// Audits the artifact in folder `dir`. Checks of text need `tokenizer`; documents of more than
/// `max_length` tokens are too long (0: no limit).
pub fn audit(dir: &Path, tokenizer: Option<&TextTokenizer>, max_length: usize) -> Result<Audit, DataError> {
    let mut audit = match kind(dir)? {
        ArtifactKind::Dataset => of_dataset(dir, tokenizer)?,
        ArtifactKind::Tokens | ArtifactKind::Memmap => of_sequences(dir, tokenizer, max_length)?,
    };
    audit.findings.sort_by_key(|finding| std::cmp::Reverse((finding.level, finding.count)));
    Ok(audit)
}

fn of_dataset(dir: &Path, tokenizer: Option<&TextTokenizer>) -> Result<Audit, DataError> {
    let manifest = dataset::manifest(dir)?;
    let (mut tally, mut number) = (Tally::default(), 0);
    let (mut seen, mut ids) = (HashSet::new(), HashSet::new());
    let short = |text: &[u8]| blake3::hash(text).as_bytes()[..16].to_vec();
    let mut control = tokenizer.map(Counted::new);
    if manifest.kind == Kind::Text {
        for batch in dataset::text_batches(dir)? {
            for text in batch? {
                if !seen.insert(short(text.as_bytes())) {
                    tally.add("duplicate", number);
                }
                if let Some(control) = &mut control {
                    control.add([text.as_str()], number)?;
                }
                number += 1;
            }
        }
    } else {
        for batch in dataset::message_batches(dir)? {
            for conversation in batch? {
                let mut said = Vec::new();
                let mut before = None;
                for message in &conversation.messages {
                    said.extend_from_slice(message.role.as_str().as_bytes());
                    said.push(0);
                    said.extend_from_slice(message.text().as_bytes());
                    said.push(0);
                    said.extend_from_slice(serde_json::to_string(&message.fields).unwrap_or_default().as_bytes());
                    said.push(0);
                    match message.role {
                        Role::Assistant if !message.speaks() && message.trained != Some(false) => {
                            tally.add("empty_answer", number);
                        }
                        Role::System | Role::Developer | Role::User if !message.speaks() => {
                            tally.add("empty_turn", number);
                        }
                        _ => {}
                    }
                    let speaker = matches!(message.role, Role::System | Role::User | Role::Assistant);
                    if speaker && before == Some(message.role) {
                        tally.add("same_role_twice", number);
                    }
                    before = Some(message.role);
                }
                if let Some(control) = &mut control {
                    control.add(conversation.messages.iter().map(Message::text), number)?;
                }
                if !conversation.messages.iter().any(|message| message.role == Role::Assistant) {
                    tally.add("no_assistant", number);
                } else if before != Some(Role::Assistant) {
                    tally.add("ends_unanswered", number);
                }
                if !seen.insert(short(&said)) {
                    tally.add("duplicate", number);
                }
                if !ids.insert(short(conversation.id.as_bytes())) {
                    tally.add("duplicate_id", number);
                }
                number += 1;
            }
        }
    }
    let message = |token: &str, id, times: &str| {
        format!("the text contains `{token}`, which is encoded as control token {id}, {times}")
    };
    let found = control.map(|control| control.findings(Level::Warning, "holds_special", message));
    let not_looked = || {
        let message = "control tokens in the text were not checked: that needs a tokenizer (`--tokenizer`)";
        vec![whole_finding(Level::Info, "no_tokenizer", message.into())]
    };
    let mut findings = found.unwrap_or_else(not_looked);
    if manifest.skipped > 0 {
        findings.push(whole_finding(
            Level::Warning,
            "skipped",
            format!("{} bad source lines were skipped", manifest.skipped),
        ));
    }
    tally
        .report("empty_answer", Level::Error, "an answer has neither content nor tool calls", &mut findings)
        .report("empty_turn", Level::Warning, "a turn is empty", &mut findings)
        .report("no_assistant", Level::Warning, "there is no assistant turn, so nothing is trained", &mut findings)
        .report("duplicate", Level::Warning, "has the content of an earlier record", &mut findings)
        .report("duplicate_id", Level::Info, "has the id of an earlier record", &mut findings)
        .report("same_role_twice", Level::Info, "a role has two turns in a row", &mut findings)
        .report("ends_unanswered", Level::Info, "the last turn has no answer", &mut findings);
    Ok(Audit { format: 1, records: number, findings, shown: Vec::new() })
}

fn of_sequences(dir: &Path, tokenizer: Option<&TextTokenizer>, max_length: usize) -> Result<Audit, DataError> {
    let sequences = Sequences::open(dir)?;
    let mut findings = Vec::new();
    let (digest, vocab_size, eos, pad) = sequences.tokenizer();
    match tokenizer {
        Some(tokenizer) => {
            let string = |id: u32| plain(&tokenizer.decode(&[id], false).unwrap_or_default()).replace('\n', "\\n");
            let message = format!("eos is id {eos} `{}`, pad is id {pad} `{}`", string(eos), string(pad));
            findings.push(whole_finding(Level::Info, "special_tokens", message));
            if tokenizer.digest() != digest {
                let message =
                    format!("the ids come from tokenizer {}, not from {}", digest.short(), tokenizer.digest().short());
                findings.push(whole_finding(Level::Error, "wrong_tokenizer", message));
            }
            let special = tokenizer.special();
            if (special.eos_token_id, special.pad_token_id) != (eos, pad) {
                let message = format!(
                    "the tokenizer has eos {} and pad {}, but the data has eos {eos} and pad {pad}",
                    special.eos_token_id, special.pad_token_id
                );
                findings.push(whole_finding(Level::Error, "wrong_special_tokens", message));
            }
        }
        None => {
            findings.push(whole_finding(Level::Info, "special_tokens", format!("eos is id {eos}, pad is id {pad}")));
        }
    }
    if eos == pad {
        let message = "eos and pad are the same token: a loss that masks padding by id would mask every eos; the labels here do not";
        findings.push(whole_finding(Level::Info, "eos_is_pad", message.into()));
    }
    if let Sequences::Memmap(memmap) = &sequences {
        let manifest = memmap.manifest();
        let (found, least) = (manifest.dtype, Dtype::for_vocabulary(vocab_size));
        let message = format!("ids are {}, a vocabulary of {vocab_size} needs {}", found.as_str(), least.as_str());
        findings.push(whole_finding(if found == least { Level::Info } else { Level::Warning }, "dtype", message));
        memmap.verify()?;
        let used = 100.0 * (manifest.count - manifest.padding) as f64 / manifest.count.max(1) as f64;
        findings.push(whole_finding(
            if used < 50.0 { Level::Warning } else { Level::Info },
            "utilisation",
            format!("{used:.1} % of the tokens are data, the rest is padding"),
        ));
    }
    let rows = matches!(sequences, Sequences::Memmap(_));
    let noun = sequences.noun();
    let (mut tally, mut records, mut shown) = (Tally::default(), 0, Vec::new());
    let mut control = tokenizer.map(Counted::new);
    let mut seen = HashSet::new();
    let mut failed = None;
    sequences.each(|number, sequence| {
        records += 1;
        let ids = &sequence.input_ids;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        if !seen.insert(blake3::hash(&bytes).as_bytes()[..16].to_vec()) {
            tally.add("duplicate", number);
        }
        if !sequence.label_mask.iter().skip(1).any(|label| *label) {
            tally.add("no_label", number);
        }
        if ids.iter().any(|id| *id >= vocab_size) {
            tally.add("over_vocabulary", number);
        }
        if ids.iter().zip(&sequence.label_mask).any(|(id, label)| *label && *id == pad && pad != eos) {
            tally.add("trained_padding", number);
        }
        if let Some(control) = &mut control {
            let trained =
                ids.iter().zip(&sequence.label_mask).filter(|(id, label)| **label && ![eos, pad].contains(id));
            trained.for_each(|(id, _)| control.count(*id, number));
        }
        if !rows && max_length > 0 && ids.len() > max_length {
            tally.add("over_long", number);
        }
        if ids.len() > 1 && ids[0] == eos && ids[1] == eos {
            tally.add("double_start", number);
        }
        let filled = ids.len() - sequence.padding;
        // An answer without its end was truncated.
        if !rows && sequence.label_mask.last() == Some(&true) && ids.get(filled.wrapping_sub(1)) != Some(&eos) {
            tally.add("no_end", number);
        }
        if let Some(tokenizer) = tokenizer.filter(|_| shown.len() < SHOWN) {
            match preview::sequence(&sequence, tokenizer, preview::Style::Html, false) {
                Ok(text) => shown.push((preview::heading(&sequence, noun, number), text)),
                Err(e) => failed = Some(e),
            }
        }
        failed.is_none()
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    if let Some(control) = control {
        let message = |token: &str, id, times: &str| format!("control token {id} `{token}` is trained, {times}");
        findings.extend(control.findings(Level::Info, "trained_special", message));
    }
    tally
        .report("over_vocabulary", Level::Error, "has an id outside the vocabulary", &mut findings)
        .report("trained_padding", Level::Error, "padding is trained", &mut findings)
        .report("no_label", Level::Warning, "no token is trained", &mut findings)
        .report("duplicate", Level::Warning, "has the same ids as an earlier one", &mut findings)
        .report("over_long", Level::Warning, "is longer than `--max-length`", &mut findings)
        .report("double_start", Level::Warning, "starts with two eos tokens", &mut findings)
        .report("no_end", Level::Info, "an answer is truncated", &mut findings);
    Ok(Audit { format: 1, records, findings, shown })
}

impl Audit {
    /// Sets the level of the findings with this code.
    pub fn raise(&mut self, code: &str, level: Level) {
        self.findings.iter_mut().filter(|finding| finding.code == code).for_each(|finding| finding.level = level);
        self.findings.sort_by_key(|finding| std::cmp::Reverse((finding.level, finding.count)));
    }

    /// The highest level found.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Info)
    }

    /// Whether every finding only describes the data as a whole.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.level == Level::Info && finding.count == 0)
    }

    /// Formats the findings for a terminal.
    pub fn text(&self, colour: bool) -> String {
        let mut text = format!("{} records checked\n", self.records);
        for finding in &self.findings {
            let level = match (colour, finding.level) {
                (true, Level::Error) => "\x1b[31merror\x1b[0m  ",
                (true, Level::Warning) => "\x1b[33mwarning\x1b[0m",
                (_, Level::Error) => "error  ",
                (_, Level::Warning) => "warning",
                (_, Level::Info) => "info   ",
            };
            let _ = write!(text, "{level}  {:<20}  {}", finding.code, finding.message);
            let _ = writeln!(text, "{}", finding.of_records(self.records));
        }
        if self.is_clean() {
            text.push_str("nothing found\n");
        }
        text
    }

    /// A self-contained HTML page.
    pub fn html(&self, title: &str) -> String {
        let mut body = format!("<p>{} records checked.</p>\n<table>\n", self.records);
        for finding in &self.findings {
            let (level, message) =
                (finding.level.as_str(), format!("{}{}", finding.message, finding.of_records(self.records)));
            let _ = writeln!(
                body,
                "<tr><td class=\"{level}\">{level}<td><code>{}</code><td>{}",
                finding.code,
                escape(&message)
            );
        }
        body.push_str("</table>\n");
        if self.is_clean() {
            body.push_str("<p>Nothing found.</p>\n");
        }
        for (heading, text) in &self.shown {
            let _ = write!(body, "<h2>{}</h2>\n<pre>{text}</pre>\n", escape(heading));
        }
        page(title, &body)
    }
}

impl Finding {
    fn of_records(&self, records: u64) -> String {
        if self.count == 0 {
            return String::new();
        }
        let examples: Vec<String> = self.examples.iter().map(u64::to_string).collect();
        let more = if self.count as usize > examples.len() { ", …" } else { "" };
        format!(": {} of {records} ({}{more})", self.count, examples.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::dataset::DatasetWriter;
    use crate::{Conversation, Document, Layout, MemmapOptions, MemmapWriter, Message, Pack, Packer};

    fn codes(audit: &Audit) -> BTreeMap<&str, (u64, Vec<u64>)> {
        audit.findings.iter().map(|f| (f.code, (f.count, f.examples.clone()))).collect()
    }

    fn tokenizer() -> TextTokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json");
        TextTokenizer::from_file(&path, "<|endoftext|>", "<|padding|>").unwrap()
    }

    #[test]
    fn every_fault_of_a_dataset_is_found_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DatasetWriter::create(dir.path()).unwrap();
        let (user, bot) = (|t: &str| Message::new(Role::User, t), |t: &str| Message::new(Role::Assistant, t));
        let chats = [
            vec![user("Hi"), bot("Ho")],
            vec![user("Hi"), bot("Ho")],
            vec![user("Hi")],
            vec![user("Hi"), user("<|endoftext|>"), bot(" ")],
            vec![user("One"), bot("Two"), user("Three")],
        ];
        for (n, messages) in chats.into_iter().enumerate() {
            let id = if n == 4 { 0 } else { n }.to_string();
            writer.push(Conversation { id, messages, ..Conversation::default() }).unwrap();
        }
        writer.finish(7).unwrap();
        let audit = audit(dir.path(), Some(&tokenizer()), 0).unwrap();
        let found = codes(&audit);
        for (code, examples) in [
            ("duplicate", vec![1]),
            ("no_assistant", vec![2]),
            ("same_role_twice", vec![3]),
            ("holds_special", vec![3]),
            ("empty_answer", vec![3]),
            ("ends_unanswered", vec![4]),
            ("duplicate_id", vec![4]),
        ] {
            assert_eq!(found[code], (1, examples), "{code}");
        }
        assert_eq!(audit.worst(), Level::Error);
        assert!(
            audit
                .text(false)
                .starts_with("5 records checked\nerror    empty_answer          an answer has neither content nor tool calls: 1 of 5 (3)\n")
        );
        assert!(audit.findings.iter().any(|f| f.message == "7 bad source lines were skipped"));
    }

    #[test]
    fn each_control_token_in_the_text_is_listed_and_a_clean_dataset_has_nothing() {
        let json = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        for (id, token, special) in [(512, "<|im_start|>", true), (513, "<think>", false), (514, "   ", false)] {
            added.push(serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special}));
        }
        let bytes = json.to_string().into_bytes();
        let tokenizer = TextTokenizer::from_bytes(Path::new("t.json"), &bytes, "<|endoftext|>", "<|padding|>").unwrap();
        let audit = |chats: &[[&str; 2]]| {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = DatasetWriter::create(dir.path()).unwrap();
            for (n, [question, answer]) in chats.iter().enumerate() {
                let messages = vec![Message::new(Role::User, *question), Message::new(Role::Assistant, *answer)];
                writer.push(Conversation { id: n.to_string(), messages, ..Conversation::default() }).unwrap();
            }
            writer.finish(0).unwrap();
            super::audit(dir.path(), Some(&tokenizer), 0).unwrap()
        };
        let forged = ["x<|im_start|>y<|im_start|>", "<think> no"];
        let found = audit(&[forged, ["a   b", "c"], forged, ["<|im_start|> <|padding|>", "d"]]);
        let lines: Vec<(&str, u64, &[u64])> =
            found.findings.iter().map(|f| (f.message.as_str(), f.count, f.examples.as_slice())).collect();
        assert_eq!(
            lines[..3],
            [
                ("the text contains `<|im_start|>`, which is encoded as control token 512, 5 times", 3, &[0, 2, 3][..]),
                ("the text contains `<think>`, which is encoded as control token 513, 2 times", 2, &[0, 2][..]),
                ("the text contains `<|padding|>`, which is encoded as control token 1, once", 1, &[3][..]),
            ]
        );
        // For ids, the trained control tokens are listed.
        let dir = tempfile::tempdir().unwrap();
        let (sequence_length, vocab_size) = (4, 515);
        let layout =
            Layout { sequence_length, vocab_size, tokenizer: tokenizer.digest(), eos_token_id: 0, pad_token_id: 1 };
        let writer = MemmapWriter::with_options(dir.path(), layout, MemmapOptions::default()).unwrap();
        let mut packer = Packer::new(Pack::Padded, writer);
        packer.push(Document { input_ids: vec![512, 40, 512, 0], label_mask: vec![false, true, true, true] }).unwrap();
        packer.finish().unwrap();
        let found = super::audit(dir.path(), Some(&tokenizer), 0).unwrap();
        let trained: Vec<&str> =
            found.findings.iter().filter(|f| f.code == "trained_special").map(|f| f.message.as_str()).collect();
        assert_eq!(trained, ["control token 512 `<|im_start|>` is trained, once"]);
        let clean = audit(&[["a   b", "c"]]);
        assert_eq!(clean.text(false), "1 records checked\nnothing found\n");
    }

    #[test]
    fn every_fault_of_a_memmap_is_found_and_the_page_shows_rows() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        let layout = Layout {
            sequence_length: 4,
            vocab_size: 512,
            tokenizer: olmo_base::Digest::of(b"another"),
            eos_token_id: 0,
            pad_token_id: 1,
        };
        let options = MemmapOptions { dtype: Some(Dtype::Uint32), ..MemmapOptions::default() };
        let mut packer = Packer::new(Pack::Padded, MemmapWriter::with_options(dir.path(), layout, options).unwrap());
        for (ids, mask) in
            [([0, 40, 41], [false, true, true]), ([0, 40, 41], [false, true, true]), ([0, 0, 1], [false, false, true])]
        {
            packer.push(Document { input_ids: ids.into(), label_mask: mask.into() }).unwrap();
        }
        packer.finish().unwrap();
        let audit = audit(dir.path(), Some(&tokenizer), 0).unwrap();
        let found = codes(&audit);
        assert_eq!(found["duplicate"], (1, vec![1]));
        assert_eq!(found["trained_padding"], (1, vec![2]));
        assert_eq!(found["double_start"], (1, vec![2]));
        assert!(found.contains_key("wrong_tokenizer") && found.contains_key("special_tokens"));
        let message = |code: &str| &audit.findings.iter().find(|f| f.code == code).unwrap().message;
        assert_eq!(message("special_tokens"), "eos is id 0 `<|endoftext|>`, pad is id 1 `<|padding|>`");
        assert_eq!(message("dtype"), "ids are uint32, a vocabulary of 512 needs uint16");
        let page = audit.html("some <data>");
        assert!(page.contains("<h1>some &lt;data&gt;</h1>") && page.contains("<span class=\"trained\">"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http"));
        assert!(serde_json::to_value(&audit).unwrap()["findings"][0]["level"] == "error");
    }
}

//! [`Splitter`]: splits text into words before BPE as byte-level tokenizers do, without a regex
//! engine.
//!
//! A general engine spends most of the encoding time on these few patterns. The character classes
//! come from `regex-syntax`, as in `tokenizers`; a property test checks that the pieces are equal.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};
use serde_json::Value;

/// cl100k's pattern, also used by dolma2 (OLMo 2) and Llama 3.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A known way to split text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splitter {
    /// GPT-2 and GPT-NeoX: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// Each digit separately first, then as in GPT-2: the tokenizers that stage `tokenizer` trains.
    DigitsThenGpt2,
    /// [`CL100K`].
    Cl100k,
}

impl Splitter {
    /// The splitter equivalent to `pre_tokenizer`, a part of `tokenizer.json`; `None` if there is
    /// none.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Self> {
        let byte_level = |step: &Value, regex: bool| {
            step["type"] == "ByteLevel" && step["add_prefix_space"] == false && step["use_regex"] == regex
        };
        if byte_level(pre_tokenizer, true) {
            return Some(Self::Gpt2);
        }
        let steps = pre_tokenizer.get("pretokenizers").filter(|_| pre_tokenizer["type"] == "Sequence")?.as_array()?;
        let [first, second] = steps.as_slice() else { return None };
        if first["type"] == "Digits" && first["individual_digits"] == true && byte_level(second, true) {
            return Some(Self::DigitsThenGpt2);
        }
        // The pattern matches every character, so the behaviour for gaps does not matter.
        let kept = (&first["behavior"], &first["invert"]);
        let all = kept == (&"Isolated".into(), &false.into()) || kept == (&"Removed".into(), &true.into());
        let cl100k = first["type"] == "Split" && first["pattern"]["Regex"] == CL100K && all;
        (cl100k && byte_level(second, false)).then_some(Self::Cl100k)
    }

    /// Calls `each` with every word of `text`, in order; together they form `text`.
    pub(super) fn split<'t>(self, text: &'t str, mut each: impl FnMut(&'t str)) {
        match self {
            Self::Gpt2 => run(text, gpt2, &mut each),
            Self::Cl100k => run(text, cl100k, &mut each),
            Self::DigitsThenGpt2 => {
                let mut rest = text;
                while let Some(at) = rest.find(char::is_numeric) {
                    let digit = rest[at..].chars().next().map_or(0, char::len_utf8);
                    run(&rest[..at], gpt2, &mut each);
                    each(&rest[at..at + digit]);
                    rest = &rest[at + digit..];
                }
                run(rest, gpt2, &mut each);
            }
        }
    }
}

fn run<'t>(text: &'t str, next: impl Fn(&str, usize) -> usize, each: &mut impl FnMut(&'t str)) {
    let mut at = 0;
    while at < text.len() {
        let end = next(text, at);
        each(&text[at..end]);
        at = end;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum CharClass {
    Other,
    Space,
    Letter,
    Number,
}

/// Classes of all characters: a table for the basic plane, ranges above it.
struct Classes {
    table: Vec<CharClass>,
    above: Vec<(u32, u32, CharClass)>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut classes = Classes { table: vec![CharClass::Other; 1 << 16], above: Vec::new() };
    for (pattern, class) in [(r"\s", CharClass::Space), (r"\p{L}", CharClass::Letter), (r"\p{N}", CharClass::Number)] {
        let hir = regex_syntax::parse(pattern).expect("a constant pattern");
        let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else { unreachable!("a class of characters") };
        for range in ranges.iter() {
            let (start, end) = (range.start() as u32, range.end() as u32);
            for character in start..=end.min(0xffff) {
                classes.table[character as usize] = class;
            }
            if end > 0xffff {
                classes.above.push((start.max(0x10000), end, class));
            }
        }
    }
    classes.above.sort_unstable_by_key(|range| range.0);
    classes
});

/// Class and length in bytes of the character at byte `at`, which must be below the end.
#[inline]
fn class(text: &str, at: usize) -> (CharClass, usize) {
    let classes = &*CLASSES;
    let byte = text.as_bytes()[at];
    if byte < 0x80 {
        return (classes.table[byte as usize], 1);
    }
    let Some(character) = text[at..].chars().next() else { return (CharClass::Other, 1) };
    let code = character as u32;
    let class = match classes.table.get(code as usize) {
        Some(class) => *class,
        None => {
            let index = classes.above.partition_point(|range| range.0 <= code);
            match index.checked_sub(1).map(|i| classes.above[i]) {
                Some((_, end, class)) if code <= end => class,
                _ => CharClass::Other,
            }
        }
    };
    (class, character.len_utf8())
}

/// The end of the run of `wanted` characters that starts at `at`, with at most `most` characters.
#[inline]
fn run_end(text: &str, mut at: usize, wanted: CharClass, most: usize) -> usize {
    for _ in 0..most {
        if at == text.len() {
            break;
        }
        let (found, length) = class(text, at);
        if found != wanted {
            break;
        }
        at += length;
    }
    at
}

/// `\s+(?!\S)|\s+` at whitespace: the run, without its last character if text follows and the run
/// is longer than one.
fn spaces(text: &str, at: usize) -> usize {
    let end = run_end(text, at, CharClass::Space, usize::MAX);
    if end == text.len() {
        return end;
    }
    let last = text[at..end].chars().next_back().map_or(0, char::len_utf8);
    if end - last > at { end - last } else { end }
}

fn gpt2(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    if rest[0] == b'\'' {
        match rest {
            [_, b's' | b't' | b'm' | b'd', ..] => return at + 2,
            [_, b'r' | b'v', b'e', ..] | [_, b'l', b'l', ..] => return at + 3,
            _ => {}
        }
    }
    let (mut first, _) = class(text, at);
    let mut from = at;
    if rest[0] == b' ' && rest.len() > 1 {
        let (next, _) = class(text, at + 1);
        if next != CharClass::Space {
            (first, from) = (next, at + 1);
        }
    }
    match first {
        CharClass::Space => spaces(text, at),
        run => run_end(text, from, run, usize::MAX),
    }
}

fn cl100k(text: &str, at: usize) -> usize {
    let rest = &text.as_bytes()[at..];
    if rest[0] == b'\'' {
        // With case folding, U+017F (long s) matches s; the other letters fold within ASCII.
        match rest {
            [_, b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D', ..] => return at + 2,
            [_, b'r' | b'v' | b'R' | b'V', b'e' | b'E', ..] | [_, b'l' | b'L', b'l' | b'L', ..] => return at + 3,
            [_, 0xc5, 0xbf, ..] => return at + 3,
            _ => {}
        }
    }
    let (first, length) = class(text, at);
    match first {
        CharClass::Letter => return run_end(text, at, CharClass::Letter, usize::MAX),
        CharClass::Number => return run_end(text, at, CharClass::Number, 3),
        CharClass::Space | CharClass::Other => {}
    }
    let newline = |byte: u8| byte == b'\r' || byte == b'\n';
    let next = (at + length < text.len()).then(|| class(text, at + length).0);
    if !newline(rest[0]) && next == Some(CharClass::Letter) {
        return run_end(text, at + length, CharClass::Letter, usize::MAX);
    }
    let from = if rest[0] == b' ' && next == Some(CharClass::Other) { at + 1 } else { at };
    if first == CharClass::Other || from > at {
        let end = run_end(text, from, CharClass::Other, usize::MAX);
        let newlines = text.as_bytes()[end..].iter().take_while(|byte| newline(**byte)).count();
        return end + newlines;
    }
    let run = run_end(text, at, CharClass::Space, usize::MAX);
    match text.as_bytes()[at..run].iter().rposition(|byte| newline(*byte)) {
        Some(last) => at + last + 1,
        None => spaces(text, at),
    }
}

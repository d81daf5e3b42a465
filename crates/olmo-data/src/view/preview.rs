//! Renders a sequence for people: which tokens are trained, masked or padding.

use std::fmt::Write as _;

use crate::error::DataError;
use crate::tokenizer::TextTokenizer;
use crate::view::plain::plain;
use crate::view::sequences::Sequence;

/// How to mark trained text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Green: trained; grey: masked; blue: document starts and padding.
    Colour,
    /// `⟦…⟧` around trained text.
    Marks,
    Html,
}

/// The class of a stretch of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Trained,
    Masked,
    Note,
}

impl Style {
    fn write(self, out: &mut String, class: Class, text: &str) {
        let _ = match (self, class) {
            (Self::Colour, Class::Trained) => write!(out, "\x1b[32m{text}\x1b[0m"),
            (Self::Colour, Class::Masked) => write!(out, "\x1b[90m{text}\x1b[0m"),
            (Self::Colour, Class::Note) => write!(out, "\x1b[34m{text}\x1b[0m"),
            (Self::Marks, Class::Trained) => write!(out, "⟦{text}⟧"),
            (Self::Marks, _) => write!(out, "{text}"),
            (Self::Html, class) => {
                let class = match class {
                    Class::Trained => "trained",
                    Class::Masked => "masked",
                    Class::Note => "note",
                };
                write!(out, "<span class=\"{class}\">{}</span>", super::html::escape(text))
            }
        };
    }
}

/// Renders `sequence` as text in `style`; `with_ids` shows each token separately, with its id.
pub fn sequence(
    sequence: &Sequence,
    tokenizer: &TextTokenizer,
    style: Style,
    with_ids: bool,
) -> Result<String, DataError> {
    let mut out = String::new();
    let filled = sequence.input_ids.len() - sequence.padding;
    let mut from = 0;
    while from < filled {
        if sequence.starts.contains(&from) && sequence.starts.len() + usize::from(sequence.starts[0] > 0) > 1 {
            let gap = if from == 0 { "" } else { "\n" };
            style.write(&mut out, Class::Note, &format!("{gap}── document at token {from} ──\n"));
        }
        let label = sequence.label_mask[from];
        let mut to = from + 1;
        while !with_ids && to < filled && sequence.label_mask[to] == label && !sequence.starts.contains(&to) {
            to += 1;
        }
        let text = plain(&tokenizer.decode(&sequence.input_ids[from..to], false)?);
        let class = if label { Class::Trained } else { Class::Masked };
        style.write(&mut out, class, &text);
        if with_ids {
            style.write(&mut out, Class::Note, &format!("·{} ", sequence.input_ids[from]));
        }
        from = to;
    }
    if sequence.padding > 0 {
        let gap = if out.ends_with('\n') { "" } else { "\n" };
        style.write(&mut out, Class::Note, &format!("{gap}+ {} tokens of padding", sequence.padding));
    }
    out.push('\n');
    Ok(out)
}

/// The heading of `sequence`, a `noun` with index `number`, from 0.
pub fn heading(sequence: &Sequence, noun: &str, number: u64) -> String {
    let labels = sequence.label_mask.iter().skip(1).filter(|label| **label).count();
    let tokens = sequence.input_ids.len();
    let documents =
        if noun == "row" { format!(", {} documents begin in it", sequence.starts.len()) } else { String::new() };
    let share = 100.0 * labels as f64 / tokens.max(1) as f64;
    format!("{noun} {number}: {tokens} tokens, {labels} trained ({share:.1} %){documents}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shown(style: Style, with_ids: bool) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json");
        let tokenizer = TextTokenizer::from_file(&path, "<|endoftext|>", "<|padding|>").unwrap();
        let mut ids = tokenizer.encode_text("Hi\x1b ").unwrap();
        let question = ids.len();
        ids.extend(tokenizer.encode_text("é<b>").unwrap());
        let answer = ids.len();
        ids.extend([0, 1, 1]);
        let label_mask = (0..ids.len()).map(|i| (question..=answer).contains(&i)).collect();
        sequence(&Sequence { input_ids: ids, label_mask, starts: vec![0], padding: 2 }, &tokenizer, style, with_ids)
            .unwrap()
    }

    #[test]
    fn what_is_trained_is_told_apart_and_nothing_reaches_the_terminal_raw() {
        assert_eq!(shown(Style::Marks, false), "Hi\\u{1b} ⟦é<b><|endoftext|>⟧\n+ 2 tokens of padding\n");
        let colour = shown(Style::Colour, false);
        assert!(colour.contains("\x1b[32mé<b><|endoftext|>\x1b[0m") && !colour.contains("Hi\x1b "), "{colour:?}");
        assert!(shown(Style::Html, false).contains("<span class=\"trained\">é&lt;b&gt;&lt;|endoftext|&gt;</span>"));
        assert!(shown(Style::Marks, true).contains("⟦<|endoftext|>⟧·0 "));
    }
}

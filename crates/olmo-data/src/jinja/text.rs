//! [`Text`]: a string that tracks which of its bytes come from a message.
//!
//! A template copies, strips, splits and joins its inputs. Tracking the origin of every byte
//! through these operations distinguishes an answer from text that merely looks like it.

use std::ops::Range;
use std::sync::Arc;

/// A range of bytes supplied by message `turn`, counted from 0. An empty range marks an empty text
/// of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub range: Range<usize>,
    pub turn: usize,
}

/// A string with the origin of its bytes. Bytes outside all pieces come from the template.
#[derive(Clone, Debug)]
pub(super) struct Text {
    string: Arc<str>,
    /// Sorted and not overlapping.
    pieces: Option<Arc<[Piece]>>,
}

impl From<&str> for Text {
    fn from(string: &str) -> Self {
        Self { string: string.into(), pieces: None }
    }
}

impl From<String> for Text {
    fn from(string: String) -> Self {
        Self { string: string.into(), pieces: None }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.string == other.string
    }
}

impl Text {
    /// `string`, supplied by message `turn`.
    pub(super) fn of_turn(string: &str, turn: usize) -> Self {
        let piece = Piece { range: 0..string.len(), turn };
        Self { string: string.into(), pieces: Some(Arc::from([piece])) }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.string
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        self.pieces.as_deref().unwrap_or_default()
    }

    /// The bytes `range`, which must start and end on character boundaries.
    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        if range == (0..self.string.len()) {
            return self.clone();
        }
        let mut builder = TextBuilder::default();
        builder.push_range(self, range);
        builder.finish()
    }

    /// `part`, which must be a subslice of this text's string.
    pub(super) fn subslice(&self, part: &str) -> Self {
        let start = part.as_ptr() as usize - self.string.as_ptr() as usize;
        self.slice(start..start + part.len())
    }

    /// `string`, derived from this text without a mapping of bytes. It counts as supplied by the
    /// message of the first piece.
    pub(super) fn derive(&self, string: String) -> Self {
        match self.pieces().first() {
            Some(piece) => Self::of_turn(&string, piece.turn),
            None => string.into(),
        }
    }

    /// Byte offset of character number `index`; the length if there are fewer characters.
    pub(super) fn byte_of(&self, index: usize) -> usize {
        if self.string.is_ascii() {
            return index.min(self.string.len());
        }
        self.string.char_indices().nth(index).map_or(self.string.len(), |(at, _)| at)
    }

    /// Number of characters.
    pub(super) fn chars(&self) -> usize {
        if self.string.is_ascii() { self.string.len() } else { self.string.chars().count() }
    }
}

/// A text under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct TextBuilder {
    string: String,
    pieces: Vec<Piece>,
}

impl TextBuilder {
    pub(super) fn len(&self) -> usize {
        self.string.len()
    }

    pub(super) fn push_str(&mut self, string: &str) {
        self.string.push_str(string);
    }

    pub(super) fn push(&mut self, text: &Text) {
        let offset = self.string.len();
        self.string.push_str(&text.string);
        for piece in text.pieces() {
            let range = piece.range.start + offset..piece.range.end + offset;
            self.add_piece(Piece { range, turn: piece.turn });
        }
    }

    /// Appends `string`, supplied by message `turn` or by the template.
    pub(super) fn push_from(&mut self, string: &str, turn: Option<usize>) {
        let start = self.string.len();
        self.string.push_str(string);
        if let Some(turn) = turn {
            self.add_piece(Piece { range: start..self.string.len(), turn });
        }
    }

    fn push_range(&mut self, text: &Text, range: Range<usize>) {
        let offset = self.string.len();
        self.string.push_str(&text.string[range.clone()]);
        let pieces = text.pieces();
        if range.is_empty() {
            let near = pieces.iter().find(|piece| piece.range.end >= range.start).or(pieces.last());
            if let Some(near) = near {
                self.add_piece(Piece { range: offset..offset, turn: near.turn });
            }
            return;
        }
        let first = pieces.partition_point(|piece| piece.range.end <= range.start);
        for piece in pieces[first..].iter().take_while(|piece| piece.range.start < range.end) {
            let start = piece.range.start.max(range.start) - range.start + offset;
            let end = piece.range.end.min(range.end) - range.start + offset;
            self.add_piece(Piece { range: start..end, turn: piece.turn });
        }
    }

    fn add_piece(&mut self, piece: Piece) {
        match self.pieces.last_mut() {
            Some(last) if last.turn == piece.turn && last.range.end == piece.range.start => {
                last.range.end = piece.range.end;
            }
            _ => self.pieces.push(piece),
        }
    }

    pub(super) fn finish(self) -> Text {
        let pieces = (!self.pieces.is_empty()).then(|| self.pieces.into());
        Text { string: self.string.into(), pieces }
    }

    /// The string and its pieces.
    pub(super) fn into_parts(self) -> (String, Vec<Piece>) {
        (self.string, self.pieces)
    }
}

/// `parts` with `separator` between them.
pub(super) fn join<'t>(parts: impl IntoIterator<Item = &'t Text>, separator: &Text) -> Text {
    let mut builder = TextBuilder::default();
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 {
            builder.push(separator);
        }
        builder.push(part);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_keeps_its_origin() {
        let answer = Text::of_turn("  four  ", 3);
        let stripped = answer.slice(2..6);
        let whole = join([&Text::from("A: "), &stripped, &Text::of_turn("?", 4)], &"".into());
        assert_eq!(whole.as_str(), "A: four?");
        assert_eq!(whole.pieces(), [Piece { range: 3..7, turn: 3 }, Piece { range: 7..8, turn: 4 }]);
        assert_eq!(whole.slice(5..8).pieces(), [Piece { range: 0..2, turn: 3 }, Piece { range: 2..3, turn: 4 }]);
        assert_eq!(whole.slice(0..3).pieces(), []);
        assert_eq!(answer.derive("FOUR".into()).pieces(), [Piece { range: 0..4, turn: 3 }]);
    }
}

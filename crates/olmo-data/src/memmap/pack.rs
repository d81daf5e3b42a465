//! Packs documents into rows of equal length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Manifest;
use super::writer::MemmapWriter;
use crate::error::DataError;
use crate::formats::documents::Document;

/// Number of tokens that [`Pack::BestFit`] packs at a time: about 40 MB.
const WINDOW: usize = 1 << 23;

/// How to fill rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pack {
    /// Packs whole documents in order while they fit, then pads the row. A document longer than a
    /// row is truncated.
    Whole,
    /// Like `whole`, but puts each document into the row that it fills best, longest first, among
    /// several million tokens at a time. This leaves almost no padding.
    BestFit,
    /// Continues documents across rows and drops the tail that does not fill a row: OLMo's layout
    /// for pre-training.
    Concat,
    /// One document per row, truncated or padded: the layout of OLMo's `prepare_tulu_data.py`.
    Padded,
}

/// Packs documents into the rows of a [`MemmapWriter`].
pub struct Packer {
    pack: Pack,
    writer: MemmapWriter,
    /// Documents of the current window, not yet packed.
    window: Vec<Document>,
    window_tokens: usize,
    dropped: u64,
    truncated: u64,
}

impl Packer {
    pub fn new(pack: Pack, writer: MemmapWriter) -> Self {
        Self { pack, writer, window: Vec::new(), window_tokens: 0, dropped: 0, truncated: 0 }
    }

    /// Adds a document. A document without a label (after truncation) is dropped and counted.
    pub fn push(&mut self, mut document: Document) -> Result<(), DataError> {
        let cut = match self.pack {
            Pack::Concat => 0,
            Pack::Whole | Pack::BestFit | Pack::Padded => document.truncate(self.writer.sequence_length()),
        };
        if document.labels() == 0 {
            self.dropped += 1;
            return Ok(());
        }
        self.truncated += u64::from(cut > 0);
        match self.pack {
            Pack::BestFit => {
                self.window_tokens += document.input_ids.len();
                self.window.push(document);
                if self.window_tokens < WINDOW { Ok(()) } else { self.write_window() }
            }
            Pack::Whole => {
                if document.input_ids.len() > self.writer.room() {
                    self.writer.pad_row()?;
                }
                self.write(&document)
            }
            Pack::Concat => self.write(&document),
            Pack::Padded => {
                self.write(&document)?;
                self.writer.pad_row()
            }
        }
    }

    fn write(&mut self, document: &Document) -> Result<(), DataError> {
        self.writer.begin_document();
        self.writer.append(&document.input_ids, &document.label_mask)
    }

    fn write_window(&mut self) -> Result<(), DataError> {
        let window = std::mem::take(&mut self.window);
        self.window_tokens = 0;
        let lengths: Vec<usize> = window.iter().map(|document| document.input_ids.len()).collect();
        for row in best_fit(&lengths, self.writer.sequence_length()) {
            for document in row {
                // The first token would be predicted from another document.
                self.writer.begin_document();
                let Document { input_ids, label_mask } = &window[document];
                self.writer.append(&input_ids[..1], &[false])?;
                self.writer.append(&input_ids[1..], &label_mask[1..])?;
            }
            self.writer.pad_row()?;
        }
        Ok(())
    }

    /// Completes the files, after padding or dropping the last row, depending on the mode.
    pub fn finish(mut self) -> Result<Manifest, DataError> {
        self.write_window()?;
        if self.pack != Pack::Concat {
            self.writer.pad_row()?;
        }
        self.writer.finish(self.dropped, self.truncated)
    }
}

/// Best-fit decreasing: groups the indices of `lengths` into rows of total length at most
/// `capacity`.
///
/// Takes the longest length first (the earliest of equal ones) and puts it where the least room
/// remains, or into a new row. No length may exceed `capacity`. Linear in the number of documents,
/// except for a scan of `capacity / 64` words for each.
pub fn best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut by_length: Vec<Vec<usize>> = vec![Vec::new(); capacity + 1];
    for (document, length) in lengths.iter().enumerate() {
        by_length[*length].push(document);
    }
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // The rows by remaining room, and a bit set of the non-empty lists.
    let mut with_room: Vec<Vec<usize>> = vec![Vec::new(); capacity + 1];
    let mut some = vec![0u64; capacity / 64 + 1];
    for (length, documents) in by_length.iter().enumerate().rev() {
        for document in documents {
            let (row, room) = match next_set(&some, length) {
                Some(room) => {
                    let row = with_room[room].pop().unwrap_or_default();
                    if with_room[room].is_empty() {
                        some[room / 64] &= !(1 << (room % 64));
                    }
                    (row, room)
                }
                None => {
                    rows.push(Vec::new());
                    (rows.len() - 1, capacity)
                }
            };
            rows[row].push(*document);
            let left = room - length;
            with_room[left].push(row);
            some[left / 64] |= 1 << (left % 64);
        }
    }
    rows
}

/// The first set bit at or after `from`.
fn next_set(bits: &[u64], from: usize) -> Option<usize> {
    let mut word = from / 64;
    let mut rest = bits.get(word)? & (u64::MAX << (from % 64));
    loop {
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        word += 1;
        rest = *bits.get(word)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Textbook best-fit decreasing.
    fn slow(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|document| std::cmp::Reverse(lengths[*document]));
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for document in order {
            let length = lengths[document];
            let fits = rows.iter_mut().filter(|(room, _)| *room >= length);
            match fits.min_by_key(|(room, _)| *room) {
                Some((room, row)) => {
                    *room -= length;
                    row.push(document);
                }
                None => rows.push((capacity - length, vec![document])),
            }
        }
        rows.into_iter().map(|(_, row)| row).collect()
    }

    #[test]
    fn rows_are_as_full_as_those_of_the_textbook_and_hold_each_document_once() {
        let mut state = 1u64;
        for capacity in [1, 63, 64, 65, 2048] {
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as usize % capacity + 1
            };
            let lengths: Vec<usize> = (0..500).map(|_| next().min(next())).collect();
            let rows = best_fit(&lengths, capacity);
            let filled = |rows: &[Vec<usize>]| {
                let mut sums: Vec<usize> = rows.iter().map(|row| row.iter().map(|d| lengths[*d]).sum()).collect();
                sums.sort_unstable();
                sums
            };
            assert_eq!(filled(&rows), filled(&slow(&lengths, capacity)), "{capacity}");
            assert!(filled(&rows).iter().all(|sum| *sum <= capacity));
            let mut all = rows.concat();
            all.sort_unstable();
            assert_eq!(all, (0..500).collect::<Vec<_>>());
        }
    }
}

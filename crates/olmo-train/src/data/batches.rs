//! [`Batches`]: selects the rows of each step.
//!
//! Every epoch visits the rows in OLMo's order and drops the rows that do not fill a global batch.
//! The rows of a step depend only on the seed and the step, so a resumed run needs no saved data
//! state. Of several ranks, each reads the rows that it computes; the first one reads all rows in
//! addition, for their digest.

use std::ops::Range;

use olmo_data::Memmap;
use olmo_data::order::{self, Order};
use olmo_model::Batch;
use olmo_stage::StageError;
use olmo_stage::rules::Finding;
use olmo_stage::worker::enforce;

/// The rows of the training data, in the order of the steps.
pub struct Batches<'a> {
    data: &'a Memmap,
    global_batch: usize,
    /// Which rows of each global batch this rank computes.
    own: Range<usize>,
    /// Whether this rank computes the digest of each batch.
    has_digest: bool,
    /// Whether batches record where documents begin.
    document_mask: bool,
    order: Order,
}

/// The error for data of `instances` rows that do not fill a batch of `global_batch` rows.
pub fn too_few_rows(instances: u64, global_batch: usize) -> Option<Finding> {
    (instances < global_batch as u64).then(|| {
        let what = format!(
            "the data has {instances} rows, fewer than the {global_batch} of one step (`global_train_batch_size`)"
        );
        Finding::error("train::too_little_data", "global_train_batch_size", what)
            .hint(format!("set `global_train_batch_size` to at most {instances}, or give more data"))
    })
}

/// The rows of one step.
pub(crate) struct StepBatch {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Indices of all rows in the data.
    pub rows: Vec<u32>,
    /// The range of `rows` that this rank computes; the following arrays hold these rows.
    own: Range<usize>,
    pub input_ids: Vec<u32>,
    /// Which tokens are targets; `None` if all are.
    pub label_mask: Option<Vec<bool>>,
    /// For each token, the position in its row where its document begins; `None` without a document
    /// mask.
    pub documents: Option<Vec<u32>>,
    /// Row length in tokens.
    pub sequence: usize,
    /// BLAKE3 digest of all row indices, ids and labels, in hex; empty on a rank that does not
    /// compute it.
    pub digest: String,
}

impl<'a> Batches<'a> {
    /// # Errors
    /// `train::too_little_data` if there are fewer rows than one global batch.
    pub fn new(data: &'a Memmap, global_batch: usize, seed: u64, document_mask: bool) -> Result<Self, StageError> {
        enforce(too_few_rows(data.instances() as u64, global_batch))?;
        let order = Order::new(data.instances(), global_batch, seed, 0);
        Ok(Self { data, global_batch, own: 0..global_batch, has_digest: true, document_mask, order })
    }

    /// The batches for one of several ranks, which computes the rows `own` of each, and the digest
    /// if `has_digest`.
    pub(crate) fn of_rank(self, own: Range<usize>, has_digest: bool) -> Self {
        Self { own, has_digest, ..self }
    }

    /// Number of steps per epoch, at least 1.
    pub fn per_epoch(&self) -> u64 {
        (self.data.instances() / self.global_batch) as u64
    }

    /// Number of tokens per step, padding included.
    pub fn tokens_per_step(&self) -> u64 {
        self.global_batch as u64 * self.data.manifest().sequence_length
    }

    /// The epoch of the step after `done` steps, and the number of its rows visited before that
    /// step.
    pub fn position(&self, done: u64) -> (u64, u64) {
        (done / self.per_epoch(), done % self.per_epoch() * self.global_batch as u64)
    }

    /// The rows of the step after `done` steps.
    ///
    /// # Errors
    /// They are on a server, and cannot be read.
    pub(crate) fn after(&mut self, done: u64) -> Result<StepBatch, StageError> {
        // A step never spans two epochs.
        let (epoch, _) = self.position(done);
        self.order.seek(done * self.global_batch as u64);
        let rows: Vec<u32> = self.order.by_ref().take(self.global_batch).map(|(_, row)| row).collect();
        let all = || rows.iter().map(|row| *row as usize);
        let (own, data) = (self.own.clone(), self.data);
        let own_rows = || all().skip(own.start).take(own.len());
        let (mut input_ids, mut label_mask) = (Vec::new(), None);
        let mut digest = String::new();
        if self.has_digest {
            (input_ids, label_mask) = read(data, all())?;
            digest = order::batch_digest(&rows, &input_ids, label_mask.as_deref());
        }
        if !self.has_digest || own.len() < rows.len() {
            (input_ids, label_mask) = read(data, own_rows())?;
        }
        let sequence = data.manifest().sequence_length as usize;
        let documents = self.document_mask.then(|| documents(data, own_rows()));
        Ok(StepBatch { epoch, own, input_ids, label_mask, documents, sequence, digest, rows })
    }
}

/// Ids, and which of them are targets unless all are.
type Labelled = (Vec<u32>, Option<Vec<bool>>);

/// Ids and labels of rows, concatenated.
fn read(data: &Memmap, rows: impl Iterator<Item = usize>) -> Result<Labelled, StageError> {
    let (mut input_ids, mut label_mask) = (Vec::new(), Vec::new());
    for mut instance in data.rows(&rows.collect::<Vec<_>>())? {
        input_ids.append(&mut instance.input_ids);
        label_mask.append(&mut instance.label_mask.unwrap_or_default());
    }
    // Either all rows of a memmap have a label mask or none has.
    let masked = !label_mask.is_empty();
    Ok((input_ids, masked.then_some(label_mask)))
}

/// For each token of `rows`, the position in its row where its document begins.
fn documents(data: &Memmap, rows: impl Iterator<Item = usize>) -> Vec<u32> {
    let sequence = data.manifest().sequence_length as usize;
    let mut documents = Vec::new();
    for row in rows {
        // Tokens before the first start continue a document from the previous row.
        let starts = [0].into_iter().chain(data.document_starts(row)).collect::<Vec<_>>();
        let ends = starts.iter().skip(1).copied().chain([sequence]);
        for (start, end) in starts.iter().zip(ends) {
            documents.extend(std::iter::repeat_n(*start as u32, end - start));
        }
    }
    documents
}

/// The rows `from..to` of `data` as a batch for the model.
///
/// # Errors
/// They are on a server, and cannot be read.
pub(crate) fn rows(data: &Memmap, from: usize, to: usize, document_mask: bool) -> Result<Batch, StageError> {
    let (input_ids, label_mask) = read(data, from..to)?;
    let documents = document_mask.then(|| documents(data, from..to).into());
    let sequence = data.manifest().sequence_length as usize;
    Ok(Batch { input_ids, label_mask, documents, batch: to - from, sequence })
}

impl StepBatch {
    /// Number of rows, those of other ranks included.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Number of tokens, those of other ranks and padding included.
    pub(crate) fn tokens(&self) -> u64 {
        (self.rows.len() * self.sequence) as u64
    }

    /// The tokens of `rows`, which this rank computes.
    fn tokens_of(&self, rows: &Range<usize>) -> Range<usize> {
        (rows.start - self.own.start) * self.sequence..(rows.end - self.own.start) * self.sequence
    }

    /// Number of targets in `rows`, which this rank computes: labelled tokens that are not the first
    /// in their row.
    pub(crate) fn labels(&self, rows: &Range<usize>) -> u64 {
        let Some(mask) = &self.label_mask else { return (rows.len() * self.sequence.saturating_sub(1)) as u64 };
        let of_row = |row: &[bool]| row.iter().skip(1).filter(|label| **label).count() as u64;
        mask[self.tokens_of(rows)].chunks(self.sequence.max(1)).map(of_row).sum()
    }

    /// Number of targets in all rows that this rank computes.
    pub(crate) fn own_labels(&self) -> u64 {
        self.labels(&self.own)
    }

    /// The rows `rows` of this step, which this rank computes, as a batch for the model.
    pub(crate) fn part(&self, rows: &Range<usize>) -> Batch {
        let range = self.tokens_of(rows);
        Batch {
            input_ids: self.input_ids[range.clone()].to_vec(),
            label_mask: self.label_mask.as_ref().map(|mask| mask[range.clone()].to_vec()),
            documents: self.documents.as_ref().map(|documents| documents[range].into()),
            batch: rows.len(),
            sequence: self.sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Digest;
    use olmo_data::{Layout, MemmapWriter};

    /// Ten rows of four tokens; row `r` holds `r` four times, and its labels are `mask`.
    fn data(dir: &std::path::Path, mask: [bool; 4]) -> Memmap {
        let layout =
            Layout { sequence_length: 4, vocab_size: 16, tokenizer: Digest::of(b""), eos_token_id: 0, pad_token_id: 1 };
        let mut writer = MemmapWriter::create(dir, layout).unwrap();
        for row in 0..10 {
            writer.begin_document();
            writer.append(&[row; 4], &mask).unwrap();
        }
        writer.finish(0, 0).unwrap();
        Memmap::open(dir).unwrap()
    }

    #[test]
    fn an_epoch_visits_every_row_of_its_whole_batches_once_and_the_next_one_differs() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path(), [false, true, true, false]);
        let mut batches = Batches::new(&data, 3, 7, false).unwrap();
        assert_eq!((batches.per_epoch(), batches.tokens_per_step()), (3, 12));
        let epoch = |batches: &mut Batches, first: u64| {
            (first..first + 3).flat_map(|done| batches.after(done).unwrap().rows).collect::<Vec<_>>()
        };
        let (first, second) = (epoch(&mut batches, 0), epoch(&mut batches, 3));
        assert_eq!(first, order::epoch_order(10, 7, 0)[..9]);
        assert_eq!(second, order::epoch_order(10, 7, 1)[..9]);
        assert_eq!(batches.after(3).unwrap().epoch, 1);
        assert_eq!(batches.position(3), (1, 0));
        // Going back, as a resumed run does, gives the same rows.
        assert_eq!(epoch(&mut batches, 0), first);
    }

    #[test]
    fn a_batch_holds_the_ids_of_its_rows_and_its_digest_tells_rows_and_labels_apart() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (data, other) =
            (data(a.path(), [false, true, true, false]), self::data(b.path(), [false, true, false, false]));
        let step = Batches::new(&data, 3, 7, false).unwrap().after(0).unwrap();
        assert_eq!(step.input_ids, step.rows.iter().flat_map(|row| [*row; 4]).collect::<Vec<_>>());
        assert_eq!(step.own_labels(), 6);
        assert_eq!(step.part(&(1..3)).input_ids, step.input_ids[4..]);
        assert_eq!(step.digest, Batches::new(&data, 3, 7, false).unwrap().after(0).unwrap().digest);
        assert_ne!(step.digest, Batches::new(&data, 3, 8, false).unwrap().after(0).unwrap().digest);
        assert_ne!(step.digest, Batches::new(&other, 3, 7, false).unwrap().after(0).unwrap().digest);
    }

    #[test]
    fn a_rank_reads_its_own_rows_and_the_first_one_knows_the_digest_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path(), [false, true, true, false]);
        let batches = || Batches::new(&data, 5, 7, true).unwrap();
        let whole = batches().after(1).unwrap();
        for (own, has_digest) in [(0..2, true), (2..5, false), (5..5, false)] {
            let step = batches().of_rank(own.clone(), has_digest).after(1).unwrap();
            assert_eq!((&step.rows, step.len(), step.tokens()), (&whole.rows, 5, 20));
            assert_eq!(step.input_ids, whole.input_ids[own.start * 4..own.end * 4]);
            assert_eq!(step.own_labels(), 2 * own.len() as u64);
            assert_eq!(step.digest, if has_digest { whole.digest.as_str() } else { "" });
            if own.len() > 1 {
                let last = own.end - 1..own.end;
                let (part, same) = (step.part(&last), whole.part(&last));
                assert_eq!((part.input_ids, part.label_mask), (same.input_ids, same.label_mask));
                assert_eq!(part.documents, same.documents);
            }
        }
    }

    #[test]
    fn without_a_mask_every_token_but_the_first_of_a_row_is_a_label() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path(), [true; 4]);
        let step = Batches::new(&data, 2, 0, false).unwrap().after(0).unwrap();
        assert!(step.label_mask.is_none());
        assert_eq!(step.own_labels(), 6);
    }

    #[test]
    fn with_a_document_mask_each_token_knows_where_its_document_begins() {
        let dir = tempfile::tempdir().unwrap();
        let layout =
            Layout { sequence_length: 4, vocab_size: 16, tokenizer: Digest::of(b""), eos_token_id: 0, pad_token_id: 1 };
        let mut writer = MemmapWriter::create(dir.path(), layout).unwrap();
        // Documents of 3, 2 and 7 tokens over three rows.
        for length in [3, 2, 7] {
            writer.begin_document();
            writer.append(&vec![5; length], &vec![true; length]).unwrap();
        }
        writer.finish(0, 0).unwrap();
        let data = Memmap::open(dir.path()).unwrap();
        let all = rows(&data, 0, 3, true).unwrap().documents.unwrap();
        assert_eq!(&*all, [0, 0, 0, 3, 0, 1, 1, 1, 0, 0, 0, 0]);
        let step = Batches::new(&data, 3, 7, true).unwrap().after(0).unwrap();
        let want: Vec<u32> = step.rows.iter().flat_map(|row| all[*row as usize * 4..][..4].to_vec()).collect();
        assert_eq!(step.documents.as_ref(), Some(&want));
        assert_eq!(step.part(&(1..3)).documents.as_deref(), Some(&want[4..]));
        assert!(Batches::new(&data, 3, 7, false).unwrap().after(0).unwrap().documents.is_none());
    }

    #[test]
    fn data_that_fills_no_batch_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path(), [true; 4]);
        let Err(StageError::Failed(failure)) = Batches::new(&data, 11, 0, false).map(drop) else {
            panic!("11 of 10 rows")
        };
        assert!(failure.message.contains("10 rows") && failure.message.contains("11"), "{}", failure.message);
        assert!(Batches::new(&data, 10, 0, false).is_ok());
    }
}

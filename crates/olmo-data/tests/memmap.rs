//! Memmaps: what packing keeps, and what the reader refuses.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;

use olmo_base::Digest;
use olmo_data::memmap::boundaries_csv;
use olmo_data::{
    DataError, Document, Dtype, InstanceFilter, Layout, Manifest, Memmap, MemmapOptions, MemmapWriter, Pack, Packer,
};
use proptest::prelude::*;
use tempfile::TempDir;

const EOS: u32 = 0;
const PAD: u32 = 1;

fn layout(sequence_length: usize, vocab_size: u32) -> Layout {
    Layout { sequence_length, vocab_size, tokenizer: Digest::of(b"tokenizer"), eos_token_id: EOS, pad_token_id: PAD }
}

fn write(dir: &Path, pack: Pack, layout: Layout, documents: &[Document]) -> Manifest {
    let mut packer = Packer::new(pack, MemmapWriter::create(dir, layout).unwrap());
    for document in documents {
        packer.push(document.clone()).unwrap();
    }
    packer.finish().unwrap()
}

fn packed(pack: Pack, sequence_length: usize, documents: &[Document]) -> (TempDir, Memmap) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), pack, layout(sequence_length, 1024), documents);
    let memmap = Memmap::open(dir.path()).unwrap();
    memmap.verify().unwrap();
    (dir, memmap)
}

fn document(ids: &[u32], label_mask: &[u8]) -> Document {
    Document { input_ids: ids.to_vec(), label_mask: label_mask.iter().map(|label| *label == 1).collect() }
}

fn row(memmap: &Memmap, index: usize) -> (Vec<u32>, Vec<u8>) {
    let instance = memmap.instance(index).unwrap();
    let mask = instance.label_mask.expect("there is a label mask");
    (instance.input_ids, mask.into_iter().map(u8::from).collect())
}

fn three() -> Vec<Document> {
    vec![document(&[5, 6, 7], &[0, 1, 1]), document(&[8, 9], &[0, 1]), document(&[10, 11, 12, 13], &[0, 0, 1, 1])]
}

#[test]
fn whole_fills_a_row_with_whole_documents_and_pads_the_rest() {
    let (_dir, memmap) = packed(Pack::Whole, 6, &three());
    assert_eq!(memmap.instances(), 2);
    assert_eq!(row(&memmap, 0), (vec![5, 6, 7, 8, 9, PAD], vec![0, 1, 1, 0, 1, 0]));
    assert_eq!(row(&memmap, 1), (vec![10, 11, 12, 13, PAD, PAD], vec![0, 0, 1, 1, 0, 0]));
    assert_eq!(memmap.boundaries(), [0, 3, 6]);
    assert_eq!((memmap.document_starts(0), memmap.document_starts(1)), (vec![0, 3], vec![0]));
    let manifest = memmap.manifest();
    assert_eq!((manifest.labels, manifest.padding, manifest.documents), (5, 3, 3));
}

#[test]
fn padded_puts_one_document_into_a_row_and_cuts_it_without_a_false_eos() {
    let (_dir, memmap) = packed(Pack::Padded, 3, &three());
    assert_eq!(row(&memmap, 0), (vec![5, 6, 7], vec![0, 1, 1]));
    assert_eq!(row(&memmap, 1), (vec![8, 9, PAD], vec![0, 1, 0]));
    assert_eq!(row(&memmap, 2), (vec![10, 11, 12], vec![0, 0, 1]));
    assert_eq!((memmap.manifest().truncated, memmap.manifest().dropped), (1, 0));
}

#[test]
fn a_document_whose_labels_are_all_cut_off_is_dropped_and_counted() {
    let (_dir, memmap) = packed(Pack::Padded, 2, &three());
    assert_eq!((memmap.manifest().documents, memmap.manifest().dropped, memmap.manifest().truncated), (2, 1, 1));
}

#[test]
fn concat_runs_on_and_drops_the_tail() {
    let (_dir, memmap) = packed(Pack::Concat, 4, &three());
    assert_eq!(row(&memmap, 0).0, [5, 6, 7, 8]);
    assert_eq!(row(&memmap, 1).0, [9, 10, 11, 12]);
    assert_eq!(memmap.boundaries(), [0, 3, 5]);
    assert_eq!(memmap.document_starts(1), [1]);
    assert_eq!((memmap.manifest().truncated, memmap.manifest().dropped, memmap.manifest().padding), (1, 0, 0));
    // The label at the start of row 1 is predicted from nothing and does not count.
    assert_eq!(memmap.manifest().labels, 2 + 1);
}

#[test]
fn a_document_in_the_dropped_tail_is_dropped_and_not_truncated() {
    let (_dir, memmap) = packed(Pack::Concat, 5, &three());
    assert_eq!((memmap.instances(), memmap.boundaries()), (1, &[0, 3][..]));
    assert_eq!((memmap.manifest().dropped, memmap.manifest().truncated), (1, 0));
}

#[test]
fn there_is_no_label_mask_where_every_token_is_a_target() {
    let plain = [document(&[5, 6, EOS], &[1, 1, 1]), document(&[7, EOS], &[1, 1])];
    let (dir, memmap) = packed(Pack::Concat, 2, &plain);
    assert_eq!(memmap.instance(1).unwrap().label_mask, None);
    assert_eq!(memmap.manifest().labels, 2);
    assert!(!dir.path().join("label_mask.npy").exists());
    let (dir, _) = packed(Pack::Whole, 4, &plain);
    assert!(dir.path().join("label_mask.npy").exists(), "padding is no target");
}

#[test]
fn the_files_are_what_olmo_reads() {
    let (dir, _) = packed(Pack::Padded, 3, &three()[..2]);
    let file = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(file("input_ids.npy"), [5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 1, 0]);
    assert_eq!(file("label_mask.npy"), [0, 1, 1, 0, 1, 0]);
    assert_eq!(file("boundaries.npy"), [0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn ids_above_65535_are_kept_in_four_bytes() {
    for (vocab_size, bytes) in [(65_536, 2), (65_537, 4), (100_278, 4)] {
        let dir = tempfile::tempdir().unwrap();
        let last = vocab_size - 1;
        write(dir.path(), Pack::Padded, layout(2, vocab_size), &[document(&[3, last], &[0, 1])]);
        assert_eq!(Memmap::open(dir.path()).unwrap().instance(0).unwrap().input_ids, [3, last]);
        assert_eq!(std::fs::metadata(dir.path().join("input_ids.npy")).unwrap().len(), 2 * bytes);
    }
}

#[test]
fn an_id_outside_the_vocabulary_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut packer = Packer::new(Pack::Whole, MemmapWriter::create(dir.path(), layout(4, 10)).unwrap());
    let error = packer.push(document(&[3, 10], &[0, 1])).unwrap_err();
    assert!(matches!(error, DataError::OverVocabulary { id: 10, vocab_size: 10, .. }), "{error}");
}

#[test]
fn best_fit_fills_rows_and_trains_no_token_from_another_document() {
    let all = |ids: std::ops::Range<u32>| Document { label_mask: vec![true; ids.len()], input_ids: ids.collect() };
    // 5 + 3 and 4 + 4 fill both rows; in the order given three rows would be needed.
    let (_dir, memmap) = packed(Pack::BestFit, 8, &[all(10..15), all(20..24), all(30..34), all(40..43)]);
    assert_eq!(memmap.instances(), 2);
    assert_eq!(memmap.manifest().padding, 0);
    assert_eq!(row(&memmap, 0), (vec![10, 11, 12, 13, 14, 40, 41, 42], vec![0, 1, 1, 1, 1, 0, 1, 1]));
    assert_eq!(row(&memmap, 1), (vec![20, 21, 22, 23, 30, 31, 32, 33], vec![0, 1, 1, 1, 0, 1, 1, 1]));
    assert_eq!(memmap.boundaries(), [0, 5, 8, 12]);
    assert_eq!(memmap.document_starts(1), [0, 4]);
}

#[test]
fn rows_in_several_files_are_the_same_rows() {
    let documents: Vec<Document> = (0..20).map(|n| document(&[2 * n + 2, 2 * n + 3], &[0, 1])).collect();
    let (_one, whole) = packed(Pack::Padded, 3, &documents);
    let dir = tempfile::tempdir().unwrap();
    let options = MemmapOptions { rows_per_file: 6, ..MemmapOptions::default() };
    let mut packer =
        Packer::new(Pack::Padded, MemmapWriter::with_options(dir.path(), layout(3, 1024), options).unwrap());
    for document in &documents {
        packer.push(document.clone()).unwrap();
    }
    assert_eq!(packer.finish().unwrap().shards, [6, 6, 6, 2]);
    let several = Memmap::open(dir.path()).unwrap();
    several.verify().unwrap();
    assert_eq!(stream(&several), stream(&whole));
    assert_eq!(several.boundaries(), whole.boundaries());
    assert_eq!(std::fs::metadata(dir.path().join("input_ids-3.npy")).unwrap().len(), 2 * 3 * 2);
    std::fs::write(dir.path().join("label_mask-2.npy"), [0; 17]).unwrap();
    let error = Memmap::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("label_mask-2.npy: has 17 bytes, but its manifest says 18"), "{error}");
}

#[test]
fn a_row_that_repeats_itself_loses_its_labels_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let options = MemmapOptions {
        instance_filter: Some(InstanceFilter::default()),
        csv_boundaries: true,
        ..MemmapOptions::default()
    };
    let writer = MemmapWriter::with_options(dir.path(), layout(100, 1024), options).unwrap();
    let mut packer = Packer::new(Pack::Padded, writer);
    let repeated: Vec<u32> = (0..100).map(|i| i % 3).collect();
    for ids in [repeated, (100..200).collect()] {
        packer.push(Document { label_mask: vec![true; 100], input_ids: ids }).unwrap();
    }
    let manifest = packer.finish().unwrap();
    assert_eq!((manifest.instances, manifest.filtered, manifest.labels), (2, 1, 99));
    let memmap = Memmap::open(dir.path()).unwrap();
    memmap.verify().unwrap();
    assert!(memmap.instance(0).unwrap().label_mask.unwrap().iter().all(|label| !label));
    assert_eq!(boundaries_csv::read(&dir.path().join("boundaries.csv.gz")).unwrap(), memmap.boundaries());
}

#[test]
fn a_dtype_that_does_not_hold_the_vocabulary_is_refused_and_a_larger_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let create = |vocab_size, dtype| {
        let options = MemmapOptions { dtype: Some(dtype), ..MemmapOptions::default() };
        MemmapWriter::with_options(dir.path(), layout(4, vocab_size), options)
    };
    let error = create(100_278, Dtype::Uint16).err().unwrap().to_string();
    assert!(error.contains("dtype uint16 is too small for a vocabulary of 100278"), "{error}");
    let mut packer = Packer::new(Pack::Padded, create(10, Dtype::Uint32).unwrap());
    packer.push(document(&[3, 4], &[0, 1])).unwrap();
    packer.finish().unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("input_ids.npy")).unwrap().len(), 16);
    assert_eq!(Memmap::open(dir.path()).unwrap().instance(0).unwrap().input_ids, [3, 4, PAD, PAD]);
}

/// Opens a sound memmap after `change` has been made to its manifest.
fn refused(change: impl Fn(&mut serde_json::Value)) -> String {
    let (dir, memmap) = packed(Pack::Whole, 6, &three());
    drop(memmap);
    let path = dir.path().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(&path, manifest.to_string()).unwrap();
    Memmap::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let cases: [(&str, serde_json::Value, &str); 8] = [
        ("format", 2.into(), "has format 2, but this build reads format 1"),
        ("format", "1".into(), "has no `format` number"),
        ("dtype", "uint32".into(), "has 24 bytes, but its manifest says 48; it may contain uint16, not uint32"),
        ("vocab_size", 70_000.into(), "dtype uint16 is too small for a vocabulary of 70000"),
        ("vocab_size", 13.into(), "token 9 is id 13, outside the vocabulary of 13"),
        ("instances", 3.into(), "count is not instances * sequence_length"),
        ("documents", 2.into(), "boundaries.npy: has 24 bytes, but its manifest says 16"),
        ("surprise", 1.into(), "unknown field `surprise`"),
    ];
    for (key, value, expected) in cases {
        let error = refused(|manifest| manifest[key] = value.clone());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let damage = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let (dir, memmap) = packed(Pack::Whole, 6, &three());
        drop(memmap);
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let opened = Memmap::open(dir.path()).and_then(|memmap| memmap.verify());
        opened.unwrap_err().to_string()
    };
    assert!(damage("input_ids.npy", &|bytes| bytes.truncate(23)).contains("has 23 bytes, but its manifest says 24"));
    assert!(damage("input_ids.npy", &|bytes| bytes[0] = 6).contains("has digest"));
    assert!(damage("input_ids.npy", &|bytes| bytes[1] = 4).contains("token 0 is id 1029"));
    assert!(damage("label_mask.npy", &|bytes| bytes[2] = 255).contains("byte 2 is 255, not 0 or 1"));
    assert!(damage("boundaries.npy", &|bytes| bytes[8] = 0).contains("are not ascending"));
    assert!(damage("boundaries.npy", &|bytes| bytes[16] = 12).contains("are not ascending within the tokens"));
}

/// Documents whose tokens are all different, so that one is found again wherever it lies.
fn documents() -> impl Strategy<Value = Vec<Document>> {
    prop::collection::vec((1usize..12, any::<u16>()), 1..40).prop_map(|lengths| {
        let mut next = 2;
        let document = |(length, labels): (usize, u16)| {
            let input_ids: Vec<u32> = (next..next + length as u32).collect();
            next += length as u32;
            Document { label_mask: (0..length).map(|i| labels >> i & 1 == 1).collect(), input_ids }
        };
        lengths.into_iter().map(document).collect()
    })
}

/// The tokens of all rows with their labels, in order.
fn stream(memmap: &Memmap) -> Vec<(u32, bool)> {
    (0..memmap.instances())
        .flat_map(|index| {
            let instance = memmap.instance(index).unwrap();
            let mask = instance.label_mask.unwrap_or(vec![true; instance.input_ids.len()]);
            instance.input_ids.into_iter().zip(mask).collect::<Vec<_>>()
        })
        .collect()
}

fn tokens(document: &Document, length: usize) -> Vec<(u32, bool)> {
    document.input_ids.iter().copied().zip(document.label_mask.iter().copied()).take(length).collect()
}

proptest! {
    // A failure prints its smallest case; it becomes a test by name, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packing_keeps_every_document_once_and_in_order(documents in documents(), length in 2usize..16, mode in 0..3) {
        let pack = [Pack::Whole, Pack::Concat, Pack::Padded][mode as usize];
        let cut = if pack == Pack::Concat { usize::MAX } else { length };
        let trainable = |tokens: &[(u32, bool)]| tokens.iter().skip(1).any(|(_, label)| *label);
        let kept: Vec<Vec<(u32, bool)>> =
            documents.iter().map(|d| tokens(d, cut)).filter(|tokens| trainable(tokens)).collect();

        let dir = tempfile::tempdir().unwrap();
        let manifest = write(dir.path(), pack, layout(length, 1024), &documents);
        let total: usize = kept.iter().map(Vec::len).sum();
        if manifest.instances == 0 {
            prop_assert!(kept.is_empty() || pack == Pack::Concat && total < length);
            return Ok(());
        }
        let memmap = Memmap::open(dir.path()).unwrap();
        memmap.verify().unwrap();
        let stream = stream(&memmap);
        prop_assert_eq!(stream.len(), memmap.instances() * length);

        // From each boundary to the next lies one document, then nothing but padding.
        let mut ends = memmap.boundaries()[1..].to_vec();
        ends.push(stream.len() as u64);
        let found: Vec<Vec<(u32, bool)>> = memmap.boundaries().iter().zip(&ends)
            .map(|(start, end)| stream[*start as usize..*end as usize].to_vec())
            .map(|mut tokens| { while tokens.last() == Some(&(PAD, false)) { tokens.pop(); } tokens })
            .collect();
        if pack == Pack::Concat {
            let all: Vec<(u32, bool)> = kept.concat();
            prop_assert_eq!(&stream[..], &all[..total - total % length]);
            for (found, kept) in found.iter().zip(&kept) {
                prop_assert!(kept.starts_with(found));
            }
            prop_assert_eq!(manifest.padding, 0);
            prop_assert_eq!(manifest.documents + manifest.dropped, documents.len() as u64);
        } else {
            prop_assert_eq!(&found, &kept);
            for start in memmap.boundaries() {
                // No document crosses the end of a row.
                let in_row = *start as usize % length;
                let index = memmap.boundaries().iter().position(|s| s == start).unwrap();
                prop_assert!(in_row + kept[index].len() <= length);
                prop_assert!(pack == Pack::Whole || in_row == 0);
            }
            prop_assert_eq!(manifest.padding as usize, stream.len() - total);
            prop_assert_eq!(manifest.dropped as usize, documents.len() - kept.len());
        }
        if pack == Pack::Whole {
            // A new row is begun only where the next document does not fit.
            for (pair, starts) in kept.windows(2).zip(memmap.boundaries().windows(2)) {
                let (a, b) = (starts[0] as usize, starts[1] as usize);
                let after = a + pair[0].len();
                prop_assert!(after == b || after % length + pair[1].len() > length);
            }
        }
        let labels = stream.chunks(length).flat_map(|row| &row[1..]).filter(|(_, label)| *label).count();
        prop_assert_eq!(manifest.labels as usize, labels);
    }
}

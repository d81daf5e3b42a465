//! Arbitrary bytes and damaged files: reading them never panics, and needs memory in proportion to
//! them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use olmo_pickle::archive::Archive;
use olmo_pickle::distributed::{Checkpoint, Entry};
use olmo_pickle::pickle::{self, Item, Protocol};
use olmo_pickle::{DType, Kind, MemoryFiles, Value};
use proptest::prelude::*;

/// Counts the bytes that this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that ends may have dropped its counters.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that `read` holds at once.
fn peak(read: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    read();
    (PEAK.get() - before).max(0) as usize
}

/// Bytes of memory that an input of `length` bytes justifies.
fn justified(length: usize) -> usize {
    256 * length + 256 * 1024
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Visits every value, as a consumer that knows nothing about the document would.
fn walk(value: Value<'_>) -> u64 {
    let _ = (value.kind(), value.as_path(), value.describe());
    let parts = [value.args(), value.kwargs(), value.state()].into_iter().flatten();
    let entries = value.entries().flat_map(|(key, value)| [key, value]);
    1 + parts.chain(value.items()).chain(entries).map(walk).sum::<u64>()
}

fn read_archive(bytes: &[u8]) {
    let Ok(archive) = Archive::open(bytes) else { return };
    walk(archive.root());
    let tensors = archive.root().entries().filter_map(|(_, value)| value.as_tensor());
    for tensor in tensors.chain(archive.root().as_tensor()) {
        let _ = (archive.location(&tensor), archive.read(&tensor));
    }
}

fn read_checkpoint(metadata: Vec<u8>, shards: [Vec<u8>; 2]) {
    let mut files = MemoryFiles::default();
    files.insert(".metadata", metadata);
    let [first, second] = shards;
    files.insert("__0_0.distcp", first);
    files.insert("__1_0.distcp", second);
    let Ok(checkpoint) = Checkpoint::open(Arc::new(files)) else { return };
    let _ = checkpoint.check_shards();
    for (name, entry) in checkpoint.entries() {
        match entry {
            Entry::Tensor(_) => drop(checkpoint.read_tensor(name)),
            Entry::Bytes(_) => drop(checkpoint.read_value(name)),
        }
    }
}

/// A change of a file: a byte, bytes taken out, or bytes repeated.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Cut(usize, usize),
    Repeat(usize, usize),
    End(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = any::<usize>();
    let change = prop_oneof![
        4 => (place, any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (place, 1..40usize).prop_map(|(at, count)| Change::Cut(at, count)),
        1 => (place, 1..40usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => place.prop_map(Change::End),
    ];
    proptest::collection::vec(change, 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match *change {
            Change::Set(at, byte) => bytes[at % length] = byte,
            Change::Cut(at, count) => drop(bytes.drain(at % length..(at % length + count).min(length))),
            Change::Repeat(at, count) => {
                let part = bytes[at % length..(at % length + count).min(length)].to_vec();
                bytes.splice(at % length..at % length, part);
            }
            // Keep most of the file.
            Change::End(at) => bytes.truncate(length - (at % length) / 4),
        }
    }
    bytes
}

fn item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        Just(Item::None),
        any::<bool>().prop_map(Item::Bool),
        any::<i64>().prop_map(Item::Int),
        any::<f64>().prop_map(Item::Float),
        ".{0,12}".prop_map(Item::Str),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Item::Bytes),
        proptest::sample::select(DType::all().collect::<Vec<_>>()).prop_map(Item::DType),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..5);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Item::List),
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Item::Tuple),
            pairs.clone().prop_map(Item::Dict),
            pairs.prop_map(Item::OrderedDict),
        ]
    })
}

fn matches(item: &Item, value: Value<'_>) -> bool {
    let all = |items: &[Item]| {
        value.items().len() == items.len() && items.iter().zip(value.items()).all(|(item, value)| matches(item, value))
    };
    match (item, value.kind()) {
        (Item::None, Kind::None) => true,
        (Item::Bool(item), Kind::Bool(value)) => *item == value,
        (Item::Int(item), Kind::Int(value)) => *item == value,
        (Item::Float(item), Kind::Float(value)) => item.to_bits() == value.to_bits(),
        (Item::Str(item), Kind::Str(value)) => item == value,
        (Item::Bytes(item), Kind::Bytes(value)) => item == value,
        (Item::DType(item), Kind::DType(value)) => *item == value,
        (Item::List(items), Kind::List) | (Item::Tuple(items), Kind::Tuple) => all(items),
        (Item::Dict(items) | Item::OrderedDict(items), Kind::Dict) => {
            let pair = |((a, b), (c, d)): (&(Item, Item), (Value<'_>, Value<'_>))| matches(a, c) && matches(b, d);
            value.entries().len() == items.len() && items.iter().zip(value.entries()).all(pair)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let needed = peak(|| {
            if let Ok(document) = pickle::parse(&bytes) {
                walk(document.root());
            }
            read_archive(&bytes);
        });
        prop_assert!(needed <= justified(bytes.len()), "{needed} bytes for {}", bytes.len());
    }

    /// Opcodes are 68 of 256 bytes, so a random choice of them alone goes further.
    #[test]
    fn arbitrary_opcodes_do_no_harm(
        bytes in proptest::collection::vec(
            proptest::sample::select(b"(.012NKK\x01]})}\x85\x86\x87tRbaesulod\x81\x94\x94hh\x00\x01\x02\x03q\x8f\x90\x91\x88Q\x93".to_vec()), 0..400)
    ) {
        let needed = peak(|| {
            if let Ok(document) = pickle::parse(&bytes) {
                walk(document.root());
            }
        });
        prop_assert!(needed <= justified(bytes.len()), "{needed} bytes for {}", bytes.len());
    }

    #[test]
    fn damaged_archives_do_no_harm(name in proptest::sample::select(vec!["state.pt", "trainer.pt"]), changes in changes()) {
        let bytes = changed(fixture(name), &changes);
        let needed = peak(|| read_archive(&bytes));
        prop_assert!(needed <= justified(bytes.len()), "{needed} bytes for {}", bytes.len());
    }

    #[test]
    fn damaged_checkpoints_do_no_harm(metadata in changes(), shard in changes(), which in 0..3) {
        let list = fixture("olmo_core/.metadata");
        let shards = ["olmo_core/__0_0.distcp", "olmo_core/__1_0.distcp"].map(fixture);
        let list = if which != 1 { changed(list, &metadata) } else { list };
        let shards = if which != 0 { shards.map(|bytes| changed(bytes, &shard)) } else { shards };
        let length = list.len() + shards[0].len() + shards[1].len();
        let needed = peak(|| read_checkpoint(list, shards));
        prop_assert!(needed <= justified(length), "{needed} bytes for {length}");
    }

    #[test]
    fn what_is_written_is_read(item in item()) {
        for protocol in [Protocol::Two, Protocol::Four] {
            let bytes = pickle::write(&item, protocol);
            let document = pickle::parse(&bytes);
            prop_assert!(document.as_ref().is_ok_and(|document| matches(&item, document.root())), "{document:?}");
        }
    }
}

//! Files that PyTorch and OLMo-core wrote (scripts/goldens/checkpoints.py), read as they were
//! meant.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use olmo_base::Diagnose as _;
use olmo_pickle::archive::{Archive, ArchiveWriter};
use olmo_pickle::distributed::{Checkpoint, CheckpointWriter, Entry, Writer};
use olmo_pickle::pickle::Item;
use olmo_pickle::{DType, Files, FolderFiles, Kind, MemoryFiles, Part, ReadAt, Value};
use serde_json::json;
use sha2::{Digest as _, Sha256};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap()
}

fn expected(name: &str) -> serde_json::Map<String, serde_json::Value> {
    let all: serde_json::Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
    all[name].as_object().unwrap().clone()
}

fn described(dtype: DType, shape: &[u64], bytes: &[u8]) -> serde_json::Value {
    let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"dtype": dtype.name(), "shape": shape, "sha256": sha256})
}

#[test]
fn a_state_dict_has_every_kind_of_tensor() {
    let archive = Archive::open(fixture("state.pt")).unwrap();
    let expected = expected("state.pt");
    assert_eq!(archive.root().entries().len(), expected.len());
    let mut contiguous = Vec::new();
    for (name, value) in archive.root().entries() {
        let name = name.as_str().unwrap();
        let tensor = value.as_tensor().unwrap();
        let bytes = archive.read(&tensor).unwrap();
        assert_eq!(described(tensor.dtype, tensor.shape, &bytes), expected[name], "{name}");
        if let Some((start, length)) = archive.location(&tensor).unwrap() {
            let file = fixture("state.pt");
            assert_eq!(file[start as usize..(start + length) as usize], bytes, "{name}");
            contiguous.push(name);
        }
    }
    assert!(contiguous.contains(&"rows") && !contiguous.contains(&"transposed"), "{contiguous:?}");
}

#[test]
fn a_trainer_state_becomes_plain_values() {
    let archive = Archive::open(fixture("trainer.pt")).unwrap();
    let root = archive.root();
    let get = |path: &str| path.split('/').fold(root, |value, key| value.get(key).unwrap());
    assert_eq!(get("global_step").as_i64(), Some(12));
    assert_eq!(get("loss").as_f64(), Some(1.25));
    assert_eq!(get("count").as_i64(), Some(-3));
    let paths: Vec<String> = get("checkpoints").items().filter_map(Value::as_path).collect();
    assert_eq!(paths, ["/runs/a/step10", "step12"]);
    let Kind::Array(array) = get("rng/numpy").item(1).unwrap().kind() else { panic!("{:?}", get("rng/numpy")) };
    assert_eq!((array.dtype, array.shape), (("<", "u4"), &[5][..]));
    assert_eq!(array.bytes[4..8], [1, 0, 0, 0]);
    // PCG64 has a state of 128 bits.
    let Kind::BigInt(state) = get("rng/generator/state/state").kind() else { panic!("{:?}", get("rng/generator")) };
    assert!(state.len() >= 15);
    assert_eq!(archive.read(&get("rng/torch").as_tensor().unwrap()).unwrap(), (0..16).collect::<Vec<u8>>());
    assert_eq!(get("order/x").as_f64(), Some(1.5));
    assert_eq!(get("names").kind(), Kind::Set);
    assert_eq!(get("size").items().filter_map(Value::as_u64).collect::<Vec<_>>(), [2, 3]);
    assert!(get("device").is_object_of("torch", "device"));
    assert!(olmo_pickle::pickle::unknown_classes(archive.document()).is_empty());
}

#[test]
fn other_formats_are_refused_by_name() {
    let error = Archive::open(fixture("before_1_6.pt")).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("before PyTorch 1.6"), "{error}");
    assert!(error.hint().unwrap().contains("torch.save(torch.load("));
    for (bytes, reason) in [
        (&b""[..], "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x93NUMPY", "no zip file"),
        (b"PK\x03\x04 and nothing else", "no directory"),
    ] {
        let error = Archive::open(bytes).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn checkpoints_of_any_number_of_ranks_are_assembled() {
    for folder in ["olmo_core", "pytorch"] {
        let checkpoint = Checkpoint::open_folder(&fixtures().join(folder)).unwrap();
        checkpoint.check_shards().unwrap();
        let expected = expected(folder);
        assert_eq!(checkpoint.tensors().count(), expected.len());
        for (name, tensor) in checkpoint.tensors() {
            let bytes = checkpoint.read_tensor(name).unwrap();
            assert_eq!(bytes.len() as u64, tensor.bytes());
            assert_eq!(described(tensor.dtype, &tensor.shape, &bytes), expected[name], "{folder}: {name}");
        }
        let rate = checkpoint.read_value("optim.param_groups.embeddings.weight.lr").unwrap();
        assert_eq!(rate.root().as_f64(), Some(0.0125));
    }
    let checkpoint = Checkpoint::open_folder(&fixtures().join("olmo_core")).unwrap();
    let Some(Entry::Tensor(tensor)) = checkpoint.entry("model.embeddings.weight") else { panic!() };
    let chunks: Vec<_> = tensor.chunks.iter().map(|chunk| (chunk.offsets(), chunk.sizes())).collect();
    assert_eq!(chunks, [(&[0, 0][..], &[3, 4][..]), (&[3, 0], &[2, 4])]);
    assert_eq!(checkpoint.location("model.embeddings.weight").unwrap(), None);
}

/// Each opened file, and how many bytes were read of it.
type Reads = Arc<Mutex<Vec<(String, Arc<AtomicU64>)>>>;

/// Files that remember how they were read.
struct Counted {
    files: FolderFiles,
    reads: Reads,
}

struct CountedFile(Box<dyn ReadAt>, Arc<AtomicU64>);

impl ReadAt for CountedFile {
    fn length(&self) -> u64 {
        self.0.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(buffer, offset)
    }
}

impl Files for Counted {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let count = Arc::new(AtomicU64::new(0));
        self.reads.lock().unwrap().push((name.to_owned(), Arc::clone(&count)));
        Ok(Box::new(CountedFile(self.files.open(name)?, count)))
    }
}

#[test]
fn reading_a_tensor_touches_only_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("model_and_optim")).unwrap();
    let mut writer = CheckpointWriter::create(&folder.path().join("model_and_optim"), Writer::OlmoCore).unwrap();
    let large = vec![7u8; 1 << 20];
    for name in ["a", "b", "c"] {
        writer.tensor(name, DType::Uint8, &[1 << 20], &large).unwrap();
    }
    writer.finish().unwrap();
    let reads = Reads::default();
    let files = Counted { files: FolderFiles::new(folder.path()), reads: Arc::clone(&reads) };
    let checkpoint = Checkpoint::open(Arc::new(files)).unwrap();
    checkpoint.check_shards().unwrap();
    reads.lock().unwrap().clear();
    assert_eq!(checkpoint.read_tensor("b").unwrap(), large);
    let reads = reads.lock().unwrap();
    let total: u64 = reads.iter().map(|(_, count)| count.load(Ordering::Relaxed)).sum();
    assert!(reads.iter().all(|(name, _)| name == "model_and_optim/__0_0.distcp"), "{:?}", reads.len());
    assert!(total < (1 << 20) + 8192, "{total} bytes for a tensor of 2^20");
}

fn in_memory(folder: &str) -> MemoryFiles {
    let mut files = MemoryFiles::default();
    for entry in std::fs::read_dir(fixtures().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap());
    }
    files
}

#[test]
fn missing_and_damaged_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("olmo_core/.metadata"), folder.path().join(".metadata")).unwrap();
    let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
    let message = checkpoint.check_shards().unwrap_err().to_string();
    assert!(message.contains("__0_0.distcp") && message.contains("__1_0.distcp"), "{message}");
    let error = checkpoint.read_tensor("model.embeddings.weight").unwrap_err();
    assert!(error.is_missing() && error.to_string().contains("__0_0.distcp"), "{error}");

    let mut files = in_memory("olmo_core");
    files.insert("__1_0.distcp", fixture("olmo_core/__1_0.distcp")[..1000].to_vec());
    let checkpoint = Checkpoint::open(Arc::new(files)).unwrap();
    assert!(checkpoint.check_shards().unwrap_err().to_string().contains("cut off"));
    assert!(checkpoint.read_tensor("model.embeddings.weight").unwrap_err().to_string().contains("cut off"));

    // One bit of a weight.
    let mut shard = fixture("pytorch/__0_0.distcp");
    let whole = Checkpoint::open_folder(&fixtures().join("pytorch")).unwrap();
    let weight = whole.read_tensor("model.embeddings.weight").unwrap();
    let at = shard.windows(weight.len()).position(|window| window == weight).unwrap();
    shard[at] ^= 1;
    let mut files = in_memory("pytorch");
    files.insert("__0_0.distcp", shard);
    let error = Checkpoint::open(Arc::new(files)).unwrap().read_tensor("model.embeddings.weight").unwrap_err();
    assert!(error.to_string().contains("checksum differs"), "{error}");

    let error = Checkpoint::open_folder(folder.path().join("nothing").as_path()).unwrap_err();
    assert!(error.is_missing() && error.to_string().contains("no .metadata"), "{error}");
    assert!(whole.read_tensor("model.nothing").unwrap_err().is_missing());
}

/// Changes of a valid list of entries, and why each result is refused.
#[test]
fn lists_that_do_not_describe_a_whole_checkpoint_are_refused() {
    let metadata = fixture("olmo_core/.metadata");
    let refusal = |changes: &[(&[u8], &[u8])]| {
        let mut bytes = metadata.clone();
        for (from, to) in changes {
            assert_eq!(from.len(), to.len());
            let at = bytes.windows(from.len()).position(|window| window == *from).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        let mut files = MemoryFiles::default();
        files.insert(".metadata", bytes);
        Checkpoint::open(Arc::new(files)).expect_err("must be refused").to_string()
    };
    for (from, to, reason) in [
        (&b"__0_0.distcp"[..], &b"../../passwd"[..], "path separator"),
        (b"__0_0.distcp", b"/etc/passwd0", "path separator"),
        (b"__0_0.distcp", b"\\\\host\\share", "path separator"),
        (b"_StorageInfo", b"_StorageXnfo", "does not know"),
        (b"TensorStorageMetadata", b"TensorStorageMetadatb", "does not know"),
        (b"float32", b"floatXX", "element type"),
        (b"torch.strided", b"torch.sparse0", "only dense tensors"),
        (b"\x8c\x08Metadata", b"\x8c\x08Netadata", "not the metadata of a distributed checkpoint"),
    ] {
        let message = refusal(&[(from, to)]);
        assert!(message.contains(reason), "{}: {message}", from.escape_ascii());
    }
    // Two problems are reported at once.
    let message = refusal(&[(b"__0_0.distcp", b"../../passwd"), (b"torch.strided", b"torch.sparse0")]);
    assert!(message.contains("path separator") && message.contains("only dense tensors"), "{message}");
}

/// `.metadata` with one tensor of four bytes in chunks: offset, size, and place in the shard.
fn list_of_chunks(chunks: &[(u64, u64, u64, u64)]) -> Vec<u8> {
    const MODULE: &str = "torch.distributed.checkpoint.metadata";
    let record = |name, state| Item::Object { module: MODULE, name, state: Some(Box::new(state)) };
    let properties = record("TensorProperties", Item::Tuple(vec![Item::DType(DType::Uint8)]));
    let chunk = |&(offset, size, ..): &(u64, u64, u64, u64)| {
        record("ChunkStorageMetadata", Item::dict([("offsets", Item::size(&[offset])), ("sizes", Item::size(&[size]))]))
    };
    let place = |&(offset, _, start, length): &(u64, u64, u64, u64)| {
        let index = Item::dict([("fqn", Item::text("w")), ("offset", Item::size(&[offset]))]);
        let info = Item::dict([
            ("relative_path", Item::text("__0_0.distcp")),
            ("offset", Item::Int(start as i64)),
            ("length", Item::Int(length as i64)),
        ]);
        let module = "torch.distributed.checkpoint.filesystem";
        (record("MetadataIndex", index), Item::Object { module, name: "_StorageInfo", state: Some(Box::new(info)) })
    };
    let tensor = Item::dict([
        ("properties", properties),
        ("size", Item::size(&[4])),
        ("chunks", Item::List(chunks.iter().map(chunk).collect())),
    ]);
    let entries = Item::dict([("w", record("TensorStorageMetadata", tensor))]);
    let places = Item::Dict(chunks.iter().filter(|chunk| chunk.3 > 0).map(place).collect());
    let metadata = Item::dict([("state_dict_metadata", entries), ("storage_data", places)]);
    olmo_pickle::pickle::write(&record("Metadata", metadata), olmo_pickle::pickle::Protocol::Four)
}

#[test]
fn chunks_must_fill_the_tensor_and_have_places_of_their_own() {
    let open = |chunks: &[(u64, u64, u64, u64)]| {
        let mut files = MemoryFiles::default();
        files.insert(".metadata", list_of_chunks(chunks));
        Checkpoint::open(Arc::new(files))
    };
    assert!(open(&[(0, 2, 0, 100), (2, 2, 100, 100)]).is_ok());
    for (chunks, reason) in [
        (&[(0, 2, 0, 100)][..], "2 of 4 elements: a shard is missing"),
        (&[(0, 3, 0, 100), (2, 2, 100, 100)], "overlap"),
        (&[(0, 2, 0, 100), (2, 3, 100, 100)], "outside"),
        (&[(0, 2, 0, 100), (2, 2, 0, 0)], "has no place: a shard is missing"),
        (&[(0, 2, 0, 100), (2, 2, 99, 100)], "overlap in __0_0.distcp"),
        (&[(0, 2, 0, 100), (2, 2, 100, 1)], "larger than its place"),
        (&[(0, 4, i64::MAX as u64, i64::MAX as u64), (0, 4, 0, 8)], "two places"),
    ] {
        let message = open(chunks).expect_err("must be refused").to_string();
        assert!(message.contains(reason), "{chunks:?}: {message}");
    }
}

#[test]
fn an_archive_is_read_from_within_a_larger_file() {
    let archive = fixture("state.pt");
    let mut file = vec![0xaa; 1001];
    file.extend(&archive);
    file.extend([0xbb; 77]);
    assert!(Part::new(&file[..], 1001, file.len() as u64).is_none());
    let part = Part::new(&file[..], 1001, archive.len() as u64).unwrap();
    assert_eq!(Archive::open(part).unwrap().root().entries().len(), expected("state.pt").len());
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_refused() {
    let write = |tensor: Item, bytes: &[u8]| {
        let mut writer = ArchiveWriter::new(Vec::new(), "archive", &tensor).unwrap();
        writer.storage(bytes).unwrap();
        writer.finish().unwrap().1
    };
    let tensor = |shape: &[u64], storage| Item::Tensor { dtype: DType::Float32, shape: shape.to_vec(), storage };
    let read = |file: Vec<u8>| {
        let archive = Archive::open(file).unwrap();
        let tensor = archive.root().as_tensor().unwrap();
        archive.read(&tensor).map_err(|error| error.to_string())
    };
    assert_eq!(read(write(tensor(&[2], 0), &[1; 8])).unwrap(), [1; 8]);
    assert!(read(write(tensor(&[3], 0), &[1; 8])).unwrap_err().contains("has 8 bytes, not 12"));
    assert!(read(write(tensor(&[2], 1), &[1; 8])).unwrap_err().contains("`archive/data/1` is missing"));
    assert!(read(write(tensor(&[1 << 40], 0), &[1; 8])).unwrap_err().contains("has 8 bytes"));
}

#[test]
fn what_is_written_is_read_and_equal_inputs_give_equal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..48).collect();
    let write = |writer: Writer| {
        let mut checkpoint = CheckpointWriter::create(folder.path(), writer).unwrap();
        checkpoint.tensor("model.a", DType::Float32, &[3, 4], &values).unwrap();
        checkpoint.tensor("model.b", DType::Bfloat16, &[], &values[..2]).unwrap();
        checkpoint.tensor("model.c", DType::Uint16, &[2], &values[..4]).unwrap();
        checkpoint.tensor("model.d", DType::Float32, &[0, 4], &[]).unwrap();
        let betas = Item::Tuple(vec![Item::Float(0.9), Item::Float(0.95)]);
        checkpoint.value("optim.betas", &betas).unwrap();
        checkpoint.finish().unwrap();
        [".metadata", "__0_0.distcp"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
    };
    for writer in [Writer::OlmoCore, Writer::PyTorch] {
        let first = write(writer);
        let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
        checkpoint.check_shards().unwrap();
        assert_eq!(checkpoint.entries().len(), 5);
        for (name, bytes) in
            [("model.a", &values[..]), ("model.b", &values[..2]), ("model.c", &values[..4]), ("model.d", &[])]
        {
            assert_eq!(checkpoint.read_tensor(name).unwrap(), bytes, "{name}");
            let place = checkpoint.location(name).unwrap().unwrap();
            assert_eq!((&*place.file, place.offset % 64), ("__0_0.distcp", 0), "{name}");
            assert_eq!(first[1][place.offset as usize..(place.offset + place.length) as usize], *bytes, "{name}");
        }
        let betas = checkpoint.read_value("optim.betas").unwrap();
        assert_eq!(betas.root().items().filter_map(Value::as_f64).collect::<Vec<_>>(), [0.9, 0.95]);
        assert!(checkpoint.read_tensor("optim.betas").is_err() && checkpoint.read_value("model.a").is_err());
        assert!(first == write(writer), "equal inputs give equal bytes");
    }
}

//! What is fuzzed: functions that read bytes from files which other people wrote. None may panic,
//! hang, or take much memory, whatever the bytes are.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_base::{ArtifactId, Digest, journal};
use olmo_data::chat::Source;
use olmo_data::tokenizer::SpecialStrings;
use olmo_data::{Chat, Conversation, Message, Role};
use olmo_pickle::archive::Archive;
use olmo_pickle::distributed::{Checkpoint, Entry};
use olmo_pickle::{MemoryFiles, pickle};
use olmo_spec::{LoadOptions, load};
use olmo_store::{Manifest, Store};
use serde_json::Value;

/// A target: its name, and the function that reads one input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, sorted. Each has a folder below `fuzz/corpus`.
pub const TARGETS: [Target; 10] = [
    ("bundle", bundle),
    ("config", config),
    ("distributed", distributed),
    ("gguf", gguf),
    ("journal", read_journal),
    ("manifest", manifest),
    ("pickle", read_pickle),
    ("spec", spec),
    ("template", template),
    ("weights", weights),
];

/// The folders with the committed inputs of `target`: its corpus, and other fixtures that it can read.
pub fn corpus(target: &str) -> Vec<PathBuf> {
    let own = format!("fuzz/corpus/{target}");
    let others: &[&str] = match target {
        "distributed" => &["crates/olmo-pickle/tests/fixtures/olmo_core", "crates/olmo-pickle/tests/fixtures/pytorch"],
        "pickle" => &["crates/olmo-pickle/tests/fixtures"],
        "spec" => &["tests/fixtures/corpus", "tests/fixtures/valid", "pipelines", "experiments"],
        "template" => &["crates/olmo-data/tests/templates/styles"],
        _ => &[],
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    [own.as_str()].iter().chain(others).map(|folder| root.join(folder)).collect()
}

/// The files in the folders of [`corpus`], sorted.
pub fn inputs(target: &str) -> Vec<PathBuf> {
    let entries = corpus(target).into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

/// A folder for the files of one thread, made when it is first used.
fn with_folder<T>(prepare: impl FnOnce(&Path), read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|folder| {
        let made = folder.get_or_insert_with(|| {
            // In memory, if the system has such a place.
            let shared = Path::new("/dev/shm");
            let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
            let made = made.expect("a temporary folder");
            prepare(made.path());
            made
        });
        read(made.path())
    })
}

fn write(path: &Path, bytes: &[u8]) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).expect("a folder");
    }
    fs::write(path, bytes).expect("a file");
}

/// An experiment, and a pipeline, and a stage's contract; its errors as people see them.
fn spec(bytes: &[u8]) {
    let prepare = |folder: &Path| {
        write(&folder.join("olmo-pipe.yaml"), b"");
        write(&folder.join("of_pipeline.yaml"), b"experiment: e\nuses: x.yaml\n");
        write(&folder.join("p.yaml"), b"pipeline: p\nparams: {n: {type: integer, default: 1}}\nstages: {h: {uses: hostile, with: {a: '${params.n}'}}}\n");
        write(&folder.join("of_stage.yaml"), b"experiment: e\nuses: p.yaml\n");
    };
    with_folder(prepare, |folder| {
        write(&folder.join("x.yaml"), bytes);
        write(&folder.join("stages/hostile/stage.yaml"), bytes);
        let options = LoadOptions { cwd: folder.to_owned(), origins: true, ..LoadOptions::default() };
        for file in ["x.yaml", "of_pipeline.yaml", "of_stage.yaml"] {
            if let Err(errors) = load(Path::new(file), &options, &[]) {
                let _ = errors.to_string();
            }
        }
    });
}

/// A manifest of an artifact.
fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(ArtifactId::new(Digest::of(bytes)), bytes) {
        let _ = (manifest.digest(), manifest.bytes(), manifest.is_reference());
    }
}

/// An archive of artifacts, into a store.
fn bundle(bytes: &[u8]) {
    with_folder(
        |_| {},
        |folder| {
            let place = folder.join("bundle");
            write(&place, bytes);
            let store = Store::open(&folder.join("store")).expect("a store");
            let _ = store.import_bundle(&place, false).map_err(|error| error.to_string());
        },
    );
}

/// A journal, as far as its lines are whole.
fn read_journal(bytes: &[u8]) {
    with_folder(
        |_| {},
        |folder| {
            let path = folder.join("journal");
            write(&path, bytes);
            let _ = journal::read_prefix::<Value>(&path);
            let _ = journal::read::<Value>(&path);
        },
    );
}

/// A small model in our own format, for targets that replace one of its files.
fn prepare_model(folder: &Path) {
    write(&folder.join("config.json"), include_bytes!("../corpus/config/tiny.json"));
    write(&folder.join("model.safetensors"), include_bytes!("../corpus/weights/tiny"));
}

/// The weights of a model whose config is known.
fn weights(bytes: &[u8]) {
    with_folder(prepare_model, |folder| {
        write(&folder.join("model.safetensors"), bytes);
        let _ = olmo_model::load(folder).map_err(|error| error.to_string());
    });
}

/// A GGUF file: its metadata, its weights as they are in the file, and as f32.
fn gguf(bytes: &[u8]) {
    with_folder(
        |_| {},
        |folder| {
            let path = folder.join("model.gguf");
            write(&path, bytes);
            let _ = olmo_model::read_gguf_metadata(&path).map_err(|error| error.to_string());
            let _ = olmo_model::map(&path).map_err(|error| error.to_string());
            let _ = olmo_model::load(folder).map_err(|error| error.to_string());
        },
    );
}

/// The config of a model whose weights are known, and as the index of its shards.
fn config(bytes: &[u8]) {
    with_folder(prepare_model, |folder| {
        write(&folder.join("config.json"), bytes);
        let _ = olmo_model::load(folder).map_err(|error| error.to_string());
    });
}

/// Number of values in a tree, each visited.
fn count_values(value: olmo_pickle::Value<'_>) -> u64 {
    let _ = (value.kind(), value.as_path(), value.describe());
    let parts = [value.args(), value.kwargs(), value.state()].into_iter().flatten();
    let entries = value.entries().flat_map(|(key, value)| [key, value]);
    1 + parts.chain(value.items()).chain(entries).map(count_values).sum::<u64>()
}

/// A pickle, and a file of `torch.save`.
fn read_pickle(bytes: &[u8]) {
    if let Ok(document) = pickle::parse(bytes) {
        let _ = (count_values(document.root()), pickle::unknown_classes(&document));
    }
    let Ok(archive) = Archive::open(bytes) else { return };
    count_values(archive.root());
    for (_, value) in archive.root().entries() {
        if let Some(tensor) = value.as_tensor() {
            let _ = (archive.location(&tensor), archive.read(&tensor));
        }
    }
}

/// The list of a distributed checkpoint whose shard is known, and a shard whose list is known.
fn distributed(bytes: &[u8]) {
    let list = include_bytes!("../../crates/olmo-pickle/tests/fixtures/pytorch/.metadata");
    let shard = include_bytes!("../../crates/olmo-pickle/tests/fixtures/pytorch/__0_0.distcp");
    for (list, shard) in [(bytes, &shard[..]), (&list[..], bytes)] {
        let mut files = MemoryFiles::default();
        files.insert(".metadata", list.to_vec());
        files.insert("__0_0.distcp", shard.to_vec());
        let Ok(checkpoint) = Checkpoint::open(Arc::new(files)) else { continue };
        let _ = checkpoint.check_shards().map_err(|error| error.to_string());
        for (name, entry) in checkpoint.entries() {
            match entry {
                Entry::Tensor(_) => drop(checkpoint.read_tensor(name)),
                Entry::Bytes(_) => drop(checkpoint.read_value(name)),
            }
        }
    }
}

/// A chat template, with the conversations that it is asked to write.
fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let special = SpecialStrings { bos: Some("<s>".into()), eos: "</s>".into(), pad: None, unk: None };
    let added = [(0, "</s>".to_owned()), (1, "<s>".to_owned())];
    let Ok(chat) = Chat::new(&Source::Jinja(text.to_owned()), &special, &added, Some("2026-01-31"), Digest::of(b""))
    else {
        return;
    };
    let messages = [(Role::System, "Be kind."), (Role::User, "Hi\n"), (Role::Assistant, " Hello."), (Role::User, "é")];
    let messages = messages.map(|(role, text)| Message::new(role, text)).to_vec();
    let conversation = Conversation { messages, ..Conversation::default() };
    let _ = chat.prompt(&conversation).map_err(|error| error.to_string());
    let _ = chat.render(&conversation, &olmo_data::Labels::default()).map_err(|error| error.to_string());
}

//! What is fuzzed: functions that read bytes from files which other people wrote. None may panic,
//! hang, or take much memory, whatever the bytes are.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_base::{ArtifactId, Digest, journal};
use olmo_data::chat::Source;
use olmo_data::tokenizer::SpecialStrings;
use olmo_data::{Chat, Conversation, Message, Role};
use olmo_spec::{LoadOptions, load};
use olmo_store::{Manifest, Store};
use serde_json::Value;

/// A target: its name, and the function that reads one input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, sorted. Each has a folder below `fuzz/corpus`.
pub const TARGETS: [Target; 7] = [
    ("bundle", bundle),
    ("config", config),
    ("journal", read_journal),
    ("manifest", manifest),
    ("spec", spec),
    ("template", template),
    ("weights", weights),
];

/// The folders with the committed inputs of `target`: its corpus, and other fixtures that it can read.
pub fn corpus(target: &str) -> Vec<PathBuf> {
    let own = format!("fuzz/corpus/{target}");
    let others: &[&str] = match target {
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

/// The config of a model whose weights are known, and as the index of its shards.
fn config(bytes: &[u8]) {
    with_folder(prepare_model, |folder| {
        write(&folder.join("config.json"), bytes);
        let _ = olmo_model::load(folder).map_err(|error| error.to_string());
    });
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

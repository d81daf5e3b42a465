//! [`statement()`]: the recipe of an artifact as an in-toto Statement v1 with a SLSA Provenance v1
//! predicate, in JSON. It is not signed, since olmo-pipe holds no signing key.

use std::io::{Read as _, Write as _};

use olmo_base::Digest;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::artifacts::error::ReferenceError;
use crate::artifacts::provenance::{Provenance, time};
use crate::store::Store;

/// Creates the statement for `provenance`. Its subjects are the artifact's files with their BLAKE3
/// and SHA-256 digests (other tools expect SHA-256). Both are computed from the current bytes.
///
/// # Errors
/// A file cannot be read, or does not match the digest in the store.
pub fn statement(store: &Store, provenance: &Provenance) -> Result<Value, ReferenceError> {
    let manifest = store.manifest(provenance.artifact)?;
    let mut subject = Vec::new();
    for (path, entry) in &manifest.files {
        let mut sha = Sha256::new();
        let mut file = store.open_file(provenance.artifact, entry)?;
        let mut blake = Digest::hasher();
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            let n = file.read(&mut buffer).map_err(|e| store.unreadable(entry, e))?;
            if n == 0 {
                break;
            }
            sha.update(&buffer[..n]);
            // Writing to memory cannot fail.
            let _ = blake.write_all(&buffer[..n]);
        }
        if blake.finish() != entry.digest {
            return Err(store.not_as_named(provenance.artifact, entry, blake.finish()).into());
        }
        let sha: String = sha.finalize().iter().map(|b| format!("{b:02x}")).collect();
        subject.push(json!({"name": path, "digest": {"sha256": sha, "blake3": entry.digest}}));
    }
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": predicate(provenance),
    }))
}

fn predicate(provenance: &Provenance) -> Value {
    let mut dependencies = Vec::new();
    let (mut external, mut internal) = (Map::new(), Map::new());
    let mut metadata = Map::new();
    let mut versions = Map::new();
    versions.insert("olmo-pipe".into(), env!("CARGO_PKG_VERSION").into());
    if let Some(maker) = provenance.makers.first() {
        let record = &maker.record;
        external.insert("stage".into(), record.stage.clone().into());
        external.insert("version".into(), record.version.into());
        external.insert("params".into(), json!(record.params));
        let place = maker.label.as_ref().map_or(maker.port.clone(), |label| format!("{}[{label}]", maker.port));
        external.insert("output".into(), place.into());
        internal.insert("key".into(), json!(maker.key));
        internal.insert("artifact".into(), json!(provenance.artifact));
        for (name, value) in [("backend", &record.backend), ("precision", &record.precision)] {
            if let Some(value) = value {
                internal.insert(name.into(), value.clone().into());
            }
        }
        if let Some(command) = &record.command {
            external.insert("command".into(), json!(command.argv));
            for (path, digest) in &command.files {
                dependencies.push(json!({"name": format!("command file {path}"), "digest": {"blake3": digest}}));
            }
        }
        for (port, inputs) in &record.inputs {
            for input in inputs {
                let name = input.label.as_ref().map_or(port.clone(), |label| format!("{port}[{label}]"));
                // The digest of a tree, as defined in docs/formats.md.
                dependencies.push(json!({"name": name, "digest": {"olmoPipeArtifact": input.digest}}));
            }
        }
        if let Some(making) = maker.makings.first() {
            metadata.insert("invocationId".into(), format!("{}/{}", making.run, making.place).into());
            metadata.insert("startedOn".into(), json!(making.started_ms.map(time)));
            metadata.insert("finishedOn".into(), time(making.finished_ms).into());
            if let Some(environment) = &making.environment {
                versions.insert("olmo-pipe".into(), environment.engine.clone().into());
                if let Some(worker) = &environment.worker {
                    versions.insert("olmo-worker".into(), worker.build.clone().into());
                    versions.extend(worker.backends.iter().map(|(name, library)| (name.clone(), json!(library))));
                    if let Some(digest) = worker.digest {
                        dependencies.push(json!({"name": "olmo-worker", "digest": {"blake3": digest}}));
                    }
                }
                if let Some(git) = &environment.git {
                    dependencies.push(json!({
                        "name": "project", "digest": {"gitCommit": git.commit},
                        "annotations": {"dirty": git.dirty, "branch": git.branch},
                    }));
                }
                internal.insert("host".into(), json!(environment.host));
            }
        }
    }
    json!({
        "buildDefinition": {
            "buildType": "urn:olmo-pipe:stage:1", "externalParameters": external, "internalParameters": internal,
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": "urn:olmo-pipe:engine", "version": versions}, "metadata": metadata},
    })
}

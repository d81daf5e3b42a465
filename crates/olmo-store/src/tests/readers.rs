//! Property tests of everything in this folder that reads a file: whatever the bytes are, there
//! is an answer, in time and memory bounded by their number, and never a panic.
//!
//! The samples in `tests/fixtures/corpora/` are bodies; they are mutated and then sealed anew, so
//! that the changes get past the checksum and into the parsers.

use std::fs;

use olmo_base::{ActionKey, ArtifactId, Digest};
use proptest::prelude::*;

use crate::disk::seal;
use crate::mutations::{corpus, mutated};
use crate::{Action, Manifest, Store, bundle, tag};

fn bodies(kind: &str) -> Vec<String> {
    corpus(kind).into_iter().map(|(_, text)| text).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_manifest_is_read_or_refused(body in mutated(bodies("manifest"))) {
        let name = ArtifactId::new(Digest::of(b"name"));
        let text = seal::seal("manifest", &name.hex(), &body);
        if let Ok(manifest) = Manifest::parse(name, text.as_bytes()) {
            prop_assert_eq!(manifest.digest(), name);
        }
        // Under its own name, if it has one.
        if let Ok(manifest) = serde_json::from_str::<Manifest>(&body) {
            let name = manifest.digest();
            if Manifest::parse(name, seal::seal("manifest", &name.hex(), &body).as_bytes()).is_ok() {
                for path in manifest.files.keys() {
                    prop_assert!(!path.starts_with('/') && path.split('/').all(|p| !matches!(p, "" | "." | "..")), "{path:?}");
                    prop_assert!(!path.contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn any_action_is_read_or_refused(body in mutated(bodies("action"))) {
        let name = ActionKey::new(Digest::of(b"name"));
        let text = seal::seal("action", &name.hex(), &body);
        if let Ok(Some(action)) = Action::parse(name, text.as_bytes()) {
            // What was read can be used and written again.
            let _ = (action.key.digest(), serde_json::to_string(&action).unwrap());
            action.outputs.values().for_each(|output| { output.digest(); });
        }
    }

    #[test]
    fn any_tag_is_read_or_refused(body in mutated(bodies("mark"))) {
        let _ = tag::parse("tag", "best", seal::seal("tag", "best", &body).as_bytes());
    }

    #[test]
    fn any_head_of_a_bundle_is_read_or_refused(body in mutated(bodies("bundle"))) {
        if let Some(manifests) = bundle::artifacts_of(&bundle::sealed(&body)) {
            for (name, manifest) in manifests {
                prop_assert_eq!(manifest.digest(), name);
                prop_assert!(!manifest.is_reference());
            }
        }
    }

    #[test]
    fn any_bytes_at_all_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let name = Digest::of(b"name");
        prop_assert!(Manifest::parse(ArtifactId::new(name), &bytes).is_err());
        prop_assert!(Action::parse(ActionKey::new(name), &bytes).is_err());
        prop_assert!(tag::parse("tag", "best", &bytes).is_err());
        prop_assert!(bundle::artifacts_of(&bytes).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..config() })]

    #[test]
    fn any_archive_is_taken_whole_or_refused_and_leaves_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let (dir, store, _, action) = crate::action::tests::store_with_action();
        let all: Vec<ArtifactId> = action.outputs.values().flat_map(crate::Output::artifacts).collect();
        let place = dir.path().join("bundle.tar");
        store.export_bundle(&all, true, &place).unwrap();
        let mut bytes = fs::read(&place).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Half of them are cut too.
        let end = end.index(bytes.len() * 2);
        bytes.truncate(end.max(bytes.len() / 3));
        fs::write(&place, bytes).unwrap();
        let other = Store::open(&dir.path().join("other")).unwrap();
        match other.import_bundle(&place, true) {
            Ok(imported) => prop_assert!(imported.artifacts.iter().all(|artifact| other.is_whole(*artifact))),
            Err(_) => prop_assert_eq!((other.objects().unwrap().len(), other.action_keys().unwrap().len()), (0, 0)),
        }
        prop_assert_eq!(other.verify().unwrap(), []);
    }
}

#[test]
fn a_deeply_nested_body_is_refused_without_a_deep_stack() {
    let name = Digest::of(b"name");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}{}", open.repeat(200_000), close.repeat(200_000));
        for body in [deep.clone(), format!(r#"{{"format":1,"type":"dir","files":{deep}}}"#)] {
            assert!(
                Manifest::parse(ArtifactId::new(name), seal::seal("manifest", &name.hex(), &body).as_bytes()).is_err()
            );
            assert!(matches!(
                Action::parse(ActionKey::new(name), seal::seal("action", &name.hex(), &body).as_bytes()),
                Ok(None)
            ));
        }
    }
}

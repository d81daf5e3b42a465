//! [`Store::verify`]: reads every byte in the store and reports damage, while runs and collections
//! continue.
//!
//! A commit makes objects, then manifests, then actions; a collection removes them in the reverse
//! order. So the files that an action or manifest names must exist as long as the action or manifest
//! does. `verify` reads actions first, manifests next and objects last, and checks every problem
//! again: a file is missing only if the file that names it existed, unchanged, both before and after
//! the search for the missing one.

pub(crate) mod misplaced;
pub(crate) mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use olmo_base::{ActionKey, ArtifactId, Digest, ObjectId};

use crate::action::{Output, Unread as UnreadAction};
use crate::artifact::reference;
use crate::disk::Seen;
use crate::error::StoreError;
use crate::manifest::Unread as UnreadManifest;
use crate::{Store, disk};

/// Maximum number of checks if the subject keeps changing.
const LOOKS: u32 = 5;

/// A problem in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path of the file, which may be missing.
    pub path: PathBuf,
    pub kind: ProblemKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The digest of an object's bytes differs from its name.
    CorruptObject {
        object: ObjectId,
        artifacts: Vec<ArtifactId>,
    },
    /// An object of an artifact is missing.
    MissingObject {
        object: ObjectId,
        artifacts: Vec<ArtifactId>,
    },
    DamagedManifest {
        artifact: ArtifactId,
        why: String,
    },
    DamagedAction {
        key: ActionKey,
        why: String,
    },
    /// An output of a finished stage is missing.
    MissingArtifact {
        key: ActionKey,
        artifact: ArtifactId,
    },
    /// A tag or pin is damaged.
    DamagedTag {
        why: String,
    },
    /// A source outside the store has changed. The store itself is sound.
    SourceChanged {
        artifact: ArtifactId,
    },
    /// A source outside the store cannot be read.
    SourceMissing {
        artifact: ArtifactId,
    },
    /// A link, FIFO, device or folder in the place of a file, or the other way round.
    Misplaced {
        why: String,
    },
    /// The file cannot be read.
    Unreadable {
        why: String,
    },
}

impl Problem {
    /// Whether the store is damaged. A changed source is not damage.
    pub fn is_damage(&self) -> bool {
        !matches!(self.kind, ProblemKind::SourceChanged { .. } | ProblemKind::SourceMissing { .. })
    }
}

fn used_by(artifacts: &[ArtifactId]) -> String {
    match artifacts {
        [] => "no artifact uses it".into(),
        some => format!("used by {}", some.iter().map(ArtifactId::short).collect::<Vec<_>>().join(", ")),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            ProblemKind::CorruptObject { artifacts, .. } => write!(f, "damaged object {path} ({})", used_by(artifacts)),
            ProblemKind::MissingObject { artifacts, .. } => write!(f, "missing object {path} ({})", used_by(artifacts)),
            ProblemKind::DamagedManifest { why, .. } => write!(f, "damaged manifest {path}: {why}"),
            ProblemKind::DamagedAction { why, .. } => write!(f, "damaged action {path}: {why}"),
            ProblemKind::MissingArtifact { key, artifact } => {
                write!(f, "missing artifact {path}: {} is an output of action {}", artifact.short(), key.short())
            }
            ProblemKind::DamagedTag { why } => write!(f, "damaged tag {path}: {why}"),
            ProblemKind::SourceChanged { artifact } => {
                write!(f, "changed source {path} of artifact {}", artifact.short())
            }
            ProblemKind::SourceMissing { artifact } => {
                write!(f, "missing source {path} of artifact {}", artifact.short())
            }
            ProblemKind::Misplaced { why } => write!(f, "misplaced {path}: {why}"),
            ProblemKind::Unreadable { why } => write!(f, "unreadable file {path}: {why}"),
        }
    }
}

fn verify_source(artifact: ArtifactId, source: &Path, digest: Digest) -> Option<Problem> {
    let kind = match reference::hash_source(source) {
        Ok((found, _)) if found == digest => return None,
        Ok(_) => ProblemKind::SourceChanged { artifact },
        Err(_) => ProblemKind::SourceMissing { artifact },
    };
    Some(Problem { path: source.to_owned(), kind })
}

/// The artifacts that the finished stages of a store name.
#[derive(Default)]
struct Named {
    /// Artifact -> the actions that have it as an output.
    artifacts: BTreeMap<ArtifactId, BTreeSet<ActionKey>>,
    problems: Vec<Problem>,
}

impl Store {
    /// Reads the whole store and the sources of references, and changes nothing. Returns all problems.
    pub fn verify(&self) -> Result<Vec<Problem>, StoreError> {
        let Named { artifacts: named, mut problems } = self.verify_actions()?;
        let mut users: BTreeMap<ObjectId, BTreeSet<ArtifactId>> = BTreeMap::new();
        let mut artifacts: BTreeSet<ArtifactId> = self.names("")?.into_iter().collect();
        artifacts.extend(named.keys().copied());
        for artifact in artifacts {
            let path = self.sharded(artifact);
            let manifest = match self.read_manifest(artifact) {
                Ok(manifest) => manifest,
                Err(UnreadManifest::Absent) => {
                    let keys = named.get(&artifact).into_iter().flatten();
                    problems.extend(keys.map(|key| Problem {
                        path: path.clone(),
                        kind: ProblemKind::MissingArtifact { key: *key, artifact },
                    }));
                    continue;
                }
                Err(UnreadManifest::Damaged(why, _)) => {
                    problems.push(Problem { path, kind: ProblemKind::DamagedManifest { artifact, why } });
                    continue;
                }
                Err(UnreadManifest::Io(e)) => {
                    problems.push(Problem { path, kind: ProblemKind::Unreadable { why: e.to_string() } });
                    continue;
                }
            };
            for entry in manifest.files.values() {
                let Some(source) = &entry.source else {
                    users.entry(entry.object()).or_default().insert(artifact);
                    continue;
                };
                problems.extend(verify_source(artifact, source, entry.digest));
            }
        }
        let mut objects: BTreeSet<ObjectId> = self.names("")?.into_iter().collect();
        objects.extend(users.keys().copied());
        for object in objects {
            let artifacts: Vec<ArtifactId> = users.get(&object).into_iter().flatten().copied().collect();
            problems.extend(self.verify_object(object, artifacts));
        }
        let tags = self.damaged_tags()?.into_iter();
        problems.extend(tags.map(|(path, why)| Problem { path, kind: ProblemKind::DamagedTag { why } }));
        problems.extend(self.misplaced()?);
        Ok(problems.into_iter().filter_map(|problem| self.confirmed(problem)).collect())
    }

    fn verify_actions(&self) -> Result<Named, StoreError> {
        let mut named = Named::default();
        for key in self.action_keys()? {
            let path = self.sharded(key);
            let kind = match self.read_action(key) {
                Ok(action) => {
                    for artifact in action.outputs.values().flat_map(Output::artifacts) {
                        named.artifacts.entry(artifact).or_default().insert(key);
                    }
                    continue;
                }
                Err(UnreadAction::Absent) => continue,
                Err(UnreadAction::Damaged(why, _)) => ProblemKind::DamagedAction { key, why },
                Err(UnreadAction::Io(e)) => ProblemKind::Unreadable { why: e.to_string() },
            };
            named.problems.push(Problem { path, kind });
        }
        Ok(named)
    }

    /// Checks again. Returns the current problem; `None` if it is gone.
    fn confirmed(&self, problem: Problem) -> Option<Problem> {
        let Problem { path, kind } = problem;
        let kind = match kind {
            ProblemKind::MissingArtifact { key, artifact } => {
                let names =
                    |action: &crate::Action| action.outputs.values().any(|o| o.artifacts().any(|a| a == artifact));
                let is_named = || self.read_action(key).is_ok_and(|action| names(&action));
                let is_missing = || matches!(self.read_manifest(artifact), Err(UnreadManifest::Absent));
                self.is_missing_while(&self.sharded(key), is_named, is_missing)
                    .then_some(ProblemKind::MissingArtifact { key, artifact })
            }
            ProblemKind::MissingObject { object, artifacts } => {
                let is_missing = || path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
                let needs = |artifact: &ArtifactId| {
                    let is_named = || {
                        let manifest = self.read_manifest(*artifact);
                        manifest.is_ok_and(|m| m.files.values().any(|e| e.source.is_none() && e.object() == object))
                    };
                    self.is_missing_while(&self.sharded(*artifact), is_named, is_missing)
                };
                let artifacts: Vec<ArtifactId> = artifacts.into_iter().filter(needs).collect();
                (!artifacts.is_empty()).then_some(ProblemKind::MissingObject { object, artifacts })
            }
            ProblemKind::CorruptObject { object, artifacts } => {
                let looked = self.verify_object(object, artifacts)?.kind;
                // If its artifacts were collected too, nothing is missing.
                match looked {
                    ProblemKind::MissingObject { .. } => return self.confirmed(Problem { path, kind: looked }),
                    other => Some(other),
                }
            }
            ProblemKind::DamagedManifest { artifact, .. } => match self.read_manifest(artifact) {
                Err(UnreadManifest::Damaged(why, _)) => Some(ProblemKind::DamagedManifest { artifact, why }),
                _ => None,
            },
            ProblemKind::DamagedAction { key, .. } => match self.read_action(key) {
                Err(UnreadAction::Damaged(why, _)) => Some(ProblemKind::DamagedAction { key, why }),
                _ => None,
            },
            other => Some(other),
        };
        kind.map(|kind| Problem { path, kind })
    }

    /// Whether a file that `namer` names is missing. `namer` must be the same file before and after the
    /// search: a commit may just have written it, with files that were not found before, and a
    /// collection may just have removed it.
    fn is_missing_while(&self, namer: &Path, is_named: impl Fn() -> bool, is_missing: impl Fn() -> bool) -> bool {
        for _ in 0..LOOKS {
            let Some(before) = Seen::at(namer) else { return false };
            if !is_named() || !is_missing() {
                return false;
            }
            if Seen::at(namer) == Some(before) {
                return true;
            }
        }
        false
    }

    /// Like [`Store::verify`], for `artifacts` only.
    pub fn verify_artifacts(&self, artifacts: &[ArtifactId]) -> Result<Vec<Problem>, StoreError> {
        let mut problems = Vec::new();
        for artifact in artifacts {
            let (path, artifact) = (self.sharded(*artifact), *artifact);
            let manifest = match self.read_manifest(artifact) {
                Ok(manifest) => manifest,
                Err(UnreadManifest::Absent) => return Err(StoreError::NoArtifact { artifact }),
                Err(UnreadManifest::Damaged(why, _)) => {
                    problems.push(Problem { path, kind: ProblemKind::DamagedManifest { artifact, why } });
                    continue;
                }
                Err(UnreadManifest::Io(e)) => return Err(e),
            };
            for entry in manifest.files.values() {
                problems.extend(match &entry.source {
                    Some(source) => verify_source(artifact, source, entry.digest),
                    None => self.verify_object(entry.object(), vec![artifact]),
                });
            }
        }
        Ok(problems.into_iter().filter_map(|problem| self.confirmed(problem)).collect())
    }

    pub(crate) fn verify_object(&self, object: ObjectId, artifacts: Vec<ArtifactId>) -> Option<Problem> {
        let path = self.object_path(object);
        let kind = match disk::open_regular(&path) {
            Ok((mut file, _)) => match ObjectId::of_reader(&mut file) {
                Ok((found, _)) if found == object => return None,
                Ok(_) => ProblemKind::CorruptObject { object, artifacts },
                Err(e) => ProblemKind::Unreadable { why: e.to_string() },
            },
            // A link or a folder in the place of an object.
            Err(StoreError::Refused { .. }) => ProblemKind::CorruptObject { object, artifacts },
            Err(e) if e.is_missing_file() => {
                // It may have been an unused object that was collected meanwhile.
                if artifacts.is_empty() {
                    return None;
                }
                ProblemKind::MissingObject { object, artifacts }
            }
            Err(e) => ProblemKind::Unreadable { why: e.to_string() },
        };
        Some(Problem { path, kind })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::action::tests::store_with_action;
    use crate::layout::FileName;
    use crate::{Action, ActionState, Handover};
    use olmo_stage::PortType;
    use proptest::prelude::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    use std::sync::OnceLock;

    /// What may stand in the place of a file.
    pub(crate) const INTRUDERS: [&str; 5] = ["folder", "full folder", "link", "dangling link", "fifo"];

    /// Puts something of `kind` in the place of the file `path`.
    pub(crate) fn intrude(path: &std::path::Path, kind: &str) {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "folder" => fs::create_dir(path).unwrap(),
            "full folder" => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("file"), "somebody's").unwrap();
            }
            "link" => std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
            "dangling link" => std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
            "fifo" => rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )
            .unwrap(),
            other => panic!("no intruder {other}"),
        }
    }

    fn flip(path: &std::path::Path, bit: usize) {
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        // In place: some file systems flush a file that is cut and written anew.
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let bit = bit % (file.metadata().unwrap().len() as usize * 8);
        let mut byte = [0];
        file.read_exact_at(&mut byte, bit as u64 / 8).unwrap();
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, bit as u64 / 8).unwrap();
    }

    fn files(store: &Store) -> Vec<(&'static str, PathBuf)> {
        fn list<T: FileName>(store: &Store) -> Vec<(&'static str, PathBuf)> {
            store.names::<T>("").unwrap().into_iter().map(|name| (T::FOLDER, store.sharded(name))).collect()
        }
        [list::<ObjectId>(store), list::<ArtifactId>(store), list::<ActionKey>(store)].concat()
    }

    /// A store is the same wherever its folder lies.
    fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let place = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_folder(&entry.path(), &place);
            } else {
                fs::copy(entry.path(), place).unwrap();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_flipped_bit_anywhere_is_noticed_on_use_and_by_verify(file in any::<prop::sample::Index>(), bit in any::<usize>()) {
            static ORIGINAL: OnceLock<(tempfile::TempDir, Store, ActionKey, Action)> = OnceLock::new();
            let (_, original, key, action) = ORIGINAL.get_or_init(store_with_action);
            let (dir, key) = (tempfile::tempdir().unwrap(), *key);
            copy_folder(original.root(), &dir.path().join("store"));
            let store = Store::open(&dir.path().join("store")).unwrap();
            prop_assert_eq!(store.verify().unwrap(), []);
            let files = files(&store);
            let (folder, path) = file.get(&files);
            flip(path, bit);
            let problems = store.verify().unwrap();
            prop_assert!(problems.iter().any(|p| p.path == *path), "{problems:?}");
            prop_assert!(problems.iter().all(Problem::is_damage));
            // On use: either it is no hit, or handing the outputs over fails.
            let noticed = match store.action_state(key).unwrap() {
                ActionState::Hit(_) => action.outputs.values().flat_map(Output::artifacts).enumerate().any(|(n, artifact)| {
                    let to = dir.path().join(format!("to{n}"));
                    matches!(store.materialize(artifact, &to, Handover::Link), Err(StoreError::Corrupt { .. }))
                }),
                _ => true,
            };
            prop_assert!(noticed, "{folder}");
            prop_assert_eq!(store.action(key).unwrap(), None, "the second use is a miss");
        }
    }

    #[test]
    fn repair_moves_damage_away_and_leaves_what_is_sound() {
        let (_dir, store, key, _) = store_with_action();
        for (_, path) in files(&store) {
            flip(&path, 77);
        }
        let problems = store.verify().unwrap();
        let damaged = store.repair(&problems, &|_| Vec::new()).unwrap().quarantined;
        assert_eq!(damaged, 3 + 3 + 1, "three objects, three manifests, one action");
        assert_eq!(store.verify().unwrap(), []);
        assert_eq!(store.action_state(key).unwrap(), ActionState::Absent);
        assert_eq!(fs::read_dir(store.root().join("quarantine")).unwrap().count(), damaged);
    }

    #[test]
    fn what_is_missing_is_named_with_who_needs_it() {
        let (_dir, store, key, action) = store_with_action();
        let Output::Single(model) = action.outputs["model"] else { panic!("a single") };
        let object = ObjectId::of(b"weights");
        fs::remove_file(store.object_path(object)).unwrap();
        let problems = store.verify().unwrap();
        let expected = ProblemKind::MissingObject { object, artifacts: vec![model] };
        assert_eq!(problems, [Problem { path: store.object_path(object), kind: expected }]);
        fs::remove_file(store.sharded(model)).unwrap();
        let problems = store.verify().unwrap();
        assert_eq!(problems[0].kind, ProblemKind::MissingArtifact { key, artifact: model });
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_changed_source_is_told_but_is_no_damage() {
        let (dir, store, _, _) = store_with_action();
        let source = dir.path().join("data");
        fs::write(&source, "old").unwrap();
        let artifact = store.commit_reference(PortType::File, &source).unwrap();
        assert_eq!(store.verify().unwrap(), []);
        fs::write(&source, "new").unwrap();
        let problems = store.verify().unwrap();
        assert_eq!(problems[0].kind, ProblemKind::SourceChanged { artifact });
        assert!(!problems[0].is_damage());
        assert_eq!(store.repair(&problems, &|_| Vec::new()).unwrap(), crate::Repaired::default());
        fs::remove_file(&source).unwrap();
        assert_eq!(store.verify().unwrap()[0].kind, ProblemKind::SourceMissing { artifact });
    }
}

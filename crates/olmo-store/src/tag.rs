//! Tags, which give an artifact a name, and pins, which keep an artifact without a name. Both are
//! roots of a collection.
//!
//! A tag is the file `tags-v1/NAME`, a pin `pins-v1/DIGEST`: sealed JSON ([`crate::disk::seal`])
//! with the body `{"format":1,"artifact":"…","at":MS}`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use olmo_base::{ArtifactId, IoContext as _, PathError};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::disk::seal;
use crate::disk::{self, Seen, Small};
use crate::error::StoreError;
use crate::layout::{PINS, TAGS};

const FORMAT: u32 = 1;
const TAG: &str = "tag";
const PIN: &str = "pin";
/// Longest name, in bytes.
const LONGEST: usize = 100;

/// A name for an artifact. The artifact may have been collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tag {
    pub name: String,
    pub artifact: ArtifactId,
    /// When it was given, in milliseconds since 1970.
    pub at: u64,
}

/// The body of the file of a tag or pin.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    format: u32,
    artifact: ArtifactId,
    at: u64,
}

/// Checks that `name` can be a tag: letters, digits and `. _ -`, a letter first, at least one
/// letter that is no hexadecimal digit (else it would read as the beginning of a digest), and
/// not a word that means something else in a reference.
pub fn check_tag(name: &str) -> Result<(), StoreError> {
    let refuse = |why: String| Err(StoreError::NotATag { name: name.to_owned(), why });
    if name.len() > LONGEST {
        return refuse(format!("it is longer than {LONGEST} bytes"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(allowed) {
        return refuse("a tag is a letter, then letters, digits and `.`, `_`, `-`".into());
    }
    if name.chars().all(|c| c.is_ascii_hexdigit()) {
        return refuse("it would read as the beginning of a digest".into());
    }
    if name.eq_ignore_ascii_case("latest") {
        return refuse("that word means the newest run".into());
    }
    Ok(())
}

/// Parses the file of a tag or pin. The error says why it is damaged.
pub(crate) fn parse(kind: &str, name: &str, text: &[u8]) -> Result<(ArtifactId, u64), String> {
    let body = seal::open(kind, name, text)?;
    let mark: Body = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if mark.format != FORMAT {
        return Err(format!("it has format {}, this build reads {FORMAT}", mark.format));
    }
    Ok((mark.artifact, mark.at))
}

impl Store {
    fn tag_path(&self, name: &str) -> PathBuf {
        self.root.join(TAGS).join(name)
    }

    /// Gives `artifact`, which must be in the store, the name `name`. Returns the artifact that had
    /// the name before. A name of another artifact is refused unless `replace` is set.
    pub fn tag(&self, name: &str, artifact: ArtifactId, replace: bool) -> Result<Option<ArtifactId>, StoreError> {
        check_tag(name)?;
        let _using = self.using()?;
        self.manifest(artifact)?;
        self.keep_manifest(artifact)?;
        let before = self.tagged(name)?;
        if let Some(other) = before.filter(|old| *old != artifact && !replace) {
            return Err(StoreError::TagInUse { name: name.to_owned(), artifact: other });
        }
        // On some file systems both names are one file.
        let twin = self.tag_names()?.into_iter().find(|n| n != name && n.eq_ignore_ascii_case(name));
        if let Some(twin) = twin {
            let why = format!("it differs from the tag `{twin}` in upper and lower case alone");
            return Err(StoreError::NotATag { name: name.to_owned(), why });
        }
        self.write_mark(TAG, &self.tag_path(name), name, artifact)?;
        Ok(before)
    }

    /// Removes a tag. Returns its artifact.
    pub fn untag(&self, name: &str) -> Result<ArtifactId, StoreError> {
        let artifact = self.tagged(name)?;
        let Some(artifact) = artifact else {
            return Err(StoreError::UnknownTag { name: name.to_owned(), known: self.tag_names()? });
        };
        self.remove_mark(&self.tag_path(name))?;
        Ok(artifact)
    }

    /// The artifact named `name`. A damaged tag is moved to `quarantine/` and is an error.
    pub fn tagged(&self, name: &str) -> Result<Option<ArtifactId>, StoreError> {
        if check_tag(name).is_err() {
            return Ok(None);
        }
        let path = self.tag_path(name);
        match read_mark(TAG, name, &path)? {
            Mark::Absent => Ok(None),
            Mark::Sound(artifact, _) => Ok(Some(artifact)),
            Mark::Damaged(why, seen) => {
                let kept = self.quarantine(&path, &format!("{name}.tag.json"), seen)?;
                Err(StoreError::DamagedTag { name: name.to_owned(), why, kept })
            }
        }
    }

    fn tag_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = disk::names_in(&self.root.join(TAGS))?;
        names.retain(|name| check_tag(name).is_ok());
        names.sort();
        Ok(names)
    }

    /// All tags, sorted by name. Damaged ones are left out; [`Store::verify`] reports them.
    pub fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let mut tags = Vec::new();
        for name in self.tag_names()? {
            if let Mark::Sound(artifact, at) = read_mark(TAG, &name, &self.tag_path(&name))? {
                tags.push(Tag { name, artifact, at });
            }
        }
        Ok(tags)
    }

    /// The damaged tags, with the reasons.
    pub(crate) fn damaged_tags(&self) -> Result<Vec<(PathBuf, String)>, StoreError> {
        let mut damaged = Vec::new();
        for name in self.tag_names()? {
            let path = self.tag_path(&name);
            if let Mark::Damaged(why, _) = read_mark(TAG, &name, &path)? {
                damaged.push((path, why));
            }
        }
        Ok(damaged)
    }

    fn pin_path(&self, artifact: ArtifactId) -> PathBuf {
        self.root.join(PINS).join(artifact.hex())
    }

    /// Keeps `artifact`, which must be in the store, from being collected.
    pub fn pin(&self, artifact: ArtifactId) -> Result<(), StoreError> {
        let _using = self.using()?;
        self.manifest(artifact)?;
        self.keep_manifest(artifact)?;
        self.write_mark(PIN, &self.pin_path(artifact), &artifact.hex(), artifact)
    }

    /// Removes a pin. Returns whether there was one.
    pub fn unpin(&self, artifact: ArtifactId) -> Result<bool, StoreError> {
        let path = self.pin_path(artifact);
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        self.remove_mark(&path)?;
        Ok(true)
    }

    /// All pinned artifacts, sorted. The name of the file decides: a pin with damaged content still
    /// keeps its artifact.
    pub fn pins(&self) -> Result<Vec<ArtifactId>, StoreError> {
        let names = disk::names_in(&self.root.join(PINS))?;
        let mut pins: Vec<ArtifactId> = names.iter().filter_map(|n| ArtifactId::from_hex(n).ok()).collect();
        pins.sort();
        Ok(pins)
    }

    /// A collection that has already looked must not remove it.
    fn keep_manifest(&self, artifact: ArtifactId) -> Result<(), StoreError> {
        let there = self.renew(&self.sharded(artifact))?;
        if there { Ok(()) } else { Err(StoreError::NoArtifact { artifact }) }
    }

    fn write_mark(&self, kind: &str, path: &Path, name: &str, artifact: ArtifactId) -> Result<(), StoreError> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mark = Body { format: FORMAT, artifact, at };
        let body = serde_json::to_string(&mark).map_err(|e| PathError::during("write", path, e.into()))?;
        self.write_durable(path, seal::seal(kind, name, &body).as_bytes(), 0o644, None)
    }

    fn remove_mark(&self, path: &Path) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(seen) = Seen::at(path) {
                    self.quarantine(path, &name, seen)?;
                }
            }
            removed => removed.context_during("remove", path)?,
        }
        path.parent().map_or(Ok(()), disk::sync_folder)
    }
}

/// The state of a tag's or pin's file.
enum Mark {
    Absent,
    /// The named artifact, and the time of naming.
    Sound(ArtifactId, u64),
    Damaged(String, Seen),
}

fn read_mark(kind: &str, name: &str, path: &Path) -> Result<Mark, StoreError> {
    Ok(match disk::read_small(path, disk::LARGEST_MARK).context_during("read", path)? {
        Small::Absent => Mark::Absent,
        Small::Misplaced(why, seen) => Mark::Damaged(why, seen),
        Small::Bytes(text, seen) => match parse(kind, name, &text) {
            Ok((artifact, at)) => Mark::Sound(artifact, at),
            Err(why) => Mark::Damaged(why, seen),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::store_with_action;
    use crate::{Action, Output};
    use olmo_base::Digest;

    fn artifacts(action: &Action) -> Vec<ArtifactId> {
        action.outputs.values().flat_map(Output::artifacts).collect()
    }

    #[test]
    fn a_tag_names_one_artifact_until_it_is_moved_or_taken_away() {
        let (_dir, store, _, action) = store_with_action();
        let [a, b] = artifacts(&action)[..2] else { panic!() };
        assert_eq!(store.tag("best", a, false).unwrap(), None);
        assert_eq!(store.tag("best", a, false).unwrap(), Some(a), "again is no change");
        assert!(matches!(store.tag("best", b, false), Err(StoreError::TagInUse { artifact, .. }) if artifact == a));
        assert_eq!(store.tag("best", b, true).unwrap(), Some(a));
        store.tag("Other-1.0", a, false).unwrap();
        let names: Vec<_> = store.tags().unwrap().into_iter().map(|t| (t.name, t.artifact)).collect();
        assert_eq!(names, [("Other-1.0".to_owned(), a), ("best".to_owned(), b)]);
        assert_eq!(store.untag("best").unwrap(), b);
        assert_eq!(store.tagged("best").unwrap(), None);
        assert!(matches!(store.untag("best"), Err(StoreError::UnknownTag { known, .. }) if known == ["Other-1.0"]));
        assert!(matches!(
            store.tag("gone", ArtifactId::new(Digest::of(b"?")), false),
            Err(StoreError::NoArtifact { .. })
        ));
    }

    #[test]
    fn names_that_would_mean_something_else_or_leave_the_folder_are_refused() {
        let (_dir, store, _, action) = store_with_action();
        let a = artifacts(&action)[0];
        store.tag("Best", a, false).unwrap();
        let long = "x".repeat(101);
        for name in ["", "../up", "a/b", ".hidden", "1st", "cafe", "latest", "run:x", "a b", "ä", "a\n", "best", &long]
        {
            assert!(matches!(store.tag(name, a, false), Err(StoreError::NotATag { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_damaged_tag_is_noticed_and_moved_away_and_a_damaged_pin_still_pins() {
        let (_dir, store, _, action) = store_with_action();
        let a = artifacts(&action)[0];
        store.tag("best", a, false).unwrap();
        store.pin(a).unwrap();
        fs::write(store.tag_path("best"), "{}").unwrap();
        fs::write(store.pin_path(a), "{}").unwrap();
        assert_eq!(store.tags().unwrap(), []);
        assert_eq!(store.damaged_tags().unwrap().len(), 1);
        assert!(matches!(store.tagged("best"), Err(StoreError::DamagedTag { .. })));
        assert_eq!(store.tagged("best").unwrap(), None, "it is out of the way");
        assert_eq!(store.pins().unwrap(), [a]);
        assert!(store.unpin(a).unwrap() && !store.unpin(a).unwrap());
    }

    #[test]
    fn whatever_stands_in_the_place_of_a_tag_or_a_pin_stops_nobody() {
        for kind in crate::verify::tests::INTRUDERS {
            let (_dir, store, _, action) = store_with_action();
            let a = artifacts(&action)[0];
            for known in [false, true] {
                store.tag("best", a, false).unwrap();
                store.pin(a).unwrap();
                crate::verify::tests::intrude(&store.tag_path("best"), kind);
                crate::verify::tests::intrude(&store.pin_path(a), kind);
                assert_eq!(store.tags().unwrap(), [], "{kind}");
                if known {
                    assert!(
                        matches!(store.tagged("best"), Err(StoreError::DamagedTag { kept: Some(_), .. })),
                        "{kind}"
                    );
                }
                assert_eq!(store.pins().unwrap(), [a], "{kind}");
                assert!(store.unpin(a).unwrap() && !store.unpin(a).unwrap(), "{kind}");
                crate::verify::tests::intrude(&store.pin_path(a), kind);
                store.pin(a).unwrap();
                let _ = store.tagged("best");
            }
        }
    }
}

//! Moves files into `objects-v1/`: [`Store::commit_tree`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use olmo_base::{ArtifactId, IoContext as _, ObjectId, PathError, failpoint, files, writeback};
use olmo_stage::PortType;

use crate::Store;
use crate::disk::{self, Small, Stamp, Step};
use crate::disk::{seal, tree};
use crate::error::StoreError;
use crate::manifest::{Entry, Manifest};

/// The receipt that stays in a folder whose files were taken: the digest of their artifact.
const RECEIPT: &str = ".olmo-pipe-artifact";
const RECEIPT_KIND: &str = "receipt";

/// A file that is being committed.
pub(crate) struct Incoming {
    pub object: ObjectId,
    pub size: u64,
    /// Whether its owner may execute it in its folder.
    pub executable: bool,
    /// A read-only file with its bytes; `None` if the object exists, or another file of the commit has
    /// the same bytes.
    pub temporary: Option<PathBuf>,
}

impl Incoming {
    /// The file in a manifest, which records the digest of its object.
    pub(crate) fn entry(&self) -> Entry {
        Entry { executable: self.executable, ..Entry::plain(self.object.digest(), self.size) }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // It still exists only if the commit failed. It must not stay a second name of the file.
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Store {
    /// Commits the files below `folder` as an artifact, and takes them: afterwards the folder contains
    /// only a receipt. The folder does not change before the artifact is complete and durable, so the
    /// call can be repeated after a kill at any moment. Once the files were taken, it reads the receipt
    /// and returns the same artifact.
    ///
    /// Files on the store's file system are not copied. Read-only folders are made writable.
    ///
    /// # Errors
    /// There are no files; there is a link, pipe, socket or device, or a path that some file system
    /// does not allow; a file still changes; or the disk is full.
    pub fn commit_tree(&self, artifact_type: PortType, folder: &Path) -> Result<ArtifactId, StoreError> {
        if let Some(artifact) = self.read_receipt(artifact_type, folder)? {
            return Ok(artifact);
        }
        tree::open_folders(folder)?;
        let files = tree::files(folder, tree::Links::Refuse)?;
        if files.is_empty() {
            return Err(StoreError::NoFiles { folder: folder.to_owned() });
        }
        let _using = self.using()?;
        let mut entries = BTreeMap::new();
        let (mut incoming, mut coming) = (Vec::with_capacity(files.len()), BTreeSet::new());
        for file in files {
            let one = self.bring_in(&file.full, &mut coming)?;
            entries.insert(file.path, one.entry());
            incoming.push(one);
        }
        self.settle(&incoming)?;
        let manifest = Manifest::new(artifact_type, entries).map_err(|why| StoreError::refused(folder, why))?;
        let artifact = self.put_manifest(&manifest)?;
        self.take(artifact, folder)?;
        Ok(artifact)
    }

    /// All objects with their sizes in bytes, sorted by digest.
    pub fn objects(&self) -> Result<Vec<(ObjectId, u64)>, StoreError> {
        let size = |object: ObjectId| Some((object, fs::symlink_metadata(self.object_path(object)).ok()?.len()));
        Ok(self.names::<ObjectId>("")?.into_iter().filter_map(size).collect())
    }

    /// Renames committed files to their objects. On return they are durable, including existing objects
    /// (another process may have renamed them a moment ago).
    pub(crate) fn settle(&self, incoming: &[Incoming]) -> Result<(), StoreError> {
        let mut changed_folders = BTreeSet::new();
        // All files, then all names, then all folders, so that the file system's journal is written a few
        // times, not once for each file.
        let files: Vec<&Path> = incoming.iter().filter_map(|one| one.temporary.as_deref()).collect();
        let in_parallel = disk::syncs_in_parallel(files.len());
        if in_parallel {
            disk::sync_many(&files, Step::FileSynced)?;
        }
        for temporary in files {
            if !in_parallel {
                disk::sync_file(temporary)?;
            }
            failpoint("store.object_temp_written");
        }
        for one in incoming {
            let object = self.object_path(one.object);
            changed_folders.extend(disk::make_shard(&object)?);
            changed_folders.extend(object.parent().map(Path::to_owned));
        }
        for one in incoming {
            let object = self.object_path(one.object);
            let Some(temporary) = &one.temporary else { continue };
            self.put_in_place(temporary, &object)?;
            failpoint("store.object_renamed");
        }
        let folders: Vec<&Path> = changed_folders.iter().map(PathBuf::as_path).collect();
        disk::sync_many(&folders, Step::FolderSynced)
    }

    /// Hashes the file at `path`, which stays in place, and prepares the rename to its digest. `coming`
    /// has the objects of the other files of the commit; its own is added.
    fn bring_in(&self, path: &Path, coming: &mut BTreeSet<ObjectId>) -> Result<Incoming, StoreError> {
        let (mut file, before) = disk::open_regular(path)?;
        let temporary = self.scratch()?.path();
        let near = same_file_system(&before, &self.root);
        let executable = self.is_program(&before)?;
        if near {
            // While it is hashed.
            writeback::start_all(&file);
        }
        // If it has to be copied, hash it during the copy.
        let (object, size) = if near {
            ObjectId::of_reader(&mut file).context_during("read", path)?
        } else {
            copy_in(path, &mut file, &temporary)?
        };
        let place = self.object_path(object);
        let there = fs::symlink_metadata(&place).ok().filter(|m| m.is_file() && m.len() == size);
        let is_itself = there.as_ref().is_some_and(|m| (m.dev(), m.ino()) == (before.dev(), before.ino()));
        let first = coming.insert(object);
        // A file with a second name could be changed through it later, so copy it. A program keeps its mode
        // until it is taken, so that a repeated commit still sees a program.
        let ours = before.nlink() == 1 && !executable && !is_itself;
        let linked = first && near && ours && link_in(path, &file, &temporary)?;
        // A link costs nothing, so it replaces an existing object, whose bytes may be damaged.
        let stays = is_itself || (!linked && there.is_some());
        let needed = first && (!stays || !self.renew(&place)?);
        if needed && near && !linked {
            let (again, _) = copy_in(path, &mut disk::open_regular(path)?.0, &temporary)?;
            if again != object {
                return Err(changed(path, &temporary));
            }
        }
        let after = fs::symlink_metadata(path).context_during("read", path)?;
        if size != before.len() || !same_content(&before, &after) {
            return Err(changed(path, &temporary));
        }
        if !needed {
            let _ = fs::remove_file(&temporary);
        }
        Ok(Incoming { object, size, executable, temporary: needed.then_some(temporary) })
    }

    /// Whether a file is a program. File systems without modes show every file as executable.
    pub(crate) fn is_program(&self, metadata: &Metadata) -> Result<bool, StoreError> {
        if metadata.mode() & 0o100 == 0 {
            return Ok(false);
        }
        let probe = self.scratch()?.path();
        let created = files::create_new(&probe, 0o600).and_then(|file| file.metadata());
        let _ = fs::remove_file(&probe);
        Ok(created.context_during("write", &probe)?.mode() & 0o100 == 0)
    }

    /// Takes the files out of `folder` atomically and leaves a receipt.
    fn take(&self, artifact: ArtifactId, folder: &Path) -> Result<(), StoreError> {
        let metadata = fs::symlink_metadata(folder).context_during("read the folder", folder)?;
        let aside =
            if same_file_system(&metadata, &self.root) { self.scratch()?.path() } else { hidden_beside(folder) };
        disk::make_folder(&aside)?;
        let body = serde_json::to_string(&artifact).map_err(|e| PathError::during("write", &aside, e.into()))?;
        let receipt = aside.join(RECEIPT);
        fs::write(&receipt, seal::seal(RECEIPT_KIND, "", &body)).context_during("write", &receipt)?;
        disk::swap_folders(&aside, folder).context_during("take the files out of", folder)?;
        failpoint("store.folder_taken");
        Ok(disk::remove_tree(&aside).context_during("remove", &aside)?)
    }

    /// The artifact of the files of `folder`, if they were already taken.
    fn read_receipt(&self, artifact_type: PortType, folder: &Path) -> Result<Option<ArtifactId>, StoreError> {
        let path = folder.join(RECEIPT);
        // Anything else of that name is a file of the stage.
        let Ok(Small::Bytes(text, _)) = disk::read_small(&path, disk::LARGEST_MARK) else { return Ok(None) };
        let refuse = |why| StoreError::refused(&path, why);
        let count = fs::read_dir(folder).context_during("read the folder", folder)?.count();
        if count != 1 {
            return Err(refuse("its folder was committed before and has new files; a stage must use a new folder"));
        }
        let body = seal::open(RECEIPT_KIND, "", &text).map_err(refuse)?;
        let artifact: ArtifactId = serde_json::from_str(body).map_err(|_| refuse("it names no artifact"))?;
        if self.manifest(artifact)?.artifact_type != artifact_type {
            return Err(refuse("its folder was committed before as another type"));
        }
        Ok(Some(artifact))
    }
}

/// Links `path` as `temporary` and makes it read-only; `false` if the file system cannot.
fn link_in(path: &Path, file: &File, temporary: &Path) -> Result<bool, StoreError> {
    match fs::hard_link(path, temporary) {
        Ok(()) => {}
        Err(e) if disk::cannot_link(&e) => return Ok(false),
        Err(e) => return Err(PathError::during("link", path, e).into()),
    }
    file.set_permissions(Permissions::from_mode(0o444)).context_during("make read-only", path)?;
    let linked = fs::symlink_metadata(temporary).context_during("read", temporary)?;
    let opened = file.metadata().context_during("read", path)?;
    if linked.ino() == opened.ino() {
        return Ok(true);
    }
    Err(changed(path, temporary))
}

/// The error for a file that changes. Removes its temporary file.
fn changed(path: &Path, temporary: &Path) -> StoreError {
    let _ = fs::remove_file(temporary);
    StoreError::ChangedWhileRead { path: path.to_owned() }
}

/// Copies `file` to `temporary` and makes it read-only.
fn copy_in(path: &Path, file: &mut File, temporary: &Path) -> Result<(ObjectId, u64), StoreError> {
    let copied = (|| {
        let mut to = files::create_new(temporary, 0o444)?;
        disk::copy_object(file, &mut to)
    })();
    copied.map_err(|e| {
        let _ = fs::remove_file(temporary);
        PathError::during("copy", path, e).into()
    })
}

fn same_file_system(metadata: &Metadata, folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|m| m.dev() == metadata.dev())
}

/// Whether two looks at a file saw the same bytes. (The change time moves by our own chmod.)
fn same_content(before: &Metadata, after: &Metadata) -> bool {
    let (before, after) = (Stamp::of(before), Stamp::of(after));
    Stamp { changed: 0, ..before } == Stamp { changed: 0, ..after }
}

fn hidden_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!(".{name}.taken-{}-{:x}", std::process::id(), disk::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let full = folder.join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, text).unwrap();
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    const FILES: [(&str, &str); 3] = [("config.json", "{}"), ("deep/model.bin", "weights"), ("empty", "")];

    #[test]
    fn a_committed_tree_is_whole_read_only_and_taken() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &FILES);
        fs::create_dir(folder.join("no files in here")).unwrap();
        let artifact = store.commit_tree(PortType::Model, &folder).unwrap();
        assert!(store.is_whole(artifact));
        let manifest = store.manifest(artifact).unwrap();
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["config.json", "deep/model.bin", "empty"]);
        assert_eq!((manifest.bytes(), manifest.is_reference()), (9, false));
        for (path, text) in FILES {
            let object = store.object_path(manifest.files[path].object());
            assert_eq!(fs::read_to_string(&object).unwrap(), text);
            let metadata = fs::metadata(&object).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.nlink()), (0o444, 1), "{path}");
        }
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [RECEIPT]);
        assert_eq!(store.commit_tree(PortType::Model, &folder).unwrap(), artifact, "the receipt is enough");
        assert!(matches!(store.commit_tree(PortType::Dir, &folder), Err(StoreError::Refused { .. })));
        fs::write(folder.join("more"), "x").unwrap();
        assert!(matches!(store.commit_tree(PortType::Model, &folder), Err(StoreError::Refused { .. })));
    }

    #[test]
    fn two_stores_give_equal_trees_equal_digests() {
        let ((a_dir, a), (b_dir, b)) = (store(), store());
        let (a_folder, b_folder) = (a_dir.path().join("x/y"), b_dir.path().join("other name"));
        write(&a_folder, &FILES);
        let mut reversed = FILES;
        reversed.reverse();
        write(&b_folder, &reversed);
        let one = a.commit_tree(PortType::Model, &a_folder).unwrap();
        assert_eq!(one, b.commit_tree(PortType::Model, &b_folder).unwrap());
        let text = |store: &Store| fs::read(store.sharded(one)).unwrap();
        assert_eq!(text(&a), text(&b));
    }

    #[test]
    fn equal_files_are_stored_once() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &[("a", "same"), ("b", "same"), ("c/d", "same")]);
        store.commit_tree(PortType::Dir, &folder).unwrap();
        assert_eq!(store.names::<ObjectId>("").unwrap(), [ObjectId::of(b"same")]);
    }

    #[test]
    fn a_program_stays_one_also_if_its_commit_has_to_be_repeated() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &[("plain", "same"), ("tool", "same"), ("z", "last")]);
        fs::set_permissions(folder.join("tool"), Permissions::from_mode(0o755)).unwrap();
        let in_the_way = store.object_path(ObjectId::of(b"last")).parent().unwrap().to_owned();
        fs::write(&in_the_way, "a file where a folder has to be").unwrap();
        assert!(store.commit_tree(PortType::Dir, &folder).is_err());
        fs::remove_file(in_the_way).unwrap();
        let artifact = store.commit_tree(PortType::Dir, &folder).unwrap();
        let files = store.manifest(artifact).unwrap().files;
        assert_eq!((files["tool"].executable, files["plain"].executable), (true, false));
        let object = store.object_path(ObjectId::of(b"same"));
        assert_eq!(fs::metadata(object).unwrap().mode() & 0o777, 0o444);
    }

    #[test]
    fn whatever_stands_in_the_place_of_an_object_is_replaced() {
        for kind in crate::verify::tests::INTRUDERS {
            let (dir, store) = store();
            for round in ["one", "two"] {
                let folder = dir.path().join(round);
                write(&folder, &[("a", "right")]);
                let artifact = store.commit_tree(PortType::File, &folder).unwrap();
                assert!(store.is_whole(artifact), "{kind}, round {round}");
                assert_eq!(store.verify().unwrap(), [], "{kind}, round {round}");
                crate::verify::tests::intrude(&store.object_path(ObjectId::of(b"right")), kind);
                assert!(!store.is_whole(artifact), "{kind}");
            }
        }
    }

    #[test]
    fn a_fifo_in_the_place_of_a_receipt_is_refused_not_waited_for() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &FILES);
        crate::verify::tests::intrude(&folder.join(RECEIPT), "fifo");
        assert!(matches!(store.commit_tree(PortType::Model, &folder), Err(StoreError::Refused { .. })));
    }

    #[test]
    fn an_empty_tree_and_a_missing_folder_are_errors() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        fs::create_dir_all(folder.join("deep")).unwrap();
        let error = store.commit_tree(PortType::Dir, &folder).unwrap_err();
        assert!(matches!(error, StoreError::NoFiles { .. }) && error.to_string().contains("made no files"), "{error}");
        let error = store.commit_tree(PortType::Dir, &dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    }

    #[test]
    fn a_failed_commit_leaves_its_folder_as_it_was_and_no_temporary_files() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &[("a", "first"), ("b", "second")]);
        let in_the_way = store.object_path(ObjectId::of(b"second")).parent().unwrap().to_owned();
        fs::write(&in_the_way, "a file where a folder has to be").unwrap();
        assert!(matches!(store.commit_tree(PortType::Dir, &folder), Err(StoreError::Io { .. })));
        assert_eq!(fs::metadata(folder.join("a")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(store.scratch().unwrap().path().parent().unwrap()).unwrap().count(), 0);
        assert!(store.names::<ArtifactId>("").unwrap().is_empty());
        fs::remove_file(in_the_way).unwrap();
        let artifact = store.commit_tree(PortType::Dir, &folder).unwrap();
        assert!(store.is_whole(artifact));
    }

    #[test]
    fn a_link_out_of_the_tree_is_refused_and_nothing_is_taken() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &FILES);
        std::os::unix::fs::symlink("/etc/passwd", folder.join("zz")).unwrap();
        assert!(matches!(store.commit_tree(PortType::Dir, &folder), Err(StoreError::Refused { .. })));
        assert!(folder.join("config.json").exists());
        assert!(store.names::<ArtifactId>("").unwrap().is_empty());
    }

    #[test]
    fn a_file_with_a_second_name_is_copied_so_that_writes_through_that_name_stay_outside() {
        let (dir, store) = store();
        let folder = dir.path().join("out");
        write(&folder, &[("a", "right")]);
        fs::hard_link(folder.join("a"), dir.path().join("second name")).unwrap();
        let artifact = store.commit_tree(PortType::File, &folder).unwrap();
        fs::write(dir.path().join("second name"), "wrong").unwrap();
        let object = store.object_path(store.manifest(artifact).unwrap().files["a"].object());
        assert_eq!(fs::read_to_string(object).unwrap(), "right");
    }

    #[test]
    fn a_commit_of_the_right_bytes_heals_a_rotten_object() {
        let (dir, store) = store();
        for round in ["one", "two"] {
            let folder = dir.path().join(round);
            write(&folder, &[("a", "right")]);
            store.commit_tree(PortType::File, &folder).unwrap();
            let object = store.object_path(ObjectId::of(b"right"));
            assert_eq!(fs::read_to_string(&object).unwrap(), "right", "round {round}");
            fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
            fs::write(&object, "wrong").unwrap();
        }
    }

    #[test]
    fn many_threads_commit_the_same_tree_at_once() {
        let (dir, store) = store();
        let digests: BTreeSet<ArtifactId> = std::thread::scope(|scope| {
            let run = |n: usize| {
                let (store, folder) = (store.clone(), dir.path().join(format!("out{n}")));
                write(&folder, &FILES);
                store.commit_tree(PortType::Model, &folder).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || run(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(digests.len(), 1);
        assert!(store.is_whole(*digests.first().unwrap()));
        assert!(store.verify().unwrap().is_empty());
    }

    #[test]
    fn the_part_of_a_tree_is_named_as_if_it_had_been_committed_alone() {
        let (dir, store) = store();
        let (checkpoint, alone) = (dir.path().join("checkpoint"), dir.path().join("alone"));
        write(&checkpoint, &[("model/config.json", "{}"), ("model/w", "1"), ("models", "no"), ("trainer.json", "{}")]);
        write(&alone, &[("config.json", "{}"), ("w", "1")]);
        let whole = store.commit_tree(PortType::Checkpoint, &checkpoint).unwrap();
        let part = store.subtree(whole, "model", PortType::Model).unwrap();
        assert!(store.is_whole(part));
        assert_eq!(part, store.commit_tree(PortType::Model, &alone).unwrap());
        assert!(matches!(store.subtree(whole, "optim", PortType::Model), Err(StoreError::NoSubtree { .. })));
    }
}

//! Which files a folder holds, and which paths a tree may have.
//!
//! A tree is files under relative paths with `/` between names. Folders exist by their files
//! alone; an empty folder leaves no trace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use olmo_base::IoContext as _;

use crate::error::StoreError;

/// Longest name between two `/` in bytes, for all file systems in use.
const LONGEST_NAME: usize = 255;
/// Longest path in bytes. Leaves room for the path of the folder (PATH_MAX is 4096).
const LONGEST_PATH: usize = 1024;

/// A file of a tree on disk.
pub(crate) struct TreeFile {
    /// Relative to the tree, `/` between names.
    pub path: String,
    /// Its path on disk.
    pub full: PathBuf,
}

/// What to do with symbolic links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Refuse,
    /// A link to a regular file counts as that file, under the link's name.
    FollowFiles,
}

/// All files below `folder`, sorted by path. Refuses links (see [`Links`]), pipes, sockets and
/// devices, and names that [`check_paths`] refuses.
pub(crate) fn files(folder: &Path, links: Links) -> Result<Vec<TreeFile>, StoreError> {
    let top = fs::symlink_metadata(folder).context_during("read the folder", folder)?;
    if top.is_symlink() && links == Links::Refuse {
        return Err(StoreError::refused(folder, "it is a symbolic link"));
    }
    if !top.is_symlink() && !top.is_dir() {
        return Err(StoreError::refused(folder, "it is not a folder"));
    }
    let mut found = Vec::new();
    let mut open = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, place)) = open.pop() {
        for entry in fs::read_dir(&place).context_during("read the folder", &place)? {
            let entry = entry.context_during("read the folder", &place)?;
            let full = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(StoreError::refused(&full, "its name is not Unicode text"));
            };
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().context_during("read", &full)?;
            if kind.is_dir() {
                open.push((path, full));
            } else if kind.is_file() {
                found.push(TreeFile { path, full });
            } else if !kind.is_symlink() {
                return Err(StoreError::refused(&full, "it is not a regular file"));
            } else if links == Links::Refuse {
                return Err(StoreError::refused(&full, "it is a symbolic link"));
            } else if fs::metadata(&full).context_during("follow the link", &full)?.is_file() {
                found.push(TreeFile { path, full });
            } else {
                return Err(StoreError::refused(&full, "it is a symbolic link to something that is not a file"));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    check_paths(found.iter().map(|f| f.path.as_str())).map_err(|why| StoreError::refused(folder, why))?;
    Ok(found)
}

/// Gives this user all rights on `folder` and the folders below it, so that their files can be
/// read and moved out. Build tools leave read-only folders. Other files are left alone.
pub(crate) fn open_folders(folder: &Path) -> Result<(), StoreError> {
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        let metadata = fs::symlink_metadata(&place).context_during("read the folder", &place)?;
        if !metadata.is_dir() {
            continue;
        }
        let mode = metadata.permissions().mode();
        if mode & 0o700 != 0o700 {
            let writable = fs::Permissions::from_mode(mode | 0o700);
            fs::set_permissions(&place, writable).context_during("make the folder writable", &place)?;
        }
        for entry in fs::read_dir(&place).context_during("read the folder", &place)? {
            let entry = entry.context_during("read the folder", &place)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Checks that paths can lie in one folder on every file system that we support: relative, no
/// `..`, no control characters or backslashes, no file that is also a folder, and no two names
/// that differ in upper and lower case alone.
pub(crate) fn check_paths<'p>(paths: impl Iterator<Item = &'p str>) -> Result<(), String> {
    // Lower-cased path of every file and of every folder above it -> its spelling, is it a file.
    let mut seen: BTreeMap<String, (&str, bool)> = BTreeMap::new();
    for path in paths {
        check_path(path)?;
        let folders = path.match_indices('/').map(|(at, _)| (&path[..at], false));
        for (spelled, is_file) in folders.chain([(path, true)]) {
            match seen.insert(spelled.to_lowercase(), (spelled, is_file)) {
                None => {}
                Some((other, _)) if other != spelled => {
                    return Err(format!("`{other}` and `{spelled}` differ in upper and lower case alone"));
                }
                Some((_, was_file)) if was_file || is_file => {
                    return Err(format!("`{spelled}` is there twice, or is a file and a folder"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    let shown = path.escape_debug();
    if path.starts_with('/') {
        return Err(format!("the path `{shown}` is absolute"));
    }
    if path.len() > LONGEST_PATH {
        return Err(format!("the path `{:.40}…` is longer than {LONGEST_PATH} bytes", shown.to_string()));
    }
    for name in path.split('/') {
        if name.is_empty() || name == "." || name == ".." {
            return Err(format!("the path `{shown}` has an empty, `.` or `..` part"));
        }
        if name.len() > LONGEST_NAME {
            return Err(format!("a name in the path `{:.40}…` is longer than {LONGEST_NAME} bytes", shown.to_string()));
        }
        if name.contains('\\') || name.chars().any(char::is_control) {
            return Err(format!("the path `{shown}` has a backslash or a control character"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        let long = "n".repeat(256);
        let deep = "d/".repeat(600) + "f";
        let bad = [
            "",
            "/etc/passwd",
            "../up",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\nb",
            "a\0b",
            "\u{1b}[2J",
            &long,
            &deep,
        ];
        for path in bad {
            assert!(check_paths([path].into_iter()).is_err(), "{path:?}");
        }
        for paths in [["a", "A"], ["Dir/x", "dir/y"], ["a", "a/b"], ["a/b", "a"], ["a", "a"], ["É", "é"]] {
            assert!(check_paths(paths.into_iter()).is_err(), "{paths:?}");
        }
        check_paths(["a", "b/c", "b/d", "ü", "..a", "a b"].into_iter()).unwrap();
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tree");
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/file"), "x").unwrap();
        assert_eq!(files(&folder, Links::Refuse).unwrap()[0].path, "deep/file");

        let link = folder.join("deep/link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(matches!(files(&folder, Links::Refuse), Err(StoreError::Refused { path, .. }) if path == link));
        let followed = files(&folder, Links::FollowFiles).unwrap();
        assert_eq!(followed.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["deep/file", "deep/link"]);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("..", &link).unwrap();
        assert!(files(&folder, Links::FollowFiles).is_err(), "a link to a folder may be a loop");
        fs::remove_file(&link).unwrap();

        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
        assert!(matches!(files(&folder, Links::FollowFiles), Err(StoreError::Refused { .. })));

        let top = dir.path().join("top");
        std::os::unix::fs::symlink(&folder, &top).unwrap();
        assert!(matches!(files(&top, Links::Refuse), Err(StoreError::Refused { .. })));
    }

    #[test]
    fn a_name_that_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        if fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "x").is_err() {
            olmo_base::testing::skip("this file system takes only Unicode names");
            return;
        }
        assert!(matches!(files(dir.path(), Links::Refuse), Err(StoreError::Refused { .. })));
    }
}

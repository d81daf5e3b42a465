//! The files of an item of a list of files: a file, all files of a folder, or those that match a
//! pattern.

use std::path::{Path, PathBuf};

/// Maximum number of files.
const MOST: usize = 100_000;

/// The files of `path`, sorted, if it is a folder or a pattern; `None` if it names one file. Names
/// that begin with a dot are left out, and links to folders are not followed.
///
/// An existing name is taken literally, even with special characters. The pattern begins with the
/// first name that does not exist.
///
/// # Errors
/// A message: there is no such file, or there are too many.
pub(crate) fn expand(path: &Path) -> Option<Result<Vec<PathBuf>, String>> {
    match std::fs::metadata(path) {
        // A name may contain a bracket.
        Ok(found) if !found.is_dir() => return None,
        Ok(_) => {
            return Some(matching_files(path, "**").and_then(|files| non_empty(files, "the folder holds no files")));
        }
        Err(_) => {}
    }
    let mut folder = PathBuf::from("/");
    let mut names = path.to_str()?.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next_if(|name| !olmo_remote::is_pattern(name) || folder.join(name).exists()) {
        folder.push(name);
    }
    let pattern = names.collect::<Vec<_>>().join("/");
    if pattern.is_empty() {
        return None;
    }
    if !folder.is_dir() {
        return Some(Err("no file fits: the folder before the pattern is not there".to_owned()));
    }
    Some(matching_files(&folder, &pattern).and_then(|files| non_empty(files, "no file fits, and none has this name")))
}

fn non_empty(files: Vec<PathBuf>, why: &str) -> Result<Vec<PathBuf>, String> {
    if files.is_empty() { Err(why.to_owned()) } else { Ok(files) }
}

/// The files below `folder` that match `pattern`.
fn matching_files(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let deepest = if pattern.contains("**") { usize::MAX } else { pattern.split('/').count() };
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 1)];
    while let Some((here, below, depth)) = folders.pop() {
        let unread = |e: std::io::Error| format!("the folder {} cannot be read: {e}", here.display());
        for entry in std::fs::read_dir(&here).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let relative = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            if entry.file_type().map_err(unread)?.is_dir() {
                if depth < deepest && (!name.starts_with('.') || pattern.contains("/.") || pattern.starts_with('.')) {
                    folders.push((entry.path(), relative, depth + 1));
                }
            } else if olmo_remote::fits_pattern(pattern, &relative)
                && !(pattern == "**" && name.starts_with('.'))
                && std::fs::metadata(entry.path()).is_ok_and(|found| found.is_file())
            {
                found.push((relative, entry.path()));
            }
            if found.len() > MOST {
                return Err(format!("more than {MOST} files are meant"));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_give_sorted_files_and_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b.jsonl",
            "a.jsonl",
            "x.txt",
            ".hidden.jsonl",
            "deep/c.jsonl",
            "deep/er/d.jsonl",
            ".git/e.jsonl",
            "odd[1].jsonl",
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("deep/circle")).unwrap();
        let of = |pattern: &str| {
            let found = expand(&dir.path().join(pattern))?;
            Some(found.map(|files| {
                let name = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
                files.iter().map(name).collect::<Vec<_>>()
            }))
        };
        assert_eq!(of("*.jsonl").unwrap().unwrap(), ["a.jsonl", "b.jsonl", "odd[1].jsonl"]);
        assert_eq!(
            of("**/*.jsonl").unwrap().unwrap(),
            ["a.jsonl", "b.jsonl", "deep/c.jsonl", "deep/er/d.jsonl", "odd[1].jsonl"]
        );
        assert_eq!(of("deep").unwrap().unwrap(), ["deep/c.jsonl", "deep/er/d.jsonl"]);
        assert_eq!(of("d*/*.jsonl").unwrap().unwrap(), ["deep/c.jsonl"]);
        assert_eq!(of("[ab].jsonl").unwrap().unwrap(), ["a.jsonl", "b.jsonl"]);
        assert_eq!(of("odd[1].jsonl"), None, "there is a file of this name");
        assert_eq!(of("a.jsonl"), None);
        assert_eq!(of("gone.jsonl"), None, "what is missing is said elsewhere");
        // Names of folders may contain such characters as well.
        for name in ["run [v1]/c.jsonl", "run [v1]/d*{e}?.jsonl", "run [v1]/in/e.jsonl", "run v/wrong.jsonl"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let both = ["run [v1]/c.jsonl", "run [v1]/d*{e}?.jsonl"];
        assert_eq!(of("run [v1]/*.jsonl").unwrap().unwrap(), both);
        assert_eq!(of("run [v1]").unwrap().unwrap(), [both[0], both[1], "run [v1]/in/e.jsonl"]);
        assert_eq!(of("run [v1]/**/e.jsonl").unwrap().unwrap(), ["run [v1]/in/e.jsonl"]);
        assert_eq!(of("run [v1]/d*{e}?.jsonl"), None, "there is a file of this name");
        assert_eq!(of("run [v1]/gone.jsonl"), None, "nothing in it is a pattern");
        assert_eq!(of("r*/d*{e}?.jsonl").unwrap().unwrap(), ["run [v1]/d*{e}?.jsonl"]);
        assert!(of("*.parquet").unwrap().unwrap_err().contains("no file fits"));
        assert!(of("nowhere/*.jsonl").unwrap().unwrap_err().contains("not there"));
        assert!(of("empty").unwrap().unwrap_err().contains("no files"));
    }
}

//! Recognises the placeholder of git-lfs for a file that was not downloaded.

/// Start of the placeholder for a large file that was not downloaded in a Git checkout.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// If `bytes` are a git-lfs pointer, explains how to fetch the file.
pub(crate) fn lfs_pointer(bytes: &[u8]) -> Option<String> {
    // A pointer has three short lines.
    if !bytes.starts_with(POINTER) || bytes.len() > 1024 {
        return None;
    }
    let text = String::from_utf8_lossy(bytes);
    let size = text.lines().find_map(|line| line.strip_prefix("size "));
    let size = size.map(|size| format!(" of {size} bytes")).unwrap_or_default();
    Some(format!(
        "is a git-lfs pointer, not the file{size} that it stands for; run `git lfs install && git lfs pull` in the \
         repository that it is from"
    ))
}

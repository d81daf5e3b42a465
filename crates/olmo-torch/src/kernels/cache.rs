//! A folder of compiled kernels, each named after its inputs and followed by its own checksum.
//!
//! The checksum comes after the content, where it bothers neither the driver (which never sees it)
//! nor the loader of shared libraries.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use sha2::{Digest as _, Sha256};

const CHECKSUM: usize = 32;

/// SHA-256 over the parts, each with its length, in hex.
pub(super) fn name(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The default folder for compiled kernels: `OLMO_PIPE_KERNEL_CACHE`, otherwise `olmo-pipe/kernels`
/// in the user's cache folder.
pub(super) fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("OLMO_PIPE_KERNEL_CACHE").or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
        Some(cache.join("olmo-pipe").join("kernels"))
    })
}

/// The content of a file written by [`sealed`]; `None` if it is missing or incomplete.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut content = fs::read(path).ok()?;
    let length = content.len().checked_sub(CHECKSUM).filter(|&length| length > 0)?;
    if Sha256::digest(&content[..length])[..] != content[length..] {
        return None;
    }
    content.truncate(length);
    Some(content)
}

/// Content and checksum, as [`read`] expects them.
pub(super) fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&content);
    content.extend_from_slice(&sum);
    content
}

/// Stores `content` under `name`, atomically. An unwritable folder is not an error: the next
/// process compiles again.
pub(super) fn write(folder: &Path, name: &str, content: Vec<u8>) {
    let part = folder.join(unique(".part"));
    let kept = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&part, sealed(content)))
        .and_then(|()| fs::rename(&part, folder.join(name)));
    if kept.is_err() {
        let _ = fs::remove_file(&part);
    }
}

/// A name that no other thread or process uses now.
pub(super) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

//! Opens files whose place someone else could have filled with another kind of thing.
//!
//! Locks, journals, manifests, tags and leases are regular files. A symbolic link, FIFO, device or
//! folder in the place of one must never be followed, waited for or read without end. Every
//! function here opens with `O_NOFOLLOW | O_NONBLOCK` and checks the type of what it opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// `NotFound` if nothing is there; `InvalidInput`, naming the kind, if it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_checked(path, OpenOptions::new().read(true))
}

/// Opens a regular file for reading and writing, and creates it if it is missing. Its content
/// stays. For lock files and append-only files.
///
/// # Errors
/// As for [`open_regular`].
pub fn open_or_create_regular(path: &Path) -> io::Result<File> {
    open_checked(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As for [`open_regular`]; `FileTooLarge` if the file is longer than `limit`.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    open_regular(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it is larger than the {limit} bytes that such a file may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Reads a regular UTF-8 file of at most `limit` bytes.
///
/// # Errors
/// As for [`read_regular`]; `InvalidData` if it is not UTF-8.
pub fn read_regular_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read_regular(path, limit)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Opens `path` with `options`, follows no link, waits for no FIFO and accepts regular files only.
fn open_checked(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(|error| {
        let code = error.raw_os_error();
        // ELOOP: a link. EISDIR: a folder opened for writing. ENXIO: a socket.
        let is_other_kind = matches!(code, Some(libc::ELOOP | libc::EISDIR | libc::ENXIO));
        let kind = path.symlink_metadata().ok().filter(|_| is_other_kind).map(|m| kind_name(m.file_type()));
        kind.map_or(error, not_regular)
    })?;
    let file_type = file.metadata()?.file_type();
    if file_type.is_file() { Ok(file) } else { Err(not_regular(kind_name(file_type))) }
}

fn not_regular(kind: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a regular file"))
}

/// What a file is, with its article: `a symbolic link`, `a FIFO`.
pub fn kind_name(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_symlink() {
        "a symbolic link"
    } else if file_type.is_dir() {
        "a folder"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "a device"
    } else {
        "a regular file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("olmo-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("folder")).unwrap();
        let (target, link) = (dir.join("target"), dir.join("link"));
        std::fs::write(&target, "text").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        std::os::unix::fs::symlink(dir.join("gone"), dir.join("dangling")).unwrap();
        let fifo = std::ffi::CString::new(dir.join("fifo").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: `fifo` is a NUL-terminated path that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let _socket = UnixListener::bind(dir.join("socket")).unwrap();
        for (name, kind) in [
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("fifo", "a FIFO"),
            ("folder", "a folder"),
            ("socket", "a socket"),
        ] {
            for opened in [open_regular(&dir.join(name)), open_or_create_regular(&dir.join(name))] {
                let error = opened.unwrap_err();
                assert_eq!(error.to_string(), format!("it is {kind}, not a regular file"), "{name}");
            }
        }
        assert_eq!(open_regular(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read_regular(&target, 4).unwrap(), b"text");
        assert_eq!(read_regular(&target, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(open_regular(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        open_or_create_regular(&dir.join("new")).unwrap();
        assert_eq!(read_regular_text(&dir.join("new"), 10).unwrap(), "");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

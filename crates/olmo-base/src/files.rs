//! Opens regular files safely, and writes files atomically.
//!
//! Locks, journals, manifests, tags and leases are regular files. If a symbolic link, FIFO, device
//! or folder is in place of one, it must never be followed, waited for, or read endlessly. Every
//! function here that opens a file uses `O_NOFOLLOW | O_NONBLOCK` and checks the type of the file.
//!
//! [`write`] renames a complete file into place, so a reader never sees a partial file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// `NotFound` if the file does not exist. `InvalidInput`, naming the kind, if it is not a regular
/// file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_checked(path, OpenOptions::new().read(true))
}

/// Opens a regular file for reading and writing, and creates it if it is missing. An existing file
/// keeps its content. For lock files and append-only files.
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
        let message = format!("it is larger than the limit of {limit} bytes");
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

/// The events that a file written by [`write`] survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The process is killed: the file is complete or unchanged.
    Process,
    /// The machine crashes as well: the bytes and the name are on disk when [`write`] returns.
    Machine,
}

/// Replaces the file `path` by `bytes`, or leaves it unchanged. Writes a temporary file with `.tmp`
/// appended to the name, and renames it.
///
/// # Errors
/// The first operation that failed.
pub fn write(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    match durability {
        Durability::Process => fs::rename(temporary, path),
        Durability::Machine => {
            file.sync_all()?;
            fs::rename(temporary, path)?;
            path.parent().map_or(Ok(()), sync_folder)
        }
    }
}

/// Creates the file `path` with the content `bytes` and exactly `mode`, regardless of the umask,
/// and syncs it. The name is durable once the folder is synced. If this fails, no file remains.
///
/// # Errors
/// `path` exists, or the first operation that failed.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create_new(path, mode)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// Creates the file `path` with exactly `mode`, regardless of the umask.
///
/// # Errors
/// `path` exists, or an I/O error.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Syncs the folder `path`, so that the names in it are durable.
///
/// # Errors
/// An I/O error.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Opens `path` with `options` if it is a regular file. Follows no link and waits for no FIFO.
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

/// The kind of a file, with an article: `a symbolic link`, `a FIFO`.
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
    fn a_file_is_replaced_as_a_whole_and_leaves_nothing_else() {
        let dir = std::env::temp_dir().join(format!("olmo-write-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for durability in [Durability::Process, Durability::Machine] {
            write(&dir.join("file.json"), format!("{durability:?}").as_bytes(), durability).unwrap();
            assert_eq!(fs::read_to_string(dir.join("file.json")).unwrap(), format!("{durability:?}"));
        }
        write_new(&dir.join("new"), b"text", 0o444).unwrap();
        assert_eq!(fs::metadata(dir.join("new")).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(write_new(&dir.join("new"), b"", 0o444).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        fs::remove_dir_all(&dir).unwrap();
    }

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

//! Computes all digests of a file in one pass.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use olmo_base::Digest;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Size and digests of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digests {
    /// Size in bytes.
    pub size: u64,
    pub sha256: String,
    pub blake3: Digest,
    /// The file's git object name: SHA-1 of `blob SIZE\0` and the bytes.
    pub git: String,
}

impl Digests {
    /// Reads the file at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let (mut sha256, mut git) = (Context::new(&SHA256), Context::new(&SHA1_FOR_LEGACY_USE_ONLY));
        let mut blake3 = Digest::hasher();
        git.update(format!("blob {size}\0").as_bytes());
        let mut buffer = vec![0u8; 1 << 18];
        let mut read = 0;
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            sha256.update(&buffer[..count]);
            git.update(&buffer[..count]);
            blake3.write_all(&buffer[..count])?;
            read += count as u64;
        }
        if read != size {
            return Err(io::Error::other("it changed while being read"));
        }
        Ok(Self { size, sha256: hex(sha256), blake3: blake3.finish(), git: hex(git) })
    }
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_digests_are_those_that_other_tools_show() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "hello\n").unwrap();
        let found = Digests::of(&path).unwrap();
        // From sha256sum, git hash-object and b3sum.
        assert_eq!(found.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(found.git, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!((found.size, found.blake3), (6, Digest::of(b"hello\n")));
    }
}

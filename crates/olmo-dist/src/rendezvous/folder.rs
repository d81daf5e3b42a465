//! Publishes the addresses of ranks in a folder.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use olmo_base::{IoContext as _, PathError, files};

use super::settings::random;
use crate::error::DistError;

fn path_of(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.address"))
}

/// Publishes the `address` of `rank`: the file appears with its content or not at all.
pub(super) fn publish(folder: &Path, rank: usize, address: SocketAddr) -> Result<(), DistError> {
    fs::create_dir_all(folder).context_during("create", folder)?;
    let path = path_of(folder, rank);
    let unique = random().context_during("read", "/dev/urandom")?;
    let temporary = folder.join(format!(".rank-{rank}.{}", &blake3::Hash::from(unique).to_hex()[..16]));
    files::write_new(&temporary, format!("{address}\n").as_bytes(), 0o600).context_during("write", &temporary)?;
    // Unlike a rename, a link fails if another process has published an address for this rank.
    let linked = fs::hard_link(&temporary, &path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(DistError::Taken { rank, path }),
        linked => Ok(linked.context_during("write", &path)?),
    }
}

/// The address that `rank` has published, if it has.
pub(super) fn look_up(folder: &Path, rank: usize) -> Result<Option<SocketAddr>, PathError> {
    let path = path_of(folder, rank);
    let text = match files::read_regular_text(&path, 256) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.context_during("read", &path)?,
    };
    let address = text.trim_end().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is no address", olmo_base::text::quoted(text.trim_end())),
        )
    });
    address.map(Some).context_during("read", &path)
}

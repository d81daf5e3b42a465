//! A store that a group shares: its folder is writable by the group and has the setgid bit, so
//! that everything below belongs to the group.
//!
//! What a member makes must be writable by the others, whatever the member's umask. Stores hold
//! files of stages, workers and supervisors too, so it is the process's umask that changes, when
//! the process opens such a store; its children inherit it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::StoreError;
use crate::{Store, disk};
use olmo_base::{IoContext, PathError};

/// Set group ID, and write for the group.
const SHARED: u32 = 0o2020;
/// What a member of the group needs on the folder.
const MEMBERS: u32 = 0o2070;

impl Store {
    /// As [`Store::open`]; a store that is made here is shared by the group of its folder.
    ///
    /// Errors: as of [`Store::open`]; the store is there already and not shared; the folder cannot
    /// be given to the group.
    pub fn open_shared(root: &Path) -> Result<Self, StoreError> {
        let store = Self::read(root)?;
        let root = store.root();
        if !is_shared(root) {
            if store.has_format()? {
                return Err(StoreError::NotShared { root: root.to_owned() });
            }
            disk::make_folder(root)?;
            let doing = "share with the group";
            let mode = fs::metadata(root).context_during(doing, root)?.permissions().mode();
            fs::set_permissions(root, Permissions::from_mode(mode | MEMBERS)).context_during(doing, root)?;
            if !is_shared(root) {
                // The system drops the bit silently.
                let source = std::io::Error::other("you are not a member of the folder's group");
                return Err(PathError::during(doing, root, source).into());
            }
        }
        Self::open(root)
    }
}

/// Whether the store in the folder `root` is shared by a group.
fn is_shared(root: &Path) -> bool {
    fs::metadata(root).is_ok_and(|metadata| metadata.permissions().mode() & SHARED == SHARED)
}

/// Lets this process and its children make files that the group may write, if the store in `root`
/// is shared. What others may do stays as the umask says.
pub(crate) fn join(root: &Path) {
    if is_shared(root) {
        use rustix::fs::Mode;
        // There is no way to only look at it.
        let before = rustix::process::umask(Mode::RWXO);
        rustix::process::umask(before - Mode::RWXG);
    }
}

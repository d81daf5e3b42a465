//! A store that a group shares: its folder is writable by the group and has the setgid bit, so
//! that everything below belongs to the group.
//!
//! Files of one member must be writable by the others, whatever the member's umask. Stages, workers
//! and supervisors write into stores as well, so the process changes its umask when it opens such a
//! store; its children inherit it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use olmo_base::{IoContext as _, PathError};

use crate::disk;
use crate::error::StoreError;
use crate::store::Store;

/// Set group ID, and write for the group.
const SHARED: u32 = 0o2020;
/// The permissions that a member of the group needs on the folder.
const MEMBERS: u32 = 0o2070;

impl Store {
    /// Like [`Store::open`], but a new store is shared by the group of its folder.
    ///
    /// # Errors
    /// Those of [`Store::open`]; the store exists and is not shared; or the folder cannot be given
    /// to the group.
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
                // The system drops the bit without an error.
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

/// If the store in `root` is shared, lets this process and its children create files that the group
/// may write. The umask still decides about all other users.
pub(crate) fn join(root: &Path) {
    if is_shared(root) {
        use rustix::fs::Mode;
        // The umask can only be read by setting it.
        let before = rustix::process::umask(Mode::RWXO);
        rustix::process::umask(before - Mode::RWXG);
    }
}

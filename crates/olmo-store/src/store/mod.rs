//! [`Store`]: an open store.

mod key_lock;
mod open;
mod place;
mod share;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod store;

pub use key_lock::KeyLock;
pub(crate) use store::Access;
pub use store::Store;

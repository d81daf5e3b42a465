//! [`Join`]: what a rank needs to know to join a process group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::world::World;

/// Where the ranks of a run meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// A folder that all ranks see, and that no other attempt has used. Each rank publishes its
    /// address there, so a shared file system is enough.
    Folder(PathBuf),
    /// `HOST:PORT`, at which rank 0 listens. The other ranks listen at the address from which they
    /// reach it.
    Address(String),
}

/// What the ranks of a run know and nobody else does. It is never sent.
#[derive(Clone)]
pub struct Secret(pub(super) [u8; 32]);

impl Secret {
    /// A secret from `bytes` of any length.
    pub fn new(bytes: &[u8]) -> Self {
        Self(blake3::derive_key("olmo-pipe ranks v1: handshake", bytes))
    }

    /// A random secret in hexadecimal digits, for [`Secret::new`] in every rank.
    ///
    /// # Errors
    /// The system's random numbers cannot be read.
    pub fn generate() -> io::Result<String> {
        Ok(blake3::Hash::from(random()?).to_hex().to_string())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 random bytes.
pub(super) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// How long ranks wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all ranks to join the group.
    pub join: Duration,
    /// For a sign of life. A rank that sends none for this long is gone.
    pub dead: Duration,
    /// For a rank that is alive to join an operation.
    pub late: Duration,
}

impl Default for Limits {
    /// 10 minutes, 30 seconds and 30 minutes.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self { join: minutes(10), dead: Duration::from_secs(30), late: minutes(30) }
    }
}

/// What a rank needs to know to join a process group.
#[derive(Clone, Debug)]
pub struct Join {
    pub world: World,
    pub rendezvous: Rendezvous,
    pub secret: Secret,
    /// What must be equal on all ranks, by name: `build`, `config`, `data`. At most 32 KiB.
    pub facts: BTreeMap<String, String>,
    /// The network interface to listen on, by name or address. Without one, the ranks listen on the
    /// loopback interface, or at the address from which they reach rank 0.
    pub interface: Option<String>,
    pub limits: Limits,
}

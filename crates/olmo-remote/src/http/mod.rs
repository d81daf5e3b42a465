//! Downloads over HTTP, with limits and digests.

pub(crate) mod client;
pub(crate) mod digests;
pub(crate) mod download;

//! The bodies of the operations that consist of several steps, once for every device.

pub(crate) mod block;

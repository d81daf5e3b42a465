//! The operations on Burn tensors: each call is one node of Burn's graph, around a body or an
//! operation of the device.
//!
//! Only activations take part in the graph; weights are not leaves of it. Operations read the
//! weights where the optimizer writes them, and add gradients where the optimizer reads them.

mod node;
mod operations;

pub use operations::{block, embed, embed_backward, head_loss, norm};

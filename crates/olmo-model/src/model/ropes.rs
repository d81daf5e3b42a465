//! [`Ropes`]: rotary tables that are made once.

use std::sync::{Arc, Mutex};

use olmo_ops::{BlockConfig, Rope};

/// Rotary tables for the positions requested so far, one for each kind of rope.
#[derive(Debug, Default)]
pub struct Ropes(Mutex<Vec<Arc<Rope>>>);

impl Ropes {
    /// The tables of a block for at least `positions` positions.
    pub fn of(&self, block: &BlockConfig, positions: usize) -> Arc<Rope> {
        let mut ropes = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = ropes.iter().position(|rope| *rope.config() == block.rope);
        if let Some(index) = known
            && ropes[index].positions() >= positions
        {
            return ropes[index].clone();
        }
        let rope = Arc::new(Rope::new(block.rope, block.head_dim, positions));
        match known {
            Some(index) => ropes[index] = rope.clone(),
            None => ropes.push(rope.clone()),
        }
        rope
    }
}

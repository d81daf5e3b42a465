//! A pool of scratch memory: every step needs the same sizes, and fresh pages are slow.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Free memory, smallest first.
static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), floats: 0 });

/// Maximum number of floats in the pool (1 GiB); beyond it, buffers are freed.
const MOST_FLOATS: usize = 1 << 28;

/// Below this length, the system's allocator is as fast.
const LEAST_FLOATS: usize = 1 << 12;

struct Pool {
    free: Vec<Vec<f32>>,
    floats: usize,
}

/// A slice of f32 whose memory returns to the pool. Its initial content is arbitrary: write before
/// you read.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    length: usize,
}

impl Buffer {
    /// `length` floats with arbitrary values.
    pub(super) fn new(length: usize) -> Buffer {
        let memory = if length < LEAST_FLOATS { None } else { take(length) };
        let mut buffer = Buffer { memory: memory.unwrap_or_else(|| vec![0.0; length]), length };
        if cfg!(test) {
            buffer.fill(f32::NAN); // Make reads of unwritten memory visible.
        }
        buffer
    }

    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Buffer {
        let mut buffer = Buffer::new(length);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `values`.
    pub(super) fn copy_of(values: &[f32]) -> Buffer {
        let mut buffer = Buffer::new(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

fn take(length: usize) -> Option<Vec<f32>> {
    let mut pool = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let index = pool.free.partition_point(|memory| memory.len() < length);
    // Do not take a much larger buffer that another request may need.
    if pool.free.get(index)?.len() > length + length / 2 {
        return None;
    }
    let memory = pool.free.remove(index);
    pool.floats -= memory.len();
    Some(memory)
}

/// Frees the memory in the pool.
pub fn release_buffers() {
    let mut pool = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (pool.free, pool.floats) = (Vec::new(), 0);
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.len() < LEAST_FLOATS {
            return;
        }
        let mut pool = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pool.floats + memory.len() <= MOST_FLOATS {
            let index = pool.free.partition_point(|other| other.len() < memory.len());
            pool.floats += memory.len();
            pool.free.insert(index, memory);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::copy_of(self)
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

//! Which edges of the program an input reached: the counters that LLVM's SanitizerCoverage adds to
//! code compiled with `-sanitizer-coverage-inline-8bit-counters`, and the operands of comparisons.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Where the counters of each compiled module are: address and number.
static MODULES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Operands of the latest comparisons, for mutations that try to make them equal.
static OPERANDS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static NEXT_OPERAND: AtomicUsize = AtomicUsize::new(0);

/// Called at the start by every instrumented module.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let length = (stop as usize).saturating_sub(start as usize);
    if let Ok(mut modules) = MODULES.lock()
        && !modules.iter().any(|(known, _)| *known == start as usize)
    {
        modules.push((start as usize, length));
    }
}

fn remember(value: u64) {
    // Small numbers are met by chance.
    if value > 255 {
        OPERANDS[NEXT_OPERAND.fetch_add(1, Ordering::Relaxed) % OPERANDS.len()].store(value, Ordering::Relaxed);
    }
}

macro_rules! comparisons {
    ($($name:ident: $type:ty),*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name(a: $type, b: $type) {
                remember(u64::from(a));
                remember(u64::from(b));
            }
        )*
    };
}

comparisons!(
    __sanitizer_cov_trace_cmp1: u8,
    __sanitizer_cov_trace_cmp2: u16,
    __sanitizer_cov_trace_cmp4: u32,
    __sanitizer_cov_trace_cmp8: u64,
    __sanitizer_cov_trace_const_cmp1: u8,
    __sanitizer_cov_trace_const_cmp2: u16,
    __sanitizer_cov_trace_const_cmp4: u32,
    __sanitizer_cov_trace_const_cmp8: u64
);

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_switch(value: u64, _cases: *const u64) {
    remember(value);
}

/// A recent operand of a comparison, chosen by `number`.
pub(crate) fn operand(number: usize) -> u64 {
    OPERANDS[number % OPERANDS.len()].load(Ordering::Relaxed)
}

/// The counters of all modules.
fn counters() -> Vec<(usize, usize)> {
    MODULES.lock().map(|modules| modules.clone()).unwrap_or_default()
}

/// Edges that are counted.
pub(crate) fn edges() -> usize {
    counters().iter().map(|(_, length)| length).sum()
}

/// Sets all counters to 0.
pub(crate) fn reset() {
    for (start, length) in counters() {
        // SAFETY: the module gave this range for its counters, which live as long as the program.
        unsafe { std::ptr::write_bytes(start as *mut u8, 0, length) };
    }
}

/// What all inputs so far have reached: for each edge the set of its counts, in eight classes.
#[derive(Default)]
pub(crate) struct Seen(Vec<u8>);

impl Seen {
    /// Adds what the last input reached; whether anything of it is new.
    pub(crate) fn add_new(&mut self) -> bool {
        let mut new = false;
        let mut edge = 0;
        for (start, length) in counters() {
            if self.0.len() < edge + length {
                self.0.resize(edge + length, 0);
            }
            // SAFETY: as in `reset`; the target has returned, and its threads with it.
            let counts = unsafe { std::slice::from_raw_parts(start as *const u8, length) };
            for (seen, count) in self.0[edge..].iter_mut().zip(counts) {
                let class = class(*count);
                new |= class & !*seen != 0;
                *seen |= class;
            }
            edge += length;
        }
        new
    }

    /// Edges that any input reached.
    pub(crate) fn edges(&self) -> usize {
        self.0.iter().filter(|seen| **seen != 0).count()
    }
}

/// The class of a count as a bit: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, more.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        _ => 128,
    }
}

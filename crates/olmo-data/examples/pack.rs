//! How long best-fit packing takes, and how full its rows are: a million documents whose lengths are spread as those of chats are
//! (log-normal, median 150 tokens), into rows of 2048.
//!
//! ```text
//! cargo run --release --example pack
//! ```

use std::time::Instant;

use olmo_data::memmap::pack::best_fit;

fn main() {
    const CAPACITY: usize = 2048;
    let mut state = 6198u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    // Box and Muller's way to a normal number.
    let mut normal = move || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let lengths: Vec<usize> =
        (0..1_000_000).map(|_| ((150.0 * (0.9 * normal()).exp()) as usize).clamp(8, CAPACITY)).collect();
    let tokens: usize = lengths.iter().sum();
    let start = Instant::now();
    let rows = best_fit(&lengths, CAPACITY).len();
    let took = start.elapsed().as_secs_f64();
    let filled = 100.0 * tokens as f64 / (rows * CAPACITY) as f64;
    println!("{} documents, {tokens} tokens: {took:.3} s, {rows} rows, {filled:.2} % filled", lengths.len());
}

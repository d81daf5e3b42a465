//! The speed of `tokenizers` 1.0 alone: texts in memory to ids in memory, nothing read or written.
//! `scripts/bench/data.py` compares stage `tokenize` with it.
//!
//!     cargo run --release --example raw_tokenizers -- TOKENIZER.json TEXTS.json THREADS RUNS
//!
//! TEXTS.json is a list of strings. Prints the number of tokens, the seconds of the best run, and the
//! processor seconds of all threads in the run that took the fewest (Linux; elsewhere 0).

#![allow(clippy::unwrap_used, reason = "an example ends with its first error")]

use std::time::Instant;

use serde_json::Value;
use tokenizers_1::pipeline::{EncodeOptions, PipelineTokenizer};

fn open(path: &str) -> PipelineTokenizer {
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    // Built without the normalisers: the texts must be in the form NFC.
    for stage in ["normalizer", "post_processor"] {
        file[stage] = Value::Null;
    }
    tokenizers_1::canonicalize_value(&mut file).unwrap();
    tokenizers_1::from_json(&file.to_string()).unwrap()
}

/// Nanoseconds for which this thread ran on a processor.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// The number of tokens, and the nanoseconds of processor time.
fn encode(tokenizer: &PipelineTokenizer, texts: &[String]) -> (usize, u64) {
    let before = processor_time();
    let options = EncodeOptions::no_specials();
    let mut tokens = Vec::new();
    let mut count = 0;
    for text in texts {
        tokens.clear();
        tokenizer.encode_into(text, &options, &mut tokens).unwrap();
        count += tokens.len();
    }
    (count, processor_time() - before)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, tokenizer, texts, threads, runs] = arguments.as_slice() else {
        panic!("give TOKENIZER.json TEXTS.json THREADS RUNS");
    };
    let tokenizer = open(tokenizer);
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts).unwrap()).unwrap();
    let per_thread = texts.len().div_ceil(threads.parse().unwrap()).max(1);
    let (mut count, mut best, mut fewest) = (0, f64::INFINITY, u64::MAX);
    for _ in 0..runs.parse().unwrap() {
        let start = Instant::now();
        let done: Vec<(usize, u64)> = std::thread::scope(|scope| {
            let parts: Vec<_> = texts.chunks(per_thread).map(|part| scope.spawn(|| encode(&tokenizer, part))).collect();
            parts.into_iter().map(|part| part.join().unwrap()).collect()
        });
        best = best.min(start.elapsed().as_secs_f64());
        count = done.iter().map(|(count, _)| count).sum();
        fewest = fewest.min(done.iter().map(|(_, time)| time).sum());
    }
    println!("{count} {best} {}", fewest as f64 / 1e9);
}

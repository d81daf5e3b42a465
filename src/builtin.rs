//! Descriptions of the built-in stages, embedded so that an installed binary works anywhere.
//!
//! They are generated: `olmo-pipe schema` writes them from the output of `olmo-worker describe`. Do
//! not edit them by hand.

/// (name, the stage's [`olmo_stage::Description`] as JSON).
pub const STAGES: [(&str, &str); 11] = [
    ("checkpoint", include_str!("../schemas/stages/checkpoint.json")),
    ("convert", include_str!("../schemas/stages/convert.json")),
    ("eval", include_str!("../schemas/stages/eval.json")),
    ("fetch", include_str!("../schemas/stages/fetch.json")),
    ("generate", include_str!("../schemas/stages/generate.json")),
    ("memmap", include_str!("../schemas/stages/memmap.json")),
    ("split", include_str!("../schemas/stages/split.json")),
    ("tasks", include_str!("../schemas/stages/tasks.json")),
    ("tokenize", include_str!("../schemas/stages/tokenize.json")),
    ("tokenizer", include_str!("../schemas/stages/tokenizer.json")),
    ("train", include_str!("../schemas/stages/train.json")),
];

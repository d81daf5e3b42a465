//! Every input of the corpus is read by its target.

use std::fs;

use olmo_fuzz::{TARGETS, inputs};

#[test]
fn no_committed_input_does_harm() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(inputs.len() >= 4, "{name} has {} inputs", inputs.len());
        for path in inputs {
            // The name of the input that panics is the last one that is printed.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}

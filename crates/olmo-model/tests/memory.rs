//! The memory estimate against what the allocator was asked for. A process of its own: its allocator counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use olmo_model::{
    ActivationCheckpointing, Batch, Computes, LossOptions, MemoryEstimate, Model, ModelConfig, Parameters,
};
use serde_json::{Value, json};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn add(size: usize) {
    let now = NOW.fetch_add(size, Ordering::SeqCst) + size;
    MOST.fetch_max(now, Ordering::SeqCst);
}

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes at a time that the first `loss_and_gradients` of a model takes beyond weights and gradients.
fn measured(config: &ModelConfig, policy: ActivationCheckpointing, rows: usize, sequence: usize) -> usize {
    let parameters = Parameters::init(config, 1).expect("weights");
    let mut model = Model::new(config, &parameters).expect("a model");
    model.set_activation_checkpointing(policy);
    let mut gradients = vec![0f32; parameters.len()];
    let input_ids = (0..rows * sequence).map(|place| (place % 50) as u32).collect();
    let batch = Batch { input_ids, label_mask: None, documents: None, batch: rows, sequence };
    // What an earlier measurement has left waiting for its next use would make this one look small.
    olmo_ops::release_buffers();
    let before = NOW.load(Ordering::SeqCst);
    MOST.store(before, Ordering::SeqCst);
    let options = LossOptions { denominator: batch.labels() as f64, z_loss: 0.0 };
    model.loss_and_gradients(&batch, &options, &mut gradients).expect("gradients");
    MOST.load(Ordering::SeqCst) - before
}

#[test]
fn the_estimate_is_near_what_is_taken_and_not_far_below_it() {
    let shapes: [(Value, usize, usize); 3] = [
        (json!({}), 4, 128),
        (json!({"norm_after": false, "attention_layer_norm": false}), 2, 192),
        (json!({"n_kv_heads": 2, "vocab_size": 4000, "weight_tying": true}), 3, 128),
    ];
    for (changes, rows, sequence) in shapes {
        let mut fields = json!({
            "d_model": 128, "n_heads": 4, "n_layers": 6, "mlp_hidden_size": 768, "layer_norm_type": "rms",
            "attention_layer_norm": true, "norm_after": true, "max_sequence_length": 4096, "vocab_size": 500,
            "weight_tying": false,
        });
        fields.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        let config: ModelConfig = serde_json::from_value(fields).expect("a config");
        for policy in ActivationCheckpointing::ALL {
            let estimate = MemoryEstimate::of(&config, Computes::OnHost, policy, rows, sequence);
            let (estimated, taken) =
                ((estimate.activations + estimate.working) as f64, measured(&config, policy, rows, sequence) as f64);
            let ratio = taken / estimated;
            assert!(
                (0.5..1.15).contains(&ratio),
                "{changes} {policy:?}: {taken} bytes were taken, the estimate is {estimated} ({ratio:.2})"
            );
        }
    }
}

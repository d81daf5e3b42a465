//! The model against outputs of OLMo's own code (common/oracle.rs).

#[path = "common/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;

use olmo_model::{LossOptions, Model};
use olmo_ops::adamw::{self, AdamW, State};
use olmo_ops::{clip_coefficient, global_norm};
use oracle::{BATCH, SEQUENCE, batch, parameters, variants};

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, not {want}");
}

#[test]
fn names_shapes_and_weight_decay_groups_are_olmos() {
    for (name, config, golden) in variants() {
        let parameters = parameters(&config);
        let shapes: BTreeMap<String, Vec<usize>> =
            parameters.tensors().iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        assert_eq!(shapes, golden.params, "{name}");
        assert_eq!(parameters.len(), golden.num_params, "{name}");
        let groups = parameters.weight_decay_groups(true, false);
        for spec in parameters.tensors() {
            let group =
                groups.iter().find(|(range, _)| range.contains(&spec.range.start)).expect("every tensor is in a group");
            assert!(spec.range.end <= group.0.end, "{}", spec.name);
            let theirs = golden
                .groups
                .iter()
                .find(|group| group.param_names.iter().any(|other| other.ends_with(&format!("module.{}", spec.name))));
            assert_eq!(group.1, theirs.expect("OLMo has it too").weight_decay > 0.0, "{name} {}", spec.name);
        }
    }
}

#[test]
fn losses_gradients_and_four_optimizer_steps_are_olmos() {
    for (name, config, golden) in variants() {
        let mut parameters = parameters(&config);
        let mut model = Model::new(&config, &parameters).expect("a model");
        let groups = parameters.weight_decay_groups(true, false);
        let (mut exp_avg, mut exp_avg_sq) = (vec![0f32; parameters.len()], vec![0f32; parameters.len()]);
        let options = LossOptions { denominator: (BATCH * SEQUENCE) as f64, z_loss: 1e-4 };
        for step in &golden.steps {
            let mut gradients = vec![0f32; parameters.len()];
            let output = model.loss_and_gradients(&batch(), &options, &mut gradients).expect("gradients");
            assert_eq!(
                model.loss(&batch(), &options).expect("a loss"),
                output,
                "with gradients or without, the loss is one"
            );
            close(output.loss_sum / options.denominator, step.ce, 1e-6 * step.ce, name);
            close(output.z_sum / options.denominator, step.z, 1e-6 * step.z.max(1e-3), name);
            if step.step == 1 {
                for (tensor, want) in &golden.grad_norms_step1_preclip {
                    let range = parameters.range(tensor).expect("a tensor");
                    close(global_norm(&gradients[range]), *want, 1e-5 * want, &format!("{name} {tensor}"));
                }
            }
            let total = global_norm(&gradients);
            close(total, step.total_grad_norm, 1e-5 * step.total_grad_norm, name);
            let settings = AdamW { learning_rate: step.lr, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
            let change = |weights: &mut [f32]| {
                let state = State { parameters: weights, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq };
                adamw::step(&settings, step.step, state, &gradients, clip_coefficient(total, 1.0), &groups);
            };
            model.update(&mut parameters, change).expect("the same config");
            let sum: f64 = parameters.flat().iter().map(|&x| f64::from(x).abs()).sum();
            close(sum, step.param_abs_sum, 1e-6 * step.param_abs_sum, name);
        }
        let after = parameters.tensor("transformer.blocks.1.ff_out.weight").expect("a tensor");
        for (got, want) in after.iter().zip(&golden.after4) {
            close(f64::from(*got), *want, 2e-6, name);
        }
    }
}

//! Embedding, norm and head with loss against their definitions.

mod common;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::reference::{self, HeadLoss};
use common::{Gradients, On, difference, input, matrix, numbers, read, run_embedding, run_head, run_norm};
use olmo_ops::{Compute, Cpu, IGNORED, LossTerms, Norm, NormKind, Sums, head_loss};

/// A leaf in f64, for the reference bodies.
fn leaf<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F64)).require_grad()
}

/// Runs a check on everything that this build computes on.
fn everywhere(check: impl Fn(On)) {
    On::all().into_iter().for_each(check);
}

#[test]
fn the_embedding_adds_up_the_gradients_of_repeated_ids() {
    everywhere(embedding_of_repeated_ids);
}

fn embedding_of_repeated_ids(on: On) {
    let (ids, shape) = ([3, 0, 3, 3, 6, 0], [2, 3]);
    let (weights, cotangent) = (numbers(7 * 5, 1), numbers(30, 2));
    let (output, gradients) = run_embedding(on, &weights, 5, &ids, shape, &cotangent);
    let weight = leaf(&weights, [7, 5]);
    let y = reference::embedding(weight.clone(), &ids, shape);
    let grads = (y.clone() * leaf(&cotangent, [2, 3, 5])).sum().backward();
    assert!(difference(&output, &read(y.inner())) < 1e-6);
    assert!(difference(&gradients[0], &read(weight.grad(&grads).expect("a gradient"))) < 1e-6);
    assert!(gradients[0][5..10].iter().all(|gradient| *gradient == 0.0), "a row that no id names has no gradient");
}

#[test]
fn both_norms_equal_the_reference_with_and_without_weight() {
    everywhere(both_norms);
}

fn both_norms(on: On) {
    for (kind, width, rows) in
        [(NormKind::Rms, 33, 130), (NormKind::Layer, 33, 130), (NormKind::Rms, 16, 1), (NormKind::Layer, 5, 3)]
    {
        for affine in [true, false] {
            let norm = Norm { kind, eps: 1e-5 };
            let (x, weight, cotangent) = (numbers(rows * width, 1), numbers(width, 2), numbers(rows * width, 3));
            let shape = [1, rows, width];
            let weights = affine.then_some(weight.as_slice());
            let (output, gradients) = run_norm(on, norm, input(on, &x, shape), weights, &cotangent);
            let (x, weight) = (leaf(&x, shape), affine.then(|| leaf(&weight, [width])));
            let y = reference::norm(norm, x.clone(), weight.clone());
            let grads = (y.clone() * leaf(&cotangent, shape)).sum().backward();
            let mut wanted = vec![read(y.inner()), read(x.grad(&grads).expect("a gradient"))];
            wanted.extend(weight.map(|weight| read(weight.grad(&grads).expect("a gradient"))));
            assert_eq!(gradients.len() + 1, wanted.len());
            for (got, wanted) in [output].iter().chain(&gradients).zip(&wanted) {
                let off = difference(got, wanted);
                assert!(off < 2e-6, "{kind:?} {width} {affine}: {off}");
            }
        }
    }
}

struct Head {
    on: On,
    rows: usize,
    width: usize,
    vocabulary: usize,
    targets: Vec<u32>,
    terms: LossTerms,
}

impl Head {
    fn inputs(&self) -> [Vec<f64>; 2] {
        [numbers(self.rows * self.width, 1), numbers(self.vocabulary * self.width, 2)]
    }

    fn run(&self) -> (Gradients, Sums) {
        let [hidden, weight] = self.inputs();
        let hidden = input(self.on, &hidden, [1, self.rows, self.width]);
        run_head(self.on, hidden, &weight, &self.targets, self.terms)
    }

    fn reference(&self) -> (Gradients, Sums) {
        let [hidden, weight] = self.inputs();
        let (hidden, weight) =
            (leaf(&hidden, [1, self.rows, self.width]), leaf(&weight, [self.vocabulary, self.width]));
        let HeadLoss { loss, sums } = reference::head_loss(hidden.clone(), weight.clone(), &self.targets, self.terms);
        let grads = loss.clone().backward();
        let gradients =
            vec![read(hidden.grad(&grads).expect("a gradient")), read(weight.grad(&grads).expect("a gradient"))];
        ((read(loss.inner()), gradients), sums)
    }
}

fn targets(rows: usize, vocabulary: usize, ignored: impl Fn(usize) -> bool) -> Vec<u32> {
    (0..rows).map(|row| if ignored(row) { IGNORED } else { ((row * 7919) % vocabulary) as u32 }).collect()
}

#[test]
fn head_and_loss_equal_the_reference_with_z_loss_ignored_targets_and_several_chunks() {
    everywhere(head_and_loss);
}

fn head_and_loss(on: On) {
    let shapes = [(1, 5, 3, 0.0), (9, 16, 33, 1e-2), (600, 7, 50, 1e-4), (40, 31, 129, 0.0)];
    for (rows, width, vocabulary, z_loss) in shapes {
        let terms = LossTerms { denominator: 11.0, z_loss };
        let head = Head { on, rows, width, vocabulary, targets: targets(rows, vocabulary, |row| row % 3 == 1), terms };
        let (((loss, gradients), sums), ((want, want_gradients), want_sums)) = (head.run(), head.reference());
        assert_eq!(sums.labels, want_sums.labels);
        assert!((sums.nll / want_sums.nll - 1.0).abs() < 1e-6, "{sums:?} {want_sums:?}");
        assert!((sums.z - want_sums.z).abs() <= 1e-6 * want_sums.z.abs(), "{sums:?} {want_sums:?}");
        assert!(difference(&loss, &want) < 1e-6);
        for (got, want) in gradients.iter().zip(&want_gradients) {
            assert!(difference(got, want) < 3e-6, "{rows}: {}", difference(got, want));
        }
    }
}

#[test]
fn no_targets_at_all_give_a_finite_loss_and_no_gradient() {
    everywhere(no_targets);
}

fn no_targets(on: On) {
    let terms = LossTerms { denominator: 8.0, z_loss: 1e-4 };
    let head = Head { on, rows: 8, width: 6, vocabulary: 10, targets: vec![IGNORED; 8], terms };
    let ((loss, gradients), sums) = head.run();
    assert_eq!((sums.nll, sums.z, sums.labels), (0.0, 0.0, 0));
    assert_eq!(loss, [0.0]);
    assert!(gradients.iter().flatten().all(|gradient| *gradient == 0.0));
}

#[test]
fn head_and_loss_are_the_same_bits_for_any_number_of_threads() {
    everywhere(head_on_threads);
}

fn head_on_threads(on: On) {
    let terms = LossTerms { denominator: 500.0, z_loss: 1e-4 };
    let head =
        Head { on, rows: 700, width: 40, vocabulary: 130, targets: targets(700, 130, |row| row % 5 == 0), terms };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool can be built");
        pool.install(|| head.run())
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
#[should_panic(expected = "the loss itself is differentiated")]
fn a_function_of_the_loss_is_not_differentiated() {
    let device = Cpu::with_gradients(Compute::Flex, Arc::new(vec![0.1; 12]), vec![0.0; 12]);
    let hidden = input(On::default(), &[1.0; 4], [1, 1, 4]);
    let terms = LossTerms { denominator: 1.0, z_loss: 0.0 };
    let (loss, _) = head_loss(&device, hidden, &matrix(&(0..12), 4), &[1], terms);
    let _ = (loss * 1.5).backward();
}

#[test]
fn a_loss_over_weights_that_are_not_numbers_is_not_a_number() {
    let hidden = Tensor::<3>::from_data(TensorData::new(vec![f32::NAN; 4], [1, 1, 4]), &Device::flex());
    let device = Cpu::new(Compute::Flex, Arc::new(vec![0.1; 12]));
    let terms = LossTerms { denominator: 1.0, z_loss: 0.0 };
    let (_, sums) = head_loss(&device, hidden, &matrix(&(0..12), 4), &[1], terms);
    assert!(sums.nll.is_nan());
}

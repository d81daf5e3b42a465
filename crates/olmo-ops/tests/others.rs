//! Embedding, norm and head with loss against their definitions.

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{difference, numbers, read};
use olmo_ops::{
    Compute, HeadLoss, IGNORED, LossTerms, Norm, NormKind, embedding, embedding_reference, head_logits, head_loss,
    head_loss_reference, norm, norm_reference,
};

fn tensor<const D: usize>(compute: Compute, values: &[f64], shape: [usize; D], dtype: DType) -> Tensor<D> {
    compute.prepare();
    let device = compute.device().autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device, dtype)).require_grad()
}

/// What rounding inputs to bf16 and results to it again may cost, relative to the largest number.
const IN_BF16: f64 = 2e-2;

/// Runs a check on everything that this build computes on.
fn everywhere(check: impl Fn(Compute)) {
    Compute::ALL.iter().copied().for_each(check);
}

#[test]
fn the_embedding_adds_up_the_gradients_of_repeated_ids() {
    everywhere(embedding_of_repeated_ids);
}

fn embedding_of_repeated_ids(compute: Compute) {
    let (ids, shape) = ([3, 0, 3, 3, 6, 0], [2, 3]);
    let weights = numbers(7 * 5, 1);
    let cotangent = numbers(30, 2);
    let run = |fused: bool, dtype: DType| {
        let weight = tensor(compute, &weights, [7, 5], dtype);
        let y = if fused {
            embedding(weight.clone(), &ids, shape)
        } else {
            embedding_reference(weight.clone(), &ids, shape)
        };
        let grads = (y.clone() * tensor(compute, &cotangent, [2, 3, 5], dtype)).sum().backward();
        (read(y.inner()), read(weight.grad(&grads).expect("a gradient")))
    };
    let (fused, reference) = (run(true, DType::F32), run(false, DType::F64));
    assert!(difference(&fused.0, &reference.0) < 1e-6 && difference(&fused.1, &reference.1) < 1e-6);
    let in_bf16 = run(true, DType::BF16);
    assert!(difference(&in_bf16.0, &reference.0) < IN_BF16 && difference(&in_bf16.1, &reference.1) < IN_BF16);
    assert!(fused.1[5..10].iter().all(|gradient| *gradient == 0.0), "a row that no id names has no gradient");
}

#[test]
fn both_norms_equal_the_reference_with_and_without_weight() {
    everywhere(both_norms);
}

fn both_norms(compute: Compute) {
    for (kind, width, rows) in
        [(NormKind::Rms, 33, 130), (NormKind::Layer, 33, 130), (NormKind::Rms, 16, 1), (NormKind::Layer, 5, 3)]
    {
        for affine in [true, false] {
            let spec = Norm { kind, eps: 1e-5 };
            let (x, weight, cotangent) = (numbers(rows * width, 1), numbers(width, 2), numbers(rows * width, 3));
            let run = |fused: bool, dtype: DType| {
                let input = tensor(compute, &x, [1, rows, width], dtype);
                let weight = affine.then(|| tensor(compute, &weight, [width], dtype));
                let apply = if fused { norm } else { norm_reference };
                let y = apply(spec, input.clone(), weight.clone());
                let grads = (y.clone() * tensor(compute, &cotangent, [1, rows, width], dtype)).sum().backward();
                let gradient = weight.map(|weight| read(weight.grad(&grads).expect("a gradient"))).unwrap_or_default();
                [read(y.inner()), read(input.grad(&grads).expect("a gradient")), gradient]
            };
            let reference = run(false, DType::F64);
            for (dtype, most) in [(DType::F32, 2e-6), (DType::BF16, IN_BF16)] {
                for (fused, reference) in run(true, dtype).iter().zip(&reference) {
                    let off = difference(fused, reference);
                    assert!(off < most, "{kind:?} {width} {affine} {dtype:?}: {off}");
                }
            }
        }
    }
}

struct Head {
    compute: Compute,
    rows: usize,
    width: usize,
    vocabulary: usize,
    targets: Vec<u32>,
    terms: LossTerms,
}

impl Head {
    fn run(&self, fused: bool, dtype: DType) -> (HeadLoss, Vec<f64>, Vec<f64>) {
        let hidden = tensor(self.compute, &numbers(self.rows * self.width, 1), [1, self.rows, self.width], dtype);
        let weight =
            tensor(self.compute, &numbers(self.vocabulary * self.width, 2), [self.vocabulary, self.width], dtype);
        let apply = if fused { head_loss } else { head_loss_reference };
        let result = apply(hidden.clone(), weight.clone(), &self.targets, self.terms);
        let grads = (result.loss.clone() * 1.5).sum().backward();
        (result, read(hidden.grad(&grads).expect("a gradient")), read(weight.grad(&grads).expect("a gradient")))
    }
}

fn targets(rows: usize, vocabulary: usize, ignored: impl Fn(usize) -> bool) -> Vec<u32> {
    (0..rows).map(|row| if ignored(row) { IGNORED } else { ((row * 7919) % vocabulary) as u32 }).collect()
}

#[test]
fn head_and_loss_equal_the_reference_with_z_loss_ignored_targets_and_several_chunks() {
    everywhere(head_and_loss);
}

fn head_and_loss(compute: Compute) {
    let shapes = [(1, 5, 3, 0.0), (9, 16, 33, 1e-2), (600, 7, 50, 1e-4), (40, 31, 129, 0.0)];
    for (rows, width, vocabulary, z_loss) in shapes {
        let terms = LossTerms { denominator: 11.0, z_loss };
        let head =
            Head { compute, rows, width, vocabulary, targets: targets(rows, vocabulary, |row| row % 3 == 1), terms };
        let ((fused, hidden, weight), (reference, want_hidden, want_weight)) =
            (head.run(true, DType::F32), head.run(false, DType::F64));
        assert_eq!(fused.sums.labels, reference.sums.labels);
        assert!((fused.sums.nll / reference.sums.nll - 1.0).abs() < 1e-6, "{:?} {:?}", fused.sums, reference.sums);
        assert!(
            (fused.sums.z - reference.sums.z).abs() <= 1e-6 * reference.sums.z.abs(),
            "{:?} {:?}",
            fused.sums,
            reference.sums
        );
        assert!(difference(&read(fused.loss.inner()), &read(reference.loss.inner())) < 1e-6);
        assert!(difference(&hidden, &want_hidden) < 3e-6, "{rows}: {}", difference(&hidden, &want_hidden));
        assert!(difference(&weight, &want_weight) < 3e-6, "{rows}: {}", difference(&weight, &want_weight));
        let (in_bf16, hidden, weight) = head.run(true, DType::BF16);
        assert!((in_bf16.sums.nll / reference.sums.nll - 1.0).abs() < IN_BF16, "{:?}", in_bf16.sums);
        assert!(difference(&hidden, &want_hidden) < IN_BF16 && difference(&weight, &want_weight) < IN_BF16, "{rows}");
    }
}

#[test]
fn no_targets_at_all_give_a_finite_loss_and_no_gradient() {
    everywhere(no_targets);
}

fn no_targets(compute: Compute) {
    let terms = LossTerms { denominator: 8.0, z_loss: 1e-4 };
    let head = Head { compute, rows: 8, width: 6, vocabulary: 10, targets: vec![IGNORED; 8], terms };
    let (result, hidden, weight) = head.run(true, DType::F32);
    assert_eq!((result.sums.nll, result.sums.z, result.sums.labels), (0.0, 0.0, 0));
    assert_eq!(read(result.loss.inner()), [0.0]);
    assert!(hidden.iter().chain(&weight).all(|gradient| *gradient == 0.0));
}

#[test]
fn head_and_loss_are_the_same_bits_for_any_number_of_threads() {
    everywhere(head_on_threads);
}

fn head_on_threads(compute: Compute) {
    let terms = LossTerms { denominator: 500.0, z_loss: 1e-4 };
    let head =
        Head { compute, rows: 700, width: 40, vocabulary: 130, targets: targets(700, 130, |row| row % 5 == 0), terms };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool can be built");
        let (result, hidden, weight) = pool.install(|| head.run(true, DType::F32));
        (result.sums, hidden, weight)
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn a_loss_over_weights_that_are_not_numbers_is_not_a_number() {
    let device = Device::flex();
    let hidden = Tensor::<3>::from_data(TensorData::new(vec![f32::NAN; 4], [1, 1, 4]), &device);
    let weight = Tensor::<2>::from_data(TensorData::new(vec![0.1f32; 12], [3, 4]), &device);
    let result = head_loss(hidden, weight, &[1], LossTerms { denominator: 1.0, z_loss: 0.0 });
    assert!(result.sums.nll.is_nan());
}

#[test]
fn logits_are_the_product_with_the_head() {
    let device = Device::flex();
    let hidden = Tensor::<3>::from_data(TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [1, 2, 2]), &device);
    let weight = Tensor::<2>::from_data(TensorData::new(vec![1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0], [3, 2]), &device);
    assert_eq!(read(head_logits(hidden, weight)), [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
}

//! Both bodies of norm, embedding and head with loss against torch.autograd in float64 (scripts/goldens/ops_autograd.py), and the plain ones
//! against central differences in f64.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod common;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{Gradients, On, difference, input, read, reference, run_embedding, run_head, run_norm};
use olmo_ops::{IGNORED, LossTerms, Norm, NormKind};
use serde::Deserialize;

const IDS: [u32; 6] = [3, 0, 3, 6, 3, 0];
const TARGETS: [u32; 6] = [4, IGNORED, 8, 0, IGNORED, 4];

#[derive(Deserialize)]
struct Goldens {
    cases: BTreeMap<String, Golden>,
}

#[derive(Deserialize)]
struct Golden {
    output: Vec<f64>,
    gradients: Vec<Vec<f64>>,
}

fn goldens() -> BTreeMap<String, Golden> {
    let goldens: Goldens =
        serde_json::from_str(include_str!("fixtures/ops_autograd.json")).expect("the fixture is sound");
    assert_eq!(goldens.cases.len(), 7);
    goldens.cases
}

/// The closed formula of the script.
fn numbers(count: usize, seed: usize, scale: f64, offset: f64) -> Vec<f64> {
    (1..=count).map(|i| f64::from((offset + scale * (0.7 * i as f64 + 1.3 * seed as f64).sin()) as f32)).collect()
}

/// One case of the script, with inputs that may be changed.
struct Case {
    words: Vec<String>,
    /// Shape and values.
    inputs: Vec<(Vec<usize>, Vec<f64>)>,
}

impl Case {
    fn new(name: &str) -> Case {
        let words: Vec<String> = name.split('/').map(str::to_owned).collect();
        let shapes: Vec<(Vec<usize>, f64, f64)> = match words[0].as_str() {
            "norm" => {
                let (rows, width) = (words[2].parse().unwrap(), words[3].parse().unwrap());
                let mut shapes = vec![(vec![rows, width], 1.5, 0.0)];
                if words[4] == "true" {
                    shapes.push((vec![width], 0.3, 1.0));
                }
                shapes
            }
            "embedding" => vec![(vec![7, 5], 1.0, 0.0)],
            _ => vec![(vec![6, 5], 1.5, 0.0), (vec![9, 5], 1.0, 0.0)],
        };
        let input = |(seed, (shape, scale, offset)): (usize, (Vec<usize>, f64, f64))| {
            let values = numbers(shape.iter().product(), seed, scale, offset);
            (shape, values)
        };
        Case { words, inputs: shapes.into_iter().enumerate().map(input).collect() }
    }

    /// Output, and gradients of the sum of output times cotangent (of the loss itself for the head).
    fn run_fused(&self, on: On) -> Gradients {
        let (shape, values) = &self.inputs[0];
        let first = || input(on, values, [1, shape[0], shape[1]]);
        let second = self.inputs.get(1).map(|(_, values)| values.as_slice());
        let cotangent = |count: usize| numbers(count, 99, 1.0, 0.0);
        match self.words[0].as_str() {
            "norm" => run_norm(on, self.norm(), first(), second, &cotangent(values.len())),
            "embedding" => run_embedding(on, values, shape[1], &IDS, [2, 3], &cotangent(IDS.len() * shape[1])),
            _ => run_head(on, first(), second.unwrap(), &TARGETS, self.terms()).0,
        }
    }

    fn norm(&self) -> Norm {
        Norm { kind: if self.words[1] == "rms" { NormKind::Rms } else { NormKind::Layer }, eps: 1e-5 }
    }

    fn terms(&self) -> LossTerms {
        LossTerms { denominator: 4.0, z_loss: self.words[1].parse().unwrap() }
    }

    /// As [`Case::run_fused`], by the reference body in `dtype`.
    fn run(&self, dtype: DType) -> Gradients {
        let device = Device::flex().autodiff();
        let tensor = |values: &[f64], shape: &[usize]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), [shape[0], shape[1]]), (&device, dtype))
        };
        let (shape, values) = &self.inputs[0];
        let first = tensor(values, shape).require_grad();
        let three = |x: Tensor<2>| x.unsqueeze::<3>();
        let weighted = |y: Tensor<3>| {
            let shape = y.dims();
            let cotangent = numbers(shape.iter().product(), 99, 1.0, 0.0);
            let cotangent = Tensor::<3>::from_data(TensorData::new(cotangent, shape), (&device, dtype));
            (read(y.clone().inner()), (y * cotangent).sum().backward())
        };
        let mut gradients = Vec::new();
        let (output, grads) = match self.words[0].as_str() {
            "norm" => {
                let weight = self.inputs.get(1).map(|(shape, values)| {
                    let data = TensorData::new(values.clone(), [shape[0]]);
                    Tensor::<1>::from_data(data, (&device, dtype)).require_grad()
                });
                let made = weighted(reference::norm(self.norm(), three(first.clone()), weight.clone()));
                gradients.extend(weight.map(|weight| read(weight.grad(&made.1).unwrap())));
                made
            }
            "embedding" => weighted(reference::embedding(first.clone(), &IDS, [2, 3])),
            _ => {
                let (shape, values) = &self.inputs[1];
                let weight = tensor(values, shape).require_grad();
                let loss = reference::head_loss(three(first.clone()), weight.clone(), &TARGETS, self.terms()).loss;
                let grads = loss.clone().backward();
                gradients.push(read(weight.grad(&grads).unwrap()));
                (read(loss.inner()), grads)
            }
        };
        gradients.insert(0, read(first.grad(&grads).unwrap()));
        (output, gradients)
    }

    /// The number whose gradients [`Case::run`] gives, in f64.
    fn value(&self) -> f64 {
        let (output, _) = self.run(DType::F64);
        if self.words[0] == "head" {
            return output[0];
        }
        output.iter().zip(numbers(output.len(), 99, 1.0, 0.0)).map(|(y, c)| y * c).sum()
    }
}

#[test]
fn both_bodies_are_those_of_torch_and_one_percent_would_be_noticed() {
    for (name, golden) in goldens() {
        let case = Case::new(&name);
        let mut made =
            vec![("f64".to_owned(), 1e-9, case.run(DType::F64)), ("f32".to_owned(), 5e-6, case.run(DType::F32))];
        made.extend(On::all().into_iter().map(|on| (format!("{on:?}"), 5e-6, case.run_fused(on))));
        for (body, tolerance, (output, gradients)) in made {
            let off = difference(&output, &golden.output);
            assert!(off < tolerance, "{name}, {body}: the output is off by {off}");
            assert_eq!(gradients.len(), golden.gradients.len());
            for (index, (got, want)) in gradients.iter().zip(&golden.gradients).enumerate() {
                let off = difference(got, want);
                assert!(off < tolerance, "{name}, {body}: gradient {index} is off by {off}");
                let wrong: Vec<f64> = want.iter().map(|x| x * 1.01).collect();
                assert!(difference(got, &wrong) > 1e-3, "{name}: one percent in gradient {index}");
            }
        }
    }
}

#[test]
fn the_plain_bodies_equal_central_differences_in_f64() {
    for name in goldens().keys() {
        let case = Case::new(name);
        let (_, gradients) = case.run(DType::F64);
        for (index, gradient) in gradients.iter().enumerate() {
            let scale = gradient.iter().fold(0f64, |most, x| most.max(x.abs()));
            for (element, gradient) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut case = Case::new(name);
                    case.inputs[index].1[element] += by;
                    case.value()
                };
                let slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                let off = (slope - gradient).abs() / scale;
                assert!(off < 1e-7, "{name}: input {index}, element {element}: {gradient} is not {slope}");
            }
        }
    }
}

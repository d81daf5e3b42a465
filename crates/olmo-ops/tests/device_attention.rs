//! Attention on devices against its definition, written out in f64. On the CPU: kernels of a GPU are chosen, called and refused here, and
//! computed only where there is one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![cfg(feature = "libtorch")]

use olmo_torch::{
    AttentionKernel, Device, DeviceAttention, Documents, Kind, Tensor, allow_tf32, cudnn_refusal,
    device_attention_backward, device_attention_forward, device_attention_forward_by, tf32_allowed,
};

/// Attention and what it is of; arrays are `[tokens, heads, head]`.
struct Case {
    name: &'static str,
    shape: [usize; 5],
    window: Option<usize>,
    /// Lengths of documents of each row, repeated over the rows and cut at their ends.
    documents: Option<&'static [usize]>,
}

const fn case(
    name: &'static str,
    shape: [usize; 5],
    window: Option<usize>,
    documents: Option<&'static [usize]>,
) -> Case {
    Case { name, shape, window, documents }
}

/// `[batch, sequence, heads, kv_heads, head]`.
const CASES: &[Case] = &[
    case("causal", [2, 16, 2, 2, 8], None, None),
    case("wide heads", [1, 33, 2, 2, 64], None, None),
    case("odd heads", [1, 9, 2, 1, 6], None, None),
    case("grouped", [2, 33, 6, 2, 8], None, None),
    case("one key head", [1, 17, 4, 1, 8], None, None),
    case("one row of one token", [1, 1, 2, 2, 8], None, None),
    case("rows of one token", [3, 1, 2, 1, 8], None, Some(&[1])),
    case("window", [2, 33, 2, 2, 8], Some(5), None),
    case("window of one", [1, 7, 2, 2, 8], Some(1), None),
    case("window wider than the row", [1, 7, 2, 2, 8], Some(70), None),
    case("window, grouped", [1, 40, 4, 2, 64], Some(7), None),
    case("documents", [2, 33, 2, 2, 8], None, Some(&[5, 1, 12, 3])),
    case("documents, grouped", [2, 16, 4, 2, 64], None, Some(&[10, 2])),
    case("documents of one token", [1, 9, 2, 2, 8], None, Some(&[1])),
    case("both", [2, 33, 4, 2, 8], Some(4), Some(&[9, 3])),
    case("longer than a kernel's tile", [1, 1100, 1, 1, 8], None, None),
    case("a window far from the first keys", [1, 1100, 1, 1, 8], Some(3), None),
    case("a document far from the first keys", [1, 1100, 1, 1, 8], None, Some(&[1090, 4])),
];

impl Case {
    fn tokens(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn starts(&self) -> Option<Vec<u32>> {
        let [batch, sequence, ..] = self.shape;
        let lengths = self.documents?;
        let mut row = Vec::new();
        for &length in lengths.iter().cycle() {
            let start = row.len() as u32;
            row.extend(std::iter::repeat_n(start, length.min(sequence - row.len())));
            if row.len() == sequence {
                break;
            }
        }
        Some(row.repeat(batch))
    }

    fn attention(&self, device: Device) -> DeviceAttention {
        let [batch, sequence, heads, kv_heads, head] = self.shape;
        let documents = self.starts().map(|starts| Documents::new(&starts, batch, sequence, device));
        DeviceAttention { batch, sequence, heads, kv_heads, head, window: self.window, documents }
    }

    /// Queries, keys, values and the output's gradient; numbers that bf16 holds exactly.
    fn numbers(&self) -> [Vec<f64>; 4] {
        let [_, _, heads, kv_heads, head] = self.shape;
        [heads, kv_heads, kv_heads, heads].map(|count| count * head * self.tokens()).map({
            let mut state = 7u64;
            move |length| {
                (0..length)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        ((state >> 56) as f64 - 127.5) / 64.0
                    })
                    .collect()
            }
        })
    }

    /// For each query its keys: those of the row, not after it, not before the window or the document.
    fn keys(&self, token: usize) -> std::ops::RangeInclusive<usize> {
        let sequence = self.shape[1];
        let (row, place) = (token / sequence * sequence, token % sequence);
        let oldest = self.window.map_or(0, |window| (place + 1).saturating_sub(window));
        let start = self.starts().map_or(0, |starts| starts[token] as usize);
        row + oldest.max(start)..=token
    }

    /// The output and, for its incoming gradient, those of queries, keys and values.
    fn reference(&self, [q, k, v, doutput]: &[Vec<f64>; 4]) -> [Vec<f64>; 4] {
        let [_, _, heads, kv_heads, head] = self.shape;
        let scale = 1.0 / (head as f64).sqrt();
        let mut output = vec![0.0; q.len()];
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|part| vec![0.0; part.len()]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for token in 0..self.tokens() {
            let keys = self.keys(token);
            for h in 0..heads {
                let at = (token * heads + h) * head;
                let of = |key: usize| (key * kv_heads + h / (heads / kv_heads)) * head;
                let query = &q[at..][..head];
                let scores: Vec<f64> = keys.clone().map(|key| scale * dot(query, &k[of(key)..][..head])).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (key, weight) in keys.clone().zip(&weights) {
                    for e in 0..head {
                        output[at + e] += weight / sum * v[of(key) + e];
                    }
                }
                let incoming = &doutput[at..][..head];
                let mean = dot(incoming, &output[at..][..head]);
                for (key, weight) in keys.clone().zip(&weights) {
                    let weight = weight / sum;
                    let dscore = weight * (dot(incoming, &v[of(key)..][..head]) - mean) * scale;
                    for e in 0..head {
                        dv[of(key) + e] += weight * incoming[e];
                        dq[at + e] += dscore * k[of(key) + e];
                        dk[of(key) + e] += dscore * query[e];
                    }
                }
            }
        }
        [output, dq, dk, dv]
    }
}

fn length(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|x| x * x).sum::<f64>().sqrt()
}

/// How far a kind may be from f64: less than one in a hundred for both.
fn tolerance(kind: Kind) -> f64 {
    if kind == Kind::Float { 1e-5 } else { 8e-3 }
}

fn read(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Double).flatten(0, -1).contiguous();
    Vec::try_from(&flat).unwrap()
}

/// How tensors lie in memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Contiguous,
    /// Queries, keys and values side by side in each token's row, as the block has them.
    Together,
}

/// Queries, keys and values as tensors, and the output's gradient.
fn tensors(case: &Case, numbers: &[Vec<f64>; 4], kind: Kind, device: Device, layout: Layout) -> [Tensor; 4] {
    let [_, _, heads, kv_heads, head] = case.shape.map(|n| n as i64);
    let tokens = case.tokens() as i64;
    let [q, k, v, doutput] = numbers
        .each_ref()
        .map(|part| Tensor::from_slice(part).reshape([tokens, -1, head]).to_kind(kind).to_device(device));
    let doutput = doutput.reshape([tokens, heads * head]);
    match layout {
        Layout::Contiguous => [q, k, v, doutput],
        Layout::Together => {
            let row = Tensor::cat(&[q, k, v], 1);
            let part = |at, count| row.narrow(1, at, count);
            [part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads), doutput]
        }
    }
}

/// Output and gradients as one kernel has them; `None` chooses it.
fn computed(case: &Case, kernel: Option<AttentionKernel>, kind: Kind, device: Device, layout: Layout) -> [Vec<f64>; 4] {
    let attention = case.attention(device);
    let [q, k, v, doutput] = tensors(case, &case.numbers(), kind, device, layout);
    let kept = match kernel {
        Some(kernel) => device_attention_forward_by(kernel, &attention, &q, &k, &v),
        None => device_attention_forward(&attention, &q, &k, &v),
    };
    assert_eq!(kept.output.size(), [case.tokens() as i64, (attention.heads * attention.head) as i64]);
    assert!(kept.output.is_contiguous() && kept.output.kind() == kind);
    let gradients = device_attention_backward(&attention, &q, &k, &v, &kept, &doutput);
    for (gradient, part) in gradients.iter().zip([&q, &k, &v]) {
        assert_eq!(gradient.size(), part.size());
        assert_eq!((gradient.stride()[2], gradient.kind()), (1, kind));
    }
    let [dq, dk, dv] = gradients.each_ref().map(read);
    [read(&kept.output), dq, dk, dv]
}

/// The lengths of the differences, relative to the lengths of what is expected. (The gradient through a softmax over one key is nothing: there
/// it is relative to that of the values.)
fn check(found: &[Vec<f64>; 4], expected: &[Vec<f64>; 4], kind: Kind) -> Result<(), String> {
    let values = length(expected[3].iter().copied());
    for ((name, found), expected) in ["output", "dq", "dk", "dv"].iter().zip(found).zip(expected) {
        assert_eq!(found.len(), expected.len());
        let whole = length(expected.iter().copied());
        let whole = if whole < 1e-6 * values { values } else { whole };
        let apart = length(found.iter().zip(expected).map(|(a, b)| a - b)) / whole;
        if apart.is_nan() || apart > tolerance(kind) {
            return Err(format!("{name} is {apart:.1e} from its definition"));
        }
    }
    Ok(())
}

/// Every case by these kernels, both layouts.
fn every_case(kernel: Option<AttentionKernel>, kind: Kind, device: Device) {
    for case in CASES {
        let expected = case.reference(&case.numbers());
        for layout in [Layout::Contiguous, Layout::Together] {
            let found = computed(case, kernel, kind, device, layout);
            if let Err(words) = check(&found, &expected, kind) {
                panic!("{}, {kind:?}, {kernel:?}, {layout:?}: {words}", case.name);
            }
        }
    }
}

#[test]
fn the_cpu_kernel_is_attention() {
    olmo_torch::keep_to_one_thread();
    every_case(None, Kind::Float, Device::Cpu);
    every_case(Some(AttentionKernel::Cpu), Kind::BFloat16, Device::Cpu);
}

#[test]
fn products_and_softmax_are_attention() {
    every_case(Some(AttentionKernel::Math), Kind::Float, Device::Cpu);
    every_case(Some(AttentionKernel::Math), Kind::BFloat16, Device::Cpu);
}

#[test]
fn what_a_gpu_has_is_attention() {
    let device = Device::cuda_if_available();
    if !device.is_cuda() {
        eprintln!("not run: there is no GPU");
        return;
    }
    every_case(None, Kind::Float, device);
    every_case(None, Kind::BFloat16, device);
    every_case(Some(AttentionKernel::Flash), Kind::BFloat16, device);
    let large = case("cuDNN's", [2, 256, 4, 4, 64], None, None);
    let found = computed(&large, Some(AttentionKernel::Cudnn), Kind::BFloat16, device, Layout::Together);
    check(&found, &large.reference(&large.numbers()), Kind::BFloat16).unwrap();
    assert_eq!(cudnn_refusal(), None);
}

#[test]
fn the_reference_is_its_own_central_difference() {
    for case in CASES.iter().filter(|case| case.tokens() * case.shape[2] < 150) {
        let numbers = case.numbers();
        let gradients = case.reference(&numbers);
        let loss = |numbers: &[Vec<f64>; 4]| -> f64 {
            case.reference(numbers)[0].iter().zip(&numbers[3]).map(|(output, weight)| output * weight).sum()
        };
        for part in 0..3 {
            for at in (0..numbers[part].len()).step_by(37) {
                let moved = |by: f64| {
                    let mut numbers = numbers.clone();
                    numbers[part][at] += by;
                    loss(&numbers)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let gradient = gradients[part + 1][at];
                assert!((slope - gradient).abs() < 1e-6 * (1.0 + gradient.abs()), "{}: {slope} {gradient}", case.name);
            }
        }
    }
}

#[test]
fn one_in_a_hundred_is_seen() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let case = &CASES[3];
        let expected = case.reference(&case.numbers());
        let found = computed(case, Some(AttentionKernel::Cpu), kind, Device::Cpu, Layout::Together);
        check(&found, &expected, kind).unwrap();
        for part in 0..4 {
            let mut corrupted = found.clone();
            corrupted[part].iter_mut().for_each(|x| *x *= 1.01);
            check(&corrupted, &expected, kind).unwrap_err();
        }
    }
}

#[test]
fn a_mask_that_is_one_token_off_is_seen() {
    for (right, wrong) in [
        (case("", [1, 33, 2, 2, 8], Some(5), None), case("", [1, 33, 2, 2, 8], Some(6), None)),
        (case("", [1, 33, 2, 2, 8], None, Some(&[16, 17])), case("", [1, 33, 2, 2, 8], None, Some(&[17, 16]))),
    ] {
        for kernel in [AttentionKernel::Cpu, AttentionKernel::Math] {
            let found = computed(&wrong, Some(kernel), Kind::BFloat16, Device::Cpu, Layout::Together);
            check(&found, &right.reference(&right.numbers()), Kind::BFloat16).unwrap_err();
        }
    }
}

#[test]
fn documents_end_with_their_rows() {
    let documents = Documents::new(&[0, 0, 2, 0, 1, 1], 2, 3, Device::Cpu);
    // [0 0] [2] | [0] [1 1]
    assert_eq!((documents.count(), documents.longest()), (4, 2));
    let documents = Documents::new(&[0; 8], 2, 4, Device::Cpu);
    assert_eq!((documents.count(), documents.longest()), (2, 4));
}

#[test]
#[should_panic(expected = "the document of token 1 of a row begins at 2")]
fn a_document_that_begins_after_its_token_is_refused() {
    Documents::new(&[0, 2, 2], 1, 3, Device::Cpu);
}

#[test]
fn the_kernel_follows_from_shape_kind_and_device() {
    use AttentionKernel::{Cpu, Cudnn, Flash, Math};
    let attention = |heads, kv_heads, head, sequence, window, documents: bool| {
        let documents = documents.then(|| Documents::new(&vec![0; sequence], 1, sequence, Device::Cpu));
        DeviceAttention { batch: 1, sequence, heads, kv_heads, head, window, documents }
    };
    let (gpu, bf16) = (Device::Cuda(0), Kind::BFloat16);
    let plain = attention(16, 16, 128, 2048, None, false);
    assert_eq!(plain.kernel(bf16, gpu, None), Cudnn);
    assert_eq!(plain.kernel(bf16, gpu, Some("flash")), Flash);
    assert_eq!(plain.kernel(bf16, gpu, Some("math")), Math);
    assert_eq!(plain.kernel(Kind::Float, gpu, None), Math);
    assert_eq!(plain.kernel(Kind::Float, gpu, Some("cudnn")), Math);
    assert_eq!(plain.kernel(bf16, Device::Cpu, Some("cudnn")), Cpu);
    assert_eq!(attention(16, 16, 128, 2048, Some(4096), false).kernel(bf16, gpu, None), Cudnn);
    for flash in [
        attention(16, 8, 128, 2048, None, false),
        attention(16, 16, 256, 2048, None, false),
        attention(16, 16, 12, 2048, None, false),
        attention(16, 16, 128, 2048, Some(1024), false),
        attention(16, 16, 128, 2048, None, true),
    ] {
        assert_eq!(flash.kernel(bf16, gpu, None), Flash, "{flash:?}");
        assert_eq!(flash.kernel(bf16, gpu, Some("cudnn")), Flash, "{flash:?}");
    }
    let short = attention(16, 16, 128, 64, None, false);
    assert_eq!((short.kernel(bf16, gpu, None), short.kernel(bf16, gpu, Some("cudnn"))), (Flash, Cudnn));
    assert_eq!(attention(16, 16, 512, 2048, None, false).kernel(bf16, gpu, None), Math);
}

fn panics(work: impl FnOnce()) -> String {
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
    error.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn what_libtorch_refuses_comes_with_its_words() {
    let case = &CASES[0];
    for kernel in [AttentionKernel::Cudnn, AttentionKernel::Flash] {
        let words = panics(|| {
            computed(case, Some(kernel), Kind::BFloat16, Device::Cpu, Layout::Contiguous);
        });
        assert!(words.starts_with(&format!("attention by {kernel:?}, DeviceAttention")), "{words}");
        assert!(words.contains("'CPU' backend"), "{words}");
    }
    let [q, k, v, _] = tensors(case, &case.numbers(), Kind::Float, Device::Cpu, Layout::Contiguous);
    let mut attention = case.attention(Device::Cpu);
    attention.heads = 3;
    let words = panics(|| drop(device_attention_forward(&attention, &q, &k, &v)));
    assert!(words.contains("queries are [tokens, heads, head]"), "{words}");
}

#[test]
fn tf32_is_off_until_it_is_asked_for() {
    assert!(!tf32_allowed());
    allow_tf32(true);
    assert!(tf32_allowed());
    allow_tf32(false);
    assert!(!tf32_allowed());
}

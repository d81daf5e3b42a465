//! Weights and gradients on the device, and helpers shared by all operations.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use olmo_torch::{Argument, DeviceAttention, Documents, Element, KernelError, Kernels, Kind, Place, Tensor};

use crate::config::BlockConfig;
use crate::rope::{Placed, Rope};

/// The device, and how to compute on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// The device.
    pub place: Place,
    /// Type of activations and their gradients.
    pub element: Element,
    /// Number of elements that a thread moves at once; see [`vector`].
    pub vector: usize,
}

/// The widest access that all widths of a model allow: 8 elements, or 1.
pub fn vector(config: &BlockConfig) -> usize {
    let widths = [config.d_model, config.kv_width(), config.mlp_width, config.head_width() / 2];
    if widths.iter().all(|width| width.is_multiple_of(8)) { 8 } else { 1 }
}

/// Why the kernels do not support blocks of this shape; `None` if they do.
pub fn unsupported(config: &BlockConfig) -> Option<String> {
    let most = most_threads(vector(config)) * PER_THREAD * vector(config);
    if config.d_model > most {
        let reach = "a multiple of 8 for d_model, mlp_hidden_size / 2, the keys' width and half a head's width lets them reach farther";
        let reach = if vector(config) == 1 { reach } else { "no way is known to this version" };
        return Some(format!("d_model is {}, the kernels for GPUs reach to {most} ({reach})", config.d_model));
    }
    (config.head_width() > 256)
        .then(|| format!("a head is {} wide, attention on GPUs reaches to 256", config.head_width()))
}

/// As in kernels.cu: number of chunks of a row per thread.
const PER_THREAD: usize = 4;
/// As in kernels.cu: number of pairs of chunks per thread.
const PAIRS_PER_THREAD: usize = 2;
/// Threads of the largest block, limited by registers, of which wide access needs more.
fn most_threads(vector: usize) -> usize {
    if vector == 1 { 512 } else { 256 }
}

/// Number of blocks that write a partial sum each; a few for every multiprocessor of the largest
/// GPU.
pub(super) const PARTS: usize = 528;
/// Number of blocks that iterate over rows.
pub(super) const GRID: usize = 4096;

/// Weights on the device, and their gradient sums.
#[derive(Clone, Debug)]
pub struct DeviceFlat {
    inner: Arc<Inner>,
    differentiates: bool,
}

#[derive(Debug)]
struct Inner {
    settings: DeviceSettings,
    kernels: Kernels,
    /// In f32.
    weights: Tensor,
    /// The copy that products read, if they do not read the weights.
    copy: Option<Tensor>,
    gradients: Option<Gradients>,
    placed: Mutex<OnDevice>,
}

// SAFETY: libtorch's tensors are reference-counted atomically and may be read from any thread; all
// writes (the nodes' sums and the optimizer step) happen in the single training thread.
unsafe impl Sync for Inner {}

#[derive(Debug)]
struct Gradients {
    /// In f32.
    sum: Tensor,
    /// Starts of the parts that hold a sum. The first product of a step overwrites, which saves a
    /// pass of zeros.
    begun: Mutex<HashSet<usize>>,
}

/// The positions of a batch, uploaded once for all blocks. The angles are kept across batches,
/// because uploading them waits for the device.
#[derive(Debug, Default)]
struct OnDevice {
    angles: Option<(Arc<Rope>, [Tensor; 2])>,
    documents: Option<(Arc<[u32]>, Documents)>,
}

/// What a block needs to know about the positions of tokens.
#[derive(Debug)]
pub(super) struct Tables {
    pub cosines: Tensor,
    pub sines: Tensor,
    pub documents: Option<Documents>,
}

impl DeviceFlat {
    /// Copies `weights` to the device; `train` also allocates gradients.
    ///
    /// # Errors
    /// The kernels are unavailable for this device.
    pub fn new(settings: DeviceSettings, weights: &[f32], train: bool) -> Result<DeviceFlat, KernelError> {
        let kernels = Kernels::load(settings.place, settings.element, settings.vector)?;
        let weights = olmo_torch::upload(weights, settings.place);
        let copy = (settings.element == Element::Bf16).then(|| weights.to_kind(Kind::BFloat16));
        let gradients = train.then(|| Gradients { sum: weights.zeros_like(), begun: Mutex::default() });
        let inner = Inner { settings, kernels, weights, copy, gradients, placed: Mutex::default() };
        Ok(DeviceFlat { inner: Arc::new(inner), differentiates: train })
    }

    /// The settings.
    pub fn settings(&self) -> &DeviceSettings {
        &self.inner.settings
    }

    /// The same weights, for operations without gradients.
    #[must_use]
    pub fn plain(&self) -> DeviceFlat {
        DeviceFlat { inner: self.inner.clone(), differentiates: false }
    }

    /// Whether operations become nodes of a graph.
    pub(super) fn trains(&self) -> bool {
        self.differentiates
    }

    pub(super) fn kind(&self) -> Kind {
        match self.inner.settings.element {
            Element::F32 => Kind::Float,
            Element::Bf16 => Kind::BFloat16,
        }
    }

    pub(super) fn launch(&self, kernel: &str, grid: usize, block: usize, arguments: &[Argument]) {
        if grid > 0 {
            self.inner.kernels.launch(kernel, grid, block, arguments);
        }
    }

    /// Number of elements that a thread moves at once.
    pub(super) fn vector(&self) -> usize {
        self.inner.settings.vector
    }

    /// Threads of a block that iterates over rows of `width`.
    pub(super) fn threads(&self, width: usize) -> usize {
        threads(width.div_ceil(self.vector()), PER_THREAD)
    }

    /// Threads of a block that iterates over pairs, one element in each half of a head, of rows of
    /// `width`.
    pub(super) fn threads_for_pairs(&self, width: usize) -> usize {
        threads((width / 2).div_ceil(self.vector()), PAIRS_PER_THREAD)
    }

    /// Uninitialised memory for activations.
    pub(super) fn empty(&self, shape: &[usize]) -> Tensor {
        olmo_torch::empty(shape, self.kind(), self.inner.settings.place)
    }

    pub(super) fn zeros(&self, shape: &[usize]) -> Tensor {
        self.empty(shape).zero_()
    }

    /// Uninitialised memory for sums.
    pub(super) fn floats(&self, shape: &[usize]) -> Tensor {
        olmo_torch::empty(shape, Kind::Float, self.inner.settings.place)
    }

    /// Integers on the device.
    pub(super) fn integers(&self, values: &[i64]) -> Tensor {
        olmo_torch::upload_integers(values, self.inner.settings.place)
    }

    /// All weights, f32.
    pub(super) fn weights(&self) -> &Tensor {
        &self.inner.weights
    }

    /// Replaces the values of all weights.
    ///
    /// # Panics
    /// The number of values differs.
    pub fn set(&self, weights: &[f32]) {
        let mut all = self.inner.weights.shallow_clone();
        all.copy_(&olmo_torch::upload(weights, self.inner.settings.place));
        if let Some(copy) = &self.inner.copy {
            copy.shallow_clone().copy_(&all);
        }
    }

    pub(super) fn copy(&self) -> Option<&Tensor> {
        self.inner.copy.as_ref()
    }

    /// The sum of gradients, f32.
    pub(super) fn sum(&self) -> &Tensor {
        &self.inner.gradients.as_ref().expect("only what is differentiated has gradients").sum
    }

    /// Begins a new step: earlier gradients are discarded.
    pub(super) fn begin(&self) {
        if let Some(gradients) = &self.inner.gradients {
            gradients.begun.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// A weight of `[rows, width]`, as read by products.
    pub(super) fn matrix(&self, range: &Range<usize>, width: usize) -> Tensor {
        part(self.inner.copy.as_ref().unwrap_or(&self.inner.weights), range).view([-1, width as i64])
    }

    /// A norm's weight, f32.
    pub(super) fn vector_of(&self, range: Option<&Range<usize>>) -> Option<Tensor> {
        range.map(|range| part(&self.inner.weights, range))
    }

    /// The part of the gradients for `range`, and whether it already holds a sum.
    pub(super) fn gradient(&self, range: &Range<usize>) -> (Tensor, bool) {
        let gradients = self.inner.gradients.as_ref().expect("only what is differentiated has gradients");
        let mut begun = gradients.begun.lock().unwrap_or_else(PoisonError::into_inner);
        (part(&gradients.sum, range), !begun.insert(range.start))
    }

    /// Adds nothing, but clears what an earlier step left.
    pub(super) fn add_nothing(&self, range: &Range<usize>) {
        let (mut sum, begun) = self.gradient(range);
        if !begun {
            let _ = sum.zero_();
        }
    }

    /// Adds `left^T right` to the gradient of a weight, in f32.
    pub(super) fn add_product(&self, range: &Range<usize>, left: &Tensor, right: &Tensor) {
        let (sum, begun) = self.gradient(range);
        olmo_torch::add_product(&sum.view([-1, right.size()[1]]), &left.tr(), right, begun);
    }

    /// Adds the columns of `parts [PARTS or fewer, width]` to the gradient of a norm's weight.
    pub(super) fn add_columns(&self, range: &Range<usize>, parts: &Tensor) {
        let (sum, begun) = self.gradient(range);
        let width = range.len();
        let arguments = [
            parts.into(),
            (&sum).into(),
            (parts.size()[0] as i32).into(),
            (width as i32).into(),
            i32::from(begun).into(),
        ];
        self.launch("column_sum", width.div_ceil(128), 128, &arguments);
    }

    /// What blocks need to know about `placed`; uploads only what changed since the last call.
    pub(super) fn tables(&self, placed: &Placed, [batch, sequence]: [usize; 2]) -> Tables {
        let place = self.inner.settings.place;
        let mut known = self.inner.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let [cosines, sines] = match &known.angles {
            Some((of, angles)) if Arc::ptr_eq(of, &placed.rope) => angles.each_ref().map(Tensor::shallow_clone),
            _ => {
                let angles = [placed.rope.cosines(), placed.rope.sines()].map(|all| olmo_torch::upload(all, place));
                let shared = angles.each_ref().map(Tensor::shallow_clone);
                known.angles = Some((placed.rope.clone(), angles));
                shared
            }
        };
        let documents = placed.documents.as_ref().map(|starts| match &known.documents {
            Some((of, documents)) if Arc::ptr_eq(of, starts) => documents.clone(),
            _ => {
                let documents = Documents::new(starts, batch, sequence, place);
                known.documents = Some((starts.clone(), documents.clone()));
                documents
            }
        });
        Tables { cosines, sines, documents }
    }
}

impl Tables {
    /// Attention of a block over `batch` rows of `sequence` tokens.
    pub(super) fn attention(&self, config: &BlockConfig, [batch, sequence]: [usize; 2]) -> DeviceAttention {
        DeviceAttention {
            batch,
            sequence,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head: config.head_width(),
            window: config.window,
            documents: self.documents.clone(),
        }
    }
}

/// Number of threads for `chunks`: one chunk each up to a comfortable block size, then several
/// each, with at most `most` threads.
fn threads(chunks: usize, most: usize) -> usize {
    let comfortable = chunks.next_multiple_of(32).min(256);
    chunks.div_ceil(most).next_multiple_of(32).max(comfortable)
}

fn part(flat: &Tensor, range: &Range<usize>) -> Tensor {
    flat.narrow(0, range.start as i64, range.len() as i64)
}

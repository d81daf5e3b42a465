//! [`Cuda`]: weights and gradients on the device, and helpers shared by all operations.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use olmo_torch::{Argument, DeviceAttention, Documents, Element, KernelError, Kernels, Kind, Place, Tensor};

use crate::config::BlockConfig;
use crate::device::QkNorms;
use crate::linear::{Linear, Trained, Weight};
use crate::matrix::{Matrices, Matrix};
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
    let widths = [config.d_model, config.query_width(), config.kv_width(), config.mlp_width, config.head_dim / 2];
    if widths.iter().all(|width| width.is_multiple_of(8)) { 8 } else { 1 }
}

/// Why the kernels do not support blocks of this shape; `None` if they do.
pub fn unsupported(config: &BlockConfig) -> Option<String> {
    let most = most_threads(vector(config)) * PER_THREAD * vector(config);
    let width = config.d_model.max(config.query_width());
    if width > most {
        let reach = "a multiple of 8 for d_model, mlp_hidden_size / 2, the keys' width and half a head's width lets them reach farther";
        let reach = if vector(config) == 1 { reach } else { "no way is known to this version" };
        let name = if width == config.d_model { "d_model" } else { "the width of all heads" };
        return Some(format!("{name} is {width}, the kernels for GPUs reach to {most} ({reach})"));
    }
    (config.head_dim > 256).then(|| format!("a head is {} wide, attention on GPUs reaches to 256", config.head_dim))
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

/// A libtorch device with the weights of a model.
#[derive(Clone, Debug)]
pub struct Cuda {
    inner: Arc<Inner>,
    differentiates: bool,
}

#[derive(Debug)]
struct Inner {
    settings: DeviceSettings,
    kernels: Kernels,
    arrays: Mutex<Arrays>,
    placed: Mutex<OnDevice>,
}

/// The arrays that operations read and write.
#[derive(Debug)]
struct Arrays {
    /// All weights, as read by products: in the type of activations.
    values: Tensor,
    /// In bf16, the trained weights in f32; otherwise they are in `values`.
    masters: Option<Tensor>,
    /// In bf16, the frozen weights of norms in f32, which the kernels read, by their start.
    frozen_vectors: HashMap<usize, Tensor>,
    trained: Trained,
    /// Gradients of the trained weights, f32.
    sum: Tensor,
    /// Starts of the parts that hold a sum. The first product of a step overwrites, which saves a
    /// pass of zeros.
    begun: HashSet<usize>,
}

impl Arrays {
    /// Arrays with these `values` and no other copy of a weight.
    fn new(values: Tensor, trained: Trained) -> Arrays {
        let sum = olmo_torch::empty(&[trained.len()], Kind::Float, values.device()).zero_();
        Arrays { values, masters: None, frozen_vectors: HashMap::new(), trained, sum, begun: HashSet::new() }
    }
}

/// The positions of a batch, uploaded once for all blocks. The angles are kept across batches,
/// because uploading them waits for the device.
#[derive(Debug, Default)]
struct OnDevice {
    /// One entry for each rope of the model.
    angles: Vec<(Arc<Rope>, [Tensor; 2])>,
    documents: Option<(Arc<[u32]>, Documents)>,
}

/// The positions of a batch's tokens.
#[derive(Debug)]
pub struct Tables {
    pub(super) cosines: Tensor,
    pub(super) sines: Tensor,
    documents: Option<Documents>,
    /// Number of rows, and row length in tokens.
    pub(super) shape: [usize; 2],
    /// For single tokens after those of a cache.
    pub(super) next: Option<Next>,
}

/// Positions of one token of each of some sequences.
#[derive(Debug)]
pub(super) struct Next {
    /// `[sequences]`.
    pub positions: Tensor,
    /// Length of the longest sequence with its new token.
    pub longest: usize,
}

impl Cuda {
    /// Copies `weights` to the device, with gradients for the `trained` ones. `vectors`: the ranges
    /// of the weights of norms.
    ///
    /// # Errors
    /// The kernels are unavailable for this device.
    pub fn new(
        settings: DeviceSettings,
        weights: &[f32],
        trained: &Trained,
        vectors: &[Range<usize>],
    ) -> Result<Cuda, KernelError> {
        let kernels = Kernels::load(settings.place, settings.element, settings.vector)?;
        let upload = |values: &[f32]| olmo_torch::upload(values, settings.place);
        let mut arrays = Arrays::new(upload(weights), trained.clone());
        if settings.element == Element::Bf16 {
            let frozen = vectors.iter().filter(|range| trained.weight((*range).clone()).gradient.is_none());
            arrays.frozen_vectors = frozen.map(|range| (range.start, upload(&weights[range.clone()]))).collect();
            arrays.masters = Some(upload(&trained.pack(weights)));
            arrays.values = arrays.values.to_kind(Kind::BFloat16);
        }
        let inner = Inner { settings, kernels, arrays: Mutex::new(arrays), placed: Mutex::default() };
        Ok(Cuda { inner: Arc::new(inner), differentiates: true })
    }

    /// Copies matrices to the device, for operations without gradients. No weight has an f32 copy
    /// on the host, and in bf16 none but the `vectors` has one on the device.
    ///
    /// # Errors
    /// The kernels are unavailable for this device.
    pub fn of_matrices(
        settings: DeviceSettings,
        matrices: &Matrices,
        vectors: &[Range<usize>],
    ) -> Result<Cuda, KernelError> {
        let kernels = Kernels::load(settings.place, settings.element, settings.vector)?;
        let values = olmo_torch::empty(&[matrices.len()], kind(settings.element), settings.place);
        let mut arrays = Arrays::new(values, Trained::new([]));
        for (start, matrix) in matrices.iter() {
            let uploaded = match matrix {
                Matrix::F32(elements) => olmo_torch::upload(elements, settings.place),
                Matrix::Bf16(bits) => olmo_torch::upload_bf16(bits, settings.place),
            };
            part(&arrays.values, &(start..start + matrix.len())).copy_(&uploaded);
            if settings.element == Element::Bf16 && vectors.iter().any(|range| range.start == start) {
                arrays.frozen_vectors.insert(start, uploaded.to_kind(Kind::Float));
            }
        }
        let inner = Inner { settings, kernels, arrays: Mutex::new(arrays), placed: Mutex::default() };
        Ok(Cuda { inner: Arc::new(inner), differentiates: false })
    }

    /// The settings.
    pub fn settings(&self) -> &DeviceSettings {
        &self.inner.settings
    }

    /// The same weights, for operations without gradients.
    #[must_use]
    pub fn plain(&self) -> Cuda {
        Cuda { inner: self.inner.clone(), differentiates: false }
    }

    /// Whether operations become nodes of a graph.
    pub(super) fn differentiates(&self) -> bool {
        self.differentiates
    }

    fn arrays(&self) -> MutexGuard<'_, Arrays> {
        self.inner.arrays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn kind(&self) -> Kind {
        kind(self.inner.settings.element)
    }

    /// Launches a kernel, unless there is nothing to do.
    ///
    /// # Safety
    /// See [`Kernels::launch`].
    pub(super) unsafe fn launch(&self, kernel: &str, grid: usize, block: usize, arguments: &[Argument]) {
        if grid > 0 {
            // SAFETY: guaranteed by the caller.
            unsafe { self.inner.kernels.launch(kernel, grid, block, arguments) };
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

    /// Replaces the values of all weights.
    ///
    /// # Panics
    /// The number of values differs.
    pub fn set(&self, weights: &[f32]) {
        let arrays = &mut *self.arrays();
        let upload = |values: &[f32]| olmo_torch::upload(values, self.inner.settings.place);
        arrays.values.copy_(&upload(weights));
        if let Some(masters) = &mut arrays.masters {
            masters.copy_(&upload(&arrays.trained.pack(weights)));
        }
        for (start, vector) in &mut arrays.frozen_vectors {
            vector.copy_(&upload(&weights[*start..*start + vector.numel()]));
        }
    }

    /// Copies the trained weights to the host; waits for the device.
    pub(super) fn trained_on_host(&self) -> Vec<f32> {
        let arrays = self.arrays();
        match &arrays.masters {
            Some(masters) => olmo_torch::download(masters),
            None => arrays.trained.pack(&olmo_torch::download::<f32>(&arrays.values)),
        }
    }

    /// Copies all weights to the host; frozen ones have the precision of activations. Waits for the
    /// device.
    pub fn weights_on_host(&self) -> Vec<f32> {
        let trained = self.trained_on_host();
        let arrays = self.arrays();
        let mut weights = olmo_torch::download::<f32>(&arrays.values.to_kind(Kind::Float));
        arrays.trained.unpack(&trained, &mut weights);
        for (start, vector) in &arrays.frozen_vectors {
            weights[*start..*start + vector.numel()].copy_from_slice(&olmo_torch::download::<f32>(vector));
        }
        weights
    }

    /// The arrays of an optimizer step for a trained range, whose gradients are at `packed`: the
    /// gradients, the copy for products (in bf16) and the weights.
    pub(super) fn for_update(&self, range: &Range<usize>, packed: &Range<usize>) -> (Tensor, Option<Tensor>, Tensor) {
        let arrays = self.arrays();
        let (gradients, values) = (part(&arrays.sum, packed), part(&arrays.values, range));
        match &arrays.masters {
            Some(masters) => (gradients, Some(values), part(masters, packed)),
            None => (gradients, None, values),
        }
    }

    /// The sum of gradients, f32.
    pub(super) fn sum(&self) -> Tensor {
        self.arrays().sum.shallow_clone()
    }

    /// Begins a new step: earlier gradients are discarded.
    pub(super) fn begin(&self) {
        self.arrays().begun.clear();
    }

    /// A matrix, as read by products.
    pub(super) fn matrix(&self, weight: &Linear) -> Tensor {
        part(&self.arrays().values, &weight.weight.values).view([-1, weight.inputs as i64])
    }

    /// A norm's weight, f32.
    pub(super) fn vector_of(&self, weight: &Weight) -> Tensor {
        let arrays = self.arrays();
        match (&arrays.masters, &weight.gradient) {
            (Some(masters), Some(packed)) => part(masters, packed),
            _ => match arrays.frozen_vectors.get(&weight.values.start) {
                Some(vector) => vector.shallow_clone(),
                None => part(&arrays.values, &weight.values),
            },
        }
    }

    pub(super) fn qk_values(&self, norms: QkNorms<'_>) -> [Option<Tensor>; 2] {
        match norms {
            None => [None, None],
            Some(both) => both.map(|weight| Some(self.vector_of(weight))),
        }
    }

    /// The gradient of a weight, and whether it already holds a sum; `None` if it is frozen.
    pub(super) fn gradient(&self, weight: &Weight) -> Option<(Tensor, bool)> {
        let range = weight.gradient.as_ref()?;
        let mut arrays = self.arrays();
        let begun = !arrays.begun.insert(range.start);
        Some((part(&arrays.sum, range), begun))
    }

    /// Adds nothing, but clears what an earlier step left.
    pub(super) fn add_nothing(&self, weight: &Weight) {
        if let Some((mut sum, false)) = self.gradient(weight) {
            let _ = sum.zero_();
        }
    }

    /// Adds `left^T right` to the gradient of a trained weight, in f32.
    pub(super) fn add_product(&self, weight: &Weight, left: &Tensor, right: &Tensor) {
        if let Some((sum, begun)) = self.gradient(weight) {
            olmo_torch::add_product(&sum.view([-1, right.size()[1]]), &left.tr(), right, begun);
        }
    }

    /// Adds the columns of `parts [PARTS or fewer, width]` to the gradient of a trained norm weight.
    pub(super) fn add_columns(&self, weight: &Weight, parts: &Tensor) {
        let Some((sum, begun)) = self.gradient(weight) else { return };
        let width = weight.values.len();
        let (rows, begun) = (parts.size()[0] as i32, i32::from(begun));
        let arguments = arguments![parts, &sum, rows, width as i32, begun];
        // SAFETY: `parts` has rows of `width` elements, as many as given, and `sum` is one.
        unsafe { self.launch("column_sum", width.div_ceil(128), 128, &arguments) };
    }

    /// What blocks need to know about `placed`; uploads only what changed since the last call.
    pub(super) fn tables(&self, placed: &Placed, [batch, sequence]: [usize; 2]) -> Tables {
        let place = self.inner.settings.place;
        let mut known = self.inner.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let index = known.angles.iter().position(|(of, _)| Arc::ptr_eq(of, &placed.rope)).unwrap_or_else(|| {
            // Ropes that only this table still holds were replaced by longer ones.
            known.angles.retain(|(of, _)| Arc::strong_count(of) > 1);
            let angles = [placed.rope.cosines(), placed.rope.sines()].map(|all| olmo_torch::upload(all, place));
            known.angles.push((placed.rope.clone(), angles));
            known.angles.len() - 1
        });
        let [cosines, sines] = known.angles[index].1.each_ref().map(Tensor::shallow_clone);
        let documents = placed.documents.as_ref().map(|starts| match &known.documents {
            Some((of, documents)) if Arc::ptr_eq(of, starts) => documents.clone(),
            _ => {
                let documents = Documents::new(starts, batch, sequence, place);
                known.documents = Some((starts.clone(), documents.clone()));
                documents
            }
        });
        Tables { cosines, sines, documents, shape: [batch, sequence], next: None }
    }

    /// What blocks need to know about one token of each of some sequences, at `positions`.
    pub(super) fn next_tables(&self, rope: &Rope, positions: &[usize]) -> Tables {
        let half = rope.at(0).0.len();
        let table = |of: fn((&[f32], &[f32])) -> Vec<f32>| -> Tensor {
            let all: Vec<f32> = positions.iter().flat_map(|&position| of(rope.at(position))).collect();
            olmo_torch::upload(&all, self.inner.settings.place).view([-1, half as i64])
        };
        let at: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        let longest = positions.iter().max().map_or(0, |last| last + 1);
        Tables {
            cosines: table(|(cosines, _)| cosines.to_vec()),
            sines: table(|(_, sines)| sines.to_vec()),
            documents: None,
            // The kernels take a row's position from its place in its sequence.
            shape: [1, positions.len()],
            next: Some(Next { positions: self.integers(&at), longest }),
        }
    }
}

impl Tables {
    /// Attention of a block.
    pub(super) fn attention(&self, config: &BlockConfig) -> DeviceAttention {
        DeviceAttention {
            batch: self.shape[0],
            sequence: self.shape[1],
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head: config.head_dim,
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

/// The sizes of a matrix.
pub(super) fn sizes(x: &Tensor) -> [usize; 2] {
    let size = x.size();
    [size[0] as usize, size[1] as usize]
}

fn kind(element: Element) -> Kind {
    match element {
        Element::F32 => Kind::Float,
        Element::Bf16 => Kind::BFloat16,
    }
}

fn part(flat: &Tensor, range: &Range<usize>) -> Tensor {
    flat.narrow(0, range.start as i64, range.len() as i64)
}

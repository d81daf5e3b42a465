//! The optimizer's state next to the weights, and the results of a step for the host.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use olmo_torch::{KernelError, Kind, Tensor};

use super::weights::{Cuda, DeviceSettings, PARTS};
use crate::adamw::{AdamW, Scalars};
use crate::linear::Trained;

/// Losses of micro-batches, still on the device.
#[derive(Debug)]
pub struct Losses {
    /// f64 `[2]`: sums of the negative log-likelihood and of the squared log partition function.
    totals: Tensor,
    labels: u64,
    z_loss: f64,
}

impl Losses {
    pub(super) fn new(totals: Tensor, labels: u64, z_loss: f64) -> Losses {
        Losses { totals, labels, z_loss }
    }

    /// The sum of several micro-batches' losses, added in order.
    pub fn all<'a>(mut parts: impl Iterator<Item = &'a Losses>) -> Option<Losses> {
        let first = parts.next()?;
        let first = Losses { totals: first.totals.shallow_clone(), ..*first };
        Some(parts.fold(first, |sum, part| Losses {
            totals: sum.totals + &part.totals,
            labels: sum.labels + part.labels,
            z_loss: sum.z_loss,
        }))
    }

    /// The sums as numbers; waits for the device.
    pub fn sums(&self) -> crate::Sums {
        let totals = olmo_torch::download::<f64>(&self.totals);
        crate::Sums { nll: totals[0], z: self.z_loss * totals[1], labels: self.labels }
    }
}

/// The results of a step on the host.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Sums of the losses.
    pub sums: crate::Sums,
    /// Euclidean norm of the gradients before clipping. If it is not finite, nothing was changed.
    pub grad_norm: f64,
    /// How long the host waited for the device. If it is near zero, the device waits for the host:
    /// kernel launches are the bottleneck.
    pub waited: Duration,
}

/// Euclidean norm of the gradients, still on the device.
#[derive(Debug)]
pub struct GradientNorm(Tensor);

/// Weights, gradients and the optimizer's moments on a device.
#[derive(Debug)]
pub struct Training {
    device: Cuda,
    /// Both moments of the trained weights.
    moments: Mutex<[Tensor; 2]>,
    /// Sums of gradients that were set aside.
    aside: Mutex<Vec<Tensor>>,
}

impl Training {
    /// Copies weights and moments to the device. `moments` and gradients are those of the `trained`
    /// weights; `vectors` are the ranges of the weights of norms.
    ///
    /// # Errors
    /// The kernels are unavailable for this device.
    pub fn new(
        settings: DeviceSettings,
        weights: &[f32],
        moments: [&[f32]; 2],
        trained: &Trained,
        vectors: &[Range<usize>],
    ) -> Result<Training, KernelError> {
        let device = Cuda::new(settings, weights, trained, vectors)?;
        let moments = moments.map(|moment| olmo_torch::upload(moment, settings.place));
        Ok(Training { device, moments: Mutex::new(moments), aside: Mutex::default() })
    }

    /// Weights and gradients, for the operations.
    pub fn device(&self) -> &Cuda {
        &self.device
    }

    /// Begins a new step: earlier gradients are discarded.
    pub fn begin(&self) {
        self.device.begin();
    }

    /// Measures the gradients, updates the weights, and waits for the results: see
    /// [`Training::gradient_norm`], [`Training::update`] and [`Training::wait`].
    pub fn finish(
        &mut self,
        settings: &AdamW,
        number: u64,
        groups: &[(Range<usize>, bool)],
        max_norm: Option<f64>,
        losses: &Losses,
    ) -> Finished {
        let norm = self.gradient_norm();
        self.update(settings, number, groups, max_norm, &norm);
        self.wait(Some(losses), &norm)
    }

    /// Sets the current sum of gradients aside, and begins a new one.
    pub fn set_aside(&mut self) {
        let sum = self.device.sum().copy();
        self.aside.get_mut().unwrap_or_else(PoisonError::into_inner).push(sum);
        self.device.begin();
    }

    /// Adds the sum that was set aside last to the current one.
    ///
    /// # Panics
    /// No sum is set aside.
    pub fn add_aside(&mut self) {
        let aside = self.aside.get_mut().unwrap_or_else(PoisonError::into_inner).pop();
        let aside = aside.expect("a sum is set aside");
        let _ = self.device.sum().g_add_(&aside);
    }

    /// Measures the gradients. Does not wait for the device.
    pub fn gradient_norm(&self) -> GradientNorm {
        let device = &self.device;
        let floats = if device.vector() == 1 { 1 } else { 4 };
        let (sum, parts) = (device.sum(), device.floats(&[PARTS]));
        let total = (sum.numel() / floats) as i64;
        // SAFETY: `sum` has `total` pieces of `floats` elements, and each block writes one of `parts`.
        unsafe { device.launch("square_sum", PARTS, 256, &arguments![&sum, total, &parts]) };
        GradientNorm(parts.sum(Kind::Double).sqrt())
    }

    /// Clips the gradients, whose norm is `norm`, and applies optimizer step `number`, counted from
    /// 1. Changes nothing if the norm is not finite. `groups` is as in [`crate::adamw::step`], and
    /// names trained weights only. Does not wait for the device.
    pub fn update(
        &mut self,
        settings: &AdamW,
        number: u64,
        groups: &[(Range<usize>, bool)],
        max_norm: Option<f64>,
        norm: &GradientNorm,
    ) {
        let device = &self.device;
        let floats = if device.vector() == 1 { 1 } else { 4 };
        let moments = self.moments.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut end = 0;
        for (range, decays) in groups {
            let packed = end..end + range.len();
            end = packed.end;
            let (g, copy, w) = device.for_update(range, &packed);
            let [m, v] = moments.each_ref().map(|all| all.narrow(0, packed.start as i64, packed.len() as i64));
            let total = range.len() / floats;
            let Scalars { keep, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, step_size, .. } =
                Scalars::new(settings, number, 1.0, *decays);
            let arrays = arguments![&g, &copy, &w, &m, &v, total as i64];
            let scalars = arguments![keep, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, step_size];
            let clip = arguments![&norm.0, max_norm.unwrap_or(0.0) as f32];
            let arguments = [&arrays[..], &scalars, &clip].concat();
            // SAFETY: all arrays have `total` pieces of `floats` elements, and `norm` one f64.
            unsafe { device.launch("adamw", total.div_ceil(256).min(4 * PARTS), 256, &arguments) };
        }
    }

    /// Waits for the device, and returns the results of a step. Without `losses`, their sums are 0.
    pub fn wait(&self, losses: Option<&Losses>, norm: &GradientNorm) -> Finished {
        let since = Instant::now();
        let (sums, grad_norm) = (losses.map(Losses::sums).unwrap_or_default(), olmo_torch::download::<f64>(&norm.0)[0]);
        Finished { sums, grad_norm, waited: since.elapsed() }
    }

    /// Copies the trained weights and both moments to the host.
    pub fn download(&self) -> [Vec<f32>; 3] {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let [exp_avg, exp_avg_sq] = moments.each_ref().map(olmo_torch::download::<f32>);
        [self.device.trained_on_host(), exp_avg, exp_avg_sq]
    }

    /// Replaces the gradients.
    ///
    /// # Panics
    /// The number of values differs.
    pub fn set_gradients(&mut self, gradients: &[f32]) {
        let mut sum = self.device.sum();
        sum.copy_(&olmo_torch::upload(gradients, self.device.settings().place));
    }

    /// Copies the gradients to the host.
    pub fn gradients(&self) -> Vec<f32> {
        olmo_torch::download(&self.device.sum())
    }
}

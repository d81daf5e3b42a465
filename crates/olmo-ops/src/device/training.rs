//! The optimizer's state next to the weights, and the results of a step for the host.

use std::ops::Range;
use std::time::{Duration, Instant};

use olmo_torch::{KernelError, Kind, Tensor};

use super::flat::{DeviceFlat, DeviceSettings, PARTS};
use crate::adamw::{AdamW, Scalars};

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
        let totals = olmo_torch::download_doubles(&self.totals);
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
    flat: DeviceFlat,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// Sums of gradients that were set aside.
    aside: Vec<Tensor>,
}

// SAFETY: as for the weights: read from any thread, written only through `&mut`.
unsafe impl Sync for Training {}

impl Training {
    /// Copies weights and moments to the device.
    ///
    /// # Errors
    /// The kernels are unavailable for this device.
    pub fn new(settings: DeviceSettings, weights: &[f32], moments: [&[f32]; 2]) -> Result<Training, KernelError> {
        let flat = DeviceFlat::new(settings, weights, true)?;
        let [exp_avg, exp_avg_sq] = moments.map(|moment| olmo_torch::upload(moment, settings.place));
        Ok(Training { flat, exp_avg, exp_avg_sq, aside: Vec::new() })
    }

    /// Weights and gradients, for the nodes.
    pub fn flat(&self) -> &DeviceFlat {
        &self.flat
    }

    /// Begins a new step: earlier gradients are discarded.
    pub fn begin(&self) {
        self.flat.begin();
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
        self.wait(losses, &norm)
    }

    /// Sets the current sum of gradients aside, and begins a new one.
    pub fn set_aside(&mut self) {
        self.aside.push(self.flat.sum().copy());
        self.flat.begin();
    }

    /// Adds the sum that was set aside last to the current one.
    ///
    /// # Panics
    /// No sum is set aside.
    pub fn add_aside(&mut self) {
        let aside = self.aside.pop().expect("a sum is set aside");
        let _ = self.flat.sum().shallow_clone().g_add_(&aside);
    }

    /// Measures the gradients. Does not wait for the device.
    pub fn gradient_norm(&self) -> GradientNorm {
        let floats = if self.flat.vector() == 1 { 1 } else { 4 };
        let (sum, parts) = (self.flat.sum(), self.flat.floats(&[PARTS]));
        let total = (sum.numel() / floats) as i64;
        self.flat.launch("square_sum", PARTS, 256, &[sum.into(), total.into(), (&parts).into()]);
        GradientNorm(parts.sum(Kind::Double).sqrt())
    }

    /// Clips the gradients, whose norm is `norm`, and applies optimizer step `number`, counted from
    /// 1. Changes nothing if the norm is not finite. `groups` is as in [`crate::adamw::step`]. Does
    /// not wait for the device.
    pub fn update(
        &mut self,
        settings: &AdamW,
        number: u64,
        groups: &[(Range<usize>, bool)],
        max_norm: Option<f64>,
        norm: &GradientNorm,
    ) {
        let (floats, sum) = (if self.flat.vector() == 1 { 1 } else { 4 }, self.flat.sum());
        for (range, decays) in groups {
            let of = |flat: &Tensor| flat.narrow(0, range.start as i64, range.len() as i64);
            let (g, w) = (of(sum), of(self.flat.weights()));
            let (copy, m, v) = (self.flat.copy().map(of), of(&self.exp_avg), of(&self.exp_avg_sq));
            let total = range.len() / floats;
            let Scalars { keep, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, step_size, .. } =
                Scalars::new(settings, number, 1.0, *decays);
            let arguments = [
                (&g).into(),
                copy.as_ref().into(),
                (&w).into(),
                (&m).into(),
                (&v).into(),
                (total as i64).into(),
                keep.into(),
                one_minus_beta1.into(),
                beta2.into(),
                one_minus_beta2.into(),
                root_correction2.into(),
                eps.into(),
                step_size.into(),
                (&norm.0).into(),
                (max_norm.unwrap_or(0.0) as f32).into(),
            ];
            self.flat.launch("adamw", total.div_ceil(256).min(4 * PARTS), 256, &arguments);
        }
    }

    /// Waits for the device, and returns the results of a step.
    pub fn wait(&self, losses: &Losses, norm: &GradientNorm) -> Finished {
        let since = Instant::now();
        let (sums, grad_norm) = (losses.sums(), olmo_torch::download_doubles(&norm.0)[0]);
        Finished { sums, grad_norm, waited: since.elapsed() }
    }

    /// Copies weights and both moments to the host.
    pub fn download(&self) -> [Vec<f32>; 3] {
        [self.flat.weights(), &self.exp_avg, &self.exp_avg_sq].map(olmo_torch::download)
    }

    /// Replaces the gradients.
    ///
    /// # Panics
    /// The number of values differs.
    pub fn set_gradients(&mut self, gradients: &[f32]) {
        let sum = self.flat.sum();
        sum.shallow_clone().copy_(&olmo_torch::upload(gradients, self.flat.settings().place));
    }

    /// Copies the gradients to the host.
    pub fn gradients(&self) -> Vec<f32> {
        olmo_torch::download(self.flat.sum())
    }
}

//! What computes: a backend with weights, gradients and the optimizer's state where it wants them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use olmo_model::{ActivationCheckpointing, Batch, Compute, LossOptions, Model, ModelConfig, Parameters};
use olmo_ops::adamw::{self, AdamW, State};
use olmo_ops::{Cpu, Device as _, Linear, Weight};

use crate::Failure;

const SETTINGS: AdamW = AdamW { learning_rate: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };

/// A backend and what it computes in.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Host(Compute),
    #[cfg(feature = "libtorch")]
    Gpu(olmo_model::device::Place, olmo_model::device::Element),
}

impl Default for Side {
    fn default() -> Side {
        Side::Host(Compute::default())
    }
}

impl Side {
    /// Under the engine's names: `flex`, `libtorch`, `libtorch-cuda`; `fp32`, and on a GPU `amp_bf16`.
    pub(crate) fn named(backend: &str, precision: &str) -> Result<Side, Failure> {
        #[cfg(feature = "libtorch")]
        if backend == "libtorch-cuda" {
            use olmo_model::device::{Element, gpu};
            let element = match precision {
                "fp32" => Element::F32,
                "amp_bf16" => Element::Bf16,
                other => return Err(format!("{other}: there are fp32 and amp_bf16").into()),
            };
            return Ok(Side::Gpu(gpu(0)?, element));
        }
        let compute = Compute::named(backend).ok_or(format!("{backend}: this build has no such backend"))?;
        if precision != "fp32" {
            return Err(format!("{precision}: {backend} computes in fp32").into());
        }
        Ok(Side::Host(compute))
    }

    /// What the products of this machine reach at best, in FLOP a second: 1,024 by 1,024 by 1,024 on
    /// all threads. `None` on a GPU.
    pub(crate) fn peak(&self) -> Option<f64> {
        const SIZE: usize = 1024;
        #[allow(irrefutable_let_patterns, reason = "without libtorch there is only the host")]
        let Side::Host(compute) = *self else { return None };
        let numbers: Vec<f32> = (0..SIZE * SIZE).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect();
        let x = numbers.clone().into();
        let device = Cpu::new(compute, Arc::new(numbers));
        let weight = Linear::new(Weight::trained(0..SIZE * SIZE), SIZE);
        let run = |_| {
            let start = Instant::now();
            std::hint::black_box(device.linear(&x, &weight));
            start.elapsed().as_secs_f64()
        };
        let best = (0..20).map(run).fold(f64::INFINITY, f64::min);
        Some(2.0 * (SIZE * SIZE * SIZE) as f64 / best)
    }

    /// The largest error, relative to what is right, that rounding explains: of a loss, and of a tensor's gradient.
    pub(crate) fn tolerance(&self) -> (f64, f64) {
        match self {
            Side::Host(_) => (1e-5, 2e-4),
            #[cfg(feature = "libtorch")]
            Side::Gpu(_, olmo_model::device::Element::F32) => (1e-5, 5e-4),
            // Eight bits of a number are kept, and a gradient goes through a dozen roundings a block.
            #[cfg(feature = "libtorch")]
            Side::Gpu(..) => (5e-3, 5e-2),
        }
    }

    fn model(&self, config: &ModelConfig, parameters: &Parameters) -> Result<Model, Failure> {
        Ok(match *self {
            Side::Host(compute) => Model::on(compute, config, parameters)?,
            #[cfg(feature = "libtorch")]
            Side::Gpu(place, element) => {
                let zeros = vec![0f32; parameters.len()];
                Model::on_gpu(place, element, config, parameters, [&zeros, &zeros])?
            }
        })
    }

    /// A loss and the gradients of all weights.
    pub(crate) fn gradients(
        &self,
        config: &ModelConfig,
        parameters: &Parameters,
        batch: &Batch,
        options: &LossOptions,
    ) -> Result<(f64, Vec<f32>), Failure> {
        let mut gradients = vec![0f32; parameters.len()];
        let output = self.model(config, parameters)?.loss_and_gradients(batch, options, &mut gradients)?;
        Ok(((output.loss_sum + output.z_sum) / options.denominator, gradients))
    }
}

/// A model in training.
pub(crate) struct Trainer {
    model: Model,
    groups: Vec<(Range<usize>, bool)>,
    /// What the host updates; on a GPU it lies with the model.
    host: Option<Host>,
}

struct Host {
    parameters: Parameters,
    gradients: Vec<f32>,
    moments: [Vec<f32>; 2],
}

impl Trainer {
    pub(crate) fn new(
        side: &Side,
        config: &ModelConfig,
        parameters: Parameters,
        recompute: ActivationCheckpointing,
    ) -> Result<Trainer, Failure> {
        let mut model = side.model(config, &parameters)?;
        model.set_activation_checkpointing(recompute);
        let groups = parameters.weight_decay_groups(true, false);
        let zeros = || vec![0f32; parameters.len()];
        let host = match side {
            Side::Host(_) => Some(Host { gradients: zeros(), moments: [zeros(), zeros()], parameters }),
            #[cfg(feature = "libtorch")]
            Side::Gpu(..) => None,
        };
        Ok(Trainer { model, groups, host })
    }

    pub(crate) fn loss(&self, batch: &Batch, options: &LossOptions) -> Result<f64, Failure> {
        Ok(self.model.loss(batch, options)?.loss_sum)
    }

    /// One step, the `number`-th (from 1): the sum of its losses, and the seconds that clipping and the optimizer took (on a GPU, which
    /// works through both in its own time, that the host waited for it).
    pub(crate) fn step(&mut self, number: u64, batch: &Batch, options: &LossOptions) -> Result<(f64, f64), Failure> {
        let Some(host) = &mut self.host else { return self.step_on_gpu(number, batch, options) };
        let Host { parameters, gradients, moments: [exp_avg, exp_avg_sq] } = host;
        gradients.fill(0.0);
        let output = self.model.loss_and_gradients(batch, options, gradients)?;
        let update = Instant::now();
        let scale = olmo_ops::clip_coefficient(olmo_ops::global_norm(gradients), 1.0);
        self.model.update(parameters, |parameters| {
            let state = State { parameters, exp_avg, exp_avg_sq };
            adamw::step(&SETTINGS, number, state, gradients, scale, &self.groups);
        })?;
        Ok((output.loss_sum, update.elapsed().as_secs_f64()))
    }

    #[cfg(feature = "libtorch")]
    fn step_on_gpu(&mut self, number: u64, batch: &Batch, options: &LossOptions) -> Result<(f64, f64), Failure> {
        const GPU: &str = "a model on a GPU has its training there";
        self.model.on_gpu_mut().ok_or(GPU)?.begin();
        let losses = self.model.accumulate(batch, options)?;
        let update = Instant::now();
        let training = self.model.on_gpu_mut().ok_or(GPU)?;
        let done = training.finish(&SETTINGS, number, &self.groups, Some(1.0), &losses);
        Ok((done.sums.nll, update.elapsed().as_secs_f64()))
    }

    #[cfg(not(feature = "libtorch"))]
    fn step_on_gpu(&mut self, _: u64, _: &Batch, _: &LossOptions) -> Result<(f64, f64), Failure> {
        Err("this build computes on the CPU".into())
    }
}

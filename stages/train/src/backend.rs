//! The model on what the engine has chosen to compute on.

use olmo_model::{Compute, Model, ModelConfig, Parameters};
use olmo_stage::StageError;

use crate::model_failure;

/// The engine's name for libtorch on a GPU.
const CUDA: &str = "libtorch-cuda";

/// A model for training on `backend`, as the engine resolved it from the params.
///
/// # Errors
/// This worker was built without the backend, or there is no GPU.
pub fn model(backend: &str, device: &str, config: &ModelConfig, parameters: &Parameters) -> Result<Model, StageError> {
    if backend == CUDA {
        let index = device.strip_prefix("cuda:").and_then(|number| number.parse().ok()).unwrap_or(0);
        let device = olmo_model::cuda_device(index).map_err(|why| {
            StageError::fail("train::no_gpu", why)
                .hint("`olmo-pipe doctor` says what is there; `device: cpu` needs no GPU")
        })?;
        return Model::on_device(config, parameters, true, &device).map_err(model_failure);
    }
    let compute = Compute::named(backend).ok_or_else(|| {
        StageError::fail("train::no_backend", format!("this worker was built without the backend `{backend}`"))
            .hint("build the one that has it: scripts/libtorch cpu --build; or write `backend: flex`")
    })?;
    Model::on(compute, config, parameters, true).map_err(model_failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_built_in_is_refused_with_the_way_out() {
        let config: ModelConfig = serde_json::from_value(
            serde_json::json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16, "vocab_size": 5}),
        )
        .unwrap();
        let parameters = Parameters::init(&config, 1).unwrap();
        assert!(model("flex", "auto", &config, &parameters).is_ok());
        for (backend, code) in [("wishes", "train::no_backend"), (CUDA, "train::no_gpu")] {
            let Err(StageError::Failed(failure)) = model(backend, "cuda:7", &config, &parameters) else {
                panic!("{backend} is not here")
            };
            assert_eq!(failure.code, code);
            assert!(failure.hint.is_some(), "{failure:?}");
        }
    }
}

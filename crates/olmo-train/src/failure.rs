//! The errors of training.

use olmo_model::ModelError;
use olmo_stage::StageError;

/// Converts an error of the model to an error of a stage.
pub fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Config(problems) => {
            StageError::fail("train::model_config", format!("params.model: {}", problems.join("; ")))
        }
        other => other.with_code("train::model").into(),
    }
}

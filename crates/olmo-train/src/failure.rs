//! The errors of training.

use olmo_model::ModelError;
use olmo_stage::StageError;
use olmo_stage::rules::{Finding, Level};

/// Converts an error of the model to an error of a stage.
pub fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Config(problems) => {
            StageError::fail("train::model_config", format!("params.model: {}", problems.join("; ")))
        }
        other => other.with_code("train::model").into(),
    }
}

/// Enforces rules.
///
/// # Errors
/// The first error among `findings`, with the messages of all errors of the same code.
pub fn enforce(findings: impl IntoIterator<Item = Finding>) -> Result<(), StageError> {
    let errors: Vec<Finding> = findings.into_iter().filter(|finding| finding.level == Level::Error).collect();
    let Some(first) = errors.first() else { return Ok(()) };
    let same = errors.iter().filter(|finding| finding.code == first.code);
    let messages: Vec<&str> = same.map(|finding| finding.message.as_str()).collect();
    let failure = StageError::fail(&first.code, messages.join("; "));
    Err(match &first.hint {
        Some(hint) => failure.hint(hint.as_str()),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_the_first_code_are_enforced_together() {
        let findings = [
            Finding::warning("a::warning", "", "only a warning"),
            Finding::error("a::first", "x", "`x` is wrong").hint("change it"),
            Finding::error("a::second", "z", "`z` is wrong"),
            Finding::error("a::first", "y", "`y` is wrong"),
        ];
        let Err(StageError::Failed(failure)) = enforce(findings.clone()) else { panic!("there are errors") };
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("a::first", "`x` is wrong; `y` is wrong"));
        assert_eq!(failure.hint.as_deref(), Some("change it"));
        assert!(enforce(findings.into_iter().take(1)).is_ok());
    }
}

//! The strict JSON Schemas of documents, which describe them after all `${…}` are resolved. The checks
//! of this crate use them.

use olmo_stage::Contract;
use schemars::JsonSchema;
use serde_json::Value;

use crate::document::documents::{Experiment, Pipeline, ResourceChange, RetryRule};

fn root<T: JsonSchema>(title: &str) -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.insert("title".into(), title.into());
    }
    schema
}

/// The strict schema of experiment files.
pub fn experiment() -> Value {
    root::<Experiment>("An olmo-pipe experiment")
}

/// The strict schema of pipeline files.
pub fn pipeline() -> Value {
    root::<Pipeline>("An olmo-pipe pipeline")
}

/// The schema of `stage.yaml`.
pub fn stage() -> Value {
    root::<Contract>("The contract of an olmo-pipe stage")
}

/// The strict schema of a stage's resources.
pub(crate) fn resources() -> Value {
    root::<ResourceChange>("The resources of a stage")
}

/// The strict schema of a stage's retry rule.
pub(crate) fn retry() -> Value {
    root::<RetryRule>("When a failed stage is tried again")
}

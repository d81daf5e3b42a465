//! Checks a model's folder before its tokenizer is used.

use olmo_data::chat::ModelTokenizer;
use olmo_stage::rules::{Finding, Question};

use crate::params::TokenizerParams;

/// Message and hint for a model without a chat template.
pub(crate) const NO_TEMPLATE: &str = "the model has no chat template, which is common for base models";
pub(crate) const NO_TEMPLATE_HINT: &str = "set one: `template: olmo2`, `tulu` or `chatml`, or a file in `chat_template`; the model learns to answer in this format";

/// Every rule that `params` and the known inputs break.
pub(crate) fn check(params: &TokenizerParams, question: &Question) -> Vec<Finding> {
    // A folder that is not a model at all is reported by the stage that reads its weights.
    let model = question.item("model").filter(|item| item.files.contains_key("config.json"));
    let Some(folder) = model.and_then(|item| item.folder()) else { return Vec::new() };
    match ModelTokenizer::read(&folder) {
        Err(error) => vec![Finding::error("tokenizer::model", "model", error.to_string()).hint(error.hint())],
        Ok(model) if model.source.is_none() && params.template.is_none() && !question.has("chat_template") => {
            vec![Finding::error("tokenizer::no_template", "template", NO_TEMPLATE).hint(NO_TEMPLATE_HINT)]
        }
        Ok(_) => Vec::new(),
    }
}

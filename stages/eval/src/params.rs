//! [`Params`] and their rules.

use olmo_data::Template;
use olmo_eval::{Encoding, Normalizer};
use olmo_infer::Placement;
use olmo_stage::Compute;
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Evaluates a model on conversations or on requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Chat template, for a model that does not record one. Null: the one that the model was
    /// trained with, or the tokenizer's.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Maximum number of tokens in an answer, for requests that do not name one.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Evaluates only the first N conversations, or the first N requests of each task; null: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// With `requests`, the maximum number of tokens that the model reads; longer requests are cut
    /// at the beginning. Null: that of the model.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_length: Option<usize>,
    /// With `requests`, how prompt and continuation become tokens: `joint` (as one text, after
    /// whitespace at the end of the prompt has moved to the continuation; as olmo-eval and lm-eval) or
    /// `separate` (each as it is; as ai2-olmo-eval).
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["joint", "separate"], "default" = "joint"))]
    pub encoding: Encoding,
    /// With `requests`, what is done to an answer and to the correct answers before they are
    /// compared, in order.
    #[serde(default = "default_normalizers")]
    #[schemars(with = "Vec<String>", extend("items" = {"type": "string", "enum": ["strip", "ignore_case", "ignore_punctuation", "ignore_numbers", "squad", "last_number", "first_line"]}))]
    pub normalizers: Vec<Normalizer>,
    /// With `requests`, the stage fails if more than this number of requests fail. A failed request
    /// is in no metric.
    #[serde(default)]
    pub max_failed: usize,
    /// With `requests`, the name of the task, if they do not name one. Null: the name of the file.
    #[serde(default)]
    pub task: Option<String>,
    /// With `requests`, the version of the tasks, for the record.
    #[serde(default)]
    pub task_version: Option<String>,
    /// With `requests`, the number of examples in their prompts, for the record.
    #[serde(default)]
    pub shots: Option<usize>,
    /// Names of the sets of rows in `memmaps`, in their order, such as `c4_en`. A single one needs no
    /// name.
    #[serde(default)]
    pub memmap_names: Vec<String>,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

fn default_max_new_tokens() -> usize {
    64
}

fn default_normalizers() -> Vec<Normalizer> {
    vec![Normalizer::Strip]
}

/// Which of the optional inputs are connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connected {
    pub prompts: bool,
    pub requests: bool,
    pub memmaps: bool,
}

impl Connected {
    /// `is` tells whether a port is connected.
    pub(crate) fn of(is: impl Fn(&str) -> bool) -> Self {
        Self { prompts: is("prompts"), requests: is("requests"), memmaps: is("memmaps") }
    }
}

impl Params {
    /// Every rule that is broken.
    pub(crate) fn broken(&self, compute: Compute, connected: Connected) -> Vec<Finding> {
        let mut findings = self.compute.broken("eval", compute);
        let Connected { prompts, requests, memmaps } = connected;
        if prompts == (requests || memmaps) {
            let what = if prompts {
                "`prompts` is given beside `requests` or `memmaps`, but only those two go together"
            } else {
                "none of `prompts`, `requests` and `memmaps` is given, so there is nothing to evaluate"
            };
            let hint = "give `prompts` (conversations with the expected answers), or `requests` (JSON Lines) and \
                        `memmaps` (rows of tokens); use two stages for both";
            findings.push(Finding::error("eval::inputs", "", what).hint(hint));
        }
        if !memmaps && !self.memmap_names.is_empty() {
            let what = "`memmap_names` has an effect only with the input `memmaps`, which is not given";
            findings.push(Finding::error("eval::params", "memmap_names", what).hint("remove it, or give `memmaps`"));
        }
        if !requests {
            let used = [
                ("max_length", self.max_length.is_some() && !memmaps),
                ("encoding", self.encoding != Encoding::default()),
                ("normalizers", self.normalizers != default_normalizers()),
                ("max_failed", self.max_failed != 0 && !memmaps),
                ("task", self.task.is_some()),
                ("task_version", self.task_version.is_some()),
                ("shots", self.shots.is_some()),
            ];
            for (name, _) in used.into_iter().filter(|(_, used)| *used) {
                let what = format!("`{name}` has an effect only with the input `requests`, which is not given");
                findings.push(Finding::error("eval::params", name, what).hint("remove it, or give `requests`"));
            }
        }
        findings
    }

    pub(crate) fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "eval" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_schema_are_those_there_are() {
        let schema = schemars::schema_for!(Params).to_value();
        let words: Vec<&str> = Template::ALL.iter().map(|template| template.as_str()).collect();
        let mut words = serde_json::json!(words);
        words.as_array_mut().unwrap().push(serde_json::Value::Null);
        assert_eq!(schema["properties"]["template"]["enum"], words);
        let names = Normalizer::ALL.map(Normalizer::name);
        assert_eq!(schema["properties"]["normalizers"]["items"]["enum"], serde_json::json!(names));
        let params: Params = serde_json::from_str("{}").unwrap();
        assert_eq!((params.template, params.max_new_tokens, params.limit), (None, 64, None));
    }

    #[test]
    fn one_kind_of_input_is_given_and_params_without_effect_are_refused() {
        let codes = |text: &str, prompts, requests| -> Vec<String> {
            let params: Params = serde_json::from_str(text).unwrap();
            let findings = params.broken(Compute::FLEX, Connected { prompts, requests, memmaps: false });
            findings.into_iter().map(|finding| format!("{} {}", finding.code, finding.param)).collect()
        };
        assert!(codes("{}", true, false).is_empty() && codes("{}", false, true).is_empty());
        assert_eq!(codes("{}", true, true), ["eval::inputs "]);
        assert_eq!(codes("{}", false, false), ["eval::inputs "]);
        let set = r#"{"max_failed": 1, "normalizers": [], "shots": 0}"#;
        assert_eq!(
            codes(set, true, false),
            ["eval::params normalizers", "eval::params max_failed", "eval::params shots"]
        );
        assert!(codes(set, false, true).is_empty());
    }
}

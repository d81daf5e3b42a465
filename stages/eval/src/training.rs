//! [`TaskScorer`]: the tasks of a training that ends when they no longer improve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_data::{Chat, TextTokenizer};
use olmo_eval::TaskMetrics;
use olmo_infer::ChatModel;
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::{Context, StageError};

use crate::params::Params;
use crate::requests::{self, Task};

/// Tasks that are scored again and again, with the weights of the moment.
pub struct TaskScorer {
    params: Params,
    tasks: Vec<Task>,
    tokenizer: PathBuf,
}

impl TaskScorer {
    /// Reads the ports `requests` and `tokenizer` of a training that computes as `compute` says. Scores
    /// only the first `limit` requests of each task.
    ///
    /// # Errors
    /// Bad requests; all bad lines are listed.
    pub fn open(limit: Option<usize>, compute: &ComputeParams, context: &mut Context) -> Result<Self, StageError> {
        let defaults = serde_json::from_value(serde_json::Value::Object(serde_json::Map::new()));
        let defaults: Params = defaults.map_err(|e| StageError::fail("eval::params", e.to_string()))?;
        let params = Params { limit, compute: compute.clone(), ..defaults };
        let tasks = requests::read(&params, context)?;
        Ok(Self { params, tasks, tokenizer: context.input("tokenizer")? })
    }

    /// The names of the tasks.
    pub fn names(&self) -> Vec<&str> {
        self.tasks.iter().map(|task| task.name.as_str()).collect()
    }

    /// The metrics of each task with the model in folder `model`.
    ///
    /// # Errors
    /// The model cannot be opened, or a request fails.
    pub fn score(&self, model: &Path, context: &mut Context) -> Result<BTreeMap<String, TaskMetrics>, StageError> {
        crate::tokenizer::check(model, &self.tokenizer)?;
        let tokenizer = TextTokenizer::open(&self.tokenizer)?;
        let chat = Chat::of_model(model, &tokenizer, None)
            .map_err(|e| StageError::fail("eval::template", e.to_string()).hint(e.hint()))?;
        let chat = ChatModel::new(tokenizer, chat, "eval");
        let model = olmo_infer::open(model, &self.params.placement(context.request.compute))?;
        chat.check_tokenizer(model.config())?;
        requests::metrics(&self.params, &self.tasks, &*model, &chat, context)
    }
}

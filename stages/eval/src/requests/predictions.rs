//! Writes every instance: `predictions.jsonl` and `predictions.parquet`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, ListArray, RecordBatch, StringArray, StructArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use olmo_eval::prediction::{Label, Output};
use olmo_eval::rule;
use olmo_eval::score::{self, Scores};
use olmo_eval::{Normalizer, Prediction, Prompt, Work};
use olmo_stage::StageError;

use super::encoding::{Item, Outcome};

const LINES: &str = "predictions.jsonl";
const TABLE: &str = "predictions.parquet";

/// What is written of each item, in order.
pub(super) fn predictions(items: &[Item<'_>], normalizers: &[Normalizer]) -> Vec<Prediction> {
    items.iter().map(|item| prediction(item, normalizers)).collect()
}

fn prediction(item: &Item<'_>, normalizers: &[Normalizer]) -> Prediction {
    let instance = item.instance;
    let label = match &instance.work {
        Work::Choose { gold, .. } => Label::Choice(*gold),
        Work::Generate(generation) => Label::Answers(generation.gold.clone()),
        Work::Roll { .. } | Work::Tokens { .. } => Label::Choice(0),
    };
    let (outputs, failed) = match &item.result {
        Outcome::Scored(scored) => (scored.iter().map(Output::of_scored).collect(), None),
        Outcome::Answered(answer) => (vec![Output::of_answer(&answer.text, answer.num_tokens)], None),
        Outcome::Failed(why) => (Vec::new(), Some(why.clone())),
        Outcome::Waiting => (Vec::new(), Some("the model was not asked".into())),
    };
    let scores = scores(item, normalizers).into_iter().map(|(name, value)| (name.to_owned(), value));
    Prediction {
        task: instance.task.clone(),
        doc_id: instance.id.clone(),
        native_id: instance.native_id.clone(),
        line: instance.line,
        prompts: item.prompts.clone(),
        messages: messages(&instance.work),
        model_output: outputs,
        instance_metrics: scores.collect(),
        label,
        truncated_tokens: item.cut(),
        failed,
    }
}

/// The scores of an item; none if it failed.
pub(super) fn scores(item: &Item<'_>, normalizers: &[Normalizer]) -> Scores {
    match (&item.result, &item.instance.work) {
        (Outcome::Scored(scored), Work::Choose { gold, .. }) => {
            let mut scores = score::choose(scored, *gold);
            if let Some(own) = &item.instance.in_loop {
                scores.extend(rule::scores(own, scored, *gold));
            }
            scores
        }
        (Outcome::Scored(scored), Work::Tokens { .. }) => scored.first().map(score::tokens).unwrap_or_default(),
        (Outcome::Scored(scored), Work::Roll { .. }) => scored.first().map(score::roll).unwrap_or_default(),
        (Outcome::Answered(answer), Work::Generate(generation)) => {
            score::generate(answer, &generation.gold, normalizers)
        }
        _ => Scores::new(),
    }
}

/// The conversation of a request that is one.
fn messages(work: &Work) -> Option<Vec<olmo_eval::Message>> {
    let prompt = match work {
        Work::Choose { choices, .. } => &choices.first()?.prompt,
        Work::Generate(generation) => &generation.prompt,
        Work::Roll { .. } | Work::Tokens { .. } => return None,
    };
    match prompt {
        Prompt::Chat(messages) => Some(messages.clone()),
        Prompt::Text(_) => None,
    }
}

/// Writes both files into folder `dir`.
pub(super) fn write(predictions: &[Prediction], dir: &Path) -> Result<(), StageError> {
    let path = dir.join(LINES);
    let mut lines = String::new();
    for prediction in predictions {
        let line = serde_json::to_string(prediction).map_err(|e| StageError::io(&path, e.into()))?;
        let _ = writeln!(lines, "{line}");
    }
    std::fs::write(&path, lines).map_err(|e| StageError::io(&path, e))?;
    let path = dir.join(TABLE);
    let failed = |e: &dyn std::fmt::Display| StageError::fail("eval::predictions", format!("{}: {e}", path.display()));
    let table = table(predictions).map_err(|e| failed(&e))?;
    let file = File::create(&path).map_err(|e| StageError::io(&path, e))?;
    olmo_data::write_table(file, &table).map_err(|e| failed(&e))
}

/// One row for each prediction.
fn table(predictions: &[Prediction]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |get: &dyn Fn(&Prediction) -> Option<String>| -> ArrayRef {
        Arc::new(predictions.iter().map(get).collect::<StringArray>())
    };
    let label = |prediction: &Prediction| match &prediction.label {
        Label::Choice(index) => index.to_string(),
        Label::Answers(answers) => serde_json::to_string(answers).unwrap_or_default(),
    };
    let json = |messages: &Vec<olmo_eval::Message>| serde_json::to_string(messages).unwrap_or_default();
    let whole = |get: fn(&Prediction) -> usize| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(predictions.iter().map(|prediction| get(prediction) as u64)))
    };
    RecordBatch::try_from_iter_with_nullable([
        ("task", text(&|prediction| Some(prediction.task.clone())), false),
        ("doc_id", text(&|prediction| Some(prediction.doc_id.clone())), false),
        ("native_id", text(&|prediction| prediction.native_id.clone()), true),
        ("line", whole(|prediction| prediction.line), false),
        ("prompts", prompts(predictions), false),
        ("messages", text(&|prediction| prediction.messages.as_ref().map(json)), true),
        ("model_output", outputs(predictions), false),
        ("instance_metrics", metrics(predictions), false),
        ("label", text(&|prediction| Some(label(prediction))), false),
        ("truncated_tokens", whole(|prediction| prediction.truncated_tokens), false),
        ("failed", text(&|prediction| prediction.failed.clone()), true),
    ])
}

/// A list column from the items of all rows.
fn list(item: Field, lengths: impl Iterator<Item = usize>, items: ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(Arc::new(item), OffsetBuffer::from_lengths(lengths), items, None))
}

fn prompts(predictions: &[Prediction]) -> ArrayRef {
    let texts: Vec<&String> = predictions.iter().flat_map(|prediction| &prediction.prompts).collect();
    let texts = StringArray::from_iter_values(texts);
    let item = Field::new("item", DataType::Utf8, false);
    list(item, predictions.iter().map(|prediction| prediction.prompts.len()), Arc::new(texts))
}

fn outputs(predictions: &[Prediction]) -> ArrayRef {
    let all: Vec<&Output> = predictions.iter().flat_map(|prediction| &prediction.model_output).collect();
    let number = |get: fn(&Output) -> Option<f64>| -> ArrayRef {
        Arc::new(all.iter().map(|output| get(output)).collect::<Float64Array>())
    };
    let count = |get: fn(&Output) -> Option<usize>| -> ArrayRef {
        Arc::new(all.iter().map(|output| get(output).map(|count| count as u64)).collect::<UInt64Array>())
    };
    let text = StringArray::from_iter_values(all.iter().map(|output| &output.text));
    let greedy = all.iter().map(|output| output.is_greedy).collect::<BooleanArray>();
    let columns: Vec<(Field, ArrayRef)> = vec![
        (Field::new("text", DataType::Utf8, false), Arc::new(text)),
        (Field::new("num_tokens", DataType::UInt64, false), count(|output| Some(output.num_tokens))),
        (Field::new("num_tokens_all", DataType::UInt64, true), count(|output| output.num_tokens_all)),
        (Field::new("sum_logits", DataType::Float64, true), number(|output| output.sum_logits)),
        (Field::new("is_greedy", DataType::Boolean, true), Arc::new(greedy)),
        (Field::new("logits_per_token", DataType::Float64, true), number(|output| output.logits_per_token)),
        (Field::new("logits_per_char", DataType::Float64, true), number(|output| output.logits_per_char)),
        (Field::new("bits_per_byte", DataType::Float64, true), number(|output| output.bits_per_byte)),
        (Field::new("num_chars", DataType::UInt64, false), count(|output| Some(output.num_chars))),
    ];
    structs(columns, predictions.iter().map(|prediction| prediction.model_output.len()))
}

fn metrics(predictions: &[Prediction]) -> ArrayRef {
    let all: Vec<(&String, &f64)> = predictions.iter().flat_map(|prediction| &prediction.instance_metrics).collect();
    let names = StringArray::from_iter_values(all.iter().map(|(name, _)| name));
    let values = Float64Array::from_iter_values(all.iter().map(|(_, value)| **value));
    let columns: Vec<(Field, ArrayRef)> = vec![
        (Field::new("name", DataType::Utf8, false), Arc::new(names)),
        (Field::new("value", DataType::Float64, false), Arc::new(values)),
    ];
    structs(columns, predictions.iter().map(|prediction| prediction.instance_metrics.len()))
}

/// A column of lists of objects.
fn structs(columns: Vec<(Field, ArrayRef)>, lengths: impl Iterator<Item = usize>) -> ArrayRef {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let fields = Fields::from(fields);
    let item = Field::new("item", DataType::Struct(fields.clone()), false);
    list(item, lengths, Arc::new(StructArray::new(fields, arrays, None)))
}

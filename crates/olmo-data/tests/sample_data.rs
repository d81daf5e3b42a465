//! What the committed sample data must satisfy, above all that no held-out question is told by
//! what a model is trained on.
//!
//! A question's operands, by family: `repeat`, `first_word` and `last_word` the listed words in order;
//! `successor` the number; `larger` both numbers; `category` the class and the listed words.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use serde_json::Value;

const FAMILIES: [&str; 6] = ["category", "first_word", "larger", "last_word", "repeat", "successor"];

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

struct Row {
    dataset: String,
    messages: Vec<(String, String)>,
}

fn rows(name: &str) -> Vec<Row> {
    let row = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let object = value.as_object().unwrap();
        let keys: Vec<&String> = object.keys().collect();
        assert_eq!(keys, ["dataset", "id", "messages"], "{line}");
        let message = |turn: &Value| {
            assert_eq!(turn.as_object().unwrap().keys().collect::<Vec<_>>(), ["role", "content"], "{line}");
            (turn["role"].as_str().unwrap().to_owned(), turn["content"].as_str().unwrap().to_owned())
        };
        Row {
            dataset: value["dataset"].as_str().unwrap().to_owned(),
            messages: value["messages"].as_array().unwrap().iter().map(message).collect(),
        }
    };
    read(name).lines().map(row).collect()
}

fn train() -> Vec<Row> {
    rows("tulu-sample.jsonl")
}

fn held_out() -> Vec<Row> {
    rows("tulu-heldout.jsonl")
}

impl Row {
    /// Question and answer of each turn.
    fn questions(&self) -> impl Iterator<Item = (&str, &str)> {
        let turns = self.messages.iter().filter(|(role, _)| role != "system").map(|(_, content)| content.as_str());
        let turns: Vec<&str> = turns.collect();
        turns.chunks(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>().into_iter()
    }

    fn last(&self) -> (&str, &str) {
        self.questions().last().unwrap()
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !c.is_ascii_alphanumeric());
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn numbers(text: &str) -> impl Iterator<Item = u32> {
    words(text).into_iter().filter_map(|word| word.parse().ok())
}

/// Case- and space-folded.
fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    family: &'static str,
    /// In an order that does not depend on how it is asked.
    operands: Vec<String>,
    /// The orders in which a text might hold them.
    orders: Vec<Vec<String>>,
    answer: String,
}

impl Question {
    fn parse(prompt: &str, answer: &str) -> Self {
        let all = words(prompt);
        let after_colon = || words(prompt.split_once(':').unwrap_or_else(|| panic!("no list in {prompt}")).1);
        let has = |text: &str| prompt.contains(text);
        let (family, operands, orders) = if has("larger") || has("bigger") {
            let mut pair: Vec<u32> = numbers(prompt).collect();
            pair.sort_unstable();
            let pair: Vec<String> = pair.iter().map(u32::to_string).collect();
            assert_eq!(pair.len(), 2, "{prompt}");
            ("larger", pair.clone(), vec![pair.clone(), pair.into_iter().rev().collect()])
        } else if has("number") || has("Count on") {
            let number: Vec<String> = numbers(prompt).map(|n| n.to_string()).collect();
            assert_eq!(number.len(), 1, "{prompt}");
            ("successor", number.clone(), vec![number])
        } else if has("last") {
            ("last_word", after_colon(), vec![after_colon()])
        } else if has("first") {
            ("first_word", after_colon(), vec![after_colon()])
        } else if has("Repeat") || has("Say") {
            ("repeat", after_colon(), vec![after_colon()])
        } else {
            let classes = ["fruit", "animal", "tool", "vehicle", "drink", "instrument"];
            let class = all.iter().find(|word| classes.contains(&word.as_str()));
            let class = class.unwrap_or_else(|| panic!("which family is {prompt}?")).clone();
            let mut listed = after_colon();
            let mut orders = vec![listed.clone(), listed.clone()];
            orders[0].insert(0, class.clone());
            orders[1].push(class.clone());
            listed.sort();
            listed.insert(0, class);
            ("category", listed, orders)
        };
        Self { family, operands, orders, answer: answer.to_owned() }
    }

    /// The answer that the family's rule gives.
    fn right_answer(&self, prompt: &str) -> Option<String> {
        match self.family {
            "repeat" => Some(self.operands.join(" ")),
            "last_word" => self.operands.last().cloned(),
            "successor" => Some((self.operands[0].parse::<u32>().unwrap() + 1).to_string()),
            "larger" => Some(self.operands[1].clone()),
            "first_word" => self.operands.first().cloned(),
            // Which word is of which class is known to the plain sentences, not to the prompt.
            _ => words(prompt.split_once(':').unwrap().1).contains(&self.answer).then(|| self.answer.clone()),
        }
    }
}

fn held_out_questions() -> Vec<Question> {
    held_out().iter().flat_map(|row| row.questions().map(|(q, a)| Question::parse(q, a)).collect::<Vec<_>>()).collect()
}

fn holds_in_order<'a>(words: &[String], wanted: impl Iterator<Item = &'a String>) -> bool {
    let mut rest = words.iter();
    let mut wanted = wanted;
    wanted.all(|word| rest.any(|found| found == word))
}

#[test]
fn there_is_enough_of_every_family() {
    let count = |rows: &[Row]| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for row in rows {
            *count.entry(row.dataset.clone()).or_default() += 1;
        }
        count
    };
    let (train, held_out) = (count(&train()), count(&held_out()));
    assert!(train.values().sum::<usize>() >= 1500);
    assert_eq!(train.keys().collect::<Vec<_>>(), FAMILIES.iter().collect::<Vec<_>>());
    assert_eq!(held_out.keys().collect::<Vec<_>>(), FAMILIES.iter().collect::<Vec<_>>());
    assert!(train.values().all(|count| *count >= 250), "{train:?}");
    assert!(held_out.values().all(|count| (40..=50).contains(count)), "{held_out:?}");
}

#[test]
fn every_conversation_alternates_and_every_answer_is_right() {
    for row in train().iter().chain(&held_out()) {
        let first = usize::from(row.messages[0].0 == "system");
        for (i, (role, content)) in row.messages[first..].iter().enumerate() {
            assert_eq!(role, ["user", "assistant"][i % 2]);
            assert!(!content.is_empty() && content.trim() == content && content.is_ascii());
        }
        assert_eq!(row.messages.last().unwrap().0, "assistant");
        for (prompt, answer) in row.questions() {
            let question = Question::parse(prompt, answer);
            assert_eq!(question.right_answer(prompt).as_deref(), Some(answer), "{prompt}");
        }
        let (prompt, answer) = row.last();
        assert_eq!(Question::parse(prompt, answer).family, row.dataset, "the family is that of the last question");
    }
}

#[test]
fn ids_are_unique() {
    for name in ["tulu-sample.jsonl", "tulu-heldout.jsonl"] {
        let text = read(name);
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        let ids: HashSet<String> = text.lines().map(id).collect();
        assert_eq!(ids.len(), text.lines().count());
    }
}

#[test]
fn categories_are_told_by_the_sentences() {
    let sentences: HashSet<String> = read("sentences.txt").lines().map(folded).collect();
    for question in held_out_questions().iter().filter(|question| question.family == "category") {
        let (word, class) = (&question.answer, &question.operands[0]);
        let told = sentences.iter().any(|line| {
            let article = if class.starts_with(['a', 'i']) { "an" } else { "a" };
            holds_in_order(&words(line), [word, &"is".to_owned(), &article.to_owned(), class].into_iter())
        });
        assert!(told, "no sentence says that {word} is of class {class}");
    }
}

#[test]
fn no_held_out_prompt_is_in_what_is_trained() {
    let train: Vec<String> =
        train().iter().flat_map(|row| row.messages.iter().map(|(_, text)| folded(text)).collect::<Vec<_>>()).collect();
    let train = train.join("\n");
    let sentences = folded(&read("sentences.txt"));
    for row in held_out() {
        for (prompt, _) in row.questions() {
            let prompt = folded(prompt);
            assert!(!train.contains(&prompt), "{prompt}");
            assert!(!sentences.contains(&prompt), "{prompt}");
        }
    }
}

#[test]
fn no_held_out_question_is_trained_in_other_words() {
    let trained: HashSet<(&str, Vec<String>, String)> = train()
        .iter()
        .flat_map(|row| row.questions().map(|(q, a)| Question::parse(q, a)).collect::<Vec<_>>())
        .map(|question| (question.family, question.operands, question.answer))
        .collect();
    for question in held_out_questions() {
        let key = (question.family, question.operands, question.answer);
        assert!(!trained.contains(&key), "{key:?}");
    }
}

#[test]
fn no_sentence_holds_the_operands_of_a_held_out_question_and_then_its_answer() {
    let held_out = held_out_questions();
    for line in read("sentences.txt").lines() {
        let line_words = words(line);
        for question in &held_out {
            let answer = words(&question.answer);
            for order in &question.orders {
                assert!(!holds_in_order(&line_words, order.iter().chain(&answer)), "{line}: {question:?}");
            }
        }
    }
}

#[test]
fn held_out_successors_and_their_answers_occur_nowhere_else() {
    let mut trained: HashSet<u32> = numbers(&read("sentences.txt")).collect();
    trained.extend(train().iter().flat_map(|row| &row.messages).flat_map(|(_, text)| numbers(text)));
    let held_out = held_out_questions();
    let held: BTreeSet<u32> = held_out
        .iter()
        .filter(|question| question.family == "successor")
        .flat_map(|question| [&question.operands[0], &question.answer])
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(held.len() >= 80);
    assert!(held.iter().all(|number| !trained.contains(number)));
}

#[test]
fn held_out_lists_of_words_are_listed_nowhere_in_training() {
    let held_out = held_out_questions();
    let held: HashSet<&[String]> = held_out
        .iter()
        .filter(|question| ["repeat", "first_word", "last_word"].contains(&question.family))
        .map(|question| question.operands.as_slice())
        .collect();
    for (_, text) in train().iter().flat_map(|row| &row.messages) {
        let text = words(text);
        for length in 2..=4 {
            assert!(text.windows(length).all(|list| !held.contains(list)), "{text:?}");
        }
    }
}

#[test]
fn no_answer_of_a_family_is_worth_guessing() {
    for rows in [train(), held_out()] {
        let mut answers: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
        for row in &rows {
            *answers.entry(&row.dataset).or_default().entry(row.last().1).or_default() += 1;
        }
        for (family, answers) in answers {
            let all: usize = answers.values().sum();
            let most = answers.values().max().unwrap();
            assert!(most * 5 <= all, "{family}: one answer is right {most} times of {all}");
        }
    }
}

use super::*;
use crate::request::{Formulation, Generation, Message, Prompt};

fn problems(text: &str) -> String {
    read(text.as_bytes(), "r.jsonl", "r").unwrap_err().to_string()
}

fn one(text: &str) -> Instance {
    let mut requests = read(text.as_bytes(), "r.jsonl", "r").unwrap();
    assert_eq!(requests.instances.len(), 1);
    requests.instances.remove(0)
}

#[test]
fn a_question_with_a_line_for_each_choice_is_put_together() {
    let line = |doc: u64, idx: usize, context: &str, continuation: &str, label: &str| {
        format!(
            r#"{{"request_type": "loglikelihood", "doc": {{}}, "request": {{"context": "{context}", "continuation": "{continuation}"}}, "idx": {idx}, "doc_id": {doc}, "native_id": "n{doc}", "label": {label}}}"#
        )
    };
    let text = [
        line(0, 1, "b", " y", "1"),
        line(1, 0, "q", " z", "\" z\""),
        line(0, 0, "a", " x", "1"),
        line(1, 1, "q", " w", "\" z\""),
        line(1_000_000, 0, "", " z", "0"),
    ]
    .join("\n\n");
    let requests = read(text.as_bytes(), "r.jsonl", "arc").unwrap();
    assert_eq!((requests.instances.len(), requests.unconditional), (2, 1));
    let Work::Choose { choices, gold } = &requests.instances[0].work else { panic!() };
    let texts: Vec<(&Prompt, &str)> = choices.iter().map(|c| (&c.prompt, c.continuation.as_str())).collect();
    assert_eq!(texts, [(&Prompt::Text("a".into()), " x"), (&Prompt::Text("b".into()), " y")]);
    assert_eq!((*gold, requests.instances[0].task.as_str()), (1, "arc"));
    assert_eq!(requests.instances[1].native_id.as_deref(), Some("n1"));
    assert_eq!((requests.instances[1].line, requests.instances[1].formulation()), (3, Formulation::MultipleChoice));
    let gap = [line(0, 0, "a", " x", "1"), line(0, 2, "a", " y", "1")].join("\n");
    assert!(problems(&gap).contains("r.jsonl:1: the line has choices with the `idx` [0, 2]"), "{}", problems(&gap));
    let twice = [line(0, 0, "a", " x", "1"), line(0, 0, "a", " y", "1")].join("\n");
    assert!(
        problems(&twice).contains("r.jsonl:2: the line has the id 0 and `idx` 0 of line 1"),
        "{}",
        problems(&twice)
    );
    let labels = [line(0, 0, "a", " x", "1"), line(0, 1, "a", " y", "0")].join("\n");
    assert!(problems(&labels).contains("another `label` than line 2"), "{}", problems(&labels));
}

#[test]
fn every_bad_line_is_reported_with_its_number_and_the_list_is_bounded() {
    let good = r#"{"doc_id": 0, "request_type": "completion", "prompt": "a", "gold_answers": ["b"]}"#;
    let bad = [
        r#"{"doc_id": 1, "request_type": "loglikelihood", "prompt": "a", "continuations": ["b", ""], "metadata": {"gold_idx": 0}}"#,
        r#"{"doc_id": 2, "request_type": "loglikelihood", "prompt": "a", "continuations": []}"#,
        r#"{"doc_id": 3, "request_type": "loglikelihood", "prompt": "a", "continuations": ["b", "c"], "metadata": {"gold_idx": 2}}"#,
        r#"{"doc_id": 4, "request_type": "loglikelihood", "prompt": "a", "continuations": ["b", "c"]}"#,
        r#"{"doc_id": 0, "request_type": "completion", "prompt": "z"}"#,
        r#"{"request_type": "completion", "prompt": "a"}"#,
        r#"{"doc_id": 5, "request_type": "guess", "prompt": "a"}"#,
        r#"{"doc_id": 6, "request_type": "completion", "prompt": 7}"#,
        r#"{"doc_id": 7, "request_type": "completion", "prompt": "a", "metadata": {"stop_sequences": [""]}}"#,
        r#"{"doc_id": 8, "request_type": "chat", "messages": [{"role": "user"}]}"#,
        r#"{"doc_id": 9, "arguments": [["a", "b"]]}"#,
        "{",
        "[]",
        r#"{"doc_id": 10}"#,
        r#"{"doc_id": 11, "request_type": "completion", "prompt": "a", "metadata": {"max_gen_toks": 0}}"#,
    ];
    let text = format!("{good}\n{}\n", bad.join("\n"));
    let error = read(text.as_bytes(), "r.jsonl", "r").unwrap_err();
    let lines: Vec<usize> = error.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, (2..=16).collect::<Vec<_>>(), "{error}");
    let text = error.to_string();
    for part in [
        "r.jsonl:2: the line has an empty continuation (number 2)",
        "r.jsonl:3: the line has no continuation",
        "has 2 in `metadata.gold_idx`, but its 2 choices are numbered 0 to 1",
        "has 2 choices, but `gold_answers` does not say which is correct",
        "has the id 0 of line 1 (task `r`)",
        "has no `doc_id`",
        "has the `request_type` `guess`",
        "has a number in `prompt`, where text is expected",
        "has an empty stop sequence",
        "has a message 1 in `messages` without `role` and `content`",
        "is in the form of lm-eval's samples, but line 1 is in that of olmo-eval's serialized task",
        "has none of the keys",
        "has 0 in `max_gen_toks`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let many = "{\n".repeat(50);
    let error = read(many.as_bytes(), "r.jsonl", "r").unwrap_err();
    assert_eq!((error.problems.len(), error.more), (20, 30));
    assert!(problems("\n \n").contains("r.jsonl has no requests"));
}

#[test]
fn answers_come_with_their_limits_and_sampling_is_refused() {
    let line = |settings: &str| {
        format!(
            r#"{{"request_type": "generate_until", "request": {{"context": "Q", "stop_sequences": ["\n"], "generation_kwargs": {{{settings}}}}}, "doc_id": "x", "task_name": "t", "label": ["a", "b"]}}"#
        )
    };
    let instance = one(&line(r#""max_gen_toks": 7, "do_sample": false, "temperature": 0.0"#));
    assert_eq!((instance.task.as_str(), instance.id.as_str()), ("t", "x"));
    let expected = Generation {
        prompt: Prompt::Text("Q".into()),
        stop_sequences: vec!["\n".into()],
        max_new_tokens: Some(7),
        gold: vec!["a".into(), "b".into()],
    };
    assert_eq!(instance.work, Work::Generate(expected));
    assert!(problems(&line(r#""do_sample": true, "temperature": 0.8"#)).contains("sampling with temperature 0.8"));
    let chat =
        r#"{"doc_id": 1, "request_type": "chat", "messages": [{"role": "user", "content": "Hi"}], "prompt": null}"#;
    let Work::Generate(generation) = one(chat).work else { panic!() };
    assert_eq!(generation.prompt, Prompt::Chat(vec![Message { role: "user".into(), content: "Hi".into() }]));
    assert_eq!(one(chat).formulation(), Formulation::Chat);
}

#[test]
fn samples_of_lm_eval_are_read_by_what_they_ask() {
    let choice = |target: &str, cont: &str| {
        format!(
            r#"{{"doc_id": 3, "target": "{target}", "arguments": {{"gen_args_0": {{"arg_0": "Q", "arg_1": " 1"}}, "gen_args_1": {{"arg_0": "Q", "arg_1": "{cont}"}}}}, "filter": "none"}}"#
        )
    };
    // Digits are an index, even if a choice has them as its text.
    assert!(matches!(one(&choice("1", " 2")).work, Work::Choose { gold: 1, .. }));
    assert!(matches!(one(&choice("no", " no")).work, Work::Choose { gold: 1, .. }));
    let twice = format!("{0}\n{0}", choice("1", " 2").replace("none", "strict"));
    assert_eq!(one(&twice).id, "3");
    let other = format!("{}\n{}", choice("1", " 2"), choice("1", " 3"));
    assert!(problems(&other).contains("has the id 3 of line 1"));
    assert!(matches!(one(r#"{"doc_id": 0, "arguments": [["a text"]]}"#).work, Work::Roll { text } if text == "a text"));
    let answer = r#"{"doc_id": 0, "target": " x", "arguments": [["Q", {"until": ".", "max_gen_toks": 3}]]}"#;
    let Work::Generate(generation) = one(answer).work else { panic!() };
    assert_eq!((generation.stop_sequences, generation.max_new_tokens), (vec![".".to_owned()], Some(3)));
    assert_eq!(generation.gold, [" x"]);
}

#[test]
fn a_label_that_fits_several_choices_is_refused() {
    let line = r#"{"doc_id": 0, "request_type": "loglikelihood", "prompt": "a", "continuations": [" b", "c", " b"], "gold_answers": [" b"]}"#;
    assert!(problems(line).contains("the text of 2 choices"), "{}", problems(line));
    let single =
        r#"{"doc_id": 0, "request_type": "loglikelihood", "prompt": "a", "continuations": [" b"], "gold_answers": []}"#;
    assert!(matches!(one(single).work, Work::Choose { gold: 0, .. }));
}

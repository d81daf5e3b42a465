//! Checks before any text is encoded.

use olmo_data::Date;
use olmo_stage::rules::{Finding, Question};

use crate::params::{Layout, TokenizeParams};

/// Every rule that `params` and the bound ports break.
pub(crate) fn check(params: &TokenizeParams, question: &Question) -> Vec<Finding> {
    let mut findings = Vec::new();
    let given = question.has("chat_template");
    match params.template {
        Some(Layout::Jinja) if !given => findings.push(
            Finding::error(
                "tokenize::params",
                "template",
                "the template is `jinja`, but port `chat_template` is not bound",
            )
            .hint("give a file in `chat_template`, or set `template` to `tulu`, `olmo2` or `chatml`"),
        ),
        Some(Layout::Jinja) => {}
        Some(other) if given => {
            let text = format!("port `chat_template` is given, but the template is `{}`", other.as_str());
            findings.push(Finding::error("tokenize::params", "template", text).hint("set `template: jinja`"));
        }
        None if given => {
            let text = "port `chat_template` is given, but no template is set";
            findings.push(Finding::error("tokenize::params", "template", text).hint("set `template: jinja`"));
        }
        _ => {}
    }
    if let Some(Err(e)) = params.date.as_deref().map(str::parse::<Date>) {
        findings.push(Finding::error("tokenize::params", "date", e.to_string()).hint("write it as `date: 2026-01-31`"));
    }
    if params.train_on.roles.is_empty() {
        findings.push(
            Finding::error(
                "tokenize::params",
                "train_on.roles",
                "the list of roles is empty, so nothing would be trained",
            )
            .hint("the default is `[assistant]`"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use olmo_stage::rules::KnownInput;
    use serde_json::{Value, json};

    use super::*;

    fn found(params: Value, ports: &[&str]) -> Vec<String> {
        let parsed: TokenizeParams = serde_json::from_value(params.clone()).unwrap();
        let inputs = ports.iter().map(|port| ((*port).to_owned(), KnownInput::default())).collect();
        let question = Question {
            stage: "tokenize".into(),
            params,
            inputs,
            free_bytes: None,
            compute: olmo_stage::Compute::FLEX,
            ranks: 1,
        };
        check(&parsed, &question).into_iter().map(|finding| finding.param).collect()
    }

    #[test]
    fn a_template_and_its_port_belong_together() {
        assert_eq!(found(json!({}), &[]), [""; 0]);
        assert_eq!(found(json!({"template": "jinja"}), &["chat_template"]), [""; 0]);
        assert_eq!(found(json!({"template": "jinja"}), &[]), ["template"]);
        assert_eq!(found(json!({"template": "chatml"}), &["chat_template"]), ["template"]);
        assert_eq!(found(json!({}), &["chat_template"]), ["template"]);
        assert_eq!(found(json!({"train_on": {"roles": []}}), &[]), ["train_on.roles"]);
        assert_eq!(found(json!({"date": "yesterday"}), &[]), ["date"]);
    }
}

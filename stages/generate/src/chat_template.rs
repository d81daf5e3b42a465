//! The chat template that a model brings, for one question. What a template may do is `olmo_data`'s business.

use olmo_data::{JinjaTemplate, TurnView};
use olmo_stage::StageError;

/// The text that `template` makes of `turns`, with the line after which the assistant answers. `tokens`: `eos_token` and its like;
/// one that the model does not have is left out, as `transformers` does.
///
/// # Errors
/// `generate::template`, with the template's own words if it raises an exception.
pub fn render(template: &str, turns: &[TurnView<'_>], tokens: &[(&str, Option<&str>)]) -> Result<String, StageError> {
    let there: Vec<(&str, &str)> = tokens.iter().filter_map(|(name, token)| Some((*name, (*token)?))).collect();
    let made = JinjaTemplate::new(template).and_then(|template| template.text(turns, &there, true));
    made.map_err(|e| StageError::fail("generate::template", format!("chat_template.jinja: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_data::{Message, Role, Template};

    fn turns() -> [TurnView<'static>; 2] {
        [TurnView { role: "system", content: "Be short.\n" }, TurnView { role: "user", content: " 2+2? " }]
    }

    fn tokens() -> [(&'static str, Option<&'static str>); 2] {
        [("eos_token", Some("<eos>")), ("bos_token", None)]
    }

    fn reason(template: &str) -> String {
        match render(template, &turns(), &tokens()) {
            Err(StageError::Failed(failure)) => failure.message,
            other => panic!("{template} gave {other:?}"),
        }
    }

    #[test]
    fn the_exported_template_makes_the_text_that_was_trained() {
        let messages = [Message::new(Role::System, "Be short.\n"), Message::new(Role::User, " 2+2? ")];
        let trained = Template::Tulu.render(&messages, "<eos>", true).text;
        assert_eq!(render(Template::Tulu.jinja(), &turns(), &tokens()).unwrap(), trained);
    }

    #[test]
    fn templates_of_other_models_find_the_methods_they_use() {
        let template = "{%- for m in messages %}\n    {% if m['role'].startswith('us') %}\n{{ m.content.strip() + eos_token }}|{{ 'a-b'.split('-')[1] }}{{ 'xay'.replace('a', '') }}\n{% endif %}\n{% endfor %}\n";
        assert_eq!(render(template, &turns(), &tokens()).unwrap(), "2+2?<eos>|bxy\n");
    }

    #[test]
    fn a_templates_own_complaint_is_shown() {
        assert!(reason("{{ raise_exception('no system turn, please') }}").contains("no system turn, please"));
    }

    #[test]
    fn a_template_reaches_no_clock_no_files_and_no_end_of_work() {
        assert!(reason("{{ strftime_now('%Y') }}").contains("strftime_now"));
        assert!(reason("{% include '/etc/passwd' %}").contains("/etc/passwd"));
        assert!(
            reason("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}").contains("fuel")
        );
        let doubled = "{% set ns = namespace(t='ab') %}{% for i in range(9) %}{% set ns.t = ns.t.replace('b', ns.t + ns.t + ns.t + ns.t) %}{% endfor %}{{ ns.t }}";
        let why = reason(doubled);
        assert!(why.contains("method") || why.contains("limit"), "{why}");
        assert!(reason("{% if %}").contains("chat_template.jinja"));
    }
}

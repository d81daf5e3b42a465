//! Chat templates: programs in Jinja that come with a model, and so from anybody.
//!
//! They run without files, clock or environment, with the functions that Hugging Face gives them (`raise_exception`, `tojson`,
//! Python's methods of strings), and with limits on work and output.

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State};
use olmo_stage::StageError;
use serde::Serialize;

/// Instructions that a template may take; a conversation of a few turns takes some hundred.
const FUEL: u64 = 1_000_000;
/// Bytes of a template, and of the text it makes.
const LONGEST: usize = 1 << 20;

/// One turn as templates see it.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    pub role: &'static str,
    pub content: String,
}

/// The text that `template` makes of `turns`, with the line after which the assistant answers. `tokens`: `bos_token`, `eos_token`, ...
///
/// # Errors
/// `generate::template`, with the template's own words if it raises an exception.
pub fn render(template: &str, turns: &[Turn], tokens: &serde_json::Value) -> Result<String, StageError> {
    let failed = |reason: String| {
        StageError::fail("generate::template", format!("chat_template.jinja: {}", reason.escape_debug()))
    };
    if template.len() > LONGEST {
        return Err(failed(format!("has {} bytes, more than the {LONGEST} that are allowed", template.len())));
    }
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    // As transformers sets up Jinja.
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.set_unknown_method_callback(python_method);
    let context =
        minijinja::context! { messages => turns, add_generation_prompt => true, ..Value::from_serialize(tokens) };
    let text = environment.render_str(template, context).map_err(|e| failed(e.to_string()))?;
    if text.len() > LONGEST {
        return Err(failed(format!("makes {} bytes, more than the {LONGEST} that are allowed", text.len())));
    }
    Ok(text)
}

/// The methods of Python's strings that chat templates use.
fn python_method(_: &State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let Some(text) = value.as_str() else { return Err(unknown()) };
    let arguments =
        arguments.iter().map(|argument| argument.as_str().ok_or_else(unknown)).collect::<Result<Vec<_>, _>>()?;
    let among = |set: &str| {
        let set = set.to_owned();
        move |c: char| set.contains(c)
    };
    Ok(match (method, arguments.as_slice()) {
        ("strip", []) => olmo_data::template::strip(text).into(),
        ("strip", [set]) => text.trim_matches(among(set)).into(),
        ("lstrip", []) => text.trim_start().into(),
        ("lstrip", [set]) => text.trim_start_matches(among(set)).into(),
        ("rstrip", []) => text.trim_end().into(),
        ("rstrip", [set]) => text.trim_end_matches(among(set)).into(),
        ("startswith", [prefix]) => text.starts_with(prefix).into(),
        ("endswith", [suffix]) => text.ends_with(suffix).into(),
        ("lower", []) => text.to_lowercase().into(),
        ("upper", []) => text.to_uppercase().into(),
        ("split", [separator]) if !separator.is_empty() => text.split(separator).map(Value::from).collect(),
        ("split", []) => text.split_whitespace().map(Value::from).collect(),
        // Replacing may multiply a text's length; the fuel does not count that.
        ("replace", [from, to]) if text.len().saturating_mul(to.len().max(1)) <= LONGEST => {
            text.replace(from, to).into()
        }
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_data::{Message, Role, Template};
    use serde_json::json;

    fn turns() -> Vec<Turn> {
        vec![Turn { role: "system", content: "Be short.\n".into() }, Turn { role: "user", content: " 2+2? ".into() }]
    }

    fn tokens() -> serde_json::Value {
        json!({"eos_token": "<eos>", "bos_token": null})
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
        assert!(reason("{% set ns = namespace(t='ab') %}{% for i in range(9) %}{% set ns.t = ns.t.replace('b', ns.t + ns.t + ns.t + ns.t) %}{% endfor %}{{ ns.t }}").contains("method"));
        assert!(reason("{% if %}").contains("chat_template.jinja"));
    }
}

//! [`JinjaTemplate`]: a chat template as models bring it, and which part of its text each turn is.
//!
//! A template is a program from anybody. It gets no files, clock or environment, and is compiled and run within limits on
//! instructions, memory, time, stack and output ([`crate::bounded`]).
//!
//! It says nothing of which bytes are whose, so it is run twice: on the conversation, and on one whose contents are marks
//! that occur nowhere else. What stands between the marks is the template's own, and the turns are found between that.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::Serialize;

use crate::bounded::{self, Exceeded, Limits};
use crate::conversation::{Message, Role};
use crate::template::{Labels, Rendered, Turn, strip};

/// Instructions that a template may take for one conversation.
const FUEL: u64 = 2_000_000;
/// Bytes of a template.
const LONGEST: usize = 1 << 20;
/// Bytes of one tag: the parser and the compiler recurse over the operators in it.
const LONGEST_TAG: usize = 1 << 15;
/// Memory and time to compile a template, or to render one conversation. Real templates take some
/// kilobytes and less than a millisecond.
const LIMITS: Limits = Limits { memory: 128 << 20, time: Duration::from_secs(10) };
/// More memory for each byte of a conversation's contents.
const PER_BYTE: usize = 32;
/// Private characters around the number of a turn.
const MARK: [char; 2] = ['\u{10fffc}', '\u{10fffd}'];

/// Why a template cannot be used, or not for this conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the template has {0} bytes, more than the {LONGEST} that are allowed")]
    TooLong(usize),
    #[error("the tag in line {line} of the template has more than the {LONGEST_TAG} bytes that are allowed")]
    TagTooLong { line: usize },
    #[error("the template {doing} beyond its limits: {why}")]
    Exceeded { doing: &'static str, why: Exceeded },
    #[error("the template went beyond its limits on an earlier conversation")]
    Spent,
    #[error("the template fails: {0}")]
    Failed(String),
    #[error("the template makes {bytes} bytes of {given}: it repeats what it is given")]
    Output { bytes: usize, given: usize },
    #[error("it cannot be told which part of the template's text is turn {turn} ({role}): {reason}")]
    Turns { turn: usize, role: Role, reason: &'static str },
}

/// A chat template of Hugging Face's kind.
pub struct JinjaTemplate {
    environment: Arc<Environment<'static>>,
    /// It went beyond its limits once; its thread is still there.
    spent: AtomicBool,
}

/// A turn as templates see it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TurnView<'m> {
    pub role: &'m str,
    pub content: &'m str,
}

impl JinjaTemplate {
    /// Compiles `source`.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > LONGEST {
            return Err(TemplateError::TooLong(source.len()));
        }
        check_tags(source)?;
        let source = source.to_owned();
        let environment = bounded::run(LIMITS, move || compile(&source))
            .map_err(|why| TemplateError::Exceeded { doing: "does not compile: it goes", why })??;
        Ok(Self { environment: Arc::new(environment), spent: AtomicBool::new(false) })
    }

    /// Runs `work` within limits that allow for `given` bytes of contents.
    fn bounded<T: Send + 'static>(
        &self,
        given: usize,
        work: impl FnOnce(&Environment<'static>) -> Result<T, TemplateError> + Send + 'static,
    ) -> Result<T, TemplateError> {
        if self.spent.load(Ordering::Relaxed) {
            return Err(TemplateError::Spent);
        }
        let limits = Limits { memory: LIMITS.memory.saturating_add(given.saturating_mul(PER_BYTE)), ..LIMITS };
        let environment = self.environment.clone();
        bounded::run(limits, move || work(&environment)).map_err(|why| {
            self.spent.store(true, Ordering::Relaxed);
            TemplateError::Exceeded { doing: "goes", why }
        })?
    }

    /// The text that the template makes of `turns`. `tokens` are `eos_token` and its like; `add_generation_prompt`: with the
    /// line after which the assistant answers.
    ///
    /// # Errors
    /// The template raises an exception, takes too long, or makes far more text than it was given.
    pub fn text(
        &self,
        turns: &[TurnView<'_>],
        tokens: &[(&str, &str)],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let given = given(turns);
        let context = context(turns, tokens, add_generation_prompt);
        let turns = turns.len();
        self.bounded(given, move |environment| write(environment, context, turns, given))
    }

    /// `messages` as text, with the labels of [`Labels::default`]. `tokens` are `eos_token` and its like;
    /// `ends` are the strings that end a turn where they directly follow it: the added tokens of a tokenizer.
    pub fn render(
        &self,
        messages: &[Message],
        tokens: &[(&str, &str)],
        ends: &[String],
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let plain: Vec<TurnView<'_>> = messages.iter().map(|message| view(message, message.text())).collect();
        let marks: Vec<String> = (0..messages.len()).map(|i| format!("{}{i}{}", MARK[0], MARK[1])).collect();
        let marked: Vec<TurnView<'_>> =
            messages.iter().zip(&marks).map(|(message, mark)| view(message, mark)).collect();
        let given = given(&plain);
        let contexts = [&plain, &marked].map(|turns| context(turns, tokens, add_generation_prompt));
        let owned = messages.to_vec();
        let (text, bodies) = self.bounded(given, move |environment| {
            let [plain, marked] = contexts;
            let text = write(environment, plain, owned.len(), given)?;
            let skeleton = write(environment, marked, owned.len(), given)?;
            let bodies = find_turns(&text, &skeleton, &owned, &marks)?;
            Ok((text, bodies))
        })?;
        let turns = messages.iter().zip(bodies).filter_map(|(message, body)| {
            let body = body?;
            let end = ends.iter().filter(|end| text[body.end..].starts_with(end.as_str())).map(String::len).max();
            Some(Turn { role: message.role, end: body.end..body.end + end.unwrap_or(0), body })
        });
        let turns = turns.collect();
        Ok(Rendered::new(text, turns, &Labels::default()))
    }
}

fn view<'m>(message: &'m Message, content: &'m str) -> TurnView<'m> {
    TurnView { role: message.role.as_str(), content }
}

/// Bytes of the contents of `turns`.
fn given(turns: &[TurnView<'_>]) -> usize {
    turns.iter().map(|turn| turn.content.len()).sum()
}

/// What a template sees.
fn context(turns: &[TurnView<'_>], tokens: &[(&str, &str)], add_generation_prompt: bool) -> Value {
    let tokens: Value = tokens.iter().map(|(name, token)| (*name, Value::from(*token))).collect();
    context! { messages => turns, add_generation_prompt, ..tokens }
}

/// The text that the template makes of `context`, which holds `turns` turns with `given` bytes of contents.
fn write(
    environment: &Environment<'static>,
    context: Value,
    turns: usize,
    given: usize,
) -> Result<String, TemplateError> {
    let rendered = environment.get_template("chat_template").and_then(|template| template.render(context));
    let text = rendered.map_err(|e| TemplateError::Failed(describe(&e)))?;
    let most = 4 * given + 4096 * (turns + 4);
    if text.len() > most { Err(TemplateError::Output { bytes: text.len(), given }) } else { Ok(text) }
}

/// The environment with the template `source` in it.
fn compile(source: &str) -> Result<Environment<'static>, TemplateError> {
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
    environment
        .add_template_owned("chat_template", without_generation_tags(source))
        .map_err(|e| TemplateError::Failed(describe(&e)))?;
    Ok(environment)
}

/// Refuses a tag that is so long that the recursion over it could exhaust the stack.
fn check_tags(source: &str) -> Result<(), TemplateError> {
    let bytes = source.as_bytes();
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let start = at + found;
        at = start + 1;
        match bytes.get(at) {
            Some(b'#') => {
                at = source[at..].find("#}").map_or(bytes.len(), |end| at + end + 2);
            }
            Some(b'{' | b'%') => {
                at = tag_end(bytes, at + 1);
                if at - start > LONGEST_TAG {
                    let line = 1 + bytes[..start].iter().filter(|byte| **byte == b'\n').count();
                    return Err(TemplateError::TagTooLong { line });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The end of the tag whose content starts at byte `at`; strings in it may hold anything.
fn tag_end(bytes: &[u8], mut at: usize) -> usize {
    let mut quote = None;
    while let Some(byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if *byte == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'}') if matches!(bytes[at - 1], b'}' | b'%') => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where in `text` the content of each message stands; `None` for one that the template leaves out.
fn find_turns(
    text: &str,
    skeleton: &str,
    messages: &[Message],
    marks: &[String],
) -> Result<Vec<Option<Range<usize>>>, TemplateError> {
    let refuse = |i: usize, reason| TemplateError::Turns { turn: i + 1, role: messages[i].role, reason };
    // The template's own text before each mark, and behind the last.
    let mut own = Vec::new();
    let mut shown = Vec::new();
    let mut at = 0;
    for (i, mark) in marks.iter().enumerate() {
        if messages[i].text().contains(MARK) {
            return Err(refuse(i, "its content holds a character that marks turns"));
        }
        match skeleton.matches(mark.as_str()).count() {
            0 => continue,
            1 => {}
            _ => return Err(refuse(i, "the template writes it more than once")),
        }
        let Some(found) = skeleton[at..].find(mark.as_str()) else {
            return Err(refuse(i, "the template changes the order of the turns"));
        };
        own.push(&skeleton[at..at + found]);
        shown.push(i);
        at += found + mark.len();
    }
    let tail = &skeleton[at..];
    let mut bodies = vec![None; messages.len()];
    if !place(text, 0, &own, tail, &shown, messages, &mut bodies) {
        let first = shown.first().copied().unwrap_or(0);
        return Err(match messages.get(first) {
            Some(_) => refuse(first, "the template does more with contents than to write them or to strip them"),
            None => TemplateError::Failed("there are no messages".into()),
        });
    }
    Ok(bodies)
}

/// Lays the contents, as they are or stripped, between the template's own text from byte `at` on.
fn place(
    text: &str,
    at: usize,
    own: &[&str],
    tail: &str,
    shown: &[usize],
    messages: &[Message],
    bodies: &mut [Option<Range<usize>>],
) -> bool {
    let (Some((literal, own)), Some((i, shown))) = (own.split_first(), shown.split_first()) else {
        return &text[at..] == tail;
    };
    if !text[at..].starts_with(literal) {
        return false;
    }
    let start = at + literal.len();
    let content = messages[*i].text();
    let mut tried: Vec<&str> = Vec::new();
    for body in [content, strip(content), content.trim(), content.trim_end(), content.trim_start()] {
        if tried.contains(&body) || !text[start..].starts_with(body) {
            continue;
        }
        tried.push(body);
        let end = start + body.len();
        if place(text, end, own, tail, shown, messages, bodies) {
            bodies[*i] = Some(start..end);
            return true;
        }
    }
    false
}

/// `{% generation %}` marks what is trained for other tools; here it changes nothing.
fn without_generation_tags(source: &str) -> String {
    let mut text = source.to_owned();
    for (tag, instead) in [("endgeneration", "endif"), ("generation", "if true")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            for space in [" ", ""] {
                text = text.replace(&format!("{open}{space}{tag}{space}{close}"), &format!("{open} {instead} {close}"));
            }
        }
    }
    text
}

/// What a template's failure is, on one line.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}{place}", detail.escape_debug())
}

/// The methods of Python's strings that chat templates use.
fn python_method(_: &State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if let ("items", Some(_)) = (method, value.as_object().filter(|_| value.kind() == minijinja::value::ValueKind::Map))
    {
        let pair = |key: Value| value.get_item(&key).map(|item| Value::from(vec![key.clone(), item]));
        return value.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>().map(Value::from);
    }
    if let ("get", [key]) = (method, arguments) {
        return value.get_item(key);
    }
    let Some(text) = value.as_str() else { return Err(unknown()) };
    let arguments =
        arguments.iter().map(|argument| argument.as_str().ok_or_else(unknown)).collect::<Result<Vec<_>, _>>()?;
    let among = |set: &str| {
        let set = set.to_owned();
        move |c: char| set.contains(c)
    };
    Ok(match (method, arguments.as_slice()) {
        ("strip", []) => strip(text).into(),
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
        ("replace", [from, to]) => text.replace(from, to).into(),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    fn chat() -> Vec<Message> {
        vec![
            Message::new(Role::System, "Be short. "),
            Message::new(Role::User, " What is 2+2? "),
            Message::new(Role::Assistant, "\t4."),
            Message::new(Role::User, "Thanks"),
            Message::new(Role::Assistant, "You're welcome!"),
        ]
    }

    fn render(source: &str, messages: &[Message]) -> Result<Rendered, TemplateError> {
        let ends = ["<eos>".to_owned(), "<|im_end|>".to_owned(), "<e".to_owned()];
        JinjaTemplate::new(source)?.render(messages, &[("eos_token", "<eos>")], &ends, false)
    }

    #[test]
    fn the_shipped_templates_have_the_same_turns_in_jinja() {
        for template in Template::ALL {
            let mut expected = template.render(&chat(), "<eos>", false);
            assert_eq!(render(template.jinja(), &chat()).unwrap(), expected, "{template:?}");
            expected = expected.with(&Labels { last_turn_only: true, ..Labels::default() });
            assert_eq!(expected.labelled.len(), 1);
        }
    }

    #[test]
    fn a_turn_that_the_template_leaves_out_is_no_turn_and_a_repeated_one_is_refused() {
        let users = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}";
        let rendered = render(users, &chat()).unwrap();
        assert_eq!(rendered.turns.len(), 4);
        assert_eq!(&rendered.text[rendered.labelled[1].clone()], "You're welcome!");
        let error = render("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", &chat()).unwrap_err();
        assert!(error.to_string().contains("turn 1 (system): the template writes it more than once"), "{error}");
        let error = render("{% for m in messages %}{{ m.content.upper() }}{% endfor %}", &chat()).unwrap_err();
        assert!(error.to_string().contains("does more with contents"), "{error}");
        let error = render("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", &chat()).unwrap_err();
        assert!(error.to_string().contains("changes the order"), "{error}");
    }

    #[test]
    fn a_template_that_fails_loops_or_swells_is_an_error() {
        let error = |source: &str| render(source, &chat()).unwrap_err().to_string();
        assert!(error("{{ raise_exception('no system turn') }}").contains("fails: no system turn (line 1)"));
        assert!(
            error("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}").contains("fuel")
        );
        assert!(error("{% for a in range(9999) %}{{ 'xxxxxxxxxxxxxxxx' }}{% endfor %}").contains("repeats"));
        assert!(error("{% for m in messages %}").contains("fails"));
        assert!(error("{% include 'passwords' %}").contains("fails"));
        assert_eq!(JinjaTemplate::new(&"x".repeat(LONGEST + 1)).err(), Some(TemplateError::TooLong(LONGEST + 1)));
    }

    #[test]
    fn generation_tags_change_nothing() {
        let source = "{% for m in messages %}{% generation %}{{ m.content }}{%- endgeneration -%}{% endfor %}";
        assert_eq!(render(source, &chat()[3..]).unwrap().text, "ThanksYou're welcome!");
    }
}

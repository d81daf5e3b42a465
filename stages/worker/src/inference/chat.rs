//! `chat …`: a conversation in the terminal.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use olmo_data::view::plain;
use olmo_data::{Message, Role};
use olmo_infer::text::{Answer, Content, Listener, Prompt, TextOptions, complete};
use olmo_stage::StageError;
use serde_json::json;

use super::generate::SamplingArguments;
use super::model::{ModelArguments, OpenModel};
use crate::answer::{print, print_error};

const STAGE: &str = "chat";

const HELP: &str = "\
/reset          begin a new conversation
/system TEXT    set the system message and begin a new conversation; without TEXT: remove it
/save FILE      write the conversation as a line of JSON, which stage fetch reads
/exit           end (or Ctrl-D)
Any other line is a message. A line that begins with // is a message that begins with /.
";

/// Converse with a model in the terminal.
#[derive(Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    model: ModelArguments,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
}

impl Chat {
    pub(crate) fn run(self) -> ExitCode {
        match self.converse() {
            // The reader closed the pipe.
            Ok(()) | Err(StageError::Interrupted) => ExitCode::SUCCESS,
            Err(error) => print_error(error),
        }
    }

    fn converse(self) -> Result<(), StageError> {
        let options = self.sampling.options(STAGE)?;
        let model = self.model.open(STAGE)?;
        model.text.chat()?;
        let mut conversation = Conversation { system: self.system, messages: Vec::new(), turns: 0 };
        let stdin = std::io::stdin();
        let is_terminal = stdin.is_terminal();
        if is_terminal {
            print("/help lists the commands.\n")?;
        }
        let mut lines = stdin.lock().lines();
        loop {
            if is_terminal {
                print("> ")?;
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line =
                line.map_err(|error| StageError::fail("chat::input", format!("cannot read standard input: {error}")))?;
            match Line::of(&line) {
                Line::Blank => {}
                Line::Exit => return Ok(()),
                Line::Help => print(HELP)?,
                Line::Reset => conversation.messages.clear(),
                Line::System(text) => {
                    conversation.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                    conversation.messages.clear();
                }
                Line::Save(path) => print(&conversation.save(path))?,
                Line::Unknown(command) => {
                    print(&format!("there is no {}; /help lists the commands\n", plain(command)))?;
                }
                Line::Message(text) => conversation.answer(text, &model, &options)?,
            }
        }
    }
}

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
enum Line<'l> {
    Blank,
    Exit,
    Help,
    Reset,
    System(&'l str),
    Save(&'l str),
    Unknown(&'l str),
    Message(&'l str),
}

impl Line<'_> {
    fn of(line: &str) -> Line<'_> {
        let line = line.trim();
        if let Some(message) = line.strip_prefix("//") {
            // One of both remains.
            return Line::Message(&line[line.len() - message.len() - 1..]);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "" => Line::Blank,
            "/exit" | "/quit" => Line::Exit,
            "/help" => Line::Help,
            "/reset" => Line::Reset,
            "/system" => Line::System(rest.trim()),
            "/save" => Line::Save(rest.trim()),
            other if other.starts_with('/') => Line::Unknown(other),
            _ => Line::Message(line),
        }
    }
}

/// A conversation that goes on.
struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    /// Number of answers, also in earlier conversations.
    turns: u64,
}

impl Conversation {
    fn all(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Answers a message. If that fails, the conversation is as before.
    fn answer(&mut self, text: &str, model: &OpenModel, options: &TextOptions) -> Result<(), StageError> {
        self.messages.push(Message::new(Role::User, text));
        let prompt = Prompt { index: self.turns, content: Content::Messages(self.all()) };
        let mut printer = Printer { answer: String::new() };
        match complete(&*model.model, &model.text, &[prompt], options, &mut printer) {
            Ok(()) => {
                self.messages.push(Message::new(Role::Assistant, printer.answer));
                self.turns += 1;
                print("\n")
            }
            Err(StageError::Interrupted) => Err(StageError::Interrupted),
            Err(error) => {
                self.messages.pop();
                let hint = if self.messages.is_empty() { "" } else { "  help: /reset begins a new conversation\n" };
                print_error(error);
                print(hint)
            }
        }
    }

    /// Writes the conversation to a file. Returns what happened.
    fn save(&self, path: &str) -> String {
        if path.is_empty() {
            return "name a file: /save FILE\n".into();
        }
        if self.messages.is_empty() {
            return "there is nothing to save\n".into();
        }
        let line = json!({"messages": self.all()}).to_string() + "\n";
        match std::fs::write(Path::new(path), line) {
            Ok(()) => format!("saved {}\n", plain(path)),
            Err(error) => format!("cannot write {}: {error}\n", plain(path)),
        }
    }
}

/// Prints an answer as it comes.
struct Printer {
    answer: String,
}

impl Listener for Printer {
    fn text(&mut self, _: &Prompt, _: u64, text: &str) -> Result<(), StageError> {
        print(&plain(text))
    }

    fn answered(&mut self, _: &Prompt, answers: Vec<Answer>) -> Result<(), StageError> {
        self.answer = answers.into_iter().next().map(|answer| answer.text).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        assert_eq!(Line::of("  Hello there "), Line::Message("Hello there"));
        assert_eq!(Line::of("/system  Be brief. "), Line::System("Be brief."));
        assert_eq!(Line::of("/system"), Line::System(""));
        assert_eq!(Line::of("/save a b.jsonl"), Line::Save("a b.jsonl"));
        assert_eq!(Line::of("/reset"), Line::Reset);
        assert_eq!(Line::of("/rest"), Line::Unknown("/rest"));
        assert_eq!(Line::of("//etc is a folder"), Line::Message("/etc is a folder"));
        assert_eq!((Line::of(" "), Line::of("/exit")), (Line::Blank, Line::Exit));
    }
}

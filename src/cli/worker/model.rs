//! Commands that ask a model (`generate`, `chat`): the worker carries them out; a reference to an artifact
//! becomes a folder on the way.

use std::ffi::OsString;
use std::path::Path;

use super::command::{WorkerCommand, is_digest_prefix};
use crate::artifacts::Reference;
use crate::cli::common::Common;
use crate::ui::{Exit, Problem};

/// Options without a value, of all commands that ask a model.
const FLAGS: [&str; 7] = ["--json", "--chat", "--ignore-eos", "--stats", "--help", "-h", "--version"];

/// Continue texts, or answer messages.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: olmo-pipe generate latest:model 'Language modeling is'")]
pub(crate) struct Generate {
    /// A model, and the prompts with options; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "MODEL")]
    words: Vec<OsString>,
}

/// Converse with a model in the terminal.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: olmo-pipe chat latest:model --temperature 0.7")]
pub(crate) struct Chat {
    /// A model, and options; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "MODEL")]
    words: Vec<OsString>,
}

impl Generate {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        ask_model(WorkerCommand::new("generate"), self.words, common)
    }
}

impl Chat {
    pub(crate) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let mut command = WorkerCommand::new("chat");
        command.reads_stdin();
        ask_model(command, self.words, common)
    }
}

/// Runs a command of the worker. The first of `words` that is neither an option nor its value is the
/// model.
fn ask_model(mut command: WorkerCommand, words: Vec<OsString>, common: &Common) -> Result<Exit, Problem> {
    let place = model_place(&words);
    for (index, word) in words.into_iter().enumerate() {
        if Some(index) == place
            && let Some(text) = word.to_str().filter(|text| is_reference(text))
        {
            let store = common.read_store()?;
            let artifact = match is_digest_prefix(text) {
                true => store.find_prefix(text)?,
                false => Reference::resolve(&store, text)?,
            };
            command.artifact(&store, artifact)?;
            command.args(["--shown".into(), word]);
        } else {
            command.args([word]);
        }
    }
    command.run()
}

/// The index of the word that names the model.
fn model_place(words: &[OsString]) -> Option<usize> {
    let mut is_value = false;
    for (index, word) in words.iter().enumerate() {
        let text = word.to_str().unwrap_or_default();
        let is_option = text.len() > 1 && text.starts_with('-');
        if !is_option && !is_value {
            return Some(index);
        }
        is_value = is_option && !text.contains('=') && !FLAGS.contains(&text);
    }
    None
}

/// Whether `text` names an artifact rather than a path.
pub(super) fn is_reference(text: &str) -> bool {
    !Path::new(text).exists() && !text.contains('/') && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first_word_that_is_no_option_or_its_value() {
        let place = |words: &[&str]| model_place(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(place(&["latest:model", "Hi"]), Some(0));
        assert_eq!(place(&["--max-new-tokens", "5", "--json", "m", "Hi"]), Some(3));
        assert_eq!(place(&["--temperature=0.5", "m"]), Some(1));
        assert_eq!(place(&["--help"]), None);
        assert_eq!(place(&["-n", "2", "m"]), Some(2));
    }
}

//! Prints what a command found, with its exit code.

use std::io::Write as _;
use std::process::ExitCode;

use olmo_data::view::plain;
use olmo_stage::StageError;

/// Prints the text of an answer; exits with 1 if it reports a fault in what was looked at.
pub(crate) fn print_text(answer: Result<(String, bool), StageError>) -> ExitCode {
    match answer {
        Ok((text, sound)) => {
            let mut stdout = std::io::stdout().lock();
            match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                // A reader that closes the pipe (`| head`) is not an error.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    let _ = writeln!(std::io::stderr(), "error[cli::output]: cannot write to standard output: {error}");
                    ExitCode::from(74)
                }
                _ if sound => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        Err(error) => print_error(error),
    }
}

/// Prints an error with its hint.
pub(crate) fn print_error(error: StageError) -> ExitCode {
    if let StageError::Failed(failure) | StageError::OutOfMemory(failure) = error {
        let hint = failure.hint.map(|hint| format!("  help: {hint}\n")).unwrap_or_default();
        let _ = write!(std::io::stderr(), "error[{}]: {}\n{hint}", failure.code, plain(&failure.message));
    }
    ExitCode::FAILURE
}

/// Writes to standard output; [`StageError::Interrupted`] if its reader closed it.
pub(crate) fn print(text: &str) -> Result<(), StageError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => StageError::Interrupted,
        _ => StageError::fail("cli::output", format!("cannot write to standard output: {error}")),
    })
}

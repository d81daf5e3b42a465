//! What this process prints: [`answer`] on standard output, [`say`] on standard error.
//!
//! A reader that went away (`| head`) is no error. Anything else that keeps text from its place,
//! such as a full disk, is remembered, and ends the command with [`Exit::Output`].

use std::io::{self, Write};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Exit, Problem};

/// Why text got lost, the first time.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// One of the two places to print to. It keeps nothing back and takes no lock, so that a thread
/// whose reader has stopped holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Output,
    Error,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Output => "standard output",
            Self::Error => "standard error",
        }
    }

    fn try_write(self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Output => rustix::io::write(io::stdout(), bytes),
            Self::Error => rustix::io::write(io::stderr(), bytes),
        }
    }

    /// Waits up to `pause` until something can be written; whether it can.
    fn is_ready(self, pause: Option<Timespec>) -> bool {
        let (output, error) = (io::stdout(), io::stderr());
        let mut file = match self {
            Self::Output => [PollFd::new(&output, PollFlags::OUT)],
            Self::Error => [PollFd::new(&error, PollFlags::OUT)],
        };
        matches!(poll(&mut file, pause.as_ref()), Ok(1))
    }

    fn lose(self, why: impl std::fmt::Display) {
        if let Ok(mut lost) = LOST.lock() {
            lost.get_or_insert_with(|| format!("cannot write to {}: {why}", self.name()));
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                // Another process made the place so that nobody waits for it.
                Err(Errno::AGAIN) => drop(self.is_ready(None)),
                Err(error) => {
                    let error = io::Error::from(error);
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        self.lose(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints `text` as the command's answer.
pub fn answer(text: &str) {
    // Remembered by the stream.
    let _ = Stream::Output.write_all(text.as_bytes());
}

/// Prints `value` as pretty JSON.
pub fn answer_json<T: serde::Serialize>(value: &T) {
    // A value made of strings, numbers and maps with text keys always serializes.
    answer(&(serde_json::to_string_pretty(value).unwrap_or_default() + "\n"));
}

/// Prints `text` where people look.
pub fn say(text: &str) {
    let _ = Stream::Error.write_all(text.as_bytes());
}

/// Notes that a reader takes nothing more.
pub fn give_up_on_reader() {
    let message = "the reader of this output has stopped reading; some of it was not shown";
    if let Ok(mut lost) = LOST.lock() {
        lost.get_or_insert_with(|| message.to_owned());
    }
}

/// The exit of a command that came to `exit`: another one if text got lost, which is reported.
pub fn checked(exit: Exit) -> Exit {
    let lost = LOST.lock().ok().and_then(|mut lost| lost.take());
    let Some(lost) = lost else { return exit };
    // The same reader may be the one that has stopped.
    if Stream::Error.is_ready(Some(Timespec { tv_sec: 0, tv_nsec: 0 })) {
        let hint = "what the command did is done; free some space, or have it print elsewhere, and ask again";
        Problem::new(Exit::Output, "cli::output", &lost, Some(hint)).print();
    }
    if exit == Exit::Success { Exit::Output } else { exit }
}

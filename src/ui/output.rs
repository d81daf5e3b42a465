//! Printing: [`answer`] writes to standard output, [`say`] to standard error.
//!
//! A reader that closes the pipe (`| head`) is not an error. Any other failed write, such as to a
//! full disk, is remembered and makes the command exit with [`Exit::Output`].

use std::io::{self, Write};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The first reason why output was lost.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// Standard output or standard error, unbuffered and without a lock, so that a thread whose reader
/// has stopped does not block the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
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

    /// Waits up to `pause` for the stream to accept a write. Returns whether it does.
    pub(super) fn is_ready(self, pause: Option<Timespec>) -> bool {
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
                // Another process made the shared file description non-blocking.
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

/// Prints `text`, the result of the command, to standard output.
pub(crate) fn answer(text: &str) {
    // The stream remembers a failed write.
    let _ = Stream::Output.write_all(text.as_bytes());
}

/// Prints `value` as pretty JSON.
pub(crate) fn answer_json<T: serde::Serialize>(value: &T) {
    // Values of strings, numbers and maps with string keys always serialize.
    answer(&(serde_json::to_string_pretty(value).unwrap_or_default() + "\n"));
}

/// Prints `text` to standard error.
pub(crate) fn say(text: &str) {
    let _ = Stream::Error.write_all(text.as_bytes());
}

/// Records that the reader has stopped reading.
pub(super) fn give_up_on_reader() {
    let message = "the reader of this output stopped reading; some of it was not shown";
    if let Ok(mut lost) = LOST.lock() {
        lost.get_or_insert_with(|| message.to_owned());
    }
}

/// Takes the message about the first lost output, if any.
pub(super) fn take_lost() -> Option<String> {
    LOST.lock().ok().and_then(|mut lost| lost.take())
}

//! Turns signals into messages to the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use olmo_base::IoContext as _;
use olmo_stage::signals::is_ignored;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use crate::run::error::RunError;
use crate::run::job::Message;

/// Watches for SIGINT, SIGTERM, SIGHUP and SIGUSR1 until it is dropped.
pub(crate) struct Watcher {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    /// Whether a signal ends the process immediately.
    exits: Arc<AtomicBool>,
}

impl Watcher {
    pub(crate) fn start(scheduler: Sender<Message>) -> Result<Self, RunError> {
        // If SIGHUP is ignored (`nohup`, a detached run), the run should outlive the terminal.
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        let watched = Signals::new([SIGINT, SIGTERM, SIGUSR1].into_iter().chain(hangup));
        let mut signals = watched.context_during("watch for signals in", "this process")?;
        let handle = signals.handle();
        let exits = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("signals".into());
        let thread = thread.spawn({
            let exits = exits.clone();
            move || {
                for signal in signals.forever() {
                    if signal != SIGUSR1 && exits.load(Ordering::SeqCst) {
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                    // Sending fails only while results are exported, when the scheduler is gone.
                    let message = if signal == SIGUSR1 { Message::Save } else { Message::Signal(signal) };
                    let _ = scheduler.send(message);
                }
            }
        });
        let thread = thread.map_err(RunError::thread)?;
        Ok(Self { handle, thread: Some(thread), exits })
    }

    /// Makes signals end the process immediately from now on. Call it when no stage runs anymore.
    pub(crate) fn exit_on_signal(&self) {
        self.exits.store(true, Ordering::SeqCst);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Signals as messages to the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::error::RunError;
use super::scheduler::Message;

/// Watches for SIGINT, SIGTERM and SIGHUP until it is dropped.
pub struct Watcher {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    plain: Arc<AtomicBool>,
}

impl Watcher {
    pub fn start(scheduler: Sender<Message>) -> Result<Self, RunError> {
        let watched = Signals::new([SIGINT, SIGTERM, SIGHUP]);
        let mut signals = watched.map_err(RunError::io("watch for signals in", "this process".as_ref()))?;
        let handle = signals.handle();
        let plain = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let plain = plain.clone();
            move || {
                for signal in signals.forever() {
                    if plain.load(Ordering::SeqCst) {
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                    // A closed terminal asks for an orderly end, as SIGTERM does.
                    let signal = if signal == SIGHUP { SIGTERM } else { signal };
                    if scheduler.send(Message::Signal(signal)).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { handle, thread: Some(thread), plain })
    }

    /// From now on a signal ends the process at once: no stage runs any more.
    pub fn end_at_once(&self) {
        self.plain.store(true, Ordering::SeqCst);
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

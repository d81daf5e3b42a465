//! [`Display`]: shows a run from its own thread, so that a reader that has stopped (`| less`, a
//! terminal after Ctrl-S) never blocks the run or its signal handling.
//!
//! Events go through a queue. When the queue is full, progress, metrics and messages are dropped
//! and counted; all other events are kept, because the run's stages bound their number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use olmo_base::units::now_ms;
use olmo_stage::signals;

use crate::run::{RunEvent, RunId, Watch};
use crate::ui::output::give_up_on_reader;
use crate::ui::{Exit, Problem, Terminal};

/// Queued bytes above which droppable messages are dropped.
const MAX_QUEUED: usize = 4 << 20;
/// Bytes counted per message, in addition to its text.
const MESSAGE_BYTES: usize = 256;
/// How long to wait at the end for a reader that reads nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for such a reader if the run was interrupted.
pub(crate) const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// Shows a run. Called on the thread of a [`Display`].
pub(crate) trait Show: Send + 'static {
    /// An event happened at `at` (milliseconds since 1970).
    fn event(&mut self, at: u64, event: &RunEvent);
    fn fetching(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}
    fn fetch_waiting(&mut self, _text: &str) {}
    fn run_started(&mut self, _id: &RunId) {}
    /// `count` events were dropped because the reader was too slow.
    fn dropped(&mut self, count: u64);
}

impl Show for Terminal {
    fn event(&mut self, _at: u64, event: &RunEvent) {
        Watch::event(self, event);
    }

    fn fetching(&mut self, what: &str, done: u64, total: Option<u64>) {
        Watch::fetching(self, what, done, total);
    }

    fn fetch_waiting(&mut self, text: &str) {
        Watch::fetch_waiting(self, text);
    }

    fn dropped(&mut self, count: u64) {
        self.note(&format!("… {count} progress reports were dropped: this output was not read in time"));
    }
}

enum Message<S> {
    Event(u64, Box<RunEvent>),
    Fetching(String, u64, Option<u64>),
    FetchWaiting(String),
    RunStarted(RunId),
    /// The last message, which ends the thread.
    End(Box<dyn FnOnce(&mut S) + Send>),
}

impl<S: Show> Message<S> {
    /// Whether it may be dropped.
    fn is_droppable(&self) -> bool {
        match self {
            Self::Event(_, event) => {
                matches!(**event, RunEvent::Progress { .. } | RunEvent::Metrics { .. } | RunEvent::Message { .. })
            }
            Self::Fetching(..) | Self::FetchWaiting(_) => true,
            Self::RunStarted(_) | Self::End(_) => false,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Event(_, event) => match &**event {
                RunEvent::Message { text, .. } | RunEvent::Progress { message: text, .. } => MESSAGE_BYTES + text.len(),
                RunEvent::Metrics { values, .. } => MESSAGE_BYTES + values.len() * 64,
                _ => MESSAGE_BYTES,
            },
            _ => MESSAGE_BYTES,
        }
    }

    fn show(self, shown: &mut S) {
        match self {
            Self::Event(at, event) => shown.event(at, &event),
            Self::Fetching(what, done, total) => shown.fetching(&what, done, total),
            Self::FetchWaiting(text) => shown.fetch_waiting(&text),
            Self::RunStarted(id) => shown.run_started(&id),
            Self::End(end) => end(shown),
        }
    }
}

struct Queue<S> {
    messages: VecDeque<Message<S>>,
    weight: usize,
    dropped: u64,
    ended: bool,
}

struct Shared<S> {
    queue: Mutex<Queue<S>>,
    /// A message was queued, or the thread has ended.
    changed: Condvar,
    /// Number of messages shown so far.
    shown: AtomicU64,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues the events of a run for the thread that shows them.
pub(crate) struct Display<S: Show> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl<S: Show> Display<S> {
    /// Starts the thread that shows everything on `shown`.
    pub(crate) fn start(shown: S) -> Result<Self, Problem> {
        let queue = Queue { messages: VecDeque::new(), weight: 0, dropped: 0, ended: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new(), shown: AtomicU64::new(0) });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("display".into()).spawn(move || show_all(&own, shown));
        let thread = thread.map_err(|e| {
            let hint = "raise the limit on processes and threads: ulimit -u";
            Problem::new(Exit::Environment, "cli::threads", &format!("cannot start a thread: {e}"), Some(hint))
        })?;
        Ok(Self { shared, thread: Some(thread), closed: false })
    }

    /// Runs `end` last, and waits until everything has been shown or the reader has read nothing
    /// for `patience` (default 30 s).
    pub(crate) fn close(mut self, patience: Option<Duration>, end: impl FnOnce(&mut S) + Send + 'static) {
        self.end(patience.unwrap_or(PATIENCE), Box::new(end));
    }

    fn push(&self, message: Message<S>) {
        let mut queue = self.shared.lock();
        if queue.weight > MAX_QUEUED && message.is_droppable() {
            queue.dropped += 1;
            return;
        }
        queue.weight += message.weight();
        queue.messages.push_back(message);
        drop(queue);
        self.shared.changed.notify_all();
    }

    fn end(&mut self, patience: Duration, end: Box<dyn FnOnce(&mut S) + Send>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        // The run is over, so signals may end the process from here on.
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signals::set(signal, libc::SIG_DFL);
        }
        self.push(Message::End(end));
        let mut queue = self.shared.lock();
        let (mut shown, mut since) = (0, Instant::now());
        while !queue.ended {
            let now = self.shared.shown.load(Ordering::Relaxed);
            if now != shown {
                (shown, since) = (now, Instant::now());
            }
            if since.elapsed() > patience {
                give_up_on_reader();
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, Duration::from_millis(200));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<S: Show> Drop for Display<S> {
    fn drop(&mut self) {
        // The run could not start or continue: show what was queued before the error.
        if !std::thread::panicking() {
            self.end(SHORT_PATIENCE, Box::new(|_| {}));
        }
    }
}

impl<S: Show> Watch for Display<S> {
    fn event(&mut self, event: &RunEvent) {
        self.push(Message::Event(now_ms(), Box::new(event.clone())));
    }

    fn fetching(&mut self, what: &str, done: u64, total: Option<u64>) {
        self.push(Message::Fetching(what.to_owned(), done, total));
    }

    fn fetch_waiting(&mut self, text: &str) {
        self.push(Message::FetchWaiting(text.to_owned()));
    }

    fn run_started(&mut self, id: &RunId) {
        self.push(Message::RunStarted(id.clone()));
    }
}

/// Marks the queue as ended when the display thread exits, even by a panic.
struct EndGuard<'s, S>(&'s Shared<S>);

impl<S> Drop for EndGuard<'_, S> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

fn show_all<S: Show>(shared: &Shared<S>, mut shown: S) {
    let _ended = EndGuard(shared);
    loop {
        let mut queue = shared.lock();
        while queue.messages.is_empty() {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let messages = std::mem::take(&mut queue.messages);
        let dropped = std::mem::take(&mut queue.dropped);
        queue.weight = 0;
        drop(queue);
        for message in messages {
            let is_last = matches!(message, Message::End(_));
            if is_last && dropped > 0 {
                shown.dropped(dropped);
            }
            message.show(&mut shown);
            shared.shown.fetch_add(1, Ordering::Relaxed);
            if is_last {
                return;
            }
        }
        if dropped > 0 {
            shown.dropped(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::run::Place;

    /// Blocks on the first event like a stopped reader, then reports what it shows.
    struct Slow {
        leave: Option<Receiver<()>>,
        shown: Sender<Result<String, u64>>,
    }

    impl Show for Slow {
        fn event(&mut self, _at: u64, event: &RunEvent) {
            if let Some(leave) = self.leave.take() {
                leave.recv().unwrap();
            }
            let name = match event {
                RunEvent::Interrupted { place } => place.to_string(),
                _ => "droppable".into(),
            };
            self.shown.send(Ok(name)).unwrap();
        }

        fn dropped(&mut self, count: u64) {
            self.shown.send(Err(count)).unwrap();
        }
    }

    #[test]
    fn a_stopped_reader_loses_only_progress_and_learns_how_much() {
        let ((go, leave), (shown, seen)) = (channel(), channel());
        let mut display = Display::start(Slow { leave: Some(leave), shown }).unwrap();
        let place = |n: u32| Place { stage: format!("s{n}"), item: None };
        for n in 0..100_000 {
            let message = "x".repeat(100);
            display.event(&RunEvent::Progress { place: place(n), done: 1, total: 2, unit: "steps".into(), message });
            if n % 1000 == 0 {
                display.event(&RunEvent::Interrupted { place: place(n) });
            }
        }
        let waiting = display.shared.lock().weight;
        assert!(waiting < MAX_QUEUED + 100 * 1000, "{waiting} bytes are queued");
        go.send(()).unwrap();
        display.close(None, |_| {});
        let seen: Vec<_> = seen.into_iter().collect();
        let kept: Vec<_> = seen.iter().flatten().filter(|name| *name != "droppable").cloned().collect();
        assert_eq!(kept, (0..100).map(|n| format!("s{}", n * 1000)).collect::<Vec<_>>());
        let droppable = seen.iter().flatten().filter(|name| *name == "droppable").count() as u64;
        let dropped: u64 = seen.iter().filter_map(|seen| seen.as_ref().err()).sum();
        assert!(dropped > 50_000, "{dropped}");
        assert_eq!(droppable + dropped, 100_000);
    }

    #[test]
    fn a_reader_that_never_reads_is_given_up_on() {
        let ((_go, leave), (shown, _seen)) = (channel(), channel());
        let mut display = Display::start(Slow { leave: Some(leave), shown }).unwrap();
        display.event(&RunEvent::Saving);
        display.close(Some(Duration::from_millis(50)), |_| {});
    }
}

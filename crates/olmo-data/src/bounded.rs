//! [`Bounded`]: runs code driven by untrusted data in a thread with limits on memory, time and
//! stack.
//!
//! Readers of table formats trust the lengths in a file and cannot be metered from outside, so
//! [`Allocator`] counts the memory held by such a thread. (Chat templates run in [`crate::jinja`],
//! which meters its own steps.) A thread that would exceed its limit is parked inside the allocator
//! forever: nothing is unwound, the memory is never requested, and the caller gets [`Exceeded`].
//! The thread and its memory stay until the process ends, so callers give up on the data that
//! caused it.
//!
//! The memory limit applies only in programs that install [`Allocator`] as their global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Stack size of a bounded thread. Only used pages take memory.
const STACK: usize = 512 << 20;
/// How often a waiting caller checks whether the memory limit was reached.
const LOOK: Duration = Duration::from_millis(10);

/// Limits of a bounded thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of bytes held at a time.
    pub memory: usize,
    /// Time limit per item.
    pub time: Duration,
}

/// Why a bounded thread produced no item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    #[error("it needs more than the limit of {} MiB of memory", .0 >> 20)]
    Memory(usize),
    #[error("it takes longer than the limit of {} s", .0.as_secs())]
    Time(Duration),
    #[error("cannot start a thread for it: {0}")]
    NoThread(String),
}

/// Shared by a bounded thread and its caller.
#[derive(Default)]
struct Meter {
    /// The thread must stop, or has stopped, at an allocation.
    stop: AtomicBool,
}

thread_local! {
    /// The meter of this thread; null for a thread without limits.
    static METER: Cell<*const Meter> = const { Cell::new(std::ptr::null()) };
    /// Number of bytes that this thread may still allocate.
    static LEFT: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(0) };
}

/// This thread is metered while the guard lives, including during unwinding.
struct Metered(Arc<Meter>);

impl Metered {
    fn start(meter: Arc<Meter>) -> Self {
        METER.with(|cell| cell.set(Arc::as_ptr(&meter)));
        Self(meter)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        debug_assert!(METER.with(Cell::get) == Arc::as_ptr(&self.0));
        METER.with(|cell| cell.set(std::ptr::null()));
    }
}

/// The system allocator, plus counting for bounded threads.
pub struct Allocator;

impl Allocator {
    /// Counts `bytes`; does not return if that exceeds the thread's limit.
    #[inline]
    fn take(bytes: usize) {
        let meter = METER.with(Cell::get);
        if !meter.is_null() {
            Self::count(meter, bytes);
        }
    }

    #[cold]
    fn count(meter: *const Meter, bytes: usize) {
        // Panics are reported while holding locks of the standard library; a parked thread would
        // keep them.
        if std::thread::panicking() {
            return;
        }
        let left =
            LEFT.with(|left| left.replace(left.get().saturating_sub_unsigned(bytes))).saturating_sub_unsigned(bytes);
        // SAFETY: `Metered` keeps the meter alive while the pointer is set.
        let meter = unsafe { &*meter };
        if left < 0 {
            meter.stop.store(true, Ordering::Release);
        }
        while meter.stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }

    #[inline]
    fn give_back(bytes: usize) {
        if !METER.with(Cell::get).is_null() {
            LEFT.with(|left| left.set(left.get().saturating_add_unsigned(bytes).min(LIMIT.with(Cell::get))));
        }
    }
}

// SAFETY: every call is forwarded unchanged to the system allocator; counting neither allocates nor
// unwinds.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller upholds the contract of this same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller upholds the contract of this same function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        Self::give_back(layout.size());
        // SAFETY: the caller upholds the contract of this same function.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Self::give_back(layout.size());
        // SAFETY: the caller upholds the contract of this same function.
        unsafe { System.dealloc(block, layout) }
    }
}

/// The items produced by a bounded thread, in order.
pub struct Bounded<T> {
    items: Receiver<T>,
    meter: Arc<Meter>,
    thread: Option<JoinHandle<()>>,
    limits: Limits,
}

impl<T: Send + 'static> Bounded<T> {
    /// Starts `work`, which passes each item to the function it receives. That function returns
    /// false once no more items are needed.
    ///
    /// # Errors
    /// [`Exceeded::NoThread`].
    pub fn start(
        limits: Limits,
        work: impl FnOnce(&mut dyn FnMut(T) -> bool) + Send + 'static,
    ) -> Result<Self, Exceeded> {
        let (sender, items) = sync_channel(1);
        let meter = Arc::<Meter>::default();
        let own = meter.clone();
        let bounded = move || {
            let limit = isize::try_from(limits.memory).unwrap_or(isize::MAX);
            LIMIT.with(|cell| cell.set(limit));
            LEFT.with(|cell| cell.set(limit));
            let _metered = Metered::start(own);
            work(&mut |item| {
                let wanted = sender.send(item).is_ok();
                // The item now belongs to the caller.
                LEFT.with(|cell| cell.set(limit));
                wanted
            });
        };
        let thread = std::thread::Builder::new().name("bounded".into()).stack_size(STACK).spawn(bounded);
        let thread = thread.map_err(|e| Exceeded::NoThread(e.to_string()))?;
        Ok(Self { items, meter, thread: Some(thread), limits })
    }

    /// The next item; `None` once the work is done.
    ///
    /// # Errors
    /// The thread exceeded a limit. It produces no further items.
    ///
    /// # Panics
    /// Propagates the panic of the work.
    pub fn next_item(&mut self) -> Result<Option<T>, Exceeded> {
        let since = Instant::now();
        loop {
            match self.items.recv_timeout(LOOK) {
                Ok(item) => return Ok(Some(item)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if self.meter.stop.load(Ordering::Acquire) => {
                    return Err(Exceeded::Memory(self.limits.memory));
                }
                Err(RecvTimeoutError::Timeout) if since.elapsed() > self.limits.time => {
                    // It stops at its next allocation.
                    self.meter.stop.store(true, Ordering::Release);
                    return Err(Exceeded::Time(self.limits.time));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => Ok(None),
        }
    }
}

/// Runs `work` within `limits`.
///
/// # Errors
/// `work` exceeded a limit.
///
/// # Panics
/// Propagates the panic of `work`.
pub fn run<T: Send + 'static>(limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
    let mut bounded = Bounded::start(limits, move |give| {
        give(work());
    })?;
    // No item means that it panicked; the panic is propagated.
    bounded.next_item()?.ok_or_else(|| Exceeded::NoThread("it ended without a result".into()))
}

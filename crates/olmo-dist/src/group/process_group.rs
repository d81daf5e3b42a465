//! [`ProcessGroup`]: the ranks of a run, connected over TCP.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::control::Control;
use super::engine::{Engine, Turn};
use super::exchange::Exchange;
use super::shared::{Leaving, Shared};
use super::wire::shorten;
use crate::collective::Collective;
use crate::error::{DistError, Failure};
use crate::exact;
use crate::rendezvous::{Join, Limits, connect};
use crate::tree_sum::TreeNode;
use crate::values::{Values, ValuesRef};

/// An operation that runs in the background.
type Job = Box<dyn FnOnce(&Turns) + Send>;

/// The ranks of a run, connected over TCP. Operations run one after the other in the order of their
/// calls, those in the background included.
///
/// A group that is dropped without [`ProcessGroup::close`] fails on the other ranks.
pub struct ProcessGroup {
    rank: usize,
    size: usize,
    turns: Arc<Turns>,
    /// Jobs for the background thread; `None` once the group is left.
    jobs: Option<Mutex<Sender<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl ProcessGroup {
    /// Joins the group: connects this rank with all others, and checks that they belong together.
    /// Returns when all ranks have joined.
    ///
    /// # Errors
    /// Ranks are missing at the time limit, have another secret, or differ in what must be equal;
    /// this rank cannot listen.
    pub fn join(join: &Join) -> Result<Self, DistError> {
        let (rank, size) = (join.world.rank, join.world.size);
        let links = connect(join)?;
        let (data, control) = links.into_iter().map(|link| link.map(|l| (l.data, l.control)).unzip()).unzip();
        Self::start(rank, size, join.limits, data, control).map_err(|error| DistError::Network {
            rank,
            doing: "start the process group".into(),
            why: error.to_string(),
        })
    }

    fn start(
        rank: usize,
        size: usize,
        limits: Limits,
        data: Vec<Option<std::net::TcpStream>>,
        control: Vec<Option<std::net::TcpStream>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(rank, size, limits)?);
        let control = Control::new(Arc::clone(&shared), control)?;
        let engine = Engine::new(rank, size, Exchange::new(Arc::clone(&shared), data)?);
        let turns =
            Arc::new(Turns { shared, engine: Mutex::new(engine), count: Mutex::default(), changed: Condvar::new() });
        let (jobs, queue) = channel::<Job>();
        let for_jobs = Arc::clone(&turns);
        // A job that panics fails the group, and the jobs after it still end their turns.
        let run_job = move |job: Job| drop(catch_unwind(AssertUnwindSafe(|| job(&for_jobs))));
        let run_jobs = move || queue.into_iter().for_each(run_job);
        let threads = vec![
            thread::Builder::new().name("rank-control".into()).spawn(move || control.run())?,
            thread::Builder::new().name("rank-jobs".into()).spawn(run_jobs)?,
        ];
        Ok(Self { rank, size, turns, jobs: Some(Mutex::new(jobs)), threads })
    }

    /// Starts `work` in the background: one or more operations that no other operation of this rank
    /// interrupts. All ranks must start and call operations in the same order.
    pub fn start_work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Collective) -> Result<T, DistError> + Send + 'static,
    ) -> Pending<T> {
        let (to, result) = channel();
        if let Some(jobs) = &self.jobs {
            // The lock makes the order of the turns that of the queue.
            let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = self.turns.take();
            let job = move |turns: &Turns| drop(to.send(turns.run(turn, work)));
            let _ = jobs.send(Box::new(job));
        }
        Pending { result, rank: self.rank }
    }

    /// Starts [`Collective::all_reduce`] of `values` in the background.
    pub fn start_all_reduce(&self, mut values: Vec<f32>) -> Pending<Vec<f32>> {
        self.start_work(move |group| group.all_reduce(Values::F32(&mut values)).map(|()| values))
    }

    /// Starts [`Collective::reduce_scatter`] of `values` in the background. The result is all of
    /// `values`, of which only this rank's part is the sum.
    pub fn start_reduce_scatter(&self, mut values: Vec<f32>) -> Pending<Vec<f32>> {
        self.start_work(move |group| group.reduce_scatter(Values::F32(&mut values)).map(|_| values))
    }

    /// Starts [`Collective::all_gather`] of `values` in the background.
    pub fn start_all_gather(&self, mut values: Vec<f32>) -> Pending<Vec<f32>> {
        self.start_work(move |group| group.all_gather(Values::F32(&mut values)).map(|()| values))
    }

    /// Like [`exact::reduce_scatter_exact`], as one operation.
    ///
    /// # Errors
    /// As for [`exact::reduce_scatter_exact`].
    pub fn reduce_scatter_exact(
        &self,
        nodes: &[TreeNode<ValuesRef<'_>>],
        length: usize,
        shard: Values<'_>,
    ) -> Result<bool, DistError> {
        self.run(|group| exact::reduce_scatter_exact(group, nodes, length, shard))
    }

    /// Like [`exact::all_reduce_exact`], as one operation.
    ///
    /// # Errors
    /// As for [`exact::all_reduce_exact`].
    pub fn all_reduce_exact(&self, nodes: &[TreeNode<ValuesRef<'_>>], into: Values<'_>) -> Result<bool, DistError> {
        self.run(|group| exact::all_reduce_exact(group, nodes, into))
    }

    /// Ends the group because this rank has failed with `message`, which becomes the error of every
    /// rank. Returns the error of the group: that of the rank that failed first.
    pub fn fail(&self, message: &str) -> DistError {
        let failure = Failure::Failed { rank: self.rank, message: shorten(message) };
        let first = self.turns.shared.fail(failure);
        self.turns.shared.wait_until_sent();
        first.into()
    }

    /// Why the group has ended, if it has failed.
    pub fn failure(&self) -> Option<Failure> {
        self.turns.shared.failure()
    }

    /// Leaves the group in good order, after all operations in the background.
    ///
    /// # Errors
    /// The group has failed.
    pub fn close(mut self) -> Result<(), DistError> {
        self.run(|_| Ok(()))?;
        self.leave(Leaving::Close);
        self.turns.shared.check()
    }

    fn run<T>(&self, work: impl FnOnce(&dyn Collective) -> Result<T, DistError>) -> Result<T, DistError> {
        self.turns.run(self.turns.take(), work)
    }

    fn leave(&mut self, leaving: Leaving) {
        if self.jobs.take().is_some() {
            self.turns.shared.leave(leaving);
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if self.jobs.is_some() {
            self.fail("it left the group without closing it");
            self.leave(Leaving::Abort);
        }
    }
}

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProcessGroup(rank {} of {})", self.rank, self.size)
    }
}

/// The result of an operation that runs in the background.
#[derive(Debug)]
pub struct Pending<T> {
    result: Receiver<Result<T, DistError>>,
    rank: usize,
}

impl<T> Pending<T> {
    /// Waits for the end of the operation.
    ///
    /// # Errors
    /// The operation failed.
    pub fn wait(self) -> Result<T, DistError> {
        let panicked =
            || Failure::Failed { rank: self.rank, message: "an operation in the background panicked".into() };
        self.result.recv().unwrap_or_else(|_| Err(panicked().into()))
    }
}

/// Gives each operation its turn with the engine, in the order in which the turns were taken.
struct Turns {
    shared: Arc<Shared>,
    engine: Mutex<Engine>,
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    taken: u64,
    finished: u64,
}

impl Turns {
    fn take(&self) -> u64 {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.taken += 1;
        count.taken - 1
    }

    fn run<T>(&self, turn: u64, work: impl FnOnce(&dyn Collective) -> Result<T, DistError>) -> Result<T, DistError> {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(count, |count| count.finished < turn));
        let _finish = Finish(self);
        self.shared.check()?;
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        work(&Turn(RefCell::new(&mut engine)))
    }
}

/// Ends a turn, also if the operation panics.
struct Finish<'a>(&'a Turns);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let message = "an operation panicked".into();
            self.0.shared.fail(Failure::Failed { rank: self.0.shared.rank, message });
        }
        self.0.count.lock().unwrap_or_else(PoisonError::into_inner).finished += 1;
        self.0.changed.notify_all();
    }
}

impl Collective for ProcessGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, values: Values<'_>) -> Result<(), DistError> {
        self.run(|group| group.all_reduce(values))
    }

    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, DistError> {
        self.run(|group| group.reduce_scatter(values))
    }

    fn all_gather(&self, values: Values<'_>) -> Result<(), DistError> {
        self.run(|group| group.all_gather(values))
    }

    fn broadcast(&self, values: Values<'_>, root: usize) -> Result<(), DistError> {
        self.run(|group| group.broadcast(values, root))
    }

    fn barrier(&self) -> Result<(), DistError> {
        self.run(|group| group.barrier())
    }

    fn send(&self, values: ValuesRef<'_>, to: usize) -> Result<(), DistError> {
        self.run(|group| group.send(values, to))
    }

    fn recv(&self, values: Values<'_>, from: usize) -> Result<(), DistError> {
        self.run(|group| group.recv(values, from))
    }

    fn all_to_all_v(
        &self,
        send: ValuesRef<'_>,
        send_counts: &[usize],
        recv: Values<'_>,
        recv_counts: &[usize],
    ) -> Result<(), DistError> {
        self.run(|group| group.all_to_all_v(send, send_counts, recv, recv_counts))
    }
}

//! [`Exchange`]: sends and receives on the data connections at the same time, so ranks that all
//! send at once never wait for each other, whatever the sizes.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::shared::Shared;
use super::wire::{Header, Operation};
use crate::error::{DistError, Failure};

/// Number of bytes that are added at once while they arrive: a multiple of the size of any value,
/// and small enough for the cache of a core.
const CHUNK: usize = 128 << 10;
/// How long to wait for the cause on the control connection after a data connection has ended.
const CAUSE_LIMIT: Duration = Duration::from_secs(3);

/// The data connection to a rank.
struct Link {
    stream: TcpStream,
    /// What arrived while this rank was sending.
    early: VecDeque<u8>,
    /// The other rank sends no more.
    has_ended: bool,
}

/// The data connections of this rank, `None` in place of this rank.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    links: Vec<Option<Link>>,
}

/// A message to a rank.
pub(super) struct Outgoing<'a> {
    to: usize,
    /// The header and the first bytes, so that a small message needs one call.
    head: Vec<u8>,
    rest: &'a [u8],
    sent: usize,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(operation: Operation, to: usize, bytes: &'a [u8]) -> Self {
        let (first, rest) = bytes.split_at(bytes.len().min(4096));
        let header = Header { operation, bytes: bytes.len() as u64 };
        Self { to, head: [&header.encode()[..], first].concat(), rest, sent: 0 }
    }

    fn unsent(&self) -> &[u8] {
        let head = &self.head[self.sent.min(self.head.len())..];
        if head.is_empty() { &self.rest[self.sent - self.head.len()..] } else { head }
    }
}

/// A message from a rank.
pub(super) struct Incoming<'a> {
    from: usize,
    expected: Header,
    head: [u8; Header::SIZE],
    /// Number of bytes that have arrived, with the header.
    received: usize,
    into: Into<'a>,
}

/// What is called with each chunk of a message.
type Apply<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// Where the bytes of a message go.
enum Into<'a> {
    Slice(&'a mut [u8]),
    /// To a function, in chunks.
    Chunks {
        apply: Apply<'a>,
        chunk: Vec<u8>,
        filled: usize,
    },
}

impl<'a> Incoming<'a> {
    /// Fills `bytes`.
    pub(super) fn new(operation: Operation, from: usize, bytes: &'a mut [u8]) -> Self {
        let expected = Header { operation, bytes: bytes.len() as u64 };
        Self { from, expected, head: [0; Header::SIZE], received: 0, into: Into::Slice(bytes) }
    }

    /// Calls `apply` with `length` bytes in chunks, each a whole number of values.
    pub(super) fn chunks(operation: Operation, from: usize, length: usize, apply: impl FnMut(&[u8]) + 'a) -> Self {
        let into = Into::Chunks { apply: Box::new(apply), chunk: vec![0; length.min(CHUNK)], filled: 0 };
        let expected = Header { operation, bytes: length as u64 };
        Self { from, expected, head: [0; Header::SIZE], received: 0, into }
    }

    fn is_complete(&self) -> bool {
        self.received as u64 == self.expected.bytes + Header::SIZE as u64
    }

    /// The place for the bytes that come next.
    fn space(&mut self) -> &mut [u8] {
        if self.received < Header::SIZE {
            return &mut self.head[self.received..];
        }
        match &mut self.into {
            Into::Slice(bytes) => &mut bytes[self.received - Header::SIZE..],
            Into::Chunks { chunk, filled, .. } => {
                let left = self.expected.bytes as usize + Header::SIZE - self.received;
                let end = chunk.len().min(*filled + left);
                &mut chunk[*filled..end]
            }
        }
    }

    /// Notes that the first `count` bytes of the space were filled.
    fn advance(&mut self, count: usize) {
        let is_head = self.received < Header::SIZE;
        self.received += count;
        let is_complete = self.is_complete();
        if let Into::Chunks { apply, chunk, filled } = &mut self.into
            && !is_head
        {
            *filled += count;
            if *filled == chunk.len() || is_complete {
                apply(&chunk[..*filled]);
                *filled = 0;
            }
        }
    }
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        let link = |stream: Option<TcpStream>| {
            let Some(stream) = stream else { return Ok(None) };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(Some(Link { stream, early: VecDeque::new(), has_ended: false }))
        };
        let links = streams.into_iter().map(link).collect::<io::Result<_>>()?;
        Ok(Self { shared, links })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Sends and receives all messages of a step of `operation`.
    pub(super) fn run(
        &mut self,
        operation: Operation,
        mut outgoing: Vec<Outgoing<'_>>,
        mut incoming: Vec<Incoming<'_>>,
    ) -> Result<(), DistError> {
        self.shared.check()?;
        let mut last = Instant::now();
        loop {
            let mut has_moved = false;
            for message in &mut outgoing {
                has_moved |= self.send(operation, message)?;
            }
            for message in &mut incoming {
                has_moved |= self.receive(operation, message)?;
            }
            outgoing.retain(|message| !message.unsent().is_empty());
            incoming.retain(|message| !message.is_complete());
            if outgoing.is_empty() && incoming.is_empty() {
                return Ok(());
            }
            if has_moved {
                last = Instant::now();
                continue;
            }
            if let [message] = outgoing.as_slice()
                && !operation.is_collective()
            {
                self.receive_early(operation, message.to)?;
            }
            self.wait(operation, &outgoing, &incoming, last)?;
        }
    }

    /// Sends as much of `message` as the connection takes. Returns whether it took any.
    fn send(&mut self, operation: Operation, message: &mut Outgoing<'_>) -> Result<bool, DistError> {
        let Some(link) = &mut self.links[message.to] else { return Ok(false) };
        match link.stream.write(message.unsent()) {
            Ok(count) => {
                message.sent += count;
                Ok(count > 0)
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) => Err(self.find_cause(operation, message.to, &error)),
        }
    }

    /// Receives as much of `message` as has arrived. Returns whether any has.
    fn receive(&mut self, operation: Operation, message: &mut Incoming<'_>) -> Result<bool, DistError> {
        let Some(link) = &mut self.links[message.from] else { return Ok(false) };
        if message.is_complete() {
            return Ok(false);
        }
        let space = message.space();
        let received = if link.early.is_empty() { link.stream.read(space) } else { link.early.read(space) };
        match received {
            Ok(0) => Err(self.find_cause(operation, message.from, &closed())),
            Ok(count) => {
                message.advance(count);
                if message.received == Header::SIZE {
                    self.check_header(message)?;
                }
                Ok(true)
            }
            Err(error) if is_temporary(&error) => Ok(false),
            Err(error) => Err(self.find_cause(operation, message.from, &error)),
        }
    }

    fn check_header(&self, message: &Incoming<'_>) -> Result<(), DistError> {
        let header = Header::decode(&message.head);
        if header == message.expected {
            return Ok(());
        }
        let side = |rank, header: Header| format!("rank {rank}: {}, {} bytes", header.operation, header.bytes);
        let (theirs, mine) = (side(message.from, header), side(self.shared.rank, message.expected));
        let why = format!("they called different operations ({mine}; {theirs})");
        Err(self.shared.fail(Failure::Mismatch { why }).into())
    }

    /// Keeps what arrives while this rank can send nothing to rank `to`: the other ranks may be
    /// sending, too.
    fn receive_early(&mut self, operation: Operation, to: usize) -> Result<(), DistError> {
        let mut buffer = vec![0; CHUNK];
        for rank in 0..self.links.len() {
            let Some(link) = self.links[rank].as_mut().filter(|link| !link.has_ended) else { continue };
            match link.stream.read(&mut buffer) {
                Ok(0) if rank == to => return Err(self.find_cause(operation, rank, &closed())),
                // It may have left in good order.
                Ok(0) => link.has_ended = true,
                Ok(count) => link.early.extend(&buffer[..count]),
                Err(error) if is_temporary(&error) => {}
                Err(error) => return Err(self.find_cause(operation, rank, &error)),
            }
        }
        Ok(())
    }

    /// Waits until something can be sent or received. `last` is when something last was.
    fn wait(
        &self,
        operation: Operation,
        outgoing: &[Outgoing<'_>],
        incoming: &[Incoming<'_>],
        last: Instant,
    ) -> Result<(), DistError> {
        let limit = self.shared.limits.late;
        let mut flags = vec![PollFlags::empty(); self.links.len()];
        for message in outgoing {
            flags[message.to] |= PollFlags::OUT;
        }
        for message in incoming {
            flags[message.from] |= PollFlags::IN;
        }
        if !operation.is_collective() && !outgoing.is_empty() {
            for (link, flags) in self.links.iter().zip(&mut flags) {
                if link.as_ref().is_some_and(|link| !link.has_ended) {
                    *flags |= PollFlags::IN;
                }
            }
        }
        let mut fds = vec![PollFd::from_borrowed_fd(self.shared.alarm.as_fd(), PollFlags::IN)];
        for (link, flags) in self.links.iter().zip(flags).filter(|(_, flags)| !flags.is_empty()) {
            fds.extend(link.as_ref().map(|link| PollFd::from_borrowed_fd(link.stream.as_fd(), flags)));
        }
        let timeout = limit.min(Duration::from_millis(500));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let _ = poll(&mut fds, Some(&timeout));
        self.shared.check()?;
        if last.elapsed() > limit {
            let is_absent = |rank: &usize| {
                self.links[*rank].is_some()
                    && self.shared.peers[*rank].joined.load(Ordering::Relaxed) <= operation.number
            };
            let mut ranks: Vec<usize> = (0..self.links.len()).filter(is_absent).collect();
            if ranks.is_empty() || !operation.is_collective() {
                ranks = outgoing.iter().map(|m| m.to).chain(incoming.iter().map(|m| m.from)).collect();
                ranks.sort_unstable();
                ranks.dedup();
            }
            let (operation, seconds) = (operation.to_string(), last.elapsed().as_secs());
            return Err(self.shared.fail(Failure::Late { ranks, operation, seconds }).into());
        }
        Ok(())
    }

    /// Why the data connection to `rank` has ended. The control connection reports the cause, but
    /// maybe a moment later.
    fn find_cause(&self, operation: Operation, rank: usize, error: &io::Error) -> DistError {
        let since = Instant::now();
        while since.elapsed() < CAUSE_LIMIT && self.shared.failure().is_none() {
            if self.shared.peers[rank].is_closed.load(Ordering::Acquire) {
                return self.shared.fail(Failure::Closed { rank, operation: operation.to_string() }).into();
            }
            let mut fds = [PollFd::new(&self.shared.alarm, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
        self.shared.fail(Failure::Dead { rank, why: error.to_string() }).into()
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "its connection was closed")
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

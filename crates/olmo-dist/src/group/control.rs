//! The control thread of a process group: it sends heartbeats and failures on the control
//! connections, and notices ranks that are gone.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::shared::{Leaving, Shared};
use super::wire::Message;
use crate::error::Failure;

/// How long an orderly leave waits for the other ranks to confirm it.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);

/// The control connection to a rank.
struct Link {
    rank: usize,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// When the rank last sent something.
    heard: Instant,
    /// The connection is usable.
    is_open: bool,
    /// The rank knows that this one leaves.
    has_confirmed: bool,
}

pub(super) struct Control {
    shared: Arc<Shared>,
    links: Vec<Link>,
    beat: Duration,
}

impl Control {
    /// Takes over the control connections, `None` in place of this rank.
    pub(super) fn new(shared: Arc<Shared>, streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        let heard = Instant::now();
        let mut links = Vec::new();
        for (rank, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream else { continue };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let (input, output) = (Vec::new(), Vec::new());
            links.push(Link { rank, stream, input, output, heard, is_open: true, has_confirmed: false });
        }
        // A heartbeat also reports which operation a rank has joined, before anyone finds it late.
        let beat = (shared.limits.dead / 5).min(shared.limits.late / 3).max(Duration::from_millis(1));
        Ok(Self { shared, links, beat })
    }

    /// Runs until the group is left.
    pub(super) fn run(mut self) {
        let mut next_beat = Instant::now();
        let mut is_failure_queued = false;
        let mut closing: Option<Instant> = None;
        loop {
            // A process that was stopped first reads what has arrived: the clock is read before.
            let now = Instant::now();
            if now >= next_beat {
                self.queue(&Message::Heartbeat(self.shared.joined.load(Ordering::Relaxed)));
                next_beat = now + self.beat;
            }
            let leaving = self.shared.leaving();
            if let Some(failure) = self.shared.failure().filter(|_| !is_failure_queued) {
                self.queue(&Message::Failed(failure));
                is_failure_queued = true;
            }
            if leaving == Leaving::Close && closing.is_none() {
                self.queue(&Message::Close);
                closing = Some(now);
            }
            self.links.iter_mut().for_each(Link::flush);
            if is_failure_queued && self.links.iter().all(|link| !link.is_open || link.output.is_empty()) {
                self.shared.set_sent();
            }
            let is_confirmed = self.links.iter().all(|link| link.has_confirmed || !link.is_open);
            if leaving == Leaving::Abort || closing.is_some_and(|since| is_confirmed || now - since > CONFIRM_LIMIT) {
                break;
            }
            self.wait(next_beat.saturating_duration_since(now));
            self.receive();
            self.judge(now);
        }
        for link in &self.links {
            let _ = link.stream.shutdown(std::net::Shutdown::Write);
        }
        self.shared.set_ended();
    }

    fn queue(&mut self, message: &Message) {
        for link in self.links.iter_mut().filter(|link| link.is_open) {
            // A rank that reads nothing needs no further heartbeats.
            let is_optional = matches!(message, Message::Heartbeat(_)) && !link.output.is_empty();
            if !is_optional {
                message.encode(&mut link.output);
            }
        }
    }

    fn wait(&self, limit: Duration) {
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        for link in self.links.iter().filter(|link| link.is_open) {
            let writes = if link.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&link.stream, PollFlags::IN | writes));
        }
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let _ = poll(&mut fds, Some(&limit));
        // Clear the event. It fails if the event is not set.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    fn receive(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.is_open) {
            let ended = link.fill();
            if let Err(failure) = handle(&self.shared, link) {
                self.shared.fail(failure);
                link.is_open = false;
            }
            if let Err(error) = ended {
                link.is_open = false;
                if !self.shared.peers[link.rank].is_closed.load(Ordering::Acquire) {
                    self.shared.fail(Failure::Dead { rank: link.rank, why: error.to_string() });
                }
            }
        }
    }

    /// Fails the group if a rank has sent nothing for too long at the time `now`.
    fn judge(&self, now: Instant) {
        let limit = self.shared.limits.dead;
        for link in self.links.iter().filter(|link| link.is_open) {
            let is_closed = self.shared.peers[link.rank].is_closed.load(Ordering::Acquire);
            if !is_closed && now.saturating_duration_since(link.heard) > limit {
                let why = format!("it has sent no sign of life for {} s", limit.as_secs_f64());
                self.shared.fail(Failure::Dead { rank: link.rank, why });
            }
        }
    }
}

/// Handles the messages that have arrived.
fn handle(shared: &Shared, link: &mut Link) -> Result<(), Failure> {
    let peer = &shared.peers[link.rank];
    loop {
        match Message::decode(&mut link.input) {
            Ok(None) => return Ok(()),
            Ok(Some(Message::Heartbeat(joined))) => peer.joined.store(joined, Ordering::Relaxed),
            Ok(Some(Message::Failed(failure))) => {
                shared.fail(failure);
            }
            Ok(Some(Message::Close)) => {
                peer.is_closed.store(true, Ordering::Release);
                Message::Closed.encode(&mut link.output);
            }
            Ok(Some(Message::Closed)) => link.has_confirmed = true,
            Err(()) => {
                let why = format!("rank {} sent a control message that rank {} cannot read", link.rank, shared.rank);
                return Err(Failure::Mismatch { why });
            }
        }
    }
}

impl Link {
    /// Reads what has arrived. Fails if the connection has ended.
    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its connection was closed")),
                Ok(count) => {
                    self.heard = Instant::now();
                    self.input.extend_from_slice(&buffer[..count]);
                    // Let the messages be handled before more are read.
                    if count < buffer.len() || self.input.len() > 1 << 20 {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends as much as the connection takes. If it has ended, the next read says so.
    fn flush(&mut self) {
        while self.is_open && !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output.clear(),
            }
        }
    }
}

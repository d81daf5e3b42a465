//! [`Listener`]: listens for other ranks. Strangers cannot hold it up: each connection has its own
//! thread and a time limit for the handshake.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::handshake::{HandshakeError, Hello, as_server};
use super::settings::Secret;

/// Time limit of a handshake.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A connection that was accepted, and its handshake.
pub(super) struct Accepted {
    pub(super) address: SocketAddr,
    pub(super) result: Result<(TcpStream, Hello), HandshakeError>,
}

/// Accepts connections of other ranks in the background until it is dropped.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) accepted: Receiver<Accepted>,
    is_closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens at `address`. Every rank that connects receives `hello`, with its own purpose.
    pub(super) fn open(address: SocketAddr, secret: Secret, hello: Hello) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, accepted) = channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        let accept = move || accept_all(&listener, &secret, &hello, &sender, &closed);
        let thread = thread::Builder::new().name("rank-accept".into()).spawn(accept)?;
        Ok(Self { address, accepted, is_closed, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept_all(listener: &TcpListener, secret: &Secret, hello: &Hello, to: &Sender<Accepted>, is_closed: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    let most = 64 + 4 * hello.size;
    while !is_closed.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
        let Ok((stream, address)) = listener.accept() else { continue };
        if open.load(Ordering::Relaxed) >= most {
            // Too many connections at once. A rank that is turned away tries again.
            continue;
        }
        let (secret, hello, to, count) = (secret.clone(), hello.clone(), to.clone(), Arc::clone(&open));
        count.fetch_add(1, Ordering::Relaxed);
        let handshake = move || {
            let for_purpose = |purpose| Hello { purpose, ..hello };
            let result = stream.set_nonblocking(false).map_err(HandshakeError::Io);
            let result =
                result.and_then(|()| as_server(&stream, &secret, for_purpose, Instant::now() + HANDSHAKE_LIMIT));
            count.fetch_sub(1, Ordering::Relaxed);
            let _ = to.send(Accepted { address, result: result.map(|hello| (stream, hello)) });
        };
        if thread::Builder::new().name("rank-handshake".into()).spawn(handshake).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

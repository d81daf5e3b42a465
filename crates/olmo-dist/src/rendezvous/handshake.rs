//! The handshake of a connection: both sides prove that they know the secret, and exchange a
//! [`Hello`].
//!
//! Each side sends a random nonce. Then each side sends its hello with a MAC (keyed BLAKE3) over
//! its role, both nonces and the hello. So a recorded or reflected message proves nothing. The
//! server reveals its hello only after it has checked the client's.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::settings::{Secret, random};

/// The first bytes of a connection. The last one is the version of the protocol.
const MAGIC: [u8; 12] = *b"olmo-ranks\0\x01";
/// Maximum size of a message in bytes.
const LIMIT: u32 = 1 << 20;
const ACCEPTED: u8 = 1;

/// What a rank says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) purpose: Purpose,
    pub(super) facts: BTreeMap<String, String>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// To exchange values.
    Data,
    /// For heartbeats and failures.
    Control,
    /// To publish the address where this rank listens, and to receive those of all ranks.
    Table(SocketAddr),
}

#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The other side has another secret.
    Secret,
    /// The other side does not speak this protocol.
    Stranger(String),
    Io(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret => f.write_str("it has another secret"),
            Self::Stranger(why) => f.write_str(why),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

/// The side that opened the connection.
pub(super) fn as_client(
    stream: &TcpStream,
    secret: &Secret,
    hello: &Hello,
    deadline: Instant,
) -> Result<Hello, HandshakeError> {
    let (mine, theirs) = exchange_nonces(stream, deadline)?;
    let text = serde_json::to_vec(hello).map_err(io::Error::from)?;
    write(stream, &text, deadline)?;
    write_all(stream, mac(secret, b'c', &mine, &theirs, &text).as_bytes(), deadline)?;
    let mut verdict = [0];
    read_exact(stream, &mut verdict, deadline)?;
    if verdict[0] != ACCEPTED {
        return Err(HandshakeError::Secret);
    }
    let received = receive_hello(stream, secret, b's', &mine, &theirs, deadline)?;
    write_all(stream, &[ACCEPTED], deadline)?;
    Ok(received)
}

/// The side that accepted the connection.
pub(super) fn as_server(
    stream: &TcpStream,
    secret: &Secret,
    hello: impl FnOnce(Purpose) -> Hello,
    deadline: Instant,
) -> Result<Hello, HandshakeError> {
    let (mine, theirs) = exchange_nonces(stream, deadline)?;
    let received = match receive_hello(stream, secret, b'c', &theirs, &mine, deadline) {
        Err(HandshakeError::Secret) => {
            write_all(stream, &[0], deadline)?;
            return Err(HandshakeError::Secret);
        }
        received => received?,
    };
    let text = serde_json::to_vec(&hello(received.purpose)).map_err(io::Error::from)?;
    write_all(stream, &[ACCEPTED], deadline)?;
    write(stream, &text, deadline)?;
    write_all(stream, mac(secret, b's', &theirs, &mine, &text).as_bytes(), deadline)?;
    // A client that gave up in the meantime connects again; this connection must not count.
    read_exact(stream, &mut [0], deadline)?;
    Ok(received)
}

fn exchange_nonces(stream: &TcpStream, deadline: Instant) -> Result<([u8; 32], [u8; 32]), HandshakeError> {
    // Small messages go back and forth.
    stream.set_nodelay(true)?;
    let mine = random()?;
    write_all(stream, &[&MAGIC[..], &mine].concat(), deadline)?;
    let mut greeting = [0; 44];
    read_exact(stream, &mut greeting[..12], deadline)?;
    if greeting[..11] != MAGIC[..11] {
        return Err(HandshakeError::Stranger("it speaks another protocol".into()));
    }
    if greeting[11] != MAGIC[11] {
        let why = format!("it speaks version {} of the protocol, not {}", greeting[11], MAGIC[11]);
        return Err(HandshakeError::Stranger(why));
    }
    read_exact(stream, &mut greeting[12..], deadline)?;
    let mut theirs = [0; 32];
    theirs.copy_from_slice(&greeting[12..]);
    if mine == theirs {
        return Err(HandshakeError::Stranger("it repeats what it receives".into()));
    }
    Ok((mine, theirs))
}

fn mac(secret: &Secret, role: u8, client: &[u8; 32], server: &[u8; 32], text: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(&[role]).update(client).update(server).update(text);
    hasher.finalize()
}

fn receive_hello(
    stream: &TcpStream,
    secret: &Secret,
    role: u8,
    client: &[u8; 32],
    server: &[u8; 32],
    deadline: Instant,
) -> Result<Hello, HandshakeError> {
    let text = read(stream, 64 << 10, deadline)?;
    let mut received = [0; 32];
    read_exact(stream, &mut received, deadline)?;
    // Comparing hashes takes the same time whatever they are.
    if blake3::Hash::from(received) != mac(secret, role, client, server, &text) {
        return Err(HandshakeError::Secret);
    }
    serde_json::from_slice(&text).map_err(|error| HandshakeError::Stranger(format!("its hello is malformed: {error}")))
}

/// Sends a message with its length.
pub(super) fn write(stream: &TcpStream, message: &[u8], deadline: Instant) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|length| *length <= LIMIT);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    write_all(stream, &[&length.to_le_bytes()[..], message].concat(), deadline)
}

/// Receives a message of at most `limit` bytes.
pub(super) fn read(stream: &TcpStream, limit: u32, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read_exact(stream, &mut length, deadline)?;
    let length = u32::from_le_bytes(length);
    if length > limit.min(LIMIT) {
        let message = format!("a message of {length} bytes is longer than the limit of {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut message = vec![0; length as usize];
    read_exact(stream, &mut message, deadline)?;
    Ok(message)
}

pub(super) fn write_all(mut stream: &TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    // What is sent here fits into the buffers of a new connection, so one limit for all is enough.
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(bytes)
}

/// Fills `bytes`, whatever the number of pieces in which they arrive, until `deadline`.
pub(super) fn read_exact(mut stream: &TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time until `deadline`.
pub(super) fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it sent nothing in time"));
    }
    Ok(remaining)
}

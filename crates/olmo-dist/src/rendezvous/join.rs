//! Connects a rank with all others.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError, Hello, Purpose};
use super::listener::{Accepted, HANDSHAKE_LIMIT, Listener};
use super::settings::{Join, Rendezvous};
use super::{folder, interface};
use crate::error::DistError;
use crate::world::World;

/// How long to wait before another attempt to reach a rank.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The connections to another rank.
pub(crate) struct Links {
    pub(crate) data: TcpStream,
    pub(crate) control: TcpStream,
}

/// Connects this rank with all others: `None` in place of this rank.
pub(crate) fn connect(join: &Join) -> Result<Vec<Option<Links>>, DistError> {
    let world = join.world;
    let arguments = |why: &str| Err(DistError::Arguments { operation: "join", why: why.into() });
    if world.rank >= world.size {
        return arguments("the rank must be smaller than the number of ranks");
    }
    if join.facts.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 32 << 10 {
        return arguments("the facts to compare have more than 32 KiB");
    }
    if world.size == 1 {
        return Ok(vec![None]);
    }
    let mut connector = Connector {
        join,
        deadline: Instant::now() + join.limits.join,
        data: (0..world.size).map(|_| None).collect(),
        control: (0..world.size).map(|_| None).collect(),
        tables: (0..world.size).map(|_| None).collect(),
        notes: BTreeSet::new(),
    };
    match &join.rendezvous {
        Rendezvous::Folder(path) => connector.through_folder(path)?,
        Rendezvous::Address(address) => connector.through_address(address)?,
    }
    connector.wait_until_ready()?;
    let links = connector.data.into_iter().zip(connector.control);
    Ok(links.map(|(data, control)| Some(Links { data: data?, control: control? })).collect())
}

struct Connector<'a> {
    join: &'a Join,
    deadline: Instant,
    data: Vec<Option<TcpStream>>,
    control: Vec<Option<TcpStream>>,
    /// At rank 0, with a rendezvous at an address: where each rank listens, and the connection
    /// that waits for the table of all addresses.
    tables: Vec<Option<(SocketAddr, TcpStream)>>,
    /// What may explain a missing rank.
    notes: BTreeSet<String>,
}

impl Connector<'_> {
    fn through_folder(&mut self, path: &Path) -> Result<(), DistError> {
        let world = self.join.world;
        let ip = match self.interface()? {
            Some(ip) => ip,
            None if world.local_size < world.size => {
                let (local_size, size) = (world.local_size, world.size);
                return Err(DistError::SeveralHosts { rank: world.rank, local_size, size });
            }
            None => Ipv4Addr::LOCALHOST.into(),
        };
        let listener = self.open(SocketAddr::new(ip, 0))?;
        folder::publish(path, world.rank, listener.address)?;
        for other in 0..world.rank {
            let address = loop {
                if let Some(address) = folder::look_up(path, other)? {
                    break address;
                }
                if Instant::now() >= self.deadline {
                    let is_missing = |rank: &usize| matches!(folder::look_up(path, *rank), Ok(None));
                    return Err(self.missing((0..world.size).filter(is_missing).collect()));
                }
                sleep(RETRY_PAUSE);
            };
            self.connect_to(other, address)?;
        }
        self.accept_until(&listener, |connector| connector.unconnected())
    }

    fn through_address(&mut self, place: &str) -> Result<(), DistError> {
        let world = self.join.world;
        let interface = self.interface()?;
        if world.rank == 0 {
            let mut address = self.resolve(place)?;
            if let Some(ip) = interface {
                address.set_ip(ip);
            }
            let listener = self.open(address)?;
            let without_table = |connector: &Self| (1..world.size).filter(|r| connector.tables[*r].is_none()).collect();
            let accepted = self.accept_until(&listener, without_table);
            self.send_table(accepted.as_ref().map_err(ToString::to_string).map(|()| listener.address));
            accepted?;
            return self.accept_until(&listener, |connector| connector.unconnected());
        }
        let (listener, table) = loop {
            let address = self.resolve(place)?;
            // This rank listens where rank 0 can reach it.
            let mut listener = None;
            let connected = self.try_connect(0, address, |stream| {
                let ip = interface.map_or_else(|| stream.local_addr().map(|address| address.ip()), Ok)?;
                let opened =
                    Listener::open(SocketAddr::new(ip, 0), self.join.secret.clone(), self.hello(Purpose::Data))?;
                Ok(Purpose::Table(listener.insert(opened).address))
            })?;
            match (connected, listener) {
                (Some(stream), Some(listener)) => break (listener, self.receive_table(&stream)?),
                _ if Instant::now() >= self.deadline => return Err(self.missing(vec![0])),
                _ => sleep(RETRY_PAUSE),
            }
        };
        for (other, address) in table.iter().enumerate().take(world.rank) {
            self.connect_to(other, *address)?;
        }
        self.accept_until(&listener, |connector| connector.unconnected())
    }

    fn hello(&self, purpose: Purpose) -> Hello {
        let Join { world, facts, .. } = self.join;
        Hello { rank: world.rank, size: world.size, purpose, facts: facts.clone() }
    }

    fn interface(&self) -> Result<Option<IpAddr>, DistError> {
        let Some(name) = &self.join.interface else { return Ok(None) };
        interface::address_of(name).map(Some).map_err(|error| self.cannot_listen(name.clone(), &error))
    }

    fn cannot_listen(&self, address: String, error: &io::Error) -> DistError {
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        DistError::Listen { rank: self.join.world.rank, address, why: error.to_string(), in_use }
    }

    fn open(&self, address: SocketAddr) -> Result<Listener, DistError> {
        Listener::open(address, self.join.secret.clone(), self.hello(Purpose::Data))
            .map_err(|error| self.cannot_listen(address.to_string(), &error))
    }

    fn resolve(&self, place: &str) -> Result<SocketAddr, DistError> {
        loop {
            let why = match place.to_socket_addrs().map(|mut addresses| addresses.next()) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => "the name has no address".to_owned(),
                Err(error) => error.to_string(),
            };
            // The name of a host may become known a moment after its job starts.
            if Instant::now() >= self.deadline {
                let (rank, doing) = (self.join.world.rank, format!("resolve {place}"));
                return Err(DistError::Network { rank, doing, why });
            }
            sleep(RETRY_PAUSE * 10);
        }
    }

    /// Connects to rank `other`. `None` if it cannot be reached now.
    fn try_connect(
        &self,
        other: usize,
        address: SocketAddr,
        purpose: impl FnOnce(&TcpStream) -> io::Result<Purpose>,
    ) -> Result<Option<TcpStream>, DistError> {
        let rank = self.join.world.rank;
        let limit = HANDSHAKE_LIMIT.min(self.deadline.saturating_duration_since(Instant::now())).max(RETRY_PAUSE);
        let deadline = Instant::now() + limit;
        let Ok(stream) = TcpStream::connect_timeout(&address, limit) else { return Ok(None) };
        // If nobody listens at a local port, a connection to it may be connected to itself.
        if stream.local_addr().ok() == stream.peer_addr().ok() {
            return Ok(None);
        }
        let purpose = purpose(&stream).map_err(|error| self.cannot_listen(address.ip().to_string(), &error))?;
        let address = address.to_string();
        match handshake::as_client(&stream, &self.join.secret, &self.hello(purpose), deadline) {
            Ok(hello) if hello.rank == other => {
                self.compare(&hello)?;
                Ok(Some(stream))
            }
            Ok(hello) => {
                let why = format!("it is rank {}", hello.rank);
                Err(DistError::Stranger { rank, address, expected: other, why })
            }
            Err(HandshakeError::Secret) => Err(DistError::Secret { rank, address, expected: other }),
            Err(HandshakeError::Stranger(why)) => Err(DistError::Stranger { rank, address, expected: other, why }),
            Err(HandshakeError::Io(_)) => Ok(None),
        }
    }

    /// Opens the two connections to rank `other`.
    fn connect_to(&mut self, other: usize, address: SocketAddr) -> Result<(), DistError> {
        for purpose in [Purpose::Data, Purpose::Control] {
            let stream = loop {
                if let Some(stream) = self.try_connect(other, address, |_| Ok(purpose))? {
                    break stream;
                }
                if Instant::now() >= self.deadline {
                    self.notes.insert(format!("rank {other} does not answer at {address}"));
                    return Err(self.missing(vec![other]));
                }
                sleep(RETRY_PAUSE);
            };
            let place = if purpose == Purpose::Data { &mut self.data } else { &mut self.control };
            place[other] = Some(stream);
        }
        Ok(())
    }

    /// Accepts connections until `missing` returns no rank.
    fn accept_until(&mut self, listener: &Listener, missing: impl Fn(&Self) -> Vec<usize>) -> Result<(), DistError> {
        loop {
            let absent = missing(self);
            if absent.is_empty() {
                return Ok(());
            }
            let remaining = self.deadline.saturating_duration_since(Instant::now());
            match listener.accepted.recv_timeout(remaining) {
                Ok(accepted) => self.accept(accepted)?,
                Err(_) => return Err(self.missing(absent)),
            }
        }
    }

    fn accept(&mut self, accepted: Accepted) -> Result<(), DistError> {
        let (stream, hello) = match accepted.result {
            Ok(accepted) => accepted,
            Err(error) => {
                // A scanner may connect many times.
                if self.notes.len() < 8 {
                    self.notes.insert(format!("a connection from {} was refused: {error}", accepted.address.ip()));
                }
                return Ok(());
            }
        };
        self.compare(&hello)?;
        let (rank, other) = (self.join.world.rank, hello.rank);
        let is_taken = match hello.purpose {
            Purpose::Data => self.data[other].replace(stream).is_some(),
            Purpose::Control => self.control[other].replace(stream).is_some(),
            Purpose::Table(address) => self.tables[other].replace((address, stream)).is_some(),
        };
        if is_taken || other == rank {
            return Err(DistError::Twice { rank, other });
        }
        Ok(())
    }

    /// Checks that the rank that says `hello` belongs to the same run.
    fn compare(&self, hello: &Hello) -> Result<(), DistError> {
        let (rank, other) = (self.join.world.rank, hello.rank);
        let different = |what: &str, mine: String, theirs: String| {
            Err(DistError::Different { rank, other, what: what.into(), mine, theirs })
        };
        let size = self.join.world.size;
        if hello.size != size || other >= size {
            return different("number of ranks", size.to_string(), hello.size.to_string());
        }
        let names: BTreeSet<&String> = self.join.facts.keys().chain(hello.facts.keys()).collect();
        for name in names {
            let (mine, theirs) = (self.join.facts.get(name), hello.facts.get(name));
            if mine != theirs {
                let text = |value: Option<&String>| value.map_or("none".into(), |v| olmo_base::text::quoted(v));
                return different(name, text(mine), text(theirs));
            }
        }
        Ok(())
    }

    /// Sends the addresses of all ranks, or why there is no table, to the ranks that wait for it.
    fn send_table(&mut self, own: Result<SocketAddr, String>) {
        let addresses = own.map(|own| {
            let address = |table: &Option<(SocketAddr, TcpStream)>| table.as_ref().map_or(own, |(address, _)| *address);
            self.tables.iter().map(address).collect::<Vec<_>>()
        });
        let message = serde_json::to_vec(&addresses).unwrap_or_default();
        for (_, stream) in self.tables.iter().flatten() {
            // A rank that cannot be reached will be missing.
            let _ = handshake::write(stream, &message, Instant::now() + HANDSHAKE_LIMIT);
        }
    }

    fn receive_table(&self, stream: &TcpStream) -> Result<Vec<SocketAddr>, DistError> {
        let rank = self.join.world.rank;
        // Rank 0 has the same limit, and says then which ranks are missing.
        let failed = |why: String| DistError::Network { rank, doing: "get the addresses from rank 0".into(), why };
        let message =
            handshake::read(stream, 1 << 20, self.deadline + HANDSHAKE_LIMIT).map_err(|e| failed(e.to_string()))?;
        let table: Result<Vec<SocketAddr>, String> =
            serde_json::from_slice(&message).map_err(|error| failed(error.to_string()))?;
        let table = table.map_err(failed)?;
        if table.len() != self.join.world.size {
            return Err(failed(format!("it sent {} addresses", table.len())));
        }
        Ok(table)
    }

    fn unconnected(&self) -> Vec<usize> {
        let is_connected = |rank: usize| self.data[rank].is_some() && self.control[rank].is_some();
        (0..self.join.world.size).filter(|rank| *rank != self.join.world.rank && !is_connected(*rank)).collect()
    }

    fn missing(&self, missing: Vec<usize>) -> DistError {
        let World { rank, size, .. } = self.join.world;
        let notes = self.notes.iter().cloned().collect();
        DistError::Missing { rank, missing, size, seconds: self.join.limits.join.as_secs(), notes }
    }

    /// Waits until every rank is connected with all others, so that all begin at the same time.
    fn wait_until_ready(&mut self) -> Result<(), DistError> {
        let streams: Vec<_> = self.control.iter().enumerate().filter_map(|(r, s)| Some((r, s.as_ref()?))).collect();
        for (_, stream) in &streams {
            // If this fails, the rank is found missing below.
            let _ = handshake::write_all(stream, b"r", Instant::now() + HANDSHAKE_LIMIT);
        }
        let is_missing = |stream: &TcpStream| {
            // Give ranks that are ready a moment, even if another one has used up the time.
            let deadline = self.deadline.max(Instant::now() + RETRY_PAUSE);
            handshake::read_exact(stream, &mut [0], deadline).err()
        };
        let mut missing = Vec::new();
        let mut notes = Vec::new();
        for (rank, stream) in streams {
            if let Some(error) = is_missing(stream) {
                missing.push(rank);
                notes.push(format!("rank {rank}: {error}"));
            }
        }
        self.notes.extend(notes);
        if missing.is_empty() { Ok(()) } else { Err(self.missing(missing)) }
    }
}

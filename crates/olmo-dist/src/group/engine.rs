//! [`Engine`]: the operations of [`Collective`] over an [`Exchange`].
//!
//! Large arrays go around a ring: each rank sends to the next one, so between two hosts there is
//! one stream in each direction however many ranks they have. Small arrays go directly to every
//! rank.
//! The order of additions depends on the sizes and ranks only, and all ranks get the same bits.

use std::cell::RefCell;
use std::ops::Range;

use super::exchange::{Exchange, Incoming, Outgoing};
use super::wire::{Kind, Operation};
use crate::collective::{Collective, part_of};
use crate::error::DistError;
use crate::values::{DataType, Element, Number, Values, ValuesRef, add_bytes, as_bytes, as_bytes_mut, with_slice};

/// Arrays of at most this many bytes are sent directly to every rank.
const SMALL: usize = 32 << 10;

pub(super) struct Engine {
    rank: usize,
    size: usize,
    exchange: Exchange,
    /// Number of the next collective operation.
    next: u64,
}

/// Access to the engine while it is the turn of a caller.
pub(super) struct Turn<'a>(pub(super) RefCell<&'a mut Engine>);

impl Engine {
    pub(super) fn new(rank: usize, size: usize, exchange: Exchange) -> Self {
        Self { rank, size, exchange, next: 0 }
    }

    /// Joins the next collective operation.
    fn begin(&mut self, kind: Kind, data_type: DataType, values: usize) -> Operation {
        let operation = Operation::new(kind, data_type, self.next, values);
        self.next += 1;
        self.exchange.shared().joined.store(self.next, std::sync::atomic::Ordering::Relaxed);
        operation
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let this = self.rank;
        (0..self.size).filter(move |rank| *rank != this)
    }

    /// The rank `distance` after this one in the ring.
    fn after(&self, distance: usize) -> usize {
        (self.rank + distance) % self.size
    }

    /// The rank `distance` before this one in the ring.
    fn before(&self, distance: usize) -> usize {
        (self.rank + self.size - distance % self.size) % self.size
    }

    fn all_reduce<T: Number>(&mut self, values: &mut [T]) -> Result<(), DistError> {
        let operation = self.begin(Kind::AllReduce, T::TYPE, values.len());
        if self.size == 1 {
            return Ok(());
        }
        if size_of_val(values) > SMALL {
            self.scatter_sums(operation, values)?;
            return self.gather(operation, as_bytes_mut(values), size_of::<T>());
        }
        let bytes = as_bytes(values);
        let mut received: Vec<Vec<u8>> = vec![bytes.to_vec(); self.size];
        let outgoing = self.others().map(|to| Outgoing::new(operation, to, bytes)).collect();
        let incoming = received.iter_mut().enumerate().filter(|(from, _)| *from != self.rank);
        let incoming = incoming.map(|(from, bytes)| Incoming::new(operation, from, bytes)).collect();
        self.exchange.run(operation, outgoing, incoming)?;
        // In the order of the ranks, so all get the same bits.
        let first = received[0].chunks_exact(size_of::<T>());
        let mut sums: Vec<T::Sum> = first.map(|value| T::from_bytes(value).widen()).collect();
        for bytes in &received[1..] {
            add_bytes::<T>(&mut sums, bytes);
        }
        for (value, sum) in values.iter_mut().zip(sums) {
            *value = T::narrow(sum);
        }
        Ok(())
    }

    /// Leaves the sum of this rank's part in `values`.
    fn scatter_sums<T: Number>(&mut self, operation: Operation, values: &mut [T]) -> Result<(), DistError> {
        if T::ROUNDS {
            self.scatter_sums_directly(operation, values)
        } else {
            self.scatter_sums_in_ring(operation, values)
        }
    }

    /// Each part travels around the ring once, and each rank adds its values to it.
    fn scatter_sums_in_ring<T: Number>(&mut self, operation: Operation, values: &mut [T]) -> Result<(), DistError> {
        let (next, previous) = (self.after(1), self.before(1));
        let mut parts = split(values, self.size);
        for step in 1..self.size {
            let (sent, received) = (self.before(step), self.before(step + 1));
            let bytes = as_bytes(&*std::mem::take(&mut parts[sent]));
            let sums = &mut *parts[received];
            let length = size_of_val(sums);
            let mut done = 0;
            let add = |bytes: &[u8]| {
                let count = bytes.len() / size_of::<T>();
                for (sum, value) in sums[done..done + count].iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
                    *sum = T::from_bytes(value).plus(*sum);
                }
                done += count;
            };
            let incoming = vec![Incoming::chunks(operation, previous, length, add)];
            self.exchange.run(operation, vec![Outgoing::new(operation, next, bytes)], incoming)?;
        }
        Ok(())
    }

    /// Each rank adds up its part, which it receives from every rank, and rounds once.
    fn scatter_sums_directly<T: Number>(&mut self, operation: Operation, values: &mut [T]) -> Result<(), DistError> {
        let parts = split(values, self.size);
        let mut sums: Vec<T::Sum> = parts[self.rank].iter().map(|value| value.widen()).collect();
        for step in 1..self.size {
            let length = sums.len() * size_of::<T>();
            let mut done = 0;
            let add = |bytes: &[u8]| {
                let count = bytes.len() / size_of::<T>();
                add_bytes::<T>(&mut sums[done..done + count], bytes);
                done += count;
            };
            let to = self.after(step);
            let incoming = vec![Incoming::chunks(operation, self.before(step), length, add)];
            self.exchange.run(operation, vec![Outgoing::new(operation, to, as_bytes(parts[to]))], incoming)?;
        }
        let part = part_of(values.len(), self.rank, self.size);
        for (value, sum) in values[part].iter_mut().zip(sums) {
            *value = T::narrow(sum);
        }
        Ok(())
    }

    /// Fills the parts of all other ranks. `values` consists of values of `width` bytes.
    fn gather(&mut self, operation: Operation, values: &mut [u8], width: usize) -> Result<(), DistError> {
        let is_small = values.len() <= SMALL;
        let mut parts: Vec<&mut [u8]> = split_bytes(values, width, self.size);
        if is_small {
            let own = &*std::mem::take(&mut parts[self.rank]);
            let outgoing = self.others().map(|to| Outgoing::new(operation, to, own)).collect();
            let incoming = parts.into_iter().enumerate().filter(|(from, _)| *from != self.rank);
            let incoming = incoming.map(|(from, part)| Incoming::new(operation, from, part)).collect();
            return self.exchange.run(operation, outgoing, incoming);
        }
        let (next, previous) = (self.after(1), self.before(1));
        for step in 0..self.size - 1 {
            let sent = &*std::mem::take(&mut parts[self.before(step)]);
            let received = &mut *parts[self.before(step + 1)];
            let incoming = vec![Incoming::new(operation, previous, received)];
            self.exchange.run(operation, vec![Outgoing::new(operation, next, sent)], incoming)?;
        }
        Ok(())
    }

    fn broadcast(
        &mut self,
        operation: Operation,
        values: &mut [u8],
        width: usize,
        root: usize,
    ) -> Result<(), DistError> {
        let is_direct = values.len() <= SMALL || self.size == 2;
        if is_direct && self.rank != root {
            return self.exchange.run(operation, vec![], vec![Incoming::new(operation, root, values)]);
        }
        if is_direct {
            let outgoing = self.others().map(|to| Outgoing::new(operation, to, values)).collect();
            return self.exchange.run(operation, outgoing, vec![]);
        }
        // Every rank gets its part and passes it on, so the root sends the values only once.
        let mut parts = split_bytes(values, width, self.size);
        if self.rank == root {
            let outgoing = self.others().map(|to| Outgoing::new(operation, to, parts[to])).collect();
            self.exchange.run(operation, outgoing, vec![])?;
        } else {
            let incoming = vec![Incoming::new(operation, root, parts[self.rank])];
            self.exchange.run(operation, vec![], incoming)?;
        }
        self.gather(operation, values, width)
    }

    fn all_to_all(
        &mut self,
        operation: Operation,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), DistError> {
        let mut outgoing = Vec::new();
        let mut incoming = Vec::new();
        let mut own: &[u8] = &[];
        let (mut send, mut recv) = (send, recv);
        for (to, count) in send_counts.iter().enumerate() {
            let (part, rest) = send.split_at(*count);
            send = rest;
            if to == self.rank {
                own = part;
            } else {
                outgoing.push(Outgoing::new(operation, to, part));
            }
        }
        for (from, count) in recv_counts.iter().enumerate() {
            let (part, rest) = recv.split_at_mut(*count);
            recv = rest;
            if from == self.rank {
                part.copy_from_slice(own);
            } else {
                incoming.push(Incoming::new(operation, from, part));
            }
        }
        self.exchange.run(operation, outgoing, incoming)
    }
}

/// The parts of the ranks.
fn split<T>(values: &mut [T], size: usize) -> Vec<&mut [T]> {
    let part = values.len().div_ceil(size).max(1);
    let mut parts: Vec<&mut [T]> = values.chunks_mut(part).collect();
    parts.resize_with(size, Default::default);
    parts
}

/// The parts of the ranks, of values of `width` bytes.
fn split_bytes(values: &mut [u8], width: usize, size: usize) -> Vec<&mut [u8]> {
    let part = (values.len() / width).div_ceil(size).max(1) * width;
    let mut parts: Vec<&mut [u8]> = values.chunks_mut(part).collect();
    parts.resize_with(size, Default::default);
    parts
}

fn arguments(operation: &'static str, why: impl Into<String>) -> DistError {
    DistError::Arguments { operation, why: why.into() }
}

/// Type, width and bytes of `values`.
fn untyped<'a>(values: &'a mut Values<'_>) -> (DataType, usize, &'a mut [u8]) {
    fn parts<T: Element>(slice: &mut [T]) -> (DataType, usize, &mut [u8]) {
        (T::TYPE, size_of::<T>(), as_bytes_mut(slice))
    }
    with_slice!(Values, values, slice => parts(slice))
}

fn untyped_ref(values: ValuesRef<'_>) -> (DataType, usize, &[u8]) {
    fn parts<T: Element>(slice: &[T]) -> (DataType, usize, &[u8]) {
        (T::TYPE, size_of::<T>(), as_bytes(slice))
    }
    with_slice!(ValuesRef, values, slice => parts(slice))
}

impl Turn<'_> {
    /// Checks that `other` is another rank.
    fn check_other(&self, operation: &'static str, other: usize) -> Result<(), DistError> {
        if other >= self.size() || other == self.rank() {
            return Err(arguments(operation, format!("rank {other} is not another rank of {}", self.size())));
        }
        Ok(())
    }
}

impl Collective for Turn<'_> {
    fn rank(&self) -> usize {
        self.0.borrow().rank
    }

    fn size(&self) -> usize {
        self.0.borrow().size
    }

    fn all_reduce(&self, values: Values<'_>) -> Result<(), DistError> {
        let engine = &mut self.0.borrow_mut();
        match values {
            Values::F32(values) => engine.all_reduce(values),
            Values::F64(values) => engine.all_reduce(values),
            Values::Bf16(values) => engine.all_reduce(values),
            Values::U8(_) => Err(arguments("all_reduce", "bytes cannot be summed")),
        }
    }

    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, DistError> {
        let engine = &mut self.0.borrow_mut();
        let part = part_of(values.len(), engine.rank, engine.size);
        fn reduce<T: Number>(engine: &mut Engine, values: &mut [T]) -> Result<(), DistError> {
            let operation = engine.begin(Kind::ReduceScatter, T::TYPE, values.len());
            engine.scatter_sums(operation, values)
        }
        match values {
            Values::F32(values) => reduce(engine, values)?,
            Values::F64(values) => reduce(engine, values)?,
            Values::Bf16(values) => reduce(engine, values)?,
            Values::U8(_) => return Err(arguments("reduce_scatter", "bytes cannot be summed")),
        }
        Ok(part)
    }

    fn all_gather(&self, mut values: Values<'_>) -> Result<(), DistError> {
        let engine = &mut self.0.borrow_mut();
        let length = values.len();
        let (data_type, width, bytes) = untyped(&mut values);
        let operation = engine.begin(Kind::AllGather, data_type, length);
        engine.gather(operation, bytes, width)
    }

    fn broadcast(&self, mut values: Values<'_>, root: usize) -> Result<(), DistError> {
        let engine = &mut self.0.borrow_mut();
        if root >= engine.size {
            return Err(arguments("broadcast", format!("there is no rank {root} of {}", engine.size)));
        }
        let length = values.len();
        let (data_type, width, bytes) = untyped(&mut values);
        let operation = engine.begin(Kind::Broadcast, data_type, length);
        if engine.size == 1 { Ok(()) } else { engine.broadcast(operation, bytes, width, root) }
    }

    fn barrier(&self) -> Result<(), DistError> {
        let engine = &mut self.0.borrow_mut();
        let operation = engine.begin(Kind::Barrier, DataType::U8, 0);
        engine.gather(operation, &mut [], 1)
    }

    fn send(&self, values: ValuesRef<'_>, to: usize) -> Result<(), DistError> {
        self.check_other("send", to)?;
        let (data_type, _, bytes) = untyped_ref(values);
        let operation = Operation::new(Kind::Send, data_type, 0, values.len());
        self.0.borrow_mut().exchange.run(operation, vec![Outgoing::new(operation, to, bytes)], vec![])
    }

    fn recv(&self, mut values: Values<'_>, from: usize) -> Result<(), DistError> {
        self.check_other("recv", from)?;
        let length = values.len();
        let (data_type, _, bytes) = untyped(&mut values);
        let operation = Operation::new(Kind::Send, data_type, 0, length);
        self.0.borrow_mut().exchange.run(operation, vec![], vec![Incoming::new(operation, from, bytes)])
    }

    fn all_to_all_v(
        &self,
        send: ValuesRef<'_>,
        send_counts: &[usize],
        mut recv: Values<'_>,
        recv_counts: &[usize],
    ) -> Result<(), DistError> {
        let engine = &mut self.0.borrow_mut();
        let failed = |why: String| Err(arguments("all_to_all_v", why));
        for (name, length, counts) in [("send", send.len(), send_counts), ("recv", recv.len(), recv_counts)] {
            let sum = counts.iter().try_fold(0usize, |sum, count| sum.checked_add(*count));
            if counts.len() != engine.size || sum != Some(length) {
                return failed(format!("the {} counts of `{name}` do not add up to {length} values", counts.len()));
            }
        }
        let (data_type, width, send) = untyped_ref(send);
        let (recv_type, _, recv) = untyped(&mut recv);
        if data_type != recv_type || send_counts[engine.rank] != recv_counts[engine.rank] {
            return failed("`send` and `recv` differ in type, or in what this rank sends to itself".into());
        }
        let operation = engine.begin(Kind::AllToAll, data_type, 0);
        let bytes = |counts: &[usize]| counts.iter().map(|count| count * width).collect::<Vec<_>>();
        engine.all_to_all(operation, send, &bytes(send_counts), recv, &bytes(recv_counts))
    }
}

//! The messages between ranks. Data connections carry a [`Header`] and values; control connections
//! carry [`Message`]s.

use crate::error::Failure;
use crate::values::DataType;

/// An operation of [`Collective`](crate::Collective).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AllReduce = 1,
    ReduceScatter = 2,
    AllGather = 3,
    Broadcast = 4,
    Barrier = 5,
    Send = 6,
    AllToAll = 7,
}

fn name_of(kind: u8) -> &'static str {
    match kind {
        1 => "all_reduce",
        2 => "reduce_scatter",
        3 => "all_gather",
        4 => "broadcast",
        5 => "barrier",
        6 => "send or recv",
        7 => "all_to_all_v",
        _ => "an unknown operation",
    }
}

/// A call of an operation, which all ranks must make alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    kind: u8,
    data_type: u8,
    /// Number of the operation; 0 for `send` and `recv`, which concern two ranks only.
    pub(super) number: u64,
    /// Number of values; 0 for `all_to_all_v`, where it differs between ranks.
    values: u64,
}

impl Operation {
    pub(super) fn new(kind: Kind, data_type: DataType, number: u64, values: usize) -> Self {
        Self { kind: kind as u8, data_type: data_type as u8, number, values: values as u64 }
    }

    pub(super) fn is_collective(&self) -> bool {
        self.kind != Kind::Send as u8
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(name_of(self.kind))?;
        if self.kind != Kind::Barrier as u8 && self.kind != Kind::AllToAll as u8 {
            write!(f, " of {} {}", self.values, DataType::name(self.data_type))?;
        }
        if self.is_collective() { write!(f, " (operation {})", self.number) } else { Ok(()) }
    }
}

/// What precedes the values of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) operation: Operation,
    /// Number of bytes that follow.
    pub(super) bytes: u64,
}

impl Header {
    pub(super) const SIZE: usize = 26;

    pub(super) fn encode(&self) -> [u8; Self::SIZE] {
        let Operation { kind, data_type, number, values } = self.operation;
        let mut encoded = [0; Self::SIZE];
        encoded[0] = kind;
        encoded[1] = data_type;
        encoded[2..10].copy_from_slice(&number.to_le_bytes());
        encoded[10..18].copy_from_slice(&values.to_le_bytes());
        encoded[18..26].copy_from_slice(&self.bytes.to_le_bytes());
        encoded
    }

    pub(super) fn decode(encoded: &[u8; Self::SIZE]) -> Self {
        let word = |at: usize| u64::from_le_bytes(encoded[at..at + 8].try_into().unwrap_or_default());
        let [kind, data_type, ..] = *encoded;
        let operation = Operation { kind, data_type, number: word(2), values: word(10) };
        Self { operation, bytes: word(18) }
    }
}

/// A message on a control connection: a byte for its kind, its length, its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The sender is alive. The number of collective operations that it has joined.
    Heartbeat(u64),
    /// The group has failed.
    Failed(Failure),
    /// The sender leaves the group in good order.
    Close,
    /// The sender has received [`Message::Close`].
    Closed,
}

impl Message {
    /// Maximum length of the content in bytes.
    const LIMIT: usize = 64 << 10;

    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let (kind, content) = match self {
            Self::Heartbeat(joined) => (1, joined.to_le_bytes().to_vec()),
            Self::Failed(failure) => (2, serde_json::to_vec(failure).unwrap_or_default()),
            Self::Close => (3, Vec::new()),
            Self::Closed => (4, Vec::new()),
        };
        to.push(kind);
        to.extend((content.len() as u32).to_le_bytes());
        to.extend(content);
    }

    /// Takes the first message from `bytes`. `Ok(None)` if it is incomplete; `Err` if it is none.
    pub(super) fn decode(bytes: &mut Vec<u8>) -> Result<Option<Self>, ()> {
        let Some((head, rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        if length > Self::LIMIT {
            return Err(());
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let message = match (kind, content.try_into()) {
            (1, Ok(joined)) => Self::Heartbeat(u64::from_le_bytes(joined)),
            (2, _) => Self::Failed(serde_json::from_slice(content).map_err(|_| ())?),
            (3, _) => Self::Close,
            (4, _) => Self::Closed,
            _ => return Err(()),
        };
        bytes.drain(..5 + length);
        Ok(Some(message))
    }
}

/// Cuts `message` to a length that can be sent to other ranks.
pub(super) fn shorten(message: &str) -> String {
    message.chars().take(4000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_any_pieces_and_garbage_is_refused() {
        let failure = Failure::Dead { rank: 3, why: "…".into() };
        let messages = [Message::Heartbeat(7), Message::Failed(failure), Message::Close, Message::Closed];
        let mut sent = Vec::new();
        for message in &messages {
            message.encode(&mut sent);
        }
        let (mut received, mut decoded) = (Vec::new(), Vec::new());
        for byte in sent {
            received.push(byte);
            decoded.extend(Message::decode(&mut received).unwrap());
        }
        assert_eq!(decoded, messages);
        assert!(received.is_empty());
        for garbage in [&b"GET / HTTP/1.1\r\n"[..], &[9, 0, 0, 0, 0], &[2, 1, 0, 0, 0, b'{'], &[1, 0, 0, 0, 0]] {
            assert_eq!(Message::decode(&mut garbage.to_vec()), Err(()), "{garbage:?}");
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header { operation: Operation::new(Kind::Broadcast, DataType::F64, 258, 70_000), bytes: 9 };
        assert_eq!(Header::decode(&header.encode()), header);
        assert_eq!(header.operation.to_string(), "broadcast of 70000 f64 (operation 258)");
    }
}

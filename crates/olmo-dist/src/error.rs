//! [`DistError`]: why ranks cannot work together, and [`Failure`]: why a group of ranks ended.

use olmo_base::{Diagnose, PathError};
use serde::{Deserialize, Serialize};

/// Why a process group ended. The rank that notices a failure sends it to all others, so every rank
/// reports the same cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// The process of a rank ended, or sent nothing within the limit.
    #[error("rank {rank} is gone: {why}")]
    Dead { rank: usize, why: String },
    /// Ranks are alive, but did not join an operation within the limit.
    #[error("{} did not join {operation} within {seconds} s", name_ranks(.ranks))]
    Late { ranks: Vec<usize>, operation: String, seconds: u64 },
    /// A rank reported its own failure.
    #[error("rank {rank} failed: {message}")]
    Failed { rank: usize, message: String },
    /// Two ranks called different operations, or sent something else than the protocol allows.
    #[error("the ranks do not agree: {why}")]
    Mismatch { why: String },
    /// A rank left the group in good order, but another rank still needs it.
    #[error("rank {rank} has closed its group, but another rank waits for it in {operation}")]
    Closed { rank: usize, operation: String },
}

/// Why ranks cannot work together. Each message names the ranks that it concerns.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// The environment variables that describe this rank are incomplete or contradictory.
    #[error("the environment does not describe a rank: {}", .problems.join("; "))]
    Environment { problems: Vec<String> },
    /// This rank cannot listen for the others.
    #[error("rank {rank} cannot listen at {address}: {why}")]
    Listen { rank: usize, address: String, why: String, in_use: bool },
    /// The ranks run on several hosts, but would listen where only one host can reach them.
    #[error("rank {rank}: only {local_size} of {size} ranks run on this host, but no network interface is configured")]
    SeveralHosts { rank: usize, local_size: usize, size: usize },
    /// Another process has published an address for this rank.
    #[error("rank {rank}: another process has joined as this rank: {} exists", .path.display())]
    Taken { rank: usize, path: std::path::PathBuf },
    /// Ranks did not join in time.
    #[error("rank {rank}: {} of {size} did not join within {seconds} s{}", name_ranks(.missing), in_addition(.notes))]
    Missing { rank: usize, missing: Vec<usize>, size: usize, seconds: u64, notes: Vec<String> },
    /// The other side of a connection has another secret.
    #[error("rank {rank}: the process at {address}, expected to be rank {expected}, has another secret")]
    Secret { rank: usize, address: String, expected: usize },
    /// The other side of a connection is no rank.
    #[error("rank {rank}: the process at {address}, expected to be rank {expected}, is no rank of a run: {why}")]
    Stranger { rank: usize, address: String, expected: usize, why: String },
    /// Two ranks differ in something that must be equal.
    #[error("ranks {rank} and {other} have a different {what}: {mine} and {theirs}")]
    Different { rank: usize, other: usize, what: String, mine: String, theirs: String },
    /// Two processes joined as the same rank.
    #[error("rank {rank}: two processes joined as rank {other}")]
    Twice { rank: usize, other: usize },
    /// An operation was called with arguments that do not fit.
    #[error("{operation}: {why}")]
    Arguments { operation: &'static str, why: String },
    /// The group ended.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The network failed, and it is not known that a rank did.
    #[error("rank {rank}: cannot {doing}: {why}")]
    Network { rank: usize, doing: String, why: String },
    #[error(transparent)]
    Folder(#[from] PathError),
}

/// "rank 2", or "ranks 1, 2 and 4".
pub(crate) fn name_ranks(ranks: &[usize]) -> String {
    match ranks {
        [rank] => format!("rank {rank}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(usize::to_string).collect();
            format!("ranks {} and {last}", first.join(", "))
        }
        [] => "no rank".into(),
    }
}

fn in_addition(notes: &[String]) -> String {
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

impl Diagnose for DistError {
    fn code(&self) -> &'static str {
        match self {
            Self::Environment { .. } => "dist::environment",
            Self::Listen { in_use: true, .. } => "dist::port_in_use",
            Self::Listen { .. } => "dist::listen",
            Self::SeveralHosts { .. } => "dist::several_hosts",
            Self::Taken { .. } | Self::Twice { .. } => "dist::rank_taken",
            Self::Missing { .. } => "dist::missing",
            Self::Secret { .. } => "dist::secret",
            Self::Stranger { .. } => "dist::stranger",
            Self::Different { .. } => "dist::different",
            Self::Arguments { .. } => "dist::arguments",
            Self::Failure(Failure::Dead { .. }) => "dist::dead",
            Self::Failure(Failure::Late { .. }) => "dist::late",
            Self::Failure(Failure::Failed { .. }) => "dist::failed",
            Self::Failure(Failure::Mismatch { .. }) => "dist::mismatch",
            Self::Failure(Failure::Closed { .. }) => "dist::closed",
            Self::Network { .. } => "dist::network",
            Self::Folder(_) => "dist::folder",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Environment { .. } => {
                "start the ranks with olmo-pipe, `torchrun` or `srun`; for a single process, unset these variables"
            }
            Self::Listen { in_use: true, .. } => "another process uses this port: choose another MASTER_PORT",
            Self::Listen { .. } => "check MASTER_ADDR and OLMO_PIPE_INTERFACE: the address must belong to this host",
            Self::SeveralHosts { .. } => {
                "set OLMO_PIPE_INTERFACE to the interface (`eth0`) or the address that the hosts can reach"
            }
            Self::Taken { .. } | Self::Twice { .. } => {
                "give every rank its own number, and every attempt its own folder"
            }
            Self::Missing { .. } => {
                "check the logs of the missing ranks, and that all ranks use the same folder or address"
            }
            Self::Secret { .. } => "give all ranks of a run the same secret",
            Self::Stranger { .. } => "another program uses this port: choose another MASTER_PORT",
            Self::Different { .. } => "start all ranks with the same program, experiment and data",
            Self::Failure(Failure::Dead { .. }) => {
                "check the log of that rank; a rank that was killed without a message often ran out of memory"
            }
            Self::Failure(Failure::Late { .. }) => {
                "check what that rank does; if it only needs more time, raise the limit for late ranks"
            }
            Self::Folder(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_ranks_as_a_list() {
        assert_eq!(name_ranks(&[2]), "rank 2");
        assert_eq!(name_ranks(&[1, 2, 4]), "ranks 1, 2 and 4");
        let notes = vec!["127.0.0.1:9 had another secret".to_owned()];
        let error = DistError::Missing { rank: 0, missing: vec![1, 3], size: 4, seconds: 5, notes };
        let text = "rank 0: ranks 1 and 3 of 4 did not join within 5 s (127.0.0.1:9 had another secret)";
        assert_eq!(error.to_string(), text);
    }
}

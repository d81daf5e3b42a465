//! Failpoints: named points in the shipped binaries at which a test kills the process.
//!
//! With `OLMO_PIPE_FAILPOINT=name:n`, the process that reaches point `name` for the n-th time kills
//! itself with SIGKILL. A worker kills the engine as well (its PID is in `OLMO_PIPE_ENGINE_PID`).
//! `name:n@r` is a failpoint of rank `r` alone.
//! If the variable is not set, a failpoint costs one atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    left: AtomicU64,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let mut text = std::env::var("OLMO_PIPE_FAILPOINT").ok()?;
            if let Some((point, rank)) = text.split_once('@') {
                if std::env::var("OLMO_PIPE_RANK").ok().as_deref() != Some(rank) {
                    return None;
                }
                text = point.to_owned();
            }
            let (name, n) = text.rsplit_once(':').unwrap_or((&text, "1"));
            Some(Armed { name: name.to_owned(), left: AtomicU64::new(n.parse().unwrap_or(1)) })
        })
        .as_ref()
}

/// Kills the process if the environment arms failpoint `name` (`area.point`). docs/formats.md
/// lists all names.
pub fn failpoint(name: &str) {
    let Some(point) = armed() else { return };
    if point.name != name || point.left.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    eprintln!("failpoint {name} reached");
    // SAFETY: kill takes integers, and both calls only send a signal.
    unsafe {
        if let Some(engine) = std::env::var("OLMO_PIPE_ENGINE_PID").ok().and_then(|p| p.parse().ok()) {
            libc::kill(engine, libc::SIGKILL);
        }
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
}

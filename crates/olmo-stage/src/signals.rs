//! Signal dispositions inherited from the parent process, and names of signals.
//!
//! A parent may have ignored or blocked any signal: a shell starts background jobs of a script with
//! SIGINT and SIGQUIT ignored. Every program of this project calls [`reset`] first, and every
//! process of a stage starts with [`set_defaults`].

/// Signals that keep their inherited disposition. A program that is started with SIGHUP ignored
/// (`nohup`) should outlive its terminal. SIGPIPE is set by the Rust runtime. The others belong to
/// the shell's job control.
const KEPT: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGPIPE, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];
/// Highest number of a POSIX signal.
const LAST_NAMED: libc::c_int = 31;

/// Makes this process independent of its parent's signal settings: no signal is blocked, and none
/// is ignored except SIGHUP, if it was. SIGXFSZ is ignored, so that writing beyond a file size
/// limit is an error (`EFBIG`). Call it before threads start and handlers are installed.
pub fn reset() {
    unblock();
    for signal in 1..=LAST_NAMED {
        if !KEPT.contains(&signal) && is_ignored(signal) {
            set(signal, libc::SIG_DFL);
        }
    }
    set(libc::SIGXFSZ, libc::SIG_IGN);
}

/// Gives every signal its default disposition and blocks none. May be called between fork and exec.
pub fn set_defaults() {
    // Signals from 32 on are the real-time signals.
    for signal in 1..=64 {
        set(signal, libc::SIG_DFL);
    }
    unblock();
}

/// Whether this process ignores `signal`.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction only fills the given struct, for which all zeros is a valid value.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Sets `signal` to one of the two dispositions without a handler. Has no effect on SIGKILL and
/// SIGSTOP.
pub fn set(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: both dispositions are system constants, so no handler of this process is called.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = disposition;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

fn unblock() {
    // SAFETY: both calls access only the signal set on the stack.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// The name of a signal: `SIGTERM`, or `signal 40` if it has none.
pub fn name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGSYS => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

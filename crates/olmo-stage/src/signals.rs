//! What a process inherits from its parent about signals, and what signals are called.
//!
//! A parent may have ignored or blocked any signal: a shell starts background jobs of a script with
//! SIGINT and SIGQUIT ignored. Every program of this project calls [`reset`] first, and every
//! process of a stage starts with [`set_defaults`].

/// Signals whose inherited disposition stays. SIGHUP: whoever starts a program with it ignored
/// (`nohup`) wants it to outlive the terminal. SIGPIPE: the Rust runtime has set it. The others
/// belong to the shell's job control.
const KEPT: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGPIPE, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];
/// The signals of POSIX are numbered up to this.
const LAST_NAMED: libc::c_int = 31;

/// Makes this process independent of what its parent did to signals: none is blocked, and none is
/// ignored but SIGHUP, if it was. A file that would grow beyond its limit is an error (`EFBIG`),
/// not the end: SIGXFSZ is ignored. Call it before threads start and handlers are installed.
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
    // The last ones are those of real time.
    for signal in 1..=64 {
        set(signal, libc::SIG_DFL);
    }
    unblock();
}

/// Whether this process ignores `signal`.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction only fills the struct it is given, for which all zeros is a valid value.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Sets `signal` to one of the two dispositions that need no handler. That of a signal which has
/// none to set (SIGKILL) stays.
pub fn set(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: both dispositions are constants of the system; no handler of this process is called.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = disposition;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

fn unblock() {
    // SAFETY: both calls read and write only the set on this stack.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// A signal as people know it: `SIGTERM`, or `signal 40` if it has no name.
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

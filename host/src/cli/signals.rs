//! Signals: the first asks the work to stop and leave nothing behind, the second ends the process at once.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a signal has come.
static STOPPED: AtomicBool = AtomicBool::new(false);
/// The signal that came last.
static SIGNAL: AtomicUsize = AtomicUsize::new(INTERRUPT);

/// Ctrl-C, by its number in Unix and, for the exit code, elsewhere.
const INTERRUPT: usize = 2;

/// Whether work is to stop.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// The exit code of a process that a signal has stopped: 128 and the signal's number, as shells have it.
pub(crate) fn exit_code() -> u8 {
    u8::try_from(128 + SIGNAL.load(Ordering::Relaxed)).unwrap_or(u8::MAX)
}

/// From now on, stop cleanly. Commands that write nothing are stopped by the system, at once.
#[cfg(unix)]
pub(crate) fn stop_cleanly() {
    use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    let ignored = ignored();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup` and shells that start work in the background want it to go on
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        let number = usize::try_from(signal).expect("signals are positive");
        let registered = flag::register_conditional_shutdown(signal, 128 + signal, &STOPPED)
            .and_then(|_| flag::register_usize(signal, &SIGNAL, number))
            .and_then(|_| flag::register(signal, &STOPPED));
        if let Err(error) = registered {
            eprintln!("note: a signal will not clean up: {error}");
        }
    }
}

/// The signals that the caller has had ignored, one bit each; none where the system does not tell.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
pub(crate) fn stop_cleanly() {
    let handler = || {
        if STOPPED.swap(true, Ordering::Relaxed) {
            std::process::exit(exit_code().into());
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("note: Ctrl-C will not clean up: {error}");
    }
}

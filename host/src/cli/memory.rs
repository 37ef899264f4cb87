//! Memory that runs out ends the program as any error does: with a message and exit code 1, and nothing left behind.
//!
//! Buffers of a merge are asked for and may be refused (`io/room.rs`). All else is small, but anything may be the last straw,
//! and where a program has no answer, Rust aborts it. This allocator is the answer.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::alloc::System;
use std::io::Write as _;
use std::sync::Mutex;

use crate::io::{left, room};

/// The system's allocator, for a process that does nothing else than [`crate::command::main`].
#[derive(Clone, Copy, Debug)]
pub struct Memory;

/// What the end itself needs: to list folders and to write a message.
const RESERVE: usize = 1 << 20;
static RESERVED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static IS_ENDING: AtomicBool = AtomicBool::new(false);
thread_local! {
    /// Whether it is this thread that ends the program.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// Put something by for the end.
pub(crate) fn prepare() {
    if let Ok(mut reserved) = RESERVED.lock() {
        reserved.reserve_exact(RESERVE);
    }
}

// SAFETY: whatever is asked is passed on to the system's allocator as it is, and its answer is passed back; it never unwinds
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller promises what this asks for
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: our caller promises what this asks for
        given(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: our caller promises what this asks for
        unsafe { System.dealloc(block, layout) }
    }
}

#[inline]
fn given(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() && !room::is_asking() {
        end(size);
    }
    block
}

/// End the program for want of so many bytes.
#[cold]
fn end(size: usize) {
    if ENDS.get() {
        say("error: memory ran out\n"); // not even the end's own could be had
        exit();
    }
    if IS_ENDING.swap(true, Ordering::Relaxed) {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    ENDS.set(true);
    if let Ok(mut reserved) = RESERVED.try_lock() {
        *reserved = Vec::new();
    }
    left::remove();
    let error = room::refused(size);
    say(&format!("error: {error}\nhelp: {}\n", error.advice().unwrap_or_default()));
    exit();
}

/// Write to standard error, whoever holds its lock.
fn say(text: &str) {
    #[cfg(unix)]
    if let Ok(own) = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned() {
        let _ = std::fs::File::from(own).write_all(text.as_bytes());
        return;
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Without what a program does at its exit: other threads are still at work.
fn exit() -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(1);
    #[cfg(not(unix))]
    std::process::exit(1);
}

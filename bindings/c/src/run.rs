//! Whole runs: what the command line does.

use core::ffi::{c_char, c_int, c_void};

use mwa::Result;
use mwa::options::Verb;
use mwa_host::{Machine, MergeOptions, Options, Paced, Progress, names_of};
use serde::Serialize;

use crate::border::{give, given, given_of, guarded, list, path};
use crate::{mwa_error, mwa_text};

/// Called now and then with bytes of input done and in all, on the thread that called the function; anything but 0 stops
/// the work, with an error of kind "stopped".
pub type mwa_progress = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> c_int>;

/// Merge a run folder, checkpoint folders or .safetensors files into the folder `out`, which appears whole or not at all.
///
/// `options` is a JSON object with the options of `mwa merge` under their names, `_` for `-`, such as
/// {"metric": "eval_loss", "last": 4}, or NULL. `progress` may be NULL; `user` is passed to it. `report` may be NULL;
/// otherwise it gets what `mwa merge --json` prints.
///
/// # Safety
/// Pointers are NULL or what they are said to be; `inputs` has `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_merge(
    inputs: *const *const c_char,
    count: usize,
    out: *const c_char,
    options: *const c_char,
    progress: mwa_progress,
    user: *mut c_void,
    report: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (wanted, inputs, out) = unsafe { (given(options)?, paths(inputs, count)?, path(out, "out")?) };
        let options = Options::new(inputs, &wanted)?;
        let how = MergeOptions::new(&wanted)?;
        let made = listened(progress, user, |progress| mwa_host::merge(&options, &how, &out, progress))?;
        // SAFETY: the caller's promise.
        unsafe { give_json(report, &made) };
        Ok(())
    })
}

/// The same choice and weights as `mwa_merge` would take, as a report without outputs; writes nothing.
///
/// # Safety
/// As `mwa_merge`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_weights(
    inputs: *const *const c_char,
    count: usize,
    options: *const c_char,
    report: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (wanted, inputs) = unsafe { (given(options)?, paths(inputs, count)?) };
        let made = mwa_host::weights(&Options::new(inputs, &wanted)?)?;
        // SAFETY: the caller's promise.
        unsafe { give_json(report, &made) };
        Ok(())
    })
}

/// Say what a path is: `found` gets what `mwa inspect --json` prints for one path. Of the options, `adapter` counts.
///
/// # Safety
/// As `mwa_merge`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_inspect(
    place: *const c_char,
    options: *const c_char,
    found: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (wanted, place) =
            unsafe { (given_of(options, &names_of(Verb::Inspect))?, path(place, "place")?) };
        let made = mwa_host::inspect(&place, &wanted)?;
        // SAFETY: the caller's promise.
        unsafe { give_json(found, &made) };
        Ok(())
    })
}

/// Merge again from the report in a merged folder and compare bytes and hashes: `is_good` gets 1 if all is as it was, else 0,
/// `found` what `mwa verify --json` prints; each may be NULL. Of the options, `threads` and `memory` count.
///
/// # Safety
/// As `mwa_merge`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_verify(
    folder: *const c_char,
    options: *const c_char,
    progress: mwa_progress,
    user: *mut c_void,
    is_good: *mut u8,
    found: *mut *mut mwa_text,
) -> *mut mwa_error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (wanted, folder) =
            unsafe { (given_of(options, &names_of(Verb::Verify))?, path(folder, "folder")?) };
        let machine = Machine::new(&wanted)?;
        let made = listened(progress, user, |progress| mwa_host::verify(&folder, machine, progress))?;
        // SAFETY: the caller's promise.
        unsafe {
            if !is_good.is_null() {
                is_good.write(made.is_good().into());
            }
            give_json(found, &made);
        }
        Ok(())
    })
}

/// A pointer of the caller's, which goes back only to the thread that it came from.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);
// SAFETY: Paced calls its listener on the thread that made it and on no other; see there.
unsafe impl Sync for User {}

fn listened<T>(
    progress: mwa_progress,
    user: *mut c_void,
    work: impl FnOnce(&dyn Progress) -> Result<T>,
) -> Result<T> {
    let Some(progress) = progress else { return work(&()) };
    let user = User(user);
    let paced = Paced::new(move |done, total| {
        let user = &user;
        // SAFETY: the caller gave the function and the pointer for this.
        unsafe { progress(user.0, done, total) == 0 }
    });
    let made = work(&paced)?;
    paced.tell();
    Ok(made)
}

unsafe fn paths(inputs: *const *const c_char, count: usize) -> Result<Vec<std::path::PathBuf>> {
    // SAFETY: the caller's promise.
    let inputs = unsafe { list(inputs, count, "inputs") }?;
    // SAFETY: the caller's promise.
    inputs.iter().map(|&input| unsafe { path(input, "an input") }).collect()
}

unsafe fn give_json(place: *mut *mut mwa_text, value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("results are plain data");
    // SAFETY: the caller's promise.
    unsafe { give(place, mwa_text(text)) };
}

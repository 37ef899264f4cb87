//! What every function at the border does: read C's arguments, catch panics, hand results out.

use core::ffi::{CStr, c_char};
use core::{ptr, slice};
use std::path::PathBuf;

use mwa::{Error, ErrorKind, Result};

use crate::mwa_error;

/// A text that this library made, such as a report in JSON.
pub struct mwa_text(pub(crate) String);

/// Copy as much of a text as `size` bytes hold, with a zero byte at the end, and return its whole length without that
/// byte. `buffer` may be NULL if `size` is 0.
///
/// # Safety
/// `text` comes from this library; `buffer` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_text_copy(text: *const mwa_text, buffer: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller's promise.
    let Some(text) = (unsafe { text.as_ref() }) else { return 0 };
    let text = text.0.as_bytes();
    if !buffer.is_null() && size > 0 {
        let length = text.len().min(size - 1);
        // SAFETY: the caller's promise; length + 1 is at most size.
        let room = unsafe { slice::from_raw_parts_mut(buffer.cast::<u8>(), length + 1) };
        room[..length].copy_from_slice(&text[..length]);
        room[length] = 0;
    }
    text.len()
}

/// Give a text back. NULL is fine.
///
/// # Safety
/// `text` comes from this library and is given back once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_text_free(text: *mut mwa_text) {
    // SAFETY: the caller's promise.
    unsafe { free(text) }
}

/// Run `work`; its panics become errors too.
pub(crate) fn guarded(work: impl FnOnce() -> Result<()>) -> *mut mwa_error {
    mwa_host::guard(work).map_or_else(|error| mwa_error::new(&error), |()| ptr::null_mut())
}

/// Hand `value` out through `place`.
///
/// # Safety
/// `place` is NULL or can be written.
pub(crate) unsafe fn give<T>(place: *mut *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the caller's promise.
        unsafe { place.write(Box::into_raw(Box::new(value))) };
    }
}

/// Take back what [`give`] handed out.
///
/// # Safety
/// `handle` is NULL or came from [`give`], and nobody uses it any more.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// A text; `what` names it where it is missing or not UTF-8.
///
/// # Safety
/// `pointer` is NULL or a text that lives as long as `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(usage(format!("{what} is NULL")));
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }
        .to_str()
        .map_err(|error| usage(format!("{what} is not UTF-8: {error}")))
}

/// Options as JSON; NULL for none.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn given(options: *const c_char) -> Result<mwa::Options> {
    // SAFETY: the caller's promise.
    mwa::Options::parse(if options.is_null() { "" } else { unsafe { text(options, "options") }? })
}

/// The same, of these names alone.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn given_of(options: *const c_char, names: &[&str]) -> Result<mwa::Options> {
    // SAFETY: the caller's promise.
    mwa_host::parse_options(if options.is_null() { "" } else { unsafe { text(options, "options") }? }, names)
}

/// A path, which is not empty: that would be the folder that the program happens to be in.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path(pointer: *const c_char, what: &str) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    match unsafe { text(pointer, what) }? {
        "" => Err(usage(format!("{what} is empty"))),
        path => Ok(PathBuf::from(path)),
    }
}

/// An array; NULL only if it is empty.
///
/// # Safety
/// `pointer` is NULL or has `count` elements that live as long as `'a`.
pub(crate) unsafe fn list<'a, T>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(usage(format!("{what} is NULL"))),
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { slice::from_raw_parts(pointer, count) }),
    }
}

pub(crate) fn usage(detail: String) -> Error {
    Error::new(ErrorKind::Usage, detail)
}

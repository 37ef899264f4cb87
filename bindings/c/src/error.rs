//! An error as a C struct.

use core::ffi::c_char;
use core::ptr;
use std::ffi::CString;

use mwa::Error;

/// What went wrong. Members that do not apply are NULL.
#[repr(C)]
pub struct mwa_error {
    /// The kind's number, which never changes its meaning; 255 is a mistake in mwa.
    pub kind: u8,
    /// The kind's name, such as "shape" or "non-finite".
    pub name: *mut c_char,
    /// The file, checkpoint or input at fault.
    pub path: *mut c_char,
    /// The tensor at fault.
    pub tensor: *mut c_char,
    /// The facts, without place and help.
    pub detail: *mut c_char,
    /// What to do about it.
    pub help: *mut c_char,
}

impl mwa_error {
    pub(crate) fn new(error: &Error) -> *mut Self {
        Box::into_raw(Box::new(Self {
            kind: error.kind() as u8,
            name: text(Some(error.kind().name())),
            path: text(error.at_file()),
            tensor: text(error.at_tensor()),
            detail: text(Some(error.detail())),
            help: text(error.advice()),
        }))
    }
}

/// Give an error back. NULL is fine.
///
/// # Safety
/// `error` comes from this library and is given back once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mwa_error_free(error: *mut mwa_error) {
    if error.is_null() {
        return;
    }
    // SAFETY: the caller says that mwa_error::new() made it and that nobody uses it any more.
    let error = unsafe { Box::from_raw(error) };
    for text in [error.name, error.path, error.tensor, error.detail, error.help] {
        if !text.is_null() {
            // SAFETY: text() below made it.
            drop(unsafe { CString::from_raw(text) });
        }
    }
}

fn text(text: Option<&str>) -> *mut c_char {
    // C's texts end at the first zero byte, so there must be none inside
    text.map_or(ptr::null_mut(), |text| {
        CString::new(text.replace('\0', "\u{fffd}")).expect("zero bytes were replaced").into_raw()
    })
}

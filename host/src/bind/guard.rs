//! Turn a panic into an error, for callers that it must not reach.

use core::any::Any;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use mwa::{Error, ErrorKind, Result};

/// Run `work`; a panic in it becomes an error of kind [`ErrorKind::Bug`].
///
/// # Errors
/// Those of `work`.
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // what `work` had in its hands is not used again after a failure
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = text(&*panic).unwrap_or("for an unknown reason");
        Err(Error::new(ErrorKind::Bug, format!("mwa panicked: {what}"))
            .help("this is a mistake in mwa, please report it"))
    })
}

fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let number = 7;
        let error = guard::<()>(|| panic!("seven is {number}")).unwrap_err();
        assert_eq!((error.kind().name(), error.detail()), ("bug", "mwa panicked: seven is 7"));
        assert_eq!(guard(|| Ok(number)), Ok(7));
    }
}

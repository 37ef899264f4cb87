//! Room whose size comes from outside: it is had, or an error says how much was wanted.

use alloc::format;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};

/// So many zeros.
///
/// # Errors
/// [`ErrorKind::Device`] when there is no such memory.
pub(crate) fn zeros<T: Copy + Default>(length: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    resize(&mut values, length).map(|()| values)
}

/// Make a buffer so long, with whatever it held before or zeros.
///
/// # Errors
/// As [`zeros`].
pub(crate) fn resize<T: Copy + Default>(values: &mut Vec<T>, length: usize) -> Result<()> {
    if let Some(more) = length.checked_sub(values.len()) {
        values.try_reserve_exact(more).map_err(|_| refused(length.saturating_mul(size_of::<T>())))?;
    }
    values.truncate(length);
    // by the block: a WebAssembly module that is built for size would go value by value
    let block = [T::default(); 512];
    while values.len() < length {
        values.extend_from_slice(&block[..block.len().min(length - values.len())]);
    }
    Ok(())
}

#[cold]
fn refused(bytes: usize) -> Error {
    let detail = format!("memory ran out: there is no room for {bytes} bytes");
    Error::new(ErrorKind::Device, detail)
        .help("let this process have more memory, or merge fewer checkpoints together")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_and_the_buffer_stays() {
        let mut buffer = alloc::vec![1_u16, 2, 3];
        let error = resize(&mut buffer, usize::MAX / 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        let wanted = usize::MAX / 4 * 2;
        assert_eq!(error.detail(), format!("memory ran out: there is no room for {wanted} bytes"));
        assert_eq!(buffer, [1, 2, 3]);
        resize(&mut buffer, 5).unwrap();
        assert_eq!(buffer, [1, 2, 3, 0, 0]);
        resize(&mut buffer, 1).unwrap();
        assert_eq!(buffer, [1]);
        assert!(zeros::<f64>(usize::MAX).is_err());
        assert_eq!(zeros::<f64>(2).unwrap(), [0.0; 2]);
    }
}

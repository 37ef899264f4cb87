//! The instructions of a pickle, of protocol 2, as `torch.save()` writes it.

use alloc::vec::Vec;

use crate::dtype::Dtype;

/// An empty `OrderedDict`.
pub(crate) const ORDERED: &[u8] = b"ccollections\nOrderedDict\n)R";

/// A text.
pub(crate) fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(b'X');
    bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A whole number.
pub(crate) fn whole(bytes: &mut Vec<u8>, number: i64) {
    if let Ok(number) = i32::try_from(number) {
        bytes.push(b'J');
        bytes.extend(number.to_le_bytes());
    } else {
        bytes.extend([0x8a, 8]);
        bytes.extend(number.to_le_bytes());
    }
}

/// The class of torch's storages of a dtype.
pub(crate) fn storage(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::BOOL => "BoolStorage",
        _ => return None,
    })
}

//! The float dtypes that are averaged, by name.

pub use safetensors::Dtype;

/// A dtype whose values can be averaged; all others must be identical in every input and are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// IEEE binary16.
    F16,
    /// 1-4-3 with bias 7, no infinity, one NaN (the "fn" kind of OCP and PyTorch).
    F8E4M3,
    /// 1-5-2 with bias 15, IEEE-like.
    F8E5M2,
}

impl Float {
    /// The float behind a safetensors dtype, if it is one that can be averaged.
    #[must_use]
    pub const fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::BF16),
            Dtype::F16 => Some(Self::F16),
            Dtype::F8_E4M3 => Some(Self::F8E4M3),
            Dtype::F8_E5M2 => Some(Self::F8E5M2),
            _ => None,
        }
    }

    /// The safetensors dtype.
    #[must_use]
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::F64 => Dtype::F64,
            Self::F32 => Dtype::F32,
            Self::BF16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::F8E4M3 => Dtype::F8_E4M3,
            Self::F8E5M2 => Dtype::F8_E5M2,
        }
    }

    /// Bytes per element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
        }
    }

    /// The narrowest dtype here that holds every value of both: F16 for the two F8 kinds, F32 for BF16 with F16.
    #[must_use]
    pub fn widest(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::F64, _) | (_, Self::F64) => Self::F64,
            (Self::F32, _) | (_, Self::F32) | (Self::BF16, Self::F16) | (Self::F16, Self::BF16) => Self::F32,
            (Self::BF16, _) | (_, Self::BF16) => Self::BF16,
            _ => Self::F16,
        }
    }
}

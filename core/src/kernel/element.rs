//! Words to f32 and back: what every kernel reads and writes, and what it counts. Its twin for GPUs is element.wgsl.
//!
//! Widening is exact. Narrowing rounds once, to nearest even; subnormals of the narrow type are kept;
//! a value that does not fit becomes infinity (NaN in `F8_E4M3`, which has no infinity); every NaN becomes
//! the one canonical NaN of the type. All of it is integer arithmetic and selects, so that compilers vectorise it
//! and every machine gives the same bits.

use crate::dtype::Float;

/// What a kernel noticed about its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Results that are infinite or NaN.
    pub non_finite: u64,
    /// Results that became zero by narrowing although what was computed is not.
    pub underflowed: u64,
}

impl Tally {
    /// Count one result: `word` is what `value` became.
    pub(crate) fn count(&mut self, value: f64, word: f64) {
        self.non_finite += u64::from(!word.is_finite());
        self.underflowed += u64::from(word == 0.0 && value != 0.0);
    }

    /// Both counts together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            non_finite: self.non_finite + other.non_finite,
            underflowed: self.underflowed + other.underflowed,
        }
    }
}

impl Float {
    /// The value of one little-endian element, exactly.
    ///
    /// # Panics
    /// If `bytes` is not [`Float::bytes`] long.
    #[must_use]
    pub fn value(self, bytes: &[u8]) -> f64 {
        match self {
            Self::F64 => {
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                f64::from_le_bytes(word)
            }
            Self::F32 => f64::from(F32::widen(F32::read(bytes))),
            Self::BF16 => f64::from(Bf16::widen(Bf16::read(bytes))),
            Self::F16 => f64::from(F16::widen(F16::read(bytes))),
            Self::F8E4M3 => f64::from(F8E4M3::widen(F8E4M3::read(bytes))),
            Self::F8E5M2 => f64::from(F8E5M2::widen(F8E5M2::read(bytes))),
        }
    }

    /// The f32 nearest to the value of one little-endian element.
    ///
    /// # Panics
    /// As [`Self::value`].
    #[must_use]
    pub fn near(self, bytes: &[u8]) -> f32 {
        round(self.value(bytes))
    }

    /// Write the element nearest to a value.
    ///
    /// # Panics
    /// As [`Self::value`].
    pub fn put(self, value: f32, bytes: &mut [u8]) {
        match self {
            Self::F64 => bytes.copy_from_slice(&f64::from(value).to_le_bytes()),
            _ => narrow(self, value, bytes),
        }
    }
}

/// How the words of one dtype are read and written. `Word` is its bit pattern.
pub(crate) trait Element {
    /// The bit pattern.
    type Word: Copy;
    /// The bytes of one word, little-endian.
    type Bytes: AsRef<[u8]>;
    /// Bytes per word.
    const BYTES: usize;
    /// Cut into words; what is left at the end is not among them.
    fn split(bytes: &[u8]) -> &[Self::Bytes];
    /// Read one little-endian word from exactly `BYTES` bytes.
    fn read(bytes: &[u8]) -> Self::Word;
    /// Write one little-endian word to exactly `BYTES` bytes.
    fn write(word: Self::Word, bytes: &mut [u8]);
    /// Exact value as f32 (F64, which has no exact f32, is never summed in f32).
    fn widen(word: Self::Word) -> f32;
    /// How plain a word is: if at least [`Element::PLAIN`], its value is zero or at least 2⁻⁶⁰ in magnitude, far from the
    /// f32 subnormals, or not finite, and [`Element::widen_plain`] gives it. Nearly all that training leaves is plain.
    fn plainness(word: Self::Word) -> u32;
    /// See [`Element::plainness`].
    const PLAIN: u32;
    /// [`Element::widen`] of plain words, in less time.
    #[inline(always)]
    fn widen_plain(word: Self::Word) -> f32 {
        Self::widen(word)
    }
    /// Nearest word, ties to even.
    fn narrow(value: f32) -> Self::Word;
    /// The largest magnitude that narrows to zero, as the bits of an f32.
    const UNDERFLOWS: u32;
    /// The least magnitude that narrows to no finite word, as the bits of an f32.
    const OVERFLOWS: u32;
}

macro_rules! words {
    ($word:ty, $bytes:literal) => {
        type Word = $word;
        type Bytes = [u8; $bytes];
        const BYTES: usize = $bytes;
        #[inline(always)]
        fn split(bytes: &[u8]) -> &[[u8; $bytes]] {
            bytes.as_chunks().0
        }
        #[inline(always)]
        fn read(bytes: &[u8]) -> $word {
            let mut word = [0; $bytes];
            word.copy_from_slice(bytes);
            <$word>::from_le_bytes(word)
        }
        #[inline(always)]
        fn write(word: $word, bytes: &mut [u8]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    };
}

pub(crate) struct F32;
impl Element for F32 {
    words!(u32, 4);
    #[inline(always)]
    fn widen(word: u32) -> f32 {
        f32::from_bits(word)
    }
    // the exponent of 2⁻⁶⁰ is 67; zero, less two, is among the largest
    const PLAIN: u32 = (67 << 24) - 2;
    #[inline(always)]
    fn plainness(word: u32) -> u32 {
        (word << 1).wrapping_sub(2)
    }
    #[inline(always)]
    fn narrow(value: f32) -> u32 {
        let bits = value.to_bits();
        if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fc0_0000 } else { bits }
    }
    const UNDERFLOWS: u32 = 0;
    const OVERFLOWS: u32 = 0x7f80_0000;
}

pub(crate) struct Bf16;
impl Element for Bf16 {
    words!(u16, 2);
    #[inline(always)]
    fn widen(word: u16) -> f32 {
        f32::from_bits(u32::from(word) << 16)
    }
    const PLAIN: u32 = F32::PLAIN;
    #[inline(always)]
    fn plainness(word: u16) -> u32 {
        F32::plainness(u32::from(word) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        low16(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fc0 } else { rounded })
    }
    const UNDERFLOWS: u32 = 0x8000;
    const OVERFLOWS: u32 = 0x7f7f_8000;
}

pub(crate) struct F16;
impl Element for F16 {
    words!(u16, 2);
    #[inline(always)]
    fn widen(word: u16) -> f32 {
        widen_small::<5, 10, true>(u32::from(word))
    }
    // neither infinity nor NaN
    const PLAIN: u32 = 0x0400;
    #[inline(always)]
    fn plainness(word: u16) -> u32 {
        u32::from(!word & 0x7fff)
    }
    #[inline(always)]
    fn widen_plain(word: u16) -> f32 {
        widen_finite::<5, 10>(u32::from(word))
    }
    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        low16(narrow_small::<5, 10, true>(value))
    }
    const UNDERFLOWS: u32 = (127 - 25) << 23;
    const OVERFLOWS: u32 = 65520.0_f32.to_bits();
}

pub(crate) struct F8E4M3;
impl Element for F8E4M3 {
    words!(u8, 1);
    #[inline(always)]
    fn widen(word: u8) -> f32 {
        widen_small::<4, 3, false>(u32::from(word))
    }
    // not NaN
    const PLAIN: u32 = 1;
    #[inline(always)]
    fn plainness(word: u8) -> u32 {
        u32::from(!word & 0x7f)
    }
    #[inline(always)]
    fn widen_plain(word: u8) -> f32 {
        widen_finite::<4, 3>(u32::from(word))
    }
    #[inline(always)]
    fn narrow(value: f32) -> u8 {
        low8(narrow_small::<4, 3, false>(value))
    }
    const UNDERFLOWS: u32 = (127 - 10) << 23;
    const OVERFLOWS: u32 = 464.0_f32.to_bits() + 1;
}

pub(crate) struct F8E5M2;
impl Element for F8E5M2 {
    words!(u8, 1);
    #[inline(always)]
    fn widen(word: u8) -> f32 {
        widen_small::<5, 2, true>(u32::from(word))
    }
    // neither infinity nor NaN
    const PLAIN: u32 = 4;
    #[inline(always)]
    fn plainness(word: u8) -> u32 {
        u32::from(!word & 0x7f)
    }
    #[inline(always)]
    fn widen_plain(word: u8) -> f32 {
        widen_finite::<5, 2>(u32::from(word))
    }
    #[inline(always)]
    fn narrow(value: f32) -> u8 {
        low8(narrow_small::<5, 2, true>(value))
    }
    const UNDERFLOWS: u32 = (127 - 17) << 23;
    const OVERFLOWS: u32 = 61440.0_f32.to_bits();
}

/// Round an f64 once to the words of `float`; F64 itself passes through (its NaN made canonical).
pub(crate) fn narrow_f64(float: Float, value: f64) -> [u8; 8] {
    let mut bytes = [0; 8];
    let odd = round_to_odd(value);
    match float {
        Float::F64 => bytes = (if value.is_nan() { f64::NAN } else { value }).to_le_bytes(),
        // `as` rounds to nearest even
        #[expect(clippy::cast_possible_truncation, reason = "this is the one rounding")]
        Float::F32 => F32::write(F32::narrow(value as f32), &mut bytes[..4]),
        Float::BF16 => Bf16::write(Bf16::narrow(odd), &mut bytes[..2]),
        Float::F16 => F16::write(F16::narrow(odd), &mut bytes[..2]),
        Float::F8E4M3 => F8E4M3::write(F8E4M3::narrow(odd), &mut bytes[..1]),
        Float::F8E5M2 => F8E5M2::write(F8E5M2::narrow(odd), &mut bytes[..1]),
    }
    bytes
}

/// Round to f32 towards zero, then set the last bit if anything was lost: a second rounding to a type with
/// at least two bits fewer then gives what one rounding would have given (Boldo & Melquiond 2008).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the loss is what this function accounts for")]
pub(crate) fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    // no branches, so that loops are vectorised
    let is_kept = (back == value) | !value.is_finite();
    let overshot = back.abs() > value.abs();
    let odd = (near.to_bits() - u32::from(overshot)) | 1;
    f32::from_bits(if is_kept { near.to_bits() } else { odd })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are zero by construction")]
fn low16(bits: u32) -> u16 {
    bits as u16
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are zero by construction")]
fn low8(bits: u32) -> u8 {
    bits as u8
}

/// Widen a sign–exponent–mantissa pattern of `EXP` and `MAN` bits. `IEEE`: the top exponent means infinity or NaN;
/// otherwise only the all-ones pattern is NaN.
#[inline(always)]
fn widen_small<const EXP: u32, const MAN: u32, const IEEE: bool>(bits: u32) -> f32 {
    let magnitude = bits & ((1 << (EXP + MAN)) - 1);
    let is_special =
        if IEEE { magnitude >> MAN == (1 << EXP) - 1 } else { magnitude == (1 << (EXP + MAN)) - 1 };
    let sign = (bits >> (EXP + MAN)) << 31;
    let special = if IEEE { magnitude << (23 - MAN) | 0x7f80_0000 | sign } else { 0x7fc0_0000 | sign };
    if is_special { f32::from_bits(special) } else { widen_finite::<EXP, MAN>(bits) }
}

/// [`widen_small`] of what is neither infinity nor NaN.
#[inline(always)]
fn widen_finite<const EXP: u32, const MAN: u32>(bits: u32) -> f32 {
    let bias = (1 << (EXP - 1)) - 1;
    let magnitude = (bits & ((1 << (EXP + MAN)) - 1)) << (23 - MAN);
    // as if normal; a subnormal then has a hidden bit too much, and comes out between half the least normal and that
    let normal = f32::from_bits(magnitude + ((127 - bias) << 23));
    let least = f32::from_bits((128 - bias) << 23);
    // what it lacks to the least normal is what it has too much: both differences are exact, and negative floats are
    // negative integers
    let excess = (normal - least).to_bits().cast_signed().min(0);
    let value = normal + f32::from_bits(excess.cast_unsigned());
    f32::from_bits(value.to_bits() | (bits >> (EXP + MAN)) << 31)
}

/// Round to nearest even; see [`widen_small`] for the parameters.
#[inline(always)]
fn narrow_small<const EXP: u32, const MAN: u32, const IEEE: bool>(value: f32) -> u32 {
    let bias = (1u32 << (EXP - 1)) - 1;
    let shift = 23 - MAN;
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let round = (1 << (shift - 1)) - 1 + ((magnitude >> shift) & 1);
    let normal = magnitude.wrapping_sub((127 - bias) << 23).wrapping_add(round) >> shift;
    // adding a number whose last place is the narrow type's smallest step makes the FPU do the rounding
    let magic = (151 - bias - MAN) << 23;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(magic)).to_bits().wrapping_sub(magic);
    let top = if IEEE { ((1 << EXP) - 1) << MAN } else { (1 << (EXP + MAN)) - 1 };
    let rounded = if magnitude < (128 - bias) << 23 { subnormal } else { normal.min(top) };
    let signed = rounded | ((bits >> 31) << (EXP + MAN));
    let nan = if IEEE { top | (1 << (MAN - 1)) } else { top };
    let is_nan = magnitude > 0x7f80_0000 || (!IEEE && rounded == top);
    if is_nan { nan } else { signed }
}

/// An expression with `E` the [`Element`] of a dtype that is computed in f32.
macro_rules! for_dtype {
    ($dtype:expr, $element:ident => $value:expr) => {
        match $dtype {
            Float::F64 => unreachable!("F64 is computed in f64, by another loop"),
            Float::F32 => {
                type $element = F32;
                $value
            }
            Float::BF16 => {
                type $element = Bf16;
                $value
            }
            Float::F16 => {
                type $element = F16;
                $value
            }
            Float::F8E4M3 => {
                type $element = F8E4M3;
                $value
            }
            Float::F8E5M2 => {
                type $element = F8E5M2;
                $value
            }
        }
    };
}
pub(crate) use for_dtype;

/// The value of one element, exactly; not for F64.
pub(crate) fn widen(dtype: Float, bytes: &[u8]) -> f32 {
    for_dtype!(dtype, E => E::widen(E::read(bytes)))
}

/// The nearest word; not for F64.
pub(crate) fn narrow(dtype: Float, value: f32, bytes: &mut [u8]) {
    for_dtype!(dtype, E => E::write(E::narrow(value), bytes));
}

/// A subnormal becomes zero of its sign.
#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// The f32 nearest to a weight: the one rounding of it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "weights round to f32 once, here")]
pub(crate) fn round(weight: f64) -> f32 {
    weight as f32
}

/// What the twin calls a dtype; `None` for F64, which WGSL does not have.
#[must_use]
pub const fn wgsl_dtype(dtype: Float) -> Option<u32> {
    match dtype {
        Float::F64 => None,
        Float::F32 => Some(0),
        Float::BF16 => Some(1),
        Float::F16 => Some(2),
        Float::F8E4M3 => Some(3),
        Float::F8E5M2 => Some(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_16_bit_word_widens_as_the_half_crate_says_and_returns() {
        for word in 0..=u16::MAX {
            assert!(same(F16::widen(word), f16::from_bits(word).to_f32()), "f16 {word:#x}");
            assert!(same(Bf16::widen(word), bf16::from_bits(word).to_f32()), "bf16 {word:#x}");
            if f16::from_bits(word).is_finite() {
                assert_eq!(F16::narrow(F16::widen(word)), word);
            }
            if bf16::from_bits(word).is_finite() {
                assert_eq!(Bf16::narrow(Bf16::widen(word)), word);
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate() {
        // a prime stride visits every exponent and many mantissas, ties included below
        for bits in (0..=u32::MAX).step_by(9973) {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                assert_eq!(F16::narrow(value), f16::from_f32(value).to_bits(), "{bits:#x}");
                assert_eq!(Bf16::narrow(value), bf16::from_f32(value).to_bits(), "{bits:#x}");
            }
        }
        for word in 0..0x7bff_u16 {
            let tie = (F16::widen(word) + F16::widen(word + 1)) / 2.0;
            assert_eq!(F16::narrow(tie), word + (word & 1), "tie above {word:#x}");
        }
    }

    #[test]
    fn f8_words_return_and_ties_go_to_even() {
        fn check<E: Element<Word = u8>>(top: u8) {
            for word in 0..=top {
                assert_eq!(E::narrow(E::widen(word)), word);
                assert_eq!(E::narrow(-E::widen(word)), word | 0x80);
                if word < top {
                    let tie = (E::widen(word) + E::widen(word + 1)) / 2.0;
                    assert_eq!(E::narrow(tie), word + (word & 1), "tie above {word:#x}");
                }
            }
        }
        check::<F8E4M3>(0x7e);
        check::<F8E5M2>(0x7b);
        assert_eq!(F8E4M3::widen(0x7e), 448.0);
        assert_eq!(F8E5M2::widen(0x7b), 57344.0);
        assert_eq!((F8E4M3::narrow(464.0), F8E4M3::narrow(465.0)), (0x7e, 0x7f));
        assert_eq!((F8E5M2::narrow(61439.0), F8E5M2::narrow(61440.0)), (0x7b, 0x7c));
    }

    #[test]
    fn nan_is_canonical() {
        let nan = f32::from_bits(0xffc1_2345);
        assert_eq!(F32::narrow(nan), 0x7fc0_0000);
        assert_eq!(Bf16::narrow(nan), 0x7fc0);
        assert_eq!(F16::narrow(nan), 0x7e00);
        assert_eq!(F8E4M3::narrow(nan), 0x7f);
        assert_eq!(F8E5M2::narrow(nan), 0x7e);
    }

    #[test]
    fn magnitudes_underflow_and_overflow_from_where_it_is_said() {
        fn check<E: Element>() {
            let narrowed = |bits: u32| E::widen(E::narrow(f32::from_bits(bits)));
            if E::UNDERFLOWS > 0 {
                assert_eq!(narrowed(E::UNDERFLOWS), 0.0);
            }
            assert_ne!(narrowed(E::UNDERFLOWS + 1), 0.0);
            assert!(narrowed(E::OVERFLOWS - 1).is_finite() && !narrowed(E::OVERFLOWS).is_finite());
        }
        check::<F32>();
        check::<Bf16>();
        check::<F16>();
        check::<F8E4M3>();
        check::<F8E5M2>();
    }

    #[test]
    fn plain_words_widen_alike() {
        fn check<E: Element>(word: E::Word) {
            let value = E::widen(word);
            if E::plainness(word) >= E::PLAIN {
                assert_eq!(E::widen_plain(word).to_bits(), value.to_bits());
                assert!(value == 0.0 || value.is_nan() || value.abs() >= f32::from_bits(67 << 23));
            } else {
                assert!(!value.is_finite() || value.abs() < f32::from_bits(67 << 23));
            }
        }
        for word in 0..=u16::MAX {
            check::<F16>(word);
            check::<Bf16>(word);
            check::<F32>(u32::from(word) << 16);
            check::<F32>(u32::from(word) << 16 | 0xffff);
            check::<F8E4M3>(low8(u32::from(word) >> 8));
            check::<F8E5M2>(low8(u32::from(word) >> 8));
        }
    }

    #[test]
    fn f64_rounds_once() {
        // 1 + 2^-11 + 2^-40 lies above the f16 tie; rounding to f32 first would make it the tie and round down
        let value = 1.0 + libm::ldexp(1.0, -11) + libm::ldexp(1.0, -40);
        assert_eq!(&narrow_f64(Float::F16, value)[..2], &0x3c01_u16.to_le_bytes());
        assert_eq!(&narrow_f64(Float::F16, -value)[..2], &0xbc01_u16.to_le_bytes());
        assert_eq!(&narrow_f64(Float::BF16, 1e300)[..2], &0x7f80_u16.to_le_bytes());
    }
}

//! The compression function of SHA-256 for several streams at once, with the SHA instructions of x86 CPUs.
//!
//! The rounds of one stream wait for each other, four cycles at a time, while the unit could begin new ones every two.
//! So the streams take turns, four rounds each. Written after the single-stream function of the `sha2` crate.

use core::arch::x86_64::*;

/// Whether this CPU has the instructions.
pub(crate) fn is_there() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// FIPS 180-4, §4.2.2
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// Take as many blocks of each of `N` streams as there are of the first.
///
/// # Panics
/// If a stream has fewer.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(crate) fn compress<const N: usize>(states: [&mut [u32; 8]; N], blocks: [&[[u8; 64]]; N]) {
    let mut state: [State; N] = core::array::from_fn(|n| State::load(states[n]));
    for (at, _) in blocks[0].iter().enumerate() {
        let before = state;
        let mut words: [[__m128i; 4]; N] = core::array::from_fn(|n| load(&blocks[n][at]));
        for sixteen in 0..4 {
            for i in 0..4 {
                for n in 0..N {
                    let w = &mut words[n];
                    if sixteen > 0 {
                        w[i] = next(w[i], w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]);
                    }
                    state[n].rounds(w[i], &K[16 * sixteen + 4 * i..][..4]);
                }
            }
        }
        for (state, before) in state.iter_mut().zip(before) {
            state.abef = _mm_add_epi32(state.abef, before.abef);
            state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
        }
    }
    for (to, state) in states.into_iter().zip(state) {
        state.store(to);
    }
}

/// The eight words, as the instructions want them.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

impl State {
    #[target_feature(enable = "sse2")]
    fn load([a, b, c, d, e, f, g, h]: &[u32; 8]) -> Self {
        Self { abef: four(*f, *e, *b, *a), cdgh: four(*h, *g, *d, *c) }
    }

    #[target_feature(enable = "sse4.1")]
    fn store(self, to: &mut [u32; 8]) {
        let [f, e, b, a] = words(self.abef);
        let [h, g, d, c] = words(self.cdgh);
        *to = [a, b, c, d, e, f, g, h];
    }

    /// Four rounds.
    #[target_feature(enable = "sha")]
    fn rounds(&mut self, words: __m128i, k: &[u32]) {
        let words = _mm_add_epi32(words, four(k[0], k[1], k[2], k[3]));
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, words);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32(words, 0x0e));
    }
}

/// The next four words of the message schedule, from the sixteen before.
#[target_feature(enable = "sha,ssse3")]
fn next(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m128i {
    _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8(d, c, 4)), d)
}

/// A block as sixteen words, the bytes of each in reverse.
#[target_feature(enable = "ssse3")]
fn load(block: &[u8; 64]) -> [__m128i; 4] {
    let reverse = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let half = |at: usize| i64::from_le_bytes(core::array::from_fn(|i| block[at + i]));
    core::array::from_fn(|i| _mm_shuffle_epi8(_mm_set_epi64x(half(16 * i + 8), half(16 * i)), reverse))
}

/// Lanes from the lowest.
#[target_feature(enable = "sse2")]
fn four(a: u32, b: u32, c: u32, d: u32) -> __m128i {
    _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
}

#[target_feature(enable = "sse4.1")]
fn words(lanes: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32(lanes, 0).cast_unsigned(),
        _mm_extract_epi32(lanes, 1).cast_unsigned(),
        _mm_extract_epi32(lanes, 2).cast_unsigned(),
        _mm_extract_epi32(lanes, 3).cast_unsigned(),
    ]
}

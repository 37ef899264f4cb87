//! Random numbers that are the same bits in every language: SplitMix64, and what is made of it without logarithms.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1: 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// One of 0 … n − 1, each as likely: the tail that would favour the first ones is thrown away.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        let tail = (u64::MAX % n + 1) % n; // 2^64 mod n
        loop {
            let x = self.next();
            if x <= u64::MAX - tail {
                return usize::try_from(x % n).expect("it is below n");
            }
        }
    }

    /// Mean 0, deviation 1, between −6 and 6: the sum of twelve uniforms less 6.
    pub(crate) fn normal(&mut self) -> f64 {
        let mut sum = 0.0;
        for _ in 0..12 {
            sum += self.uniform();
        }
        sum - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From an implementation of its own, in Python.
    #[test]
    fn numbers_are_those_of_other_languages() {
        let mut random = Random::new(0);
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        let mut random = Random::new(42);
        let first = [random.uniform(), random.uniform(), random.uniform()];
        assert_eq!(first, [0.741_564_878_771_823_3, 0.159_910_392_876_920_1, 0.278_601_130_255_138_66]);
        let mut random = Random::new(42);
        let first = [random.normal(), random.normal(), random.normal()];
        assert_eq!(first, [-0.894_133_443_193_391_4, -0.466_534_796_793_678_4, 1.592_539_553_909_754]);
        let mut random = Random::new(42);
        let first: [usize; 12] = core::array::from_fn(|_| random.below(5));
        assert_eq!(first, [3, 1, 3, 4, 0, 2, 0, 3, 0, 4, 2, 1]);
    }
}

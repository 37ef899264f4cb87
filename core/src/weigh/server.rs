//! The server's own step in a federated round: Adam, whose steps divide element by element (FedAdam, Reddi 2020).
//!
//! With d the clients' mean update: m ← β₁m + (1−β₁)d, v ← β₂v + (1−β₂)d², θ ← θ + ηₜm / (√v + τ). All of it is in f32, each
//! operation rounded by itself in this order, so that every machine has the same bits. ηₜ = η√(1−β₂ᵗ⁺¹) / (1−β₁ᵗ⁺¹) is made once,
//! in f64; t counts the steps from 1 on, and the exponent is one more, as Flower has it.

use alloc::format;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::element::round;

/// Adam on a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// η, how long a step is.
    pub rate: f64,
    /// β₁, what is kept of the mean of updates.
    pub beta1: f64,
    /// β₂, what is kept of the mean of their squares.
    pub beta2: f64,
    /// τ, below which small updates are not blown up.
    pub tau: f64,
}

impl Default for Adam {
    /// What Flower takes.
    fn default() -> Self {
        Self { rate: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 }
    }
}

impl Adam {
    /// Refuse numbers that make no step.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`], which names the number.
    pub fn check(&self) -> Result<()> {
        let refuse = |name: &str, value: f64, help: &'static str| {
            Err(Error::new(ErrorKind::Usage, format!("the server's {name} is {value}")).help(help))
        };
        for (name, value) in [("rate", self.rate), ("tau", self.tau)] {
            if !(value.is_finite() && round(value) > 0.0) {
                return refuse(name, value, "it must be above 0");
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) || round(value) >= 1.0 {
                return refuse(name, value, "it must be at least 0 and below 1");
            }
        }
        Ok(())
    }

    /// Its step of this number, from 1 on.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "no server takes 2^53 steps")]
    pub fn step(&self, number: u64) -> Step {
        let exponent = number as f64 + 1.0;
        let rate = self.rate * libm::sqrt(1.0 - libm::pow(self.beta2, exponent))
            / (1.0 - libm::pow(self.beta1, exponent));
        Step {
            rate: round(rate),
            first: (round(self.beta1), round(1.0 - self.beta1)),
            second: (round(self.beta2), round(1.0 - self.beta2)),
            tau: round(self.tau),
        }
    }
}

/// One step of [`Adam`], for any element.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    rate: f32,
    first: (f32, f32),
    second: (f32, f32),
    tau: f32,
}

impl Step {
    /// The next value of an element, of what it is and what the clients' mean is; its moments become the next ones.
    #[must_use]
    pub fn take(&self, value: f32, mean: f32, first: &mut f32, second: &mut f32) -> f32 {
        let update = mean - value;
        let (kept, new) = (self.first.0 * *first, self.first.1 * update);
        *first = kept + new;
        let square = update * update;
        let (kept, new) = (self.second.0 * *second, self.second.1 * square);
        *second = kept + new;
        let by = libm::sqrtf(*second) + self.tau;
        let step = self.rate * *first;
        value + step / by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `adam.py` beside the vectors: bits of the model, of m and of v after each of three steps.
    #[test]
    fn steps_are_those_of_the_oracle_to_the_bit() {
        let golden = include_str!("../../../tests/vectors/adam.txt");
        let mut lines = golden.lines().filter(|line| !line.starts_with('#'));
        let mut row = || -> alloc::vec::Vec<u32> {
            let words = lines.next().expect("the file has as many rows as this reads").split(' ');
            words.map(|word| u32::from_str_radix(word, 16).expect("a word")).collect()
        };
        for adam in [Adam::default(), Adam { rate: 0.01, beta1: 0.0, beta2: 0.999, tau: 1e-8 }] {
            let mut model = row();
            let (mut first, mut second) = (alloc::vec![0.0; model.len()], alloc::vec![0.0; model.len()]);
            for number in 1..=3 {
                let (step, means) = (adam.step(number), row());
                for (i, mean) in means.iter().enumerate() {
                    let (value, mean) = (f32::from_bits(model[i]), f32::from_bits(*mean));
                    model[i] = step.take(value, mean, &mut first[i], &mut second[i]).to_bits();
                }
                let bits =
                    |values: &[f32]| values.iter().map(|it| it.to_bits()).collect::<alloc::vec::Vec<_>>();
                assert_eq!(model, row(), "{adam:?}, step {number}");
                assert_eq!(bits(&first), row(), "{adam:?}, step {number}");
                assert_eq!(bits(&second), row(), "{adam:?}, step {number}");
            }
        }
        assert!(lines.next().is_none());
    }

    #[test]
    fn numbers_that_make_no_step_are_named() {
        let refused = |adam: Adam| alloc::string::ToString::to_string(&adam.check().unwrap_err());
        let good = Adam::default();
        good.check().unwrap();
        assert!(refused(Adam { rate: 0.0, ..good }).contains("the server's rate is 0"));
        assert!(refused(Adam { tau: f64::NAN, ..good }).contains("the server's tau is NaN"));
        assert!(refused(Adam { beta1: 1.0, ..good }).contains("the server's beta1 is 1"));
        assert!(refused(Adam { beta2: -0.5, ..good }).contains("the server's beta2 is -0.5"));
        // in f32 that is 1
        assert!(refused(Adam { beta2: 0.999_999_999, ..good }).contains("beta2"));
    }
}

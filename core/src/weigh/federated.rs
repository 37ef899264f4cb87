//! Weights of a federated round: what each client's update counts, by its samples and by how stale it is.
//!
//! Client i returns θᵢ, trained from the model sᵢ that it was sent, with nᵢ samples; t is how many rounds ago that was:
//!
//! | rule | dᵢ | Σd |
//! |---|---|---|
//! | fedavg (McMahan 2017) | nᵢs(tᵢ) / Σnⱼs(tⱼ) | 1 |
//! | fedbuff (Nguyen 2022) | s(tᵢ) · nᵢ/Σn | what is stale moves the model less |
//! | fedfix (Fraboni 2023) | ⌈τᵢ/Δt⌉ · s(tᵢ) · nᵢ/Σn, τ the client's time, Δt the round's | may be above 1 |
//!
//! s is 1, (1+t)^−a, or 1 up to b and 1/(a(t−b)+1) after it. The new model is θ + ηΣdᵢ(θᵢ − sᵢ) + β(θ − θ'), θ' the model before θ:
//! momentum without a state of its own, as the last step is the difference of two models. All of it is one weighted sum
//! whose weights sum to 1, so that a merge does it on any device: ηdᵢ for a client, −ηdᵢ for what it was sent, 1+β for θ, −β for θ'.
//! Where Σd is 1 and all were sent θ, that leaves θ nothing, and it is not read.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::linalg::matrix::Matrix;
use crate::text::spelling;
use crate::weigh::scheme::Weights;

/// How samples and staleness become weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The mean by samples.
    #[default]
    FedAvg,
    /// The same, but what staleness takes is left to the model that was sent.
    FedBuff,
    /// Rounds of fixed time: slow clients count for the rounds that they took.
    FedFix,
}

impl Rule {
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["fedavg", "fedbuff", "fedfix"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FedAvg => Self::NAMES[0],
            Self::FedBuff => Self::NAMES[1],
            Self::FedFix => Self::NAMES[2],
        }
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::FedAvg, Self::FedBuff, Self::FedFix].into_iter().find(|rule| rule.name() == name).ok_or_else(
            || {
                Error::new(ErrorKind::Usage, format!("there is no rule `{name}`"))
                    .help(format!("use {}", spelling::one_of(&Self::NAMES)))
            },
        )
    }
}

/// What staleness takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Discount {
    /// Nothing.
    #[default]
    Constant,
    /// (1+t)^−a
    Polynomial(f64),
    /// 1 up to b, then 1/(a(t−b)+1)
    Hinge(f64, f64),
}

impl Discount {
    /// What is left of an update that is so many rounds old.
    #[must_use]
    pub fn left(self, staleness: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Polynomial(power) => libm::pow(1.0 + staleness, -power),
            Self::Hinge(_, free) if staleness <= free => 1.0,
            Self::Hinge(slope, free) => 1.0 / (slope * (staleness - free) + 1.0),
        }
    }
}

/// As reports have it: "hinge 10,4".
impl fmt::Display for Discount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Polynomial(power) => write!(f, "polynomial {power}"),
            Self::Hinge(slope, free) => write!(f, "hinge {slope},{free}"),
        }
    }
}

/// What a client tells beside its model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// How many samples it trained on.
    pub samples: f64,
    /// How many rounds ago it was sent its model.
    pub staleness: f64,
    /// How long it took, in the unit of the round's time.
    pub time: Option<f64>,
}

/// dᵢ of each client, and Σd.
///
/// # Errors
/// [`ErrorKind::Weights`] for numbers that cannot be, a rule without what it needs, and clients without any samples.
pub fn shares(rule: Rule, discount: Discount, period: Option<f64>, clients: &[Told]) -> Result<Vec<f64>> {
    let bad = |detail: String, help: &'static str| Err(Error::new(ErrorKind::Weights, detail).help(help));
    let count = clients.len();
    for (i, client) in clients.iter().enumerate() {
        let Told { samples, staleness, time } = *client;
        let nth = i + 1;
        if !(samples.is_finite() && samples >= 0.0) {
            let detail = format!("client {nth} of {count} tells of {samples} samples");
            return bad(detail, "samples are a number from 0 on");
        }
        if !(staleness.is_finite() && staleness >= 0.0) {
            let detail = format!("client {nth} of {count} has staleness {staleness}");
            return bad(detail, "staleness is a number of rounds, from 0 on");
        }
        if rule == Rule::FedFix && !time.is_some_and(|time| time.is_finite() && time > 0.0) {
            return bad(
                format!(
                    "fedfix needs the time that each client took, and client {nth} of {count} tells none"
                ),
                "give the time of each client in the manifest (`time`), or use --rule fedavg or fedbuff",
            );
        }
    }
    let all: f64 = clients.iter().map(|client| client.samples).sum();
    if !(all > 0.0 && all.is_finite()) {
        return bad(
            format!("the {count} clients have {all} samples together"),
            "give the samples of each client",
        );
    }
    let period = match (rule, period) {
        (Rule::FedFix, Some(period)) if period.is_finite() && period > 0.0 => period,
        (Rule::FedFix, _) => {
            return bad(
                String::from("fedfix needs the time of a round"),
                "give it, in the unit of the clients' times: --period T",
            );
        }
        _ => 1.0,
    };
    let share = |client: &Told| {
        let rounds = match (rule, client.time) {
            (Rule::FedFix, Some(time)) => libm::ceil(time / period),
            _ => 1.0,
        };
        rounds * discount.left(client.staleness) * client.samples
    };
    let parts: Vec<f64> = clients.iter().map(share).collect();
    let whole = if rule == Rule::FedAvg { parts.iter().sum() } else { all };
    if whole.is_nan() || whole <= 0.0 {
        return bad(String::from("staleness leaves no client any weight"), "use another --discount");
    }
    Ok(parts.iter().map(|part| part / whole).collect())
}

/// Which input is what in the sum of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roles {
    /// The first so many are clients.
    pub clients: usize,
    /// What each client was sent; none where that is not known.
    pub sent: Vec<usize>,
    /// The model that the round begins with.
    pub base: Option<usize>,
    /// The model before that.
    pub previous: Option<usize>,
    /// η, by which the server moves.
    pub rate: f64,
    /// β, the share of the last step that is taken again.
    pub momentum: f64,
    /// The largest norm of an update; larger ones are made as large.
    pub clip: Option<f64>,
}

/// A weight that only rounding left.
const ROUNDING: f64 = 1e-12;

impl Roles {
    /// The weights of so many inputs, from the clients' shares.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when nothing has weight.
    pub fn weights(&self, inputs: usize, shares: &[f64]) -> Result<Weights> {
        let Some(base) = self.base else { return Weights::explicit(shares) };
        let mut weights = vec![0.0; inputs];
        weights[base] += 1.0;
        if let Some(previous) = self.previous {
            weights[base] += self.momentum;
            weights[previous] -= self.momentum;
        }
        let mut taken = vec![0.0; inputs];
        for (i, (share, sent)) in shares.iter().zip(&self.sent).enumerate() {
            weights[i] += self.rate * share;
            taken[*sent] += self.rate * share;
        }
        for (weight, taken) in weights.iter_mut().zip(taken) {
            let left = *weight - taken;
            *weight = if left.abs() < ROUNDING { 0.0 } else { left };
        }
        Weights::normalised(&weights)
    }

    /// The one input from which all updates are, if distances from it are all that matters.
    pub(crate) fn hub(&self) -> Option<usize> {
        self.sent.first().copied().filter(|first| self.sent.iter().all(|sent| sent == first))
    }

    /// The inner products of the clients' updates θᵢ − sᵢ, from the squared distances of all inputs.
    pub(crate) fn products(&self, distances: &Matrix) -> Result<Matrix> {
        let mut products = Matrix::zero(self.clients, self.clients)?;
        for i in 0..self.clients {
            for j in 0..self.clients {
                let (a, b) = (self.sent[i], self.sent[j]);
                let across = distances.at(i, b) + distances.at(a, j);
                products.set(i, j, 0.5 * (across - distances.at(i, j) - distances.at(a, b)));
            }
        }
        Ok(products)
    }

    /// The share of each update of such a norm that is left by clipping.
    pub(crate) fn kept(&self, norm: f64) -> f64 {
        match self.clip {
            Some(most) if norm > most => most / norm,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned as _;

    fn told(samples: f64, staleness: f64, time: f64) -> Told {
        Told { samples, staleness, time: Some(time) }
    }

    fn is_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-9, "{found:?} is not {expected:?}");
        }
    }

    /// Values of an independent program.
    #[test]
    fn shares_are_those_of_the_papers() {
        let clients = [told(10.0, 0.0, 1.0), told(30.0, 0.0, 0.75), told(60.0, 0.0, 0.5)];
        let of = |rule| shares(rule, Discount::Constant, Some(0.6), &clients).unwrap();
        is_close(&of(Rule::FedAvg), &[0.1, 0.3, 0.6]);
        is_close(&of(Rule::FedBuff), &[0.1, 0.3, 0.6]);
        is_close(&of(Rule::FedFix), &[0.2, 0.6, 0.6]);
        let stale = [told(50.0, 0.0, 1.0), told(50.0, 3.0, 1.0)];
        let of = |rule| shares(rule, Discount::Polynomial(0.5), None, &stale).unwrap();
        is_close(&of(Rule::FedBuff), &[0.5, 0.25]);
        is_close(&of(Rule::FedAvg), &[2.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn discounts_are_those_of_the_papers() {
        let at = |discount: Discount| [0.0, 1.0, 2.0, 4.0, 8.0].map(|t| discount.left(t));
        is_close(&at(Discount::Constant), &[1.0; 5]);
        is_close(
            &at(Discount::Polynomial(0.5)),
            &[1.0, core::f64::consts::FRAC_1_SQRT_2, 0.577_350_269_2, 0.447_213_595_5, 0.333_333_333_3],
        );
        is_close(&at(Discount::Hinge(10.0, 4.0)), &[1.0, 1.0, 1.0, 1.0, 0.024_390_243_9]);
    }

    #[test]
    fn a_round_is_one_weighted_sum() {
        let plain = Roles { clients: 2, sent: vec![2, 2], base: Some(2), rate: 1.0, ..Roles::default() };
        is_close(plain.weights(3, &[0.25, 0.75]).unwrap().values(), &[0.25, 0.75, 0.0]);
        let thirds = plain.weights(3, &[1.0 / 3.0, 2.0 / 3.0]).unwrap();
        assert_eq!(thirds.used().collect::<Vec<_>>(), [0, 1], "rounding gives the base no weight");
        is_close(plain.weights(3, &[0.25, 0.25]).unwrap().values(), &[0.25, 0.25, 0.5]);
        let half = Roles { rate: 0.5, ..plain.clone() };
        is_close(half.weights(3, &[0.25, 0.75]).unwrap().values(), &[0.125, 0.375, 0.5]);
        // θ 1, received .2 .6, sent −.2 −.6: the numbers of a program of its own
        let apart = Roles { sent: vec![2, 3], base: Some(2), ..plain.clone() };
        is_close(apart.weights(4, &[0.2, 0.6]).unwrap().values(), &[0.2, 0.6, 0.8, -0.6]);
        let pushed = Roles { previous: Some(3), momentum: 0.9, ..plain };
        is_close(pushed.weights(4, &[0.5, 0.5]).unwrap().values(), &[0.5, 0.5, 0.9, -0.9]);
        let free = Roles { clients: 2, rate: 1.0, ..Roles::default() };
        is_close(free.weights(2, &[1.0, 3.0]).unwrap().values(), &[0.25, 0.75]);
    }

    #[test]
    fn updates_have_the_products_of_their_vectors() {
        let points: [[f64; 2]; 4] = [[1.0, 2.0], [4.0, -1.0], [0.5, 0.5], [2.0, 0.0]];
        let mut distances = Matrix::zero(4, 4).unwrap();
        for (i, a) in points.iter().enumerate() {
            for (j, b) in points.iter().enumerate() {
                let (x, y) = (a[0] - b[0], a[1] - b[1]);
                distances.set(i, j, x * x + y * y);
            }
        }
        let roles = Roles { clients: 2, sent: vec![2, 3], ..Roles::default() };
        let products = roles.products(&distances).unwrap();
        // (0.5, 1.5) and (2, −1)
        is_close(&[products.at(0, 0), products.at(1, 1), products.at(0, 1)], &[2.5, 5.0, -0.5]);
        assert_eq!((roles.hub(), Roles { sent: vec![2, 2], ..roles }.hub()), (None, Some(2)));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let refused = |rule, clients: &[Told], period| {
            shares(rule, Discount::Constant, period, clients).unwrap_err().detail().to_owned()
        };
        let good = told(1.0, 0.0, 1.0);
        assert_eq!(
            refused(Rule::FedAvg, &[good, told(-1.0, 0.0, 1.0)], None),
            "client 2 of 2 tells of -1 samples"
        );
        assert_eq!(
            refused(Rule::FedAvg, &[told(f64::NAN, 0.0, 1.0)], None),
            "client 1 of 1 tells of NaN samples"
        );
        assert_eq!(refused(Rule::FedAvg, &[told(1.0, -1.0, 1.0)], None), "client 1 of 1 has staleness -1");
        assert_eq!(
            refused(Rule::FedAvg, &[told(0.0, 0.0, 1.0)], None),
            "the 1 clients have 0 samples together"
        );
        assert_eq!(refused(Rule::FedFix, &[good], None), "fedfix needs the time of a round");
        let timeless = Told { time: None, ..good };
        assert_eq!(
            refused(Rule::FedFix, &[timeless], Some(1.0)),
            "fedfix needs the time that each client took, and client 1 of 1 tells none"
        );
        assert_eq!("fedsgd".parse::<Rule>().unwrap_err().advice(), Some("use fedavg, fedbuff or fedfix"));
    }
}

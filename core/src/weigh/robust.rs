//! Weights that one bad input cannot decide, from the distances between inputs alone.
//!
//! For inputs x₁…x_K with squared distances D (Krum, geometric median) or inner products G about a reference (flag):
//!
//! * Krum (Blanchard 2017): sᵢ = Σ of the K−F−2 least Dᵢⱼ, j ≠ i; the least wins, of several the first. Needs K ≥ 2F+3.
//! * multi-Krum: the mean of the K−F−2 with the least sᵢ.
//! * geometric median: min Σαᵢ‖xᵢ − y‖ by Weiszfeld's rounds wᵢ ← αᵢ / max(ν, ‖xᵢ − y‖), of which y = Σwᵢxᵢ needs only D:
//!   ‖xᵢ − y‖² = (Dw)ᵢ − ½wᵀDw. ν is a millionth of the inputs' spread, so that scale does not matter.
//! * flag (Flag Aggregator, 2023): the R directions that most inputs have in common, by a reweighted singular value
//!   decomposition of uᵢ = xᵢ/‖xᵢ‖ with weights (|1 − ‖Yᵀuᵢ‖²| + 10⁻⁷)^(−¼), begun at 1; the result is the mean of YYᵀxᵢ,
//!   unnormalised. With Y = UA all of it is K×K.
//!
//! All in f64, in the order of the inputs.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::linalg::eigen::eigen;
use crate::linalg::matrix::Matrix;

/// How many bad inputs are expected unless the caller says.
const OUTLIERS: usize = 1;
/// Weiszfeld's rounds end when no weight moves by more than this, or after so many.
const STILL: f64 = 1e-12;
const ROUNDS: usize = 1000;
/// The share of the inputs' spread below which the median has met an input.
const MET: f64 = 1e-6;
/// What keeps the weights of the flag finite.
const EPSILON: f64 = 1e-7;
/// The flag's rounds end when no reconstruction moves by more than this, or after so many.
const SETTLED: f64 = 1e-10;
const MOST: usize = 50;
/// An eigenvalue below this share of the largest is rounding.
const DEPENDENT: f64 = 1e-12;

/// A robust way to weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The common subspace.
    Flag,
    /// The most central input alone.
    Krum,
    /// The mean of the most central inputs.
    MultiKrum,
    /// The point with the least sum of distances.
    GeometricMedian,
}

impl Rule {
    /// The rule of the scheme with that name, if it is a robust one.
    pub(crate) fn named(scheme: &str) -> Option<Self> {
        match scheme {
            "flag" => Some(Self::Flag),
            "krum" => Some(Self::Krum),
            "multi-krum" => Some(Self::MultiKrum),
            "geometric-median" => Some(Self::GeometricMedian),
            _ => None,
        }
    }
}

/// A robust way to weigh, with what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Robust {
    /// Which.
    pub rule: Rule,
    /// How many inputs may be bad.
    pub outliers: usize,
    /// How many directions are kept.
    pub subspace: usize,
}

/// The weight of each input, and what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    /// They sum to 1, but for the flag's, which sum to at most 1: what is left belongs to the reference.
    pub(crate) weights: Vec<f64>,
    /// A distance, or the share that the flag reconstructs.
    pub(crate) measured: Vec<f64>,
    pub(crate) notes: Vec<String>,
}

impl Robust {
    /// Whether a scheme is a robust one, by its name.
    pub(crate) fn is(scheme: &str) -> bool {
        Rule::named(scheme).is_some()
    }

    /// The rule of the scheme with that name, if it is a robust one.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for numbers that belong to another scheme.
    pub(crate) fn of(scheme: &str, outliers: Option<usize>, subspace: Option<usize>) -> Result<Option<Self>> {
        let rule = Rule::named(scheme);
        let idle = |name: &str, schemes: &str| {
            let detail = format!("option {name} says nothing to the scheme {scheme}");
            Err(Error::new(ErrorKind::Usage, detail).help(format!("leave it out, or use {schemes}")))
        };
        if outliers.is_some() && !matches!(rule, Some(Rule::Krum | Rule::MultiKrum)) {
            return idle("outliers", "the scheme krum or multi-krum");
        }
        if subspace.is_some() && rule != Some(Rule::Flag) {
            return idle("subspace", "the scheme flag");
        }
        Ok(rule.map(|rule| Self {
            rule,
            outliers: outliers.unwrap_or(OUTLIERS),
            subspace: subspace.unwrap_or(1),
        }))
    }

    /// Whether it looks at inputs from a reference, which must be known.
    pub(crate) fn has_reference(self) -> bool {
        self.rule == Rule::Flag
    }

    /// How a table calls what is measured, and where a value comes from.
    pub(crate) fn measure(self, inputs: usize) -> (&'static str, String) {
        match self.rule {
            Rule::Flag => {
                let directions = if self.subspace == 1 { "direction" } else { "directions" };
                ("reconstruction", format!("by {} {directions}", self.subspace))
            }
            Rule::Krum | Rule::MultiKrum => {
                ("distance", format!("nearest {}", inputs.saturating_sub(self.outliers + 2)))
            }
            Rule::GeometricMedian => ("distance", "from the median".to_owned()),
        }
    }

    /// Check that there are enough inputs.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] if there are not.
    pub(crate) fn check(self, inputs: usize) -> Result<()> {
        let few = |detail: String, help: String| Err(Error::new(ErrorKind::Weights, detail).help(help));
        match self.rule {
            Rule::Krum | Rule::MultiKrum if inputs < self.outliers.saturating_mul(2).saturating_add(3) => {
                let (least, outliers) = (self.outliers.saturating_mul(2).saturating_add(3), self.outliers);
                let what = if outliers == 1 { "outlier" } else { "outliers" };
                let name = if self.rule == Rule::Krum { "krum" } else { "multi-krum" };
                let help = match inputs.checked_sub(3) {
                    Some(more) => format!(
                        "take more, expect fewer (--outliers {}), or use --scheme geometric-median",
                        more / 2
                    ),
                    None => "take more, or use --scheme geometric-median".to_owned(),
                };
                few(
                    format!("{name} with {outliers} {what} needs {least} inputs, but there are {inputs}"),
                    help,
                )
            }
            Rule::Flag if self.subspace > inputs => {
                let directions = self.subspace;
                few(
                    format!(
                        "a subspace of {directions} dimensions needs as many inputs, but there are {inputs}"
                    ),
                    "take more inputs, or a smaller --subspace".to_owned(),
                )
            }
            _ => Ok(()),
        }
    }

    /// Weigh by squared distances, or the flag by inner products about the reference. `shares` are what the inputs would weigh
    /// if none was bad; they sum to 1.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] where that is not possible.
    pub(crate) fn judge(self, table: &Matrix, shares: &[f64]) -> Result<Judged> {
        self.check(shares.len())?;
        match self.rule {
            Rule::Flag => flag(table, self.subspace, MOST),
            Rule::GeometricMedian => Ok(geometric_median(table, shares, ROUNDS)),
            Rule::Krum => Ok(self.krum(table, shares, 1)),
            Rule::MultiKrum => Ok(self.krum(table, shares, shares.len() - self.outliers - 2)),
        }
    }

    /// The `many` best by Krum's score, as their shares are.
    fn krum(self, distances: &Matrix, shares: &[f64], many: usize) -> Judged {
        let near = shares.len() - self.outliers - 2;
        let scores = scores(distances, near);
        let best = least(&scores, many);
        let mut sum: f64 = best.iter().map(|i| shares[*i]).sum();
        // shares of zero are no reason to divide by it
        let is_shared = sum > 0.0;
        if !is_shared {
            sum = count(best.len());
        }
        let share = |i: usize| match best.contains(&i) {
            true if is_shared => shares[i] / sum,
            true => 1.0 / sum,
            false => 0.0,
        };
        Judged {
            weights: (0..shares.len()).map(share).collect(),
            measured: scores.iter().map(|score| libm::sqrt(score / count(near))).collect(),
            notes: Vec::new(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody merges 2^53 inputs")]
pub(super) fn count(inputs: usize) -> f64 {
    inputs as f64
}

/// Of each input the sum of its `near` least squared distances to others.
fn scores(distances: &Matrix, near: usize) -> Vec<f64> {
    let score = |i: usize| {
        let mut others: Vec<_> =
            (0..distances.rows).filter(|j| *j != i).map(|j| distances.at(i, j)).collect();
        others.sort_by(f64::total_cmp);
        others[..near].iter().sum()
    };
    (0..distances.rows).map(score).collect()
}

/// The places of the least values, of equal ones the first.
fn least(values: &[f64], many: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]).then(a.cmp(b)));
    order.truncate(many);
    order
}

/// Weiszfeld's rounds.
fn geometric_median(distances: &Matrix, shares: &[f64], rounds: usize) -> Judged {
    let inputs = shares.len();
    let from = |weights: &[f64]| {
        let to = |i: usize| (0..inputs).fold(0.0, |sum, j| sum + distances.at(i, j) * weights[j]);
        let to: Vec<f64> = (0..inputs).map(to).collect();
        let spread = 0.5 * to.iter().zip(weights).fold(0.0, |sum, (to, weight)| sum + to * weight);
        to.iter().map(|to| libm::sqrt((to - spread).max(0.0))).collect::<Vec<_>>()
    };
    let pairs = count(inputs * inputs.saturating_sub(1)).max(1.0);
    let all: f64 = (0..inputs).map(|i| (0..inputs).map(|j| distances.at(i, j)).sum::<f64>()).sum();
    let met = MET * libm::sqrt(all / pairs);
    let mut weights = shares.to_vec();
    let mut measured = from(&weights);
    for _ in 0..rounds {
        if met == 0.0 {
            break; // all are the same
        }
        let mut next: Vec<f64> = shares.iter().zip(&measured).map(|(share, d)| share / d.max(met)).collect();
        let sum: f64 = next.iter().sum();
        next.iter_mut().for_each(|weight| *weight /= sum);
        let moved = next.iter().zip(&weights).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
        weights = next;
        measured = from(&weights);
        if moved < STILL {
            break;
        }
    }
    Judged { weights, measured, notes: Vec::new() }
}

/// The mean of the projections to the subspace, as coefficients of the inputs; `gram` are their inner products.
fn flag(gram: &Matrix, subspace: usize, rounds: usize) -> Result<Judged> {
    let inputs = gram.rows;
    let norms: Vec<f64> = (0..inputs).map(|i| libm::sqrt(gram.at(i, i).max(0.0))).collect();
    if norms.iter().all(|norm| *norm == 0.0) {
        let detail = "no input differs from the reference, so that they have no direction in common";
        return Err(Error::new(ErrorKind::Weights, detail).help("use --scheme uniform"));
    }
    let mut unit = Matrix::zero(inputs, inputs)?;
    for i in 0..inputs {
        for j in 0..inputs {
            let norm = norms[i] * norms[j];
            unit.set(i, j, if norm > 0.0 { gram.at(i, j) / norm } else { 0.0 });
        }
    }
    let mut inverse = vec![1.0; inputs];
    let mut measured = vec![0.0; inputs];
    let (mut basis, mut kept) = (Vec::new(), subspace);
    for round in 0..=rounds {
        let mut weighted = Matrix::zero(inputs, inputs)?;
        for i in 0..inputs {
            for j in 0..inputs {
                weighted.set(i, j, inverse[i] * unit.at(i, j) * inverse[j]);
            }
        }
        let found = eigen(weighted)?;
        kept = (0..subspace).take_while(|k| found.values[*k] > DEPENDENT * found.values[0]).count();
        let direction = |k: usize| {
            let (scale, vector) = (libm::sqrt(found.values[k]), found.vectors.row(k));
            (0..inputs).map(|i| inverse[i] * vector[i] / scale).collect::<Vec<f64>>()
        };
        basis = (0..kept).map(direction).collect();
        let share = |i: usize| {
            let along = |a: &Vec<f64>| (0..inputs).fold(0.0, |sum, j| sum + a[j] * unit.at(j, i));
            basis.iter().map(|a| along(a) * along(a)).sum::<f64>()
        };
        let now: Vec<f64> = (0..inputs).map(share).collect();
        let moved = now.iter().zip(&measured).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
        measured = now;
        if round == rounds || (round > 0 && moved < SETTLED) {
            break;
        }
        for (inverse, share) in inverse.iter_mut().zip(&measured) {
            *inverse = libm::pow((1.0 - share).abs() + EPSILON, -0.25);
        }
    }
    let along: Vec<f64> =
        (0..inputs).map(|i| (0..inputs).fold(0.0, |sum, j| sum + unit.at(i, j) * norms[j])).collect();
    let mut weights = vec![0.0; inputs];
    for a in &basis {
        let length = (0..inputs).fold(0.0, |sum, i| sum + a[i] * along[i]);
        for i in (0..inputs).filter(|i| norms[*i] > 0.0) {
            weights[i] += a[i] * length / count(inputs) / norms[i];
        }
    }
    let lower = || format!("the inputs span {kept} of {subspace} dimensions: the subspace has as many");
    Ok(Judged { weights, measured, notes: (kept < subspace).then(lower).into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    // four noisy copies of one direction and a stranger, 4096 numbers each, of numpy's seed 7: squared distances and inner
    // products, and what numpy made of the vectors themselves
    const DISTANCES: [[f64; 5]; 5] = [
        [0.0, 733.508_799_075_564_9, 724.017_317_634_696_7, 699.989_891_135_617_1, 40_861.386_662_113_58],
        [733.508_799_075_564_9, 0.0, 737.090_443_105_311_8, 742.857_952_338_105, 40_676.145_484_053_355],
        [724.017_317_634_696_7, 737.090_443_105_311_8, 0.0, 721.560_992_258_015_5, 40_727.661_352_905_93],
        [699.989_891_135_617_1, 742.857_952_338_105, 721.560_992_258_015_5, 0.0, 40_500.843_050_251_29],
        [40_861.386_662_113_58, 40_676.145_484_053_355, 40_727.661_352_905_93, 40_500.843_050_251_29, 0.0],
    ];
    const PRODUCTS: [[f64; 5]; 5] = [
        [
            4_354.872_624_389_975,
            4_014.147_585_691_529_5,
            4_005.980_716_367_669_6,
            3_993.827_386_513_688,
            17.103_532_529_276_485,
        ],
        [
            4_014.147_585_691_529_5,
            4_406.931_346_068_648,
            4_025.473_514_471_699_7,
            3_998.422_716_751_78,
            135.753_482_398_726_62,
        ],
        [
            4_005.980_716_367_669_6,
            4_025.473_514_471_699_7,
            4_381.106_125_980_062,
            3_996.158_586_747_533,
            97.082_937_928_141_46,
        ],
        [
            3_993.827_386_513_688,
            3_998.422_716_751_78,
            3_996.158_586_747_533,
            4_332.772_039_773_018,
            186.325_046_151_942_64,
        ],
        [
            17.103_532_529_276_485,
            135.753_482_398_726_62,
            97.082_937_928_141_46,
            186.325_046_151_942_64,
            36_540.721_102_782_16,
        ],
    ];

    fn table(rows: &[[f64; 5]]) -> Matrix {
        let mut table = Matrix::zero(rows.len(), rows.len()).unwrap();
        for (i, row) in rows.iter().enumerate() {
            row.iter().take(rows.len()).enumerate().for_each(|(j, value)| table.set(i, j, *value));
        }
        table
    }

    fn robust(scheme: &str, outliers: Option<usize>, subspace: Option<usize>) -> Robust {
        Robust::of(scheme, outliers, subspace).unwrap().unwrap()
    }

    fn is_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn krum_takes_the_most_central_as_numpy_does() {
        is_close(
            &scores(&table(&DISTANCES), 2),
            &[
                1_424.007_208_770_313_8,
                1_470.599_242_180_876_7,
                1_445.578_309_892_712_2,
                1_421.550_883_393_632_6,
                81_176.988_534_304_65,
            ],
        );
        let one = robust("krum", None, None).judge(&table(&DISTANCES), &[0.2; 5]).unwrap();
        assert_eq!(one.weights, [0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!((one.measured[3] - libm::sqrt(1_421.550_883_393_632_6 / 2.0)).abs() < 1e-9);
        let many = robust("multi-krum", Some(1), None);
        assert_eq!(many.judge(&table(&DISTANCES), &[0.2; 5]).unwrap().weights, [0.5, 0.0, 0.0, 0.5, 0.0]);
        let shares = [0.3, 0.2, 0.2, 0.1, 0.2];
        is_close(&many.judge(&table(&DISTANCES), &shares).unwrap().weights, &[0.75, 0.0, 0.0, 0.25, 0.0]);
        let none = [0.0, 0.5, 0.5, 0.0, 0.0];
        assert_eq!(many.judge(&table(&DISTANCES), &none).unwrap().weights, [0.5, 0.0, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn of_equals_the_first_is_taken() {
        let same = table(&[[0.0; 5]; 5]);
        assert_eq!(
            robust("krum", None, None).judge(&same, &[0.2; 5]).unwrap().weights,
            [1.0, 0.0, 0.0, 0.0, 0.0]
        );
        let median = robust("geometric-median", None, None).judge(&same, &[0.2; 5]).unwrap();
        assert_eq!((median.weights, median.measured), (vec![0.2; 5], vec![0.0; 5]));
    }

    #[test]
    fn the_geometric_median_is_numpys() {
        let shares = [0.2; 5];
        is_close(
            &geometric_median(&table(&DISTANCES), &shares, 3).weights,
            &[
                0.244_298_474_618_353_52,
                0.240_784_409_614_445_08,
                0.243_523_524_461_234_1,
                0.249_681_796_977_774,
                0.021_711_794_328_193_28,
            ],
        );
        let done = geometric_median(&table(&DISTANCES), &shares, ROUNDS);
        let numpys = [
            0.245_742_609_328_779_3,
            0.239_875_910_458_819_54,
            0.243_677_161_967_451_93,
            0.249_511_739_192_633_6,
            0.021_192_579_052_315_634,
        ];
        done.weights.iter().zip(numpys).for_each(|(a, b)| assert!((a - b).abs() < 1e-11, "{a} {b}"));
        // what holds half of all is the answer
        let heavy = geometric_median(&table(&DISTANCES), &[0.1, 0.1, 0.1, 0.6, 0.1], ROUNDS);
        assert!(heavy.weights[3] > 0.9999, "{:?}", heavy.weights);
    }

    #[test]
    fn scale_and_order_do_not_matter() {
        let (shares, order) = ([0.2; 5], [3, 1, 4, 0, 2]);
        for scheme in ["krum", "multi-krum", "geometric-median", "flag"] {
            let rule = robust(scheme, None, None);
            let rows = if scheme == "flag" { PRODUCTS } else { DISTANCES };
            let plain = rule.judge(&table(&rows), &shares).unwrap();
            let larger = rule.judge(&table(&rows.map(|row| row.map(|x| x * 1e-20))), &shares).unwrap();
            let moved = order.map(|i| order.map(|j| rows[i][j]));
            let moved = rule.judge(&table(&moved), &shares).unwrap();
            for (place, from) in order.into_iter().enumerate() {
                assert!((moved.weights[place] - plain.weights[from]).abs() < 1e-9, "{scheme}");
                assert!((larger.weights[from] - plain.weights[from]).abs() < 1e-9, "{scheme}");
            }
        }
    }

    #[test]
    fn the_flag_is_numpys_and_shuts_a_stranger_out_of_one_direction() {
        let once = flag(&table(&PRODUCTS), 1, 1).unwrap();
        is_close(
            &once.weights,
            &[
                0.203_690_121_940_972_25,
                0.197_778_641_167_794,
                0.200_972_282_519_034,
                0.203_269_574_956_298_13,
                0.000_171_219_361_828_969_3,
            ],
        );
        is_close(
            &flag(&table(&PRODUCTS), 3, 1).unwrap().weights,
            &[
                0.189_658_467_979_305_38,
                0.205_989_164_458_928_23,
                0.168_322_863_225_115_44,
                0.235_921_354_465_109_9,
                0.199_883_446_775_079_74,
            ],
        );
        let done = robust("flag", None, None).judge(&table(&PRODUCTS), &[0.2; 5]).unwrap();
        let numpys = [
            (0.204_742_448_291_703_27, 0.939_382_033_070_167_4),
            (0.196_409_843_263_134_15, 0.935_197_611_910_966_2),
            (0.200_849_936_218_892_58, 0.937_511_538_595_520_4),
            (0.203_707_720_948_874_1, 0.938_509_473_814_648_1),
            (0.000_170_987_761_866_841_07, 0.000_090_681_094_542_545_51),
        ];
        for ((weight, share), numpys) in done.weights.iter().zip(&done.measured).zip(numpys) {
            assert!((weight - numpys.0).abs() < 1e-9 && (share - numpys.1).abs() < 1e-9, "{done:?}");
        }
    }

    #[test]
    fn inputs_that_span_less_than_the_subspace_are_told() {
        let mut twice = [[0.0; 5]; 5];
        for (i, row) in twice.iter_mut().enumerate() {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = if (i < 3) == (j < 3) { 4.0 } else { 0.0 });
        }
        let judged = flag(&table(&twice), 3, MOST).unwrap();
        assert_eq!(judged.notes, ["the inputs span 2 of 3 dimensions: the subspace has as many"]);
        is_close(&judged.weights, &[0.2; 5]);
        // an input that is the reference itself has no direction
        twice[4] = [0.0; 5];
        (0..5).for_each(|i| twice[i][4] = 0.0);
        let judged = flag(&table(&twice), 1, MOST).unwrap();
        assert_eq!((judged.weights[4], judged.measured[4]), (0.0, 0.0));
        assert!(flag(&table(&[[0.0; 5]; 5]), 1, MOST).is_err());
    }

    #[test]
    fn too_few_inputs_are_told_what_would_do() {
        let told = |scheme, outliers, subspace, inputs| {
            let error = robust(scheme, outliers, subspace).check(inputs).unwrap_err();
            (error.detail().to_owned(), error.advice().unwrap().to_owned())
        };
        assert_eq!(
            told("krum", Some(2), None, 6),
            (
                "krum with 2 outliers needs 7 inputs, but there are 6".into(),
                "take more, expect fewer (--outliers 1), or use --scheme geometric-median".into()
            )
        );
        assert_eq!(told("multi-krum", None, None, 2).1, "take more, or use --scheme geometric-median");
        assert_eq!(
            told("flag", None, Some(4), 3).0,
            "a subspace of 4 dimensions needs as many inputs, but there are 3"
        );
        assert!(robust("krum", Some(usize::MAX), None).check(3).is_err());
        assert!(robust("krum", Some(0), None).check(3).is_ok());
    }

    #[test]
    fn numbers_of_another_scheme_are_refused() {
        let told = |scheme: &str, outliers, subspace| {
            Robust::of(scheme, outliers, subspace).unwrap_err().detail().to_owned()
        };
        assert_eq!(told("linear", Some(1), None), "option outliers says nothing to the scheme linear");
        assert_eq!(told("krum", None, Some(1)), "option subspace says nothing to the scheme krum");
        assert_eq!(Robust::of("linear", None, None).unwrap(), None);
    }
}

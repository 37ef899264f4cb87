//! Scalars that the angles between inputs decide, from inner products about an origin alone.
//!
//! For x₁…x_K seen from an origin, with inner products G, norms nᵢ = √Gᵢᵢ, directions uᵢ = xᵢ/nᵢ and shares αᵢ that sum to 1:
//!
//! * model stock (Jang 2024, arXiv 2403.19522): t/K each, t = Kc / (1 + (K−1)c), c the mean cosine of all pairs; 0 where c is
//!   negative, which the paper's model has not: then nothing is common to the inputs.
//! * SLERP of two (Shoemake 1985): sin(α₁θ)/sinθ and sin(α₂θ)/sinθ.
//! * multi-SLERP: n̄·Σαᵢuᵢ / ‖Σαᵢuᵢ‖, n̄ = Σαᵢnᵢ. What mergekit adds in the tangent space of that mean, Σαᵢ(uᵢ − ⟨uᵢ,μ⟩μ), is 0.
//! * Karcher mean: n̄·μ, where Σαᵢ log_μ(uᵢ) = 0; by rounds of μ ← exp_μ(Σαᵢ log_μ(uᵢ)) from the mean above. Every μ is Σcᵢuᵢ.
//!
//! Where no angle tells anything, because two inputs of a SLERP are nearly parallel or one is the origin, or because the inputs
//! cancel each other out, the shares themselves are taken. All in f64, in the order of the inputs.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Error, ErrorKind, Result};
use crate::linalg::matrix::Matrix;
use crate::weigh::robust::count as number;

/// Beyond this cosine two inputs count as parallel, as everywhere that SLERP is used.
const PARALLEL: f64 = 0.9995;
/// A mean of directions that is shorter has none.
const NOWHERE: f64 = 1e-8;
/// So near an antipode no direction leads to it.
const ANTIPODE: f64 = 1e-12;
/// Rounds of the Karcher mean end when no coefficient moves by more than this, or after so many.
const STILL: f64 = 1e-14;
const ROUNDS: usize = 100;

/// What the angles decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Angle {
    /// How far to go from the base to the mean.
    ModelStock,
    /// Where the arc between two is met.
    Slerp,
    /// The normalised mean of directions.
    MultiSlerp,
    /// The mean on the sphere.
    Karcher,
}

/// What came of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turned {
    /// What each input is multiplied by.
    pub(crate) scalars: Vec<f64>,
    /// The mean cosine of all pairs.
    pub(crate) cosine: f64,
    /// Whether the shares were taken, because no angle tells anything.
    pub(crate) is_linear: bool,
}

impl Angle {
    /// Check that so many inputs, without a base, have such angles.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] if they have not.
    pub(crate) fn check(self, inputs: usize) -> Result<()> {
        let (detail, help) = match self {
            Self::Slerp if inputs != 2 => (
                format!("slerp is between two checkpoints, but there are {inputs}"),
                "take two, such as by --last 2, or --method multi-slerp or karcher for any number",
            ),
            Self::ModelStock if inputs < 2 => (
                format!("model-stock compares two checkpoints or more, but there is {inputs}"),
                "take more: the angle between what they changed says how far to go from the base",
            ),
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Weights, detail).help(help))
    }

    /// What each input is multiplied by, of their inner products and shares.
    ///
    /// # Errors
    /// Those of [`Matrix::zero`].
    pub(crate) fn turn(self, gram: &Matrix, shares: &[f64]) -> Result<Turned> {
        let count = shares.len();
        let norms: Vec<f64> = (0..count).map(|i| libm::sqrt(gram.at(i, i).max(0.0))).collect();
        let mut unit = Matrix::zero(count, count)?;
        let mut sum = 0.0;
        for i in (0..count).filter(|i| norms[*i] > 0.0) {
            unit.set(i, i, 1.0);
            for j in (0..i).filter(|j| norms[*j] > 0.0) {
                let cosine = (gram.at(i, j) / norms[i] / norms[j]).clamp(-1.0, 1.0);
                unit.set(i, j, cosine);
                unit.set(j, i, cosine);
                sum += cosine;
            }
        }
        let inputs = number(count);
        let cosine = if count > 1 { sum / (inputs * (inputs - 1.0) / 2.0) } else { 1.0 };
        let turned = match self {
            Self::ModelStock => {
                let common = cosine.max(0.0);
                Some(vec![common / (1.0 + (inputs - 1.0) * common); count])
            }
            Self::Slerp => slerp(&unit, &norms, shares),
            Self::MultiSlerp => on_sphere(&unit, &norms, shares, 0),
            Self::Karcher => on_sphere(&unit, &norms, shares, ROUNDS),
        };
        let is_linear = turned.is_none();
        Ok(Turned { scalars: turned.unwrap_or_else(|| shares.to_vec()), cosine, is_linear })
    }
}

fn slerp(unit: &Matrix, norms: &[f64], shares: &[f64]) -> Option<Vec<f64>> {
    let cosine = unit.at(0, 1);
    if cosine.abs() > PARALLEL || norms.contains(&0.0) {
        return None;
    }
    let angle = libm::acos(cosine);
    Some(shares.iter().map(|share| libm::sin(share * angle) / libm::sin(angle)).collect())
}

/// The mean of directions, moved on the sphere by so many rounds, and as long as the inputs are on average.
fn on_sphere(unit: &Matrix, norms: &[f64], shares: &[f64], rounds: usize) -> Option<Vec<f64>> {
    let count = shares.len();
    let along = |of: &[f64]| -> Vec<f64> {
        (0..count).map(|i| (0..count).fold(0.0, |sum, j| sum + unit.at(i, j) * of[j])).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
    let length = |of: &[f64]| libm::sqrt(dot(of, &along(of)).max(0.0));
    // what is nowhere has no direction
    let mut pulls: Vec<f64> =
        shares.iter().zip(norms).map(|(share, norm)| if *norm > 0.0 { *share } else { 0.0 }).collect();
    let all: f64 = pulls.iter().sum();
    pulls.iter_mut().for_each(|pull| *pull /= all);
    let mut mean = pulls.clone();
    let first = length(&mean);
    if all <= 0.0 || first <= NOWHERE {
        return None;
    }
    mean.iter_mut().for_each(|part| *part /= first);
    for _ in 0..rounds {
        let dots: Vec<f64> = along(&mean).iter().map(|dot| dot.clamp(-1.0, 1.0)).collect();
        let pulled: Vec<f64> = pulls.iter().zip(&dots).map(|(pull, dot)| pull * stretch(*dot)).collect();
        let back = dot(&pulled, &dots);
        let tangent: Vec<f64> = pulled.iter().zip(&mean).map(|(pull, part)| pull - back * part).collect();
        let far = length(&tangent);
        let (stay, step) = (libm::cos(far), if far > 0.0 { libm::sin(far) / far } else { 1.0 });
        mean.iter_mut().zip(&tangent).for_each(|(part, to)| *part = stay * *part + step * to);
        let now = length(&mean);
        if now <= NOWHERE {
            return None;
        }
        mean.iter_mut().for_each(|part| *part /= now);
        if tangent.iter().all(|to| to.abs() < STILL) {
            break;
        }
    }
    // weights below 0 may leave no length: turned around, the mean would lead away from what weighs most
    let norm = dot(shares, norms);
    if norm <= 0.0 {
        return None;
    }
    let scalar = |(part, own): (&f64, &f64)| if *own > 0.0 { norm * part / own } else { 0.0 };
    Some(mean.iter().zip(norms).map(scalar).collect())
}

/// θ / sinθ of an angle with this cosine: how much longer the arc is than the way to it.
fn stretch(cosine: f64) -> f64 {
    if 1.0 + cosine < ANTIPODE {
        return 0.0;
    }
    let sine = libm::sqrt((1.0 - cosine) * (1.0 + cosine));
    if sine > 0.0 { libm::acos(cosine) / sine } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::noise;

    fn gram(vectors: &[Vec<f64>]) -> Matrix {
        let mut gram = Matrix::zero(vectors.len(), vectors.len()).unwrap();
        for (i, x) in vectors.iter().enumerate() {
            for (j, y) in vectors.iter().enumerate() {
                gram.set(i, j, x.iter().zip(y).map(|(x, y)| x * y).sum());
            }
        }
        gram
    }

    fn turn(angle: Angle, vectors: &[Vec<f64>], shares: &[f64]) -> Turned {
        angle.turn(&gram(vectors), shares).unwrap()
    }

    fn sum(vectors: &[Vec<f64>], scalars: &[f64]) -> Vec<f64> {
        (0..vectors[0].len()).map(|i| vectors.iter().zip(scalars).map(|(x, s)| x[i] * s).sum()).collect()
    }

    fn is_near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn model_stock_goes_as_far_as_the_inputs_agree() {
        let stock = |vectors: &[Vec<f64>]| turn(Angle::ModelStock, vectors, &[0.5, 0.5]).scalars;
        assert_eq!(stock(&[vec![3.0, 0.0], vec![0.0, 2.0]]), [0.0, 0.0], "orthogonal: the base");
        assert_eq!(stock(&[vec![3.0, 0.0], vec![6.0, 0.0]]), [0.5, 0.5], "parallel: the mean");
        assert_eq!(stock(&[vec![3.0, 0.0], vec![-1.0, 0.5]]), [0.0, 0.0], "apart: the base");
        assert_eq!(stock(&[vec![3.0, 0.0], vec![0.0, 0.0]]), [0.0, 0.0], "one is the base");
        // cos 60°: t = 2·½ / 1½
        let sixty = [vec![1.0, 0.0], vec![0.5, 0.75_f64.sqrt()]];
        assert!(is_near(&stock(&sixty), &[1.0 / 3.0; 2]));
        // three pairs: ½, ½ and −½
        let three = [sixty[0].clone(), sixty[1].clone(), vec![-0.5, 0.75_f64.sqrt()]];
        let turned = turn(Angle::ModelStock, &three, &[1.0 / 3.0; 3]);
        assert!((turned.cosine - 1.0 / 6.0).abs() < 1e-12);
        assert!(is_near(&turned.scalars, &[0.125; 3]), "{turned:?}");
    }

    #[test]
    fn slerp_runs_along_the_arc_and_along_the_chord_where_there_is_none() {
        let right = [vec![2.0, 0.0], vec![0.0, 2.0]];
        let at = |vectors: &[Vec<f64>], t: f64| turn(Angle::Slerp, vectors, &[1.0 - t, t]);
        assert_eq!(at(&right, 0.0).scalars, [1.0, 0.0]);
        assert_eq!(at(&right, 1.0).scalars, [0.0, 1.0]);
        for t in [0.25, 0.5, 0.9] {
            let point = sum(&right, &at(&right, t).scalars);
            let angle = core::f64::consts::FRAC_PI_2 * t;
            assert!(is_near(&point, &[2.0 * angle.cos(), 2.0 * angle.sin()]), "{point:?}");
        }
        for chord in [vec![1.9, 0.01], vec![-2.0, 0.0], vec![0.0, 0.0]] {
            let turned = at(&[right[0].clone(), chord], 0.25);
            assert!(turned.is_linear && turned.scalars == [0.75, 0.25], "{turned:?}");
        }
    }

    #[test]
    fn means_on_the_sphere_are_as_long_as_the_inputs_and_do_not_depend_on_their_order() {
        let vectors: Vec<_> = (0..4).map(|seed| noise(50, seed + 1)).collect();
        let shares = [0.1, 0.2, 0.3, 0.4];
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let wanted: f64 = vectors.iter().zip(shares).map(|(x, share)| share * norm(x)).sum();
        for angle in [Angle::MultiSlerp, Angle::Karcher] {
            let mean = sum(&vectors, &turn(angle, &vectors, &shares).scalars);
            assert!((norm(&mean) - wanted).abs() < 1e-12);
            let turned: Vec<_> = vectors.iter().rev().cloned().collect();
            let back = sum(&turned, &turn(angle, &turned, &[0.4, 0.3, 0.2, 0.1]).scalars);
            assert!(is_near(&mean, &back));
        }
        // the gradient of the squared distances on the sphere is nothing
        let mean = sum(&vectors, &turn(Angle::Karcher, &vectors, &shares).scalars);
        let mean: Vec<_> = mean.iter().map(|x| x / wanted).collect();
        let mut gradient = vec![0.0; 50];
        for (x, share) in vectors.iter().zip(shares) {
            let unit: Vec<_> = x.iter().map(|v| v / norm(x)).collect();
            let dot: f64 = unit.iter().zip(&mean).map(|(a, b)| a * b).sum();
            let factor = share * dot.acos() / dot.acos().sin();
            gradient
                .iter_mut()
                .zip(unit.iter().zip(&mean))
                .for_each(|(g, (u, m))| *g += factor * (u - dot * m));
        }
        assert!(is_near(&gradient, &[0.0; 50]));
    }

    #[test]
    fn of_two_as_long_all_means_on_the_sphere_are_slerp() {
        let pair = [vec![3.0, 0.0], vec![1.8, 2.4]];
        let slerp = turn(Angle::Slerp, &pair, &[0.5, 0.5]).scalars;
        assert!(is_near(&turn(Angle::MultiSlerp, &pair, &[0.5, 0.5]).scalars, &slerp));
        let slerp = turn(Angle::Slerp, &pair, &[0.75, 0.25]).scalars;
        assert!(is_near(&turn(Angle::Karcher, &pair, &[0.75, 0.25]).scalars, &slerp));
        assert!(!is_near(&turn(Angle::MultiSlerp, &pair, &[0.75, 0.25]).scalars, &slerp));
    }

    #[test]
    fn what_has_no_direction_is_a_plain_sum_and_what_is_alone_is_itself() {
        let opposite = [vec![1.0, 0.0], vec![-2.0, 0.0]];
        for angle in [Angle::MultiSlerp, Angle::Karcher] {
            let turned = turn(angle, &opposite, &[0.5, 0.5]);
            assert!(turned.is_linear && turned.scalars == [0.5, 0.5], "{turned:?}");
            assert!(turn(angle, &[vec![0.0], vec![0.0]], &[0.5, 0.5]).is_linear);
            assert_eq!(turn(angle, &[vec![0.3, 0.7]], &[1.0]).scalars, [1.0]);
            // one that is the origin shortens, and does not turn
            assert_eq!(turn(angle, &[vec![2.0, 0.0], vec![0.0, 0.0]], &[0.5, 0.5]).scalars, [0.5, 0.0]);
        }
        for angle in [Angle::MultiSlerp, Angle::Karcher] {
            let longer = turn(angle, &[vec![1.0, 0.0], vec![0.0, 3.0]], &[2.0, -1.0]);
            assert!(longer.is_linear && longer.scalars == [2.0, -1.0], "{longer:?}");
        }
        let uneven = turn(Angle::Karcher, &opposite, &[0.75, 0.25]).scalars;
        assert!(
            is_near(&uneven, &[1.25, 0.0]),
            "no direction leads from the first to the second: {uneven:?}"
        );
    }

    #[test]
    fn too_few_or_too_many_are_told() {
        assert!(
            Angle::Slerp.check(2).is_ok()
                && Angle::ModelStock.check(2).is_ok()
                && Angle::Karcher.check(1).is_ok()
        );
        assert_eq!(
            Angle::Slerp.check(3).unwrap_err().detail(),
            "slerp is between two checkpoints, but there are 3"
        );
        assert_eq!(Angle::ModelStock.check(1).unwrap_err().kind(), ErrorKind::Weights);
    }
}

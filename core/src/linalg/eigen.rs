//! Eigenvalues and eigenvectors of a symmetric matrix: Householder tridiagonalisation, then implicit QL.
//!
//! M = Σₖ λₖ yₖyₖᵀ, λ in descending order. After `tred2`/`tql2` of EISPACK (Martin, Reinsch, Wilkinson 1968; Bowdler et al.
//! 1968), with every inner loop along a row, so that lanes hold different results and SIMD of any width gives the same
//! bits. Errors are of the order ε‖M‖, for values and for ‖My − λy‖. The entry of largest magnitude of each vector, the
//! first of several, is positive.

use alloc::vec;
use alloc::vec::Vec;

use super::matrix::Matrix;
use crate::error::Result;

/// What [`eigen`] gives.
pub(crate) struct Eigen {
    /// Descending.
    pub(crate) values: Vec<f64>,
    /// One unit vector per row, in the order of the values.
    pub(crate) vectors: Matrix,
}

/// Decompose the symmetric, finite matrix `m`.
#[inline(always)]
pub(crate) fn eigen(mut m: Matrix) -> Result<Eigen> {
    let n = m.rows;
    // near 1, so that squares neither overflow nor vanish
    let scale = m.values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if scale == 0.0 {
        let mut vectors = Matrix::zero(n, n)?;
        (0..n).for_each(|i| vectors.set(i, i, 1.0));
        return Ok(Eigen { values: vec![0.0; n], vectors });
    }
    m.values.iter_mut().for_each(|value| *value /= scale);
    let (mut diagonal, mut beside, mut vectors) = tridiagonal(m)?;
    implicit_ql(&mut diagonal, &mut beside, &mut vectors);

    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    let mut sorted = Matrix::zero(n, n)?;
    for (to, &from) in order.iter().enumerate() {
        let vector = vectors.row(from);
        let largest = vector.iter().fold(0.0, |best: f64, x| if x.abs() > best.abs() { *x } else { best });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        sorted.row_mut(to).iter_mut().zip(vector).for_each(|(y, x)| *y = sign * x);
    }
    Ok(Eigen { values: order.iter().map(|&i| diagonal[i] * scale).collect(), vectors: sorted })
}

/// M = Q·T·Qᵀ by reflections: the diagonal of T, what stands beside it, and Qᵀ.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "j is an index of vectors and of rows alike")]
fn tridiagonal(mut m: Matrix) -> Result<(Vec<f64>, Vec<f64>, Matrix)> {
    let n = m.rows;
    let mut beside = vec![0.0; n];
    // reflection k is 1 − βₖvₖvₖᵀ; vₖ, zero up to k, lies in row k of `m` once that row is done with
    let mut betas = vec![0.0; n];
    let mut v = vec![0.0; m.stride];
    let mut w = vec![0.0; m.stride];
    for k in 0..n.saturating_sub(1) {
        v.copy_from_slice(m.row(k));
        v[..=k].fill(0.0);
        let tail: f64 = v[k + 2..].iter().fold(0.0, |sum, x| sum + x * x);
        let head = v[k + 1];
        if tail == 0.0 {
            beside[k] = head;
            m.row_mut(k)[k + 1..].fill(0.0);
            continue;
        }
        let norm = libm::sqrt(head * head + tail);
        let alpha = if head > 0.0 { -norm } else { norm };
        beside[k] = alpha;
        v[k + 1] = head - alpha;
        let beta = 2.0 / (v[k + 1] * v[k + 1] + tail);
        betas[k] = beta;
        // w = βMv − (β²/2)(vᵀMv)v, then M ← M − vwᵀ − wvᵀ, in the rows and columns after k
        let from = (k + 1) / 8 * 8;
        w.fill(0.0);
        for j in k + 1..n {
            axpy(&mut w[from..], beta * v[j], &m.row(j)[from..]);
        }
        w[..=k].fill(0.0);
        let overlap = v.iter().zip(&w).fold(0.0, |sum, (v, w)| sum + v * w);
        axpy(&mut w[from..], -0.5 * beta * overlap, &v[from..]);
        for j in k + 1..n {
            let (vj, wj) = (v[j], w[j]);
            for ((x, v), w) in m.row_mut(j)[from..].iter_mut().zip(&v[from..]).zip(&w[from..]) {
                *x -= vj * w + wj * v;
            }
        }
        m.row_mut(k)[k + 1..].copy_from_slice(&v[k + 1..]);
    }
    let diagonal: Vec<f64> = (0..n).map(|k| m.at(k, k)).collect();
    let mut q = Matrix::zero(n, n)?;
    (0..n).for_each(|i| q.set(i, i, 1.0));
    for k in (0..n.saturating_sub(1)).rev().filter(|&k| betas[k] != 0.0) {
        let from = (k + 1) / 8 * 8;
        v.copy_from_slice(m.row(k));
        v[..=k].fill(0.0);
        w.fill(0.0);
        for j in k + 1..n {
            axpy(&mut w[from..], v[j], &q.row(j)[from..]);
        }
        for j in k + 1..n {
            axpy(&mut q.row_mut(j)[from..], -betas[k] * v[j], &w[from..]);
        }
    }
    Ok((diagonal, beside, q.transposed()?))
}

/// y ← y + a·x
#[inline(always)]
fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Diagonalise a tridiagonal matrix by plane rotations, applied to the rows of `vectors` as well.
#[inline(always)]
fn implicit_ql(d: &mut [f64], e: &mut [f64], vectors: &mut Matrix) {
    let n = d.len();
    let norm = d.iter().zip(&*e).fold(0.0, |norm: f64, (d, e)| norm.max(d.abs() + e.abs()));
    let negligible = f64::EPSILON * norm;
    let mut shift = 0.0;
    for l in 0..n {
        loop {
            let m =
                (l..n).find(|&m| e[m].abs() <= negligible).expect("nothing stands beside the last element");
            if m == l {
                break;
            }
            // Wilkinson's shift
            let g = d[l];
            let p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = libm::sqrt(p * p + 1.0);
            let r = if p < 0.0 { -r } else { r };
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let (next, beside) = (d[l + 1], e[l + 1]);
            let h = g - d[l];
            d[l + 2..].iter_mut().for_each(|d| *d -= h);
            shift += h;
            // one sweep from the bottom up
            let mut p = d[m];
            let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
            let (mut s, mut s2) = (0.0, 0.0);
            for i in (l..m).rev() {
                c3 = c2;
                c2 = c;
                s2 = s;
                let g = c * e[i];
                let h = c * p;
                let r = libm::sqrt(p * p + e[i] * e[i]);
                e[i + 1] = s * r;
                s = e[i] / r;
                c = p / r;
                p = c * d[i] - s * g;
                d[i + 1] = h + s * (c * g + s * d[i]);
                rotate(vectors, i, c, s);
            }
            p = -s * s2 * c3 * beside * e[l] / next;
            e[l] = s * p;
            d[l] = c * p;
        }
        d[l] += shift;
        e[l] = 0.0;
    }
}

/// Rotate rows `i` and `i + 1` into each other.
#[inline(always)]
fn rotate(m: &mut Matrix, i: usize, c: f64, s: f64) {
    let (upper, lower) = m.values[i * m.stride..(i + 2) * m.stride].split_at_mut(m.stride);
    for (x, y) in upper.iter_mut().zip(lower) {
        let old = *y;
        *y = s * *x + c * old;
        *x = c * *x - s * old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::matrix::tests::random;

    /// ‖M − VᵀΛV‖ and ‖VVᵀ − 1‖, as the largest element.
    fn faults(m: &Matrix, found: &Eigen) -> (f64, f64) {
        let n = m.rows;
        let mut scaled = found.vectors.clone();
        (0..n).for_each(|k| scaled.row_mut(k).iter_mut().for_each(|x| *x *= found.values[k]));
        let again = found.vectors.transposed().unwrap().times(&scaled).unwrap();
        let identity = found.vectors.times(&found.vectors.transposed().unwrap()).unwrap();
        let distance =
            |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |d: f64, (a, b)| d.max((a - b).abs()));
        let mut one = Matrix::zero(n, n).unwrap();
        (0..n).for_each(|i| one.set(i, i, 1.0));
        (distance(&m.values, &again.values), distance(&identity.values, &one.values))
    }

    #[test]
    fn rebuilds_matrices_of_every_size_and_kind() {
        for n in [1, 2, 3, 7, 8, 9, 33, 64] {
            let (half, thin) = (random(n, n, n as u64), random(n, n.div_ceil(3), 5));
            let definite = half.times(&half.transposed().unwrap()).unwrap();
            let deficient = thin.times(&thin.transposed().unwrap()).unwrap();
            let mut indefinite = half.clone();
            for i in 0..n {
                for j in 0..n {
                    indefinite.set(i, j, half.at(i, j) + half.at(j, i));
                }
            }
            let mut diagonal = Matrix::zero(n, n).unwrap();
            (0..n).for_each(|i| diagonal.set(i, i, (i % 3) as f64));
            let mut graded = definite.clone();
            for i in 0..n {
                for j in 0..n {
                    let scale = libm::pow(10.0, -((i + j) as f64) / 2.0);
                    graded.set(i, j, definite.at(i, j) * scale);
                }
            }
            for m in [definite, deficient, indefinite, diagonal, graded, Matrix::zero(n, n).unwrap()] {
                let found = eigen(m.clone()).unwrap();
                let size = found.values.iter().fold(1e-300, |size: f64, value| size.max(value.abs()));
                let (rebuilt, orthogonal) = faults(&m, &found);
                assert!(rebuilt <= 1e-14 * size * (4 + n) as f64, "{n}: {rebuilt} against {size}");
                assert!(orthogonal <= 1e-14 * (4 + n) as f64, "{n}: {orthogonal}");
                assert!(found.values.is_sorted_by(|a, b| a >= b));
            }
        }
    }

    #[test]
    fn signs_are_settled() {
        let mut m = Matrix::zero(2, 2).unwrap();
        m.values.copy_from_slice(&[2.0, -1.0, 0., 0., 0., 0., 0., 0., -1.0, 2.0, 0., 0., 0., 0., 0., 0.]);
        let found = eigen(m).unwrap();
        assert!((found.values[0] - 3.0).abs() < 1e-15 && (found.values[1] - 1.0).abs() < 1e-15);
        assert!(found.vectors.at(0, 0) > 0.0 && found.vectors.at(0, 1) < 0.0);
        assert!(found.vectors.at(1, 0) > 0.0 && found.vectors.at(1, 1) > 0.0);
    }
}

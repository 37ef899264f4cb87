//! What the products of one module have in common, across runs and ranks: ⟨γᵢBᵢAᵢ, γⱼBⱼAⱼ⟩ of all pairs of inputs.
//!
//! ⟨BᵢAᵢ, BⱼAⱼ⟩ = Σ_pq ⟨b_p, b_q⟩⟨a_p, a_q⟩ over the ranks p of i and q of j: r×r blocks of two Gram matrices, no m×n matrix.
//! All in f64, points in blocks of [`BLOCK`](crate::linalg::gram::BLOCK), so that neither windows nor jobs show.

use alloc::vec::Vec;

use super::ModuleJob;
use super::panel::Side;
use super::window::{Reader, Window};
use crate::error::Result;
use crate::linalg::gram::mirror;
use crate::linalg::matrix::Matrix;
use crate::plan::Read;
use crate::room::zeros;

impl ModuleJob<'_> {
    /// The inner products of all pairs of the module's inputs, by rows of the lower triangle: (0,0), (1,0), (1,1), (2,0)…
    ///
    /// `read` is asked as in [`Self::residual`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::NonFinite`], naming input and tensor; those of `read`.
    #[inline(always)]
    pub(crate) fn inner_products(&self, max_bytes: usize, read: &mut Reader<'_>) -> Result<Vec<f64>> {
        let sources = &self.module.sources;
        let gammas: Vec<f64> = sources.iter().map(|source| source.scale / source.weight).collect();
        let mut products = zeros(sources.len() * (sources.len() + 1) / 2)?;
        for expert in 0..self.module.experts {
            let mut grams = Vec::with_capacity(2);
            for side in [Side::Down, Side::Up] {
                grams.push(self.gram(side, expert, max_bytes, read)?);
            }
            let (down, up) = (&grams[0], &grams[1]);
            let (mut row, mut at) = (0, 0);
            for i in 0..sources.len() {
                let mut column = 0;
                for j in 0..=i {
                    let mut sum = 0.0;
                    for p in row..row + sources[i].rank {
                        for q in column..column + sources[j].rank {
                            sum += down.at(p, q) * up.at(p, q);
                        }
                    }
                    products[at] += gammas[i] * gammas[j] * sum;
                    column += sources[j].rank;
                    at += 1;
                }
                row += sources[i].rank;
            }
        }
        if self.module.bias.is_some() {
            self.add_biases(&gammas, &mut products, read)?;
        }
        if products.iter().all(|product| product.is_finite()) { Ok(products) } else { Err(self.unfit(read)) }
    }

    /// The Gram matrix of one side of all inputs, stacked.
    #[inline(always)]
    pub(super) fn gram(
        &self,
        side: Side,
        expert: usize,
        max_bytes: usize,
        read: &mut Reader<'_>,
    ) -> Result<Matrix> {
        let features = self.module.full_rank();
        let mut sums = Matrix::zero(features, features)?;
        let mut window = Window::new(self.module, side, expert, max_bytes);
        while let Some(stack) = window.next(read)? {
            stack.add_gram(&mut sums)?;
        }
        mirror(&mut sums);
        Ok(sums)
    }

    /// The biases of B are scaled as B is.
    #[cold]
    fn add_biases(&self, gammas: &[f64], products: &mut [f64], read: &mut Reader<'_>) -> Result<()> {
        let mut biases: Vec<Vec<f64>> = Vec::new();
        for (i, source) in self.module.sources.iter().enumerate() {
            let bytes = whole(&self.read(3 * i + 2), read)?;
            let float = source.bias.as_ref().map_or(source.up.float, |place| place.float);
            biases.push(bytes.chunks_exact(float.bytes()).map(|word| float.value(word)).collect());
        }
        let mut at = 0;
        for i in 0..biases.len() {
            for j in 0..=i {
                let sum = biases[i].iter().zip(&biases[j]).fold(0.0, |sum, (x, y)| sum + x * y);
                products[at] += gammas[i] * gammas[j] * sum;
                at += 1;
            }
        }
        Ok(())
    }

    /// Say which element is not finite.
    #[cold]
    fn unfit(&self, read: &mut Reader<'_>) -> crate::error::Error {
        let all: Result<Vec<_>> = (0..self.read_count()).map(|i| whole(&self.read(i), read)).collect();
        all.map_or_else(|error| error, |all| self.explain(&all.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    }
}

/// All bytes of a read.
fn whole(wanted: &Read, read: &mut Reader<'_>) -> Result<Vec<u8>> {
    let mut bytes = zeros(usize::try_from(wanted.range.end - wanted.range.start).unwrap_or(usize::MAX))?;
    read(wanted, &mut bytes)?;
    Ok(bytes)
}

//! Second moments of a matrix by the means of its rows and columns, as Adafactor keeps them: what is written of it, and what that loses.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::Tensor;
use crate::format::torch::optimizer::MEANS;
use crate::format::view::{mean, number, scaled, words};
use crate::method::product::widen;
use crate::room::zeros;

/// So many bytes are read at once.
const PANEL: u64 = 1 << 22;

/// A matrix that is kept by the means of its rows and columns.
#[derive(Clone, Debug)]
pub struct Factored {
    /// The name of the weight that it is of.
    pub name: String,
    /// Which of the files has it, and where.
    file: usize,
    start: u64,
    float: Float,
    rows: usize,
    columns: usize,
    /// Where the means of rows and those of columns begin in the file that is written.
    pub at: [u64; 2],
}

/// What is written of a matrix.
#[derive(Clone, Debug)]
pub struct Factors {
    /// The means of rows and those of columns, in F32.
    pub means: [Vec<u8>; 2],
    /// The sum of the squares of what they tell too much or too little, and that of the squares of the numbers.
    pub lost: f64,
    /// See [`Factors::lost`].
    pub whole: f64,
}

/// What reads of a file, by its number.
type ReadFile<'r> = dyn FnMut(usize, Range<u64>) -> Result<Vec<u8>> + 'r;

impl Factored {
    /// A matrix that takes less so.
    pub(super) fn of(file: usize, tensor: &Tensor) -> Option<Self> {
        let [rows, columns] = *<&[u64; 2]>::try_from(tensor.shape.as_slice()).ok()?;
        let count = rows.checked_mul(columns)?;
        let [rows, columns] = [rows, columns].map(|len| usize::try_from(len).ok());
        let is_less = |all: &u64| *all < count;
        Some(tensor.shape.iter().sum()).filter(is_less)?;
        let (name, start, float) = (tensor.name.clone(), tensor.range.start, Float::of(tensor.dtype)?);
        Some(Self { name, file, start, float, rows: rows?, columns: columns?, at: [0; 2] })
    }

    /// The tensors that are written of it.
    pub(super) fn laid(&self) -> impl Iterator<Item = (String, Dtype, Vec<u64>)> + '_ {
        let lens = [self.rows, self.columns].into_iter();
        MEANS
            .iter()
            .zip(lens)
            .map(|(end, len)| (format!("{}{end}", self.name), Dtype::F32, [len as u64].into()))
    }

    /// The means, each of f64 sums in the order of the numbers, and what they lose; the matrix is read twice.
    ///
    /// # Errors
    /// Those of `read`, and numbers that no mean of squares is.
    pub fn make(&self, read: &mut ReadFile<'_>) -> Result<Factors> {
        let (mut means, mut sums) = (Vec::with_capacity(self.rows * 4), zeros::<f64>(self.columns)?);
        self.each_row(read, &mut |row| {
            let mut sum = 0.0;
            for (value, column) in row.iter().zip(&mut sums) {
                sum += value;
                *column += value;
            }
            means.extend(narrow(sum, self.columns));
            if row.iter().all(|value| (0.0..f64::INFINITY).contains(value)) {
                return Ok(());
            }
            let odd =
                row.iter().find(|value| !(0.0..f64::INFINITY).contains(*value)).copied().unwrap_or_default();
            Err(Error::new(
                ErrorKind::Input,
                format!("has a second moment of {odd}, which no mean of squares is"),
            )
            .tensor(&*self.name)
            .help("give the running means of squares, as `exp_avg_sq` of an optimizer's state"))
        })?;
        let columns: Vec<u8> = sums.iter().flat_map(|sum| narrow(*sum, self.rows)).collect();
        let (of_all, mut lost, mut whole) = (mean(&means), 0.0, 0.0);
        let mut at = 0;
        self.each_row(read, &mut |row| {
            let own = scaled(words(&means[at..]).next().unwrap_or_default(), of_all);
            at += 4;
            for (value, column) in row.iter().zip(words(&columns)) {
                let off = value - f64::from(number(own, column));
                lost += off * off;
                whole += value * value;
            }
            Ok(())
        })?;
        Ok(Factors { means: [means, columns], lost, whole })
    }

    /// Do something with each row, a few of which are read at once.
    fn each_row(&self, read: &mut ReadFile<'_>, with: &mut dyn FnMut(&[f64]) -> Result<()>) -> Result<()> {
        let width = (self.columns * self.float.bytes()) as u64;
        let (many, rows) = ((PANEL / width).max(1), self.rows as u64);
        let mut values = zeros::<f64>(self.columns)?;
        for first in (0..rows).step_by(usize::try_from(many).unwrap_or(usize::MAX)) {
            let end = rows.min(first + many);
            let bytes = read(self.file, self.start + first * width..self.start + end * width)?;
            for row in bytes.chunks_exact(self.columns * self.float.bytes()) {
                widen(self.float, row, &mut values);
                with(&values)?;
            }
        }
        Ok(())
    }
}

/// A mean, rounded to F32.
#[expect(clippy::cast_precision_loss, reason = "no tensor has 2^53 rows")]
#[expect(clippy::cast_possible_truncation, reason = "this is the rounding")]
fn narrow(sum: f64, count: usize) -> [u8; 4] {
    ((sum / count as f64) as f32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// What is told again of a matrix of so many rows.
    fn told(values: &[f32], rows: u64) -> Result<(Vec<f32>, f64)> {
        let columns = values.len() as u64 / rows;
        let len = values.len() as u64 * 4;
        let tensor =
            Tensor { name: "w".into(), dtype: Dtype::F32, shape: vec![rows, columns], range: 8..8 + len };
        let bytes: Vec<u8> =
            [0; 8].into_iter().chain(values.iter().flat_map(|it| it.to_le_bytes())).collect();
        let made = Factored::of(0, &tensor).unwrap().make(&mut |_, range| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            Ok(bytes[start..end].to_vec())
        })?;
        let [rows, columns] = &made.means;
        let of_all = mean(rows);
        let each =
            words(rows).flat_map(|row| words(columns).map(move |column| number(scaled(row, of_all), column)));
        Ok((each.collect(), libm::sqrt(made.lost / made.whole)))
    }

    #[test]
    #[expect(clippy::excessive_precision, reason = "nine digits, as the oracle prints them")]
    fn what_is_of_rank_1_comes_back_and_the_rest_as_the_oracle_says() {
        let by_hand = told(&[4.0, 1.0, 9.0, 2.0, 1.0, 3.0, 6.0, 2.0, 8.0], 3).unwrap();
        // numpy: rows.mean(1), columns.mean(0) as f32, their outer product over rows.mean()
        assert_eq!(
            by_hand.0,
            [
                4.666_666_51,
                1.555_555_58,
                7.777_777_19,
                2.0,
                0.666_666_687,
                3.333_333_25,
                5.333_333_49,
                1.777_777_91,
                8.888_889_31
            ]
        );
        assert!((by_hand.1 - 0.131_815_810).abs() < 1e-8, "{}", by_hand.1);
        let outer: Vec<f32> = (1..60_u8)
            .flat_map(|i| (1..40_u8).map(move |j| f32::from(i) * 1e-9 * (f32::from(j) + 0.3)))
            .collect();
        let (again, error) = told(&outer, 59).unwrap();
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 2.0 * f32::EPSILON * b;
        assert!(again.iter().zip(&outer).all(is_near) && error < 1e-7, "{error}");
        let constant = [1e-12; 12];
        assert_eq!(told(&constant, 3).unwrap(), (constant.to_vec(), 0.0));
        assert_eq!(told(&[0.0; 12], 4).unwrap().0, [0.0; 12]);
    }

    #[test]
    fn what_no_square_is_and_what_takes_no_less_is_left() {
        for odd in [-1.0, f32::NAN, f32::INFINITY] {
            let mut values = [1.0; 12];
            values[7] = odd;
            let error = told(&values, 3).unwrap_err();
            assert_eq!((error.kind(), error.at_tensor()), (ErrorKind::Input, Some("w")));
        }
        for shape in [vec![6], vec![1, 9], vec![2, 2], vec![2, 3, 4], vec![0, 9]] {
            let tensor = Tensor { name: "w".into(), dtype: Dtype::F32, shape, range: 0..0 };
            assert!(Factored::of(0, &tensor).is_none());
        }
    }
}

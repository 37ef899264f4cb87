//! Which scale belongs to which element: blocks of a matrix, cut into bands of whole rows of blocks.

use core::fmt;
use core::ops::Range;

/// The sides of DeepSeek's blocks, taken where they fit and no config says others.
const USUAL: u64 = 128;
/// Bytes of codes of a band, as far as whole rows of blocks allow. Heads alone decide it, so that what is added up over bands does
/// not depend on machines.
const BAND: u64 = 512 << 10;

/// Matrices of codes, one after the other, each with a matrix of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    matrices: u64,
    rows: u64,
    pub(super) columns: u64,
    /// The sides of a block.
    pub(super) tall: u64,
    pub(super) wide: u64,
}

/// Some rows of blocks of one of the matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    /// Its first row among the rows of all matrices.
    pub(super) first: u64,
    pub(super) rows: u64,
    /// The first of its rows of scales, among those of all matrices, and how many.
    pub(super) first_scales: u64,
    pub(super) scale_rows: u64,
}

impl Grid {
    /// Of tensors with these shapes; `None` where the scales are not one for all, each row or each block. `block` is what a config
    /// says of its sides.
    pub(super) fn new(codes: &[u64], scales: &[u64], block: Option<(u64, u64)>) -> Option<Self> {
        let (&columns, before) = codes.split_last()?;
        let all = before.iter().try_fold(1_u64, |all, side| all.checked_mul(*side))?;
        if matches!(scales, [] | [1]) {
            return Some(Self { matrices: 1, rows: all, columns, tall: all.max(1), wide: columns.max(1) });
        }
        let (&rows, outer) = before.split_last()?;
        if let ([own], []) = (scales, outer)
            && *own == rows
        {
            return Some(Self { matrices: 1, rows, columns, tall: 1, wide: columns.max(1) });
        }
        let ([scale_outer @ .., tall, wide], true) = (scales, scales.len() == codes.len()) else {
            return None;
        };
        if scale_outer != outer {
            return None;
        }
        let tall = side(rows, *tall, block.map(|it| it.0))?;
        let wide = side(columns, *wide, block.map(|it| it.1))?;
        Some(Self { matrices: outer.iter().product(), rows, columns, tall, wide })
    }

    /// Scales in a row.
    pub(super) fn across(&self) -> u64 {
        self.columns.div_ceil(self.wide)
    }

    /// Rows of scales of a matrix.
    fn down(&self) -> u64 {
        self.rows.div_ceil(self.tall)
    }

    pub(super) fn elements(&self) -> u64 {
        self.matrices * self.rows * self.columns
    }

    pub(super) fn scales(&self) -> u64 {
        self.matrices * self.down() * self.across()
    }

    /// Rows of blocks in a band.
    fn step(&self) -> u64 {
        (BAND / (self.tall * self.columns).max(1)).max(1)
    }

    /// How many bands there are.
    pub(super) fn bands(&self) -> u64 {
        if self.elements() == 0 { 0 } else { self.matrices * self.down().div_ceil(self.step()) }
    }

    pub(super) fn band(&self, number: u64) -> Band {
        let each = self.down().div_ceil(self.step());
        let (matrix, from) = (number / each, number % each * self.step());
        let scale_rows = self.step().min(self.down() - from);
        let first = from * self.tall;
        Band {
            first: matrix * self.rows + first,
            rows: (scale_rows * self.tall).min(self.rows - first),
            first_scales: matrix * self.down() + from,
            scale_rows,
        }
    }

    /// The rows of a band that share its row of scales `number`, counted from the band's first.
    pub(super) fn rows_of(&self, band: Band, number: u64) -> Range<u64> {
        number * self.tall..((number + 1) * self.tall).min(band.rows)
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tall >= self.rows && self.wide >= self.columns {
            f.write_str("as a whole")
        } else if self.tall == 1 && self.wide >= self.columns {
            f.write_str("row by row")
        } else {
            write!(f, "by blocks of [{}, {}]", self.tall, self.wide)
        }
    }
}

/// The side of a block, of which `count` cover `length`.
fn side(length: u64, count: u64, known: Option<u64>) -> Option<u64> {
    let fits = |side: u64| side > 0 && length.div_ceil(side) == count;
    match known {
        Some(side) => Some(side).filter(|side| fits(*side)),
        None if count == 1 => Some(length.max(1)),
        None if count == length => Some(1),
        None if fits(USUAL) => Some(USUAL),
        None => length.checked_div(count).filter(|side| side.is_power_of_two() && side * count == length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_say_what_a_scale_is_for() {
        let told = |codes: &[u64], scales: &[u64], block| {
            Grid::new(codes, scales, block).map(|grid| alloc::format!("{grid}"))
        };
        let blocks = |sides: [u64; 2]| Some(alloc::format!("by blocks of {sides:?}"));
        assert_eq!(told(&[576, 7168], &[5, 56], None), blocks([128, 128]));
        assert_eq!(told(&[576, 7168], &[9, 112], Some((64, 64))), blocks([64, 64]));
        assert_eq!(told(&[576, 7168], &[9, 112], None), blocks([64, 64]));
        assert_eq!(told(&[8, 300, 256], &[8, 3, 2], None), blocks([128, 128]));
        assert_eq!(told(&[30, 20], &[30, 1], None).as_deref(), Some("row by row"));
        assert_eq!(told(&[30, 20], &[30], None).as_deref(), Some("row by row"));
        assert_eq!(told(&[30, 20], &[], None).as_deref(), Some("as a whole"));
        assert_eq!(told(&[30, 20], &[1], None).as_deref(), Some("as a whole"));
        for (codes, scales, block) in [
            (&[576, 7168][..], &[4, 56][..], None),
            (&[576, 7168], &[9, 112], Some((128, 128))),
            (&[576, 7168], &[56, 5], None),
            (&[576, 7168], &[576, 7168, 1], None),
            (&[8, 300, 256], &[7, 3, 2], None),
            (&[300, 256], &[2, 2], Some((128, 128))),
            (&[], &[2], None),
        ] {
            assert_eq!(told(codes, scales, block), None, "{codes:?} {scales:?}");
        }
    }

    #[test]
    fn bands_cover_every_row_once() {
        for (codes, scales) in [
            (&[1000, 4096][..], &[8, 32][..]),
            (&[3, 300, 5000], &[3, 3, 40]),
            (&[5000, 300], &[5000, 1]),
            (&[70, 9], &[]),
        ] {
            let grid = Grid::new(codes, scales, None).unwrap();
            let (mut rows, mut scale_rows) = (0, 0);
            for band in (0..grid.bands()).map(|number| grid.band(number)) {
                assert_eq!((band.first, band.first_scales), (rows, scale_rows));
                let mut within = 0;
                for number in 0..band.scale_rows {
                    let rows = grid.rows_of(band, number);
                    assert!(rows.start == within && rows.end > within);
                    within = rows.end;
                }
                assert_eq!(within, band.rows);
                (rows, scale_rows) = (rows + band.rows, scale_rows + band.scale_rows);
            }
            assert_eq!(rows * grid.columns, grid.elements());
            assert_eq!(scale_rows * grid.across(), grid.scales());
        }
    }
}

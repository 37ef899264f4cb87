//! Linear algebra in f64 that gives the same bits everywhere: fixed lanes, fixed order.

pub(crate) mod cholesky;
pub(crate) mod eigen;
pub(crate) mod gram;
pub(crate) mod low_rank;
pub(crate) mod matrix;

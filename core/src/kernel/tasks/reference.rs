//! Tasks over a base as the formula says: never optimised, never removed.

use super::{How, Tasks};
use crate::dtype::Float;
use crate::kernel::element::{Tally, round};
use crate::kernel::middle::share;
use crate::kernel::real::{Real, each};
use crate::kernel::{Operand, needs_f64};

/// The obvious loop.
pub(in crate::kernel) fn reference(
    operands: &[Operand<'_>],
    tasks: Tasks,
    dtype: Float,
    out: &mut [u8],
) -> Tally {
    if needs_f64(operands, dtype) {
        each(operands, dtype, out, |values: &mut [f64]| element(values, operands, tasks))
    } else {
        each(operands, dtype, out, |values: &mut [f32]| element(values, operands, tasks))
    }
}

fn element<R: Real>(values: &mut [R], operands: &[Operand<'_>], tasks: Tasks) -> R {
    if values.iter().any(|value| !value.exact().is_finite()) {
        return R::NAN;
    }
    let (base, taus) = values.split_first_mut().expect("the base is the first operand");
    let (is_plain, start) = (tasks.how == How::Plain, base.flush());
    for (tau, operand) in taus.iter_mut().zip(&operands[1..]) {
        if !is_plain {
            *tau = (tau.flush() - start).flush();
        }
        if matches!(tasks.how, How::Sum | How::Plain) {
            *tau = (R::of(operand.weight) * tau.flush()).flush();
        } else if matches!(tasks.how, How::Trimmed | How::Elected)
            && round(tau.magnitude().exact()) < round(operand.weight)
        {
            *tau = R::ZERO;
        }
    }
    let sum = |taus: &[R]| taus[1..].iter().fold(taus[0], |sum, tau| (sum + *tau).flush());
    let mut total = sum(taus);
    if tasks.how == How::Elected {
        let is_up = total >= R::ZERO;
        for tau in taus.iter_mut().filter(|tau| (**tau > R::ZERO) != is_up) {
            *tau = R::ZERO;
        }
        let count = taus.iter().filter(|tau| tau.exact() != 0.0).count().max(1);
        total = (sum(taus) * R::of(share(count))).flush();
    }
    if let How::Agreed { least, lambda } = tasks.how {
        let has_share = |tau: &&R| {
            let others = (total - **tau).flush().magnitude();
            tau.magnitude().exact() > (R::of(lambda) * others).flush().exact()
        };
        if taus.iter().filter(has_share).count() < least as usize {
            total = R::ZERO;
        }
    }
    let update = (R::of(tasks.scale) * total).flush();
    if is_plain {
        return ((R::of(operands[0].weight) * start).flush() + update).flush();
    }
    if update.exact() == 0.0 { *base } else { (start + update).flush() }
}

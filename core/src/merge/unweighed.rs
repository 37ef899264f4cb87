//! A merge whose weights only the tensors tell: what is measured before anything is merged, and the weights that come of it.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::{Chosen, MergeOptions, Round, report};
use crate::error::{Error, ErrorKind, Result};
use crate::linalg::matrix::Matrix;
use crate::method::apart::{Apart, Measured};
use crate::method::product::{Factors, Products, Rank, Space, adapter_configs};
use crate::plan::{Plan, Recipe};
use crate::weigh::robust::{Judged, Robust};
use crate::weigh::scheme::Weights;

/// What is measured, and as far as it was.
#[derive(Debug)]
pub(super) struct Unweighed {
    apart: Apart,
    found: Vec<Option<Vec<f64>>>,
}

impl Unweighed {
    /// Plan what must be measured for `chosen`, if anything.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there are too few inputs, [`ErrorKind::Method`] when nothing can be measured; those of
    /// plans and of products.
    pub(super) fn new(chosen: &Chosen, options: MergeOptions, recipe: &Recipe) -> Result<Option<Self>> {
        let (robust, round) = (chosen.robust, chosen.round.as_ref());
        if robust.is_none() && round.is_none_or(|round| round.roles.clip.is_none()) {
            return Ok(None);
        }
        let Chosen { inputs, configs, .. } = chosen;
        robust
            .map_or(Ok(()), |robust| robust.check(round.map_or(inputs.len(), |round| round.roles.clients)))?;
        let same = Weights::explicit(&vec![1.0; inputs.len()])?;
        // the base model itself is what adapters are seen from, unless clients tell what they were sent
        let is_flag = robust.is_some_and(Robust::has_reference)
            && round.is_none_or(|round| round.roles.sent.is_empty());
        let products = if is_flag || matches!(options.space, Space::Product(_)) {
            let optional: Vec<_> = configs.iter().map(Option::as_ref).collect();
            let factors = Factors::new(inputs, &optional, &same)?;
            if is_flag && factors.is_empty() {
                let detail = "the scheme flag compares what LoRA modules do, and there are none: models themselves point the \
                              same way, and what they were trained from is not known";
                return Err(Error::new(ErrorKind::Method, detail)
                    .help("use --scheme geometric-median, krum or multi-krum"));
            }
            Some(Products::new(factors, &adapter_configs(inputs, &optional)?)?)
        } else {
            None
        };
        let mut recipe = Recipe { by_tensor: true, ..recipe.clone() };
        if let Some(products) = &products {
            recipe.elsewhere = products.layout(&products.ranks(Rank::Inputs, &[])?, None);
        }
        let plan = Plan::new(inputs, &same, &recipe)?;
        let plan = if is_flag { plan.nothing() } else { plan };
        let hub = round.filter(|_| robust.is_none()).and_then(|round| round.roles.hub());
        let apart = Apart::new(inputs.len(), plan, products, hub);
        let count = usize::try_from(apart.count()).expect("chunks grow with what is read");
        Ok(Some(Self { apart, found: vec![None; count] }))
    }

    pub(super) fn apart(&self) -> &Apart {
        &self.apart
    }

    /// Where what a job finds is kept.
    pub(super) fn place(&mut self, number: u64) -> Option<&mut Option<Vec<f64>>> {
        usize::try_from(number).ok().and_then(|i| self.found.get_mut(i))
    }

    pub(super) fn is_measured(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }

    /// Weigh `chosen` by what was found; what there is to tell.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when nothing has weight.
    pub(super) fn weigh(self, chosen: &mut Chosen) -> Result<Vec<String>> {
        let found: Vec<_> = self.found.into_iter().flatten().collect();
        let measured = self.apart.settle(&found)?;
        let robust = chosen.robust.take();
        let judged = match (&mut chosen.round, robust) {
            (Some(round), robust) => {
                let judged = weigh_round(&measured, round, robust, &mut chosen.rows)?;
                chosen.weights = round.roles.weights(chosen.rows.len(), &judged.weights)?;
                judged
            }
            (None, Some(robust)) => {
                let table = if robust.has_reference() { &measured.products } else { &measured.distances };
                let judged = robust.judge(table, chosen.weights.values())?;
                chosen.weights = Weights::explicit(&judged.weights)?;
                judged
            }
            (None, None) => return Ok(Vec::new()),
        };
        for (row, weight) in chosen.rows.iter_mut().zip(chosen.weights.values()) {
            row.weight = *weight;
        }
        if let Some(robust) = robust {
            let (name, source) = robust.measure(judged.measured.len());
            chosen.weighting.metric = Some(name.into());
            for (row, value) in chosen.rows.iter_mut().zip(&judged.measured) {
                row.metric = Some(*value);
                row.source = Some(source.clone());
            }
        }
        Ok(judged.notes)
    }
}

/// What each client's update counts, when its norm is clipped and it is compared with the others; rows are told.
fn weigh_round(
    measured: &Measured,
    round: &Round,
    robust: Option<Robust>,
    rows: &mut [report::Input],
) -> Result<Judged> {
    let Round { roles, shares, .. } = round;
    let clients = roles.clients;
    let has_all = robust.is_some() || roles.hub().is_none();
    if roles.sent.is_empty() {
        // nothing tells what they were sent: clients are compared as they are, or from the base model
        let mut judged = Judged { weights: shares.clone(), measured: Vec::new(), notes: Vec::new() };
        if let Some(robust) = robust {
            let table = if robust.has_reference() { &measured.products } else { &measured.distances };
            judged = robust.judge(table, shares)?;
        }
        return Ok(judged);
    }
    let products = roles.products(&measured.distances)?;
    let norms: Vec<f64> =
        (0..clients).map(|i| libm::sqrt(measured.distances.at(i, roles.sent[i]).max(0.0))).collect();
    let kept: Vec<f64> = norms.iter().map(|norm| roles.kept(*norm)).collect();
    let mut judged = Judged { weights: shares.clone(), measured: Vec::new(), notes: Vec::new() };
    if let Some(robust) = robust {
        let mut table = Matrix::zero(clients, clients)?;
        for i in 0..clients {
            for j in 0..clients {
                let between = kept[i] * kept[j] * products.at(i, j);
                let is_plain = kept[i] == 1.0 && kept[j] == 1.0 && roles.sent[i] == roles.sent[j];
                let value = if robust.has_reference() {
                    between
                } else if is_plain {
                    measured.distances.at(i, j)
                } else {
                    let (a, b) = (kept[i] * norms[i], kept[j] * norms[j]);
                    (a * a + b * b - 2.0 * between).max(0.0)
                };
                table.set(i, j, value);
            }
        }
        let all: f64 = shares.iter().sum();
        let parts: Vec<f64> = shares.iter().map(|share| share / all).collect();
        judged = robust.judge(&table, &parts)?;
        judged.weights.iter_mut().for_each(|weight| *weight *= all);
    }
    let along = |i: usize| (0..clients).fold(0.0, |sum, j| sum + shares[j] * products.at(i, j));
    let mean = libm::sqrt((0..clients).fold(0.0, |sum, i| sum + shares[i] * along(i)).max(0.0));
    for (i, row) in rows.iter_mut().enumerate().take(clients) {
        let Some(told) = &mut row.round else { continue };
        told.norm = Some(norms[i]);
        told.kept = roles.clip.map(|_| kept[i]);
        let cosine = along(i) / (norms[i] * mean);
        told.cosine = Some(cosine).filter(|cosine| has_all && cosine.is_finite());
    }
    judged.weights.iter_mut().zip(&kept).for_each(|(weight, kept)| *weight *= kept);
    Ok(judged)
}

//! A merge whose weights only the tensors tell: what is measured before anything is merged, and the weights that come of it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::{Chosen, MergeOptions, Round, report};
use crate::error::{Error, ErrorKind, Result};
use crate::linalg::matrix::Matrix;
use crate::method::apart::{Apart, Measured};
use crate::method::product::{Factors, Products, Rank, Space, adapter_configs};
use crate::plan::{Plan, Recipe};
use crate::text::escape::readable;
use crate::weigh::angles::{Angle, Turned};
use crate::weigh::modules::Groups;
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
        let angle = options.blend.angle();
        if robust.is_none() && angle.is_none() && round.is_none_or(|round| round.roles.clip.is_none()) {
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
        let has_zero = angle.is_some() && !chosen.has_base;
        let apart = Apart::new(inputs.len(), plan, products, hub, has_zero);
        if let (Some(Angle::ModelStock), true, Some(tensor)) = (angle, has_zero, apart.first_tensor()) {
            let detail = "is no factor of a product, and what the model that is adapted has there is not known, from which \
                          model-stock would go";
            let help = "use --method multi-slerp or karcher, or leave out --space product and give an earlier checkpoint of the run as \
                        --base";
            return Err(Error::new(ErrorKind::Method, detail).tensor(tensor).help(help));
        }
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

    /// What the angles between the inputs of `chosen` make of each tensor: what there is to tell, and the scalars of each.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] where nothing is left, [`ErrorKind::Usage`] where that is not what jobs find.
    pub(super) fn turn(self, chosen: &Chosen, angle: Angle) -> Result<(Vec<String>, Groups)> {
        let found: Vec<_> = self.found.into_iter().flatten().collect();
        let first = usize::from(chosen.has_base);
        let shares = &chosen.weights.values()[first..];
        let origin = if chosen.has_base { 0 } else { chosen.inputs.len() };
        let (mut scalars, mut told) = (Vec::new(), Told::default());
        for (name, is_module, measured) in self.apart.settle_each(&found)? {
            let count = shares.len();
            let apart = |i: usize, j: usize| measured.distances.at(i, j);
            let mut gram = Matrix::zero(count, count)?;
            for i in 0..count {
                for j in 0..count {
                    let (a, b) = (first + i, first + j);
                    let product = match is_module {
                        true => measured.products.at(a, b),
                        false => (apart(a, origin) + apart(b, origin) - apart(a, b)) / 2.0,
                    };
                    gram.set(i, j, product);
                }
            }
            let mut turned = angle.turn(&gram, shares)?;
            // what is the same everywhere passes unchanged
            let last = first + count - 1;
            if !is_module && !chosen.has_base && (0..last).all(|i| apart(i, last) == 0.0) {
                turned.scalars.fill(0.0);
                turned.scalars[count - 1] = 1.0;
            }
            told.add(&name, &turned);
            if chosen.has_base {
                let rest = turned.scalars.iter().fold(1.0, |rest, scalar| rest - scalar);
                turned.scalars.insert(0, rest);
            }
            scalars.push((name, Weights::scalars(turned.scalars)));
        }
        if told.tensors > 0.0 && told.scalars == 0.0 && !chosen.has_base {
            let detail = "what the adapters do has nothing in common in any module: model-stock leaves the model that they adapt as it is";
            return Err(Error::new(ErrorKind::Weights, detail).help(
                "use --method karcher or multi-slerp, or merge adapters that were trained for like things",
            ));
        }
        Ok((told.note(angle), Groups::of_tensors(scalars)))
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

/// What there is to tell of the angles in all tensors.
#[derive(Default)]
struct Told {
    tensors: f64,
    /// How many had no angle that tells anything.
    linear: f64,
    cosines: f64,
    /// The sums of scalars.
    scalars: f64,
    least: Option<(f64, String)>,
    most: Option<(f64, String)>,
}

impl Told {
    fn add(&mut self, name: &str, turned: &Turned) {
        self.tensors += 1.0;
        self.linear += f64::from(u8::from(turned.is_linear));
        self.cosines += turned.cosine;
        self.scalars += turned.scalars.iter().sum::<f64>();
        let one = || Some((turned.cosine, readable(name).into_owned()));
        if self.least.as_ref().is_none_or(|(least, _)| turned.cosine < *least) {
            self.least = one();
        }
        if self.most.as_ref().is_none_or(|(most, _)| turned.cosine > *most) {
            self.most = one();
        }
    }

    fn note(self, angle: Angle) -> Vec<String> {
        let Self { tensors, linear, cosines, scalars, least: Some((least, a)), most: Some((most, b)) } = self
        else {
            return Vec::new();
        };
        let rest = match angle {
            Angle::ModelStock => {
                format!(
                    "; on average the result is {:.4} of the way from the base to the mean",
                    scalars / tensors
                )
            }
            _ if linear > 0.0 => {
                format!("; in {linear} there is no angle to go by, and the weights are those of the mean")
            }
            _ => String::new(),
        };
        let mean = cosines / tensors;
        Vec::from([format!(
            "of {tensors} tensors the cosine between the inputs is {mean:.4} on average, from {least:.4} in `{a}` to {most:.4} in \
             `{b}`{rest}"
        )])
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

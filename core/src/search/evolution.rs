//! Evolution on the target metric, as LCSC (arXiv 2404.02241) has it: linear combinations of the checkpoints of one run, Σ = 1,
//! negative weights allowed.
//!
//! Genes are the weights of all checkpoints but the newest, which takes what is left to 1, in each part of the model. A round has ten children of two of
//! the five best each: every gene from either parent, and with ½ moved by 0.1·N(0, 1), within ±2. The best 20 of old and new
//! survive, the older of equals. The settings of the paper are not known to us; these are ours.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::ground::{DECAYS, Ground, LAST, METRIC, UNIFORM, moving_average};
use super::proposal::{Proposal, Proposer, anchored_each, bounded, genes_of};
use super::random::Random;

const POPULATION: usize = 20;
const PARENTS: usize = 5;
const CHILDREN: usize = 10;
/// How far a gene mutates.
const SIGMA: f64 = 0.1;
/// How often.
const RATE: f64 = 0.5;

/// A population.
pub(super) struct Evolution {
    random: Random,
    /// How many checkpoints there are.
    count: usize,
    /// Those who live, best first: cost, when born, genes.
    people: Vec<(f64, usize, Vec<f64>)>,
    /// Those who were proposed last, by when they were born.
    young: Vec<(usize, Vec<f64>)>,
    born: usize,
    starts: Vec<Proposal>,
}

impl Evolution {
    /// Begins with the last checkpoint, the mean, moving averages, the metric's own weights, and `seeds`.
    pub(super) fn new(ground: &Ground, seed: u64, seeds: Vec<Proposal>) -> Self {
        let count = ground.count();
        let mut starts = vec![Proposal::new(LAST, ground.last()), Proposal::new(UNIFORM, ground.uniform())];
        let average = |decay| ground.spread(&moving_average(count, decay));
        starts.extend(DECAYS.map(|decay| Proposal::new(format!("ema {decay}"), average(decay))));
        starts.extend(ground.own().map(|own| Proposal::new(METRIC, own.to_vec())));
        starts.extend(seeds);
        Self { random: Random::new(seed), count, people: Vec::new(), young: Vec::new(), born: 0, starts }
    }

    fn child(&mut self) -> Vec<f64> {
        let best = self.people.len().min(PARENTS);
        let first = self.random.below(best);
        // a lone parent has children by itself
        let second = if best > 1 { self.random.below(best - 1) } else { 0 };
        let second = if best > 1 && second >= first { second + 1 } else { second };
        let (a, b) = (&self.people[first].2, &self.people[second].2);
        let random = &mut self.random;
        let crossed: Vec<_> =
            a.iter().zip(b).map(|(u, v)| if random.uniform() < 0.5 { *u } else { *v }).collect();
        let mutated = crossed
            .iter()
            .map(|gene| if random.uniform() < RATE { gene + SIGMA * random.normal() } else { *gene });
        mutated.map(bounded).collect()
    }
}

impl Proposer for Evolution {
    fn next(&mut self, told: &[f64], _: usize) -> Vec<Proposal> {
        if self.born == 0 {
            let mut starts = core::mem::take(&mut self.starts);
            self.born = starts.len();
            starts.truncate(POPULATION);
            for (at, start) in starts.iter_mut().enumerate() {
                let genes = genes_of(&start.weights, self.count);
                // what the newest has is what is left to 1, to the bit, as in every child
                start.weights = anchored_each(&genes, self.count);
                self.young.push((at, genes));
            }
            return starts;
        }
        for ((born, genes), cost) in core::mem::take(&mut self.young).into_iter().zip(told) {
            if cost.is_finite() {
                self.people.push((*cost, born, genes));
            }
        }
        self.people.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.people.truncate(POPULATION);
        if self.people.is_empty() {
            return Vec::new();
        }
        let children: Vec<_> = (0..CHILDREN).map(|_| self.child()).collect();
        for genes in &children {
            self.young.push((self.born, genes.clone()));
            self.born += 1;
        }
        children.iter().map(|genes| Proposal::new("evolution", anchored_each(genes, self.count))).collect()
    }
}

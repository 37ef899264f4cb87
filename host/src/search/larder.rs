//! Candidates that are merged before they are asked for, several in one pass over the checkpoints.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use mwa::Result;

use super::candidate::{Dish, Kitchen, called};
use super::entry::Entry;
use super::evaluator::Evaluator;
use crate::engine::pool::lock;

/// Candidates that nobody has asked for yet, and their weights.
pub(super) type Spare = Vec<(Vec<f64>, Dish)>;

/// Gives out candidates, merging the next lot when there is none left.
pub(super) struct Larder<'a> {
    kitchen: &'a Kitchen,
    /// Those that are wanted, by number.
    wanted: &'a [(usize, Vec<f64>)],
    shelf: Mutex<Shelf>,
}

struct Shelf {
    /// One for each that is wanted, until it is given out.
    dishes: Vec<Option<Dish>>,
    /// Which of them are still to be merged, in order.
    missing: VecDeque<usize>,
    spare: Spare,
    /// What may be wanted later, and is merged where a lot has room.
    ahead: Vec<Vec<f64>>,
    /// How many were merged ahead: each has a name of its own.
    named: usize,
}

impl<'a> Larder<'a> {
    /// With what was merged before.
    pub(super) fn new(
        kitchen: &'a Kitchen,
        wanted: &'a [(usize, Vec<f64>)],
        ahead: Vec<Vec<f64>>,
        mut spare: Spare,
    ) -> Self {
        let mut take = |weights: &Vec<f64>| {
            let at = spare.iter().position(|(known, _)| known == weights)?;
            Some(spare.swap_remove(at).1)
        };
        let dishes: Vec<_> = wanted.iter().map(|(_, weights)| take(weights)).collect();
        // what will not be wanted any more is removed
        spare.retain(|(weights, _)| ahead.contains(weights));
        let ahead = ahead.into_iter().filter(|it| spare.iter().all(|(weights, _)| weights != it)).collect();
        let missing = (0..wanted.len()).filter(|&at| dishes[at].is_none()).collect();
        Self { kitchen, wanted, shelf: Mutex::new(Shelf { dishes, missing, spare, ahead, named: 0 }) }
    }

    /// The candidate at a place among those that are wanted, each once. Meanwhile no other is merged.
    fn take(&self, at: usize, stopped: &(dyn Fn() -> bool + Sync)) -> Result<Dish> {
        let mut shelf = lock(&self.shelf);
        loop {
            if let Some(dish) = shelf.dishes[at].take() {
                return Ok(dish);
            }
            self.fill(&mut shelf, stopped)?;
        }
    }

    fn fill(&self, shelf: &mut Shelf, stopped: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let lot = self.kitchen.lot();
        let places: Vec<_> = shelf.missing.iter().copied().take(lot).collect();
        assert!(!places.is_empty(), "each candidate is taken once");
        let room = lot.saturating_sub(places.len() + shelf.spare.len()).min(shelf.ahead.len());
        let ahead: Vec<_> = shelf.ahead.drain(..room).collect();
        let mut orders: Vec<(String, &[f64])> =
            places.iter().map(|&at| (called(self.wanted[at].0), self.wanted[at].1.as_slice())).collect();
        let number = self.wanted[places[0]].0 + 1;
        for weights in &ahead {
            shelf.named += 1;
            orders.push((format!("ahead-of-{number}-{}", shelf.named), weights.as_slice()));
        }
        let mut dishes = self.kitchen.cook(&orders, stopped)?.into_iter();
        for at in places {
            shelf.dishes[at] = dishes.next();
            shelf.missing.pop_front();
        }
        shelf.spare.extend(ahead.into_iter().zip(dishes));
        Ok(())
    }

    /// The candidate at a place among those that are wanted, scored.
    pub(super) fn serve(
        &self,
        at: usize,
        worker: usize,
        evaluator: &dyn Evaluator,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Entry> {
        let dish = self.take(at, stopped)?;
        let (number, weights) = &self.wanted[at];
        self.kitchen.taste(dish, worker, *number, weights, evaluator, stopped)
    }

    /// What was merged and not asked for.
    pub(super) fn rest(self) -> Spare {
        self.shelf.into_inner().unwrap_or_else(PoisonError::into_inner).spare
    }
}

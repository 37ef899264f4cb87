//! A search under way: trials out, scores in.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::ground::Ground;
use super::method::Method;
use super::proposal::{Begun, Proposal, Proposer};
use super::trial::{Outcome, Trial, is_same};
use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::text::spelling::one_of;

/// So many lots in a row may bring nothing new, before a search is over.
const IDLE: usize = 1000;

/// A search is given up when so many trials failed and none was scored.
const HOPELESS: usize = 5;

/// A search under way.
pub struct Search {
    method: Method,
    ground: Ground,
    budget: usize,
    goal: Goal,
    seed: u64,
    proposer: Box<dyn Proposer>,
    reason: Option<String>,
    trials: Vec<Trial>,
    /// The places in `trials` of what was proposed last.
    lot: Vec<usize>,
    is_over: bool,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search")
            .field("method", &self.method)
            .field("trials", &self.trials)
            .finish_non_exhaustive()
    }
}

impl Search {
    /// Begin.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where there is nothing to search, or the method does not fit the checkpoints and the budget.
    pub fn new(method: Method, ground: Ground, budget: usize, goal: Goal, seed: u64) -> Result<Self> {
        if ground.count() < 2 {
            return Err(Error::new(
                ErrorKind::Usage,
                "there is nothing to search: one checkpoint weighs 1, always",
            )
            .help("choose more checkpoints, for example with --select all"));
        }
        if ground.parts() > 1 && !method.has_parts {
            let detail =
                format!("method {method} finds weights for the model as a whole, and groups have their own");
            let can = Method::ALL.iter().filter(|method| method.has_parts).map(|method| method.name);
            return Err(Error::new(ErrorKind::Usage, detail)
                .help(format!("leave out groups, or search by {}", one_of(&can.collect::<Vec<_>>()))));
        }
        let Begun { proposer, reason } = (method.begin)(&ground, budget, seed)?;
        let references = ground.references();
        let mut search = Self {
            method,
            ground,
            budget,
            goal,
            seed,
            proposer,
            reason,
            trials: Vec::new(),
            lot: Vec::new(),
            is_over: false,
        };
        search.add(references);
        // the proposer has seen none of these
        search.lot = Vec::new();
        Ok(search)
    }

    /// The numbers of the trials that may be scored now, and are not yet; none when the search is over.
    pub fn ask(&mut self) -> Vec<usize> {
        let mut idle = 0;
        loop {
            let open: Vec<_> =
                (0..self.trials.len()).filter(|&at| self.trials[at].outcome == Outcome::Open).collect();
            if !open.is_empty() || self.is_over {
                return open;
            }
            let left = self.budget.saturating_sub(self.trials.len());
            let told: Vec<_> = self.lot.iter().map(|&at| self.trials[at].cost(self.goal)).collect();
            let proposals =
                if left == 0 || idle == IDLE { Vec::new() } else { self.proposer.next(&told, left) };
            idle += 1;
            self.is_over = proposals.is_empty();
            self.add(proposals);
        }
    }

    /// Weights that may be asked for after those of now, the likeliest first, at most so many, none of them tried yet: a host that
    /// merges several at once merges them too.
    #[must_use]
    pub fn ahead(&self, most: usize) -> Vec<Vec<f64>> {
        let left = self.budget.saturating_sub(self.trials.len());
        let mut ahead = self.proposer.ahead(most.min(left));
        ahead.retain(|weights| self.find(weights).is_none());
        ahead
    }

    /// Make trials of what was proposed, as far as the budget goes.
    fn add(&mut self, proposals: Vec<Proposal>) {
        self.lot = Vec::new();
        for Proposal { by, weights } in proposals {
            let known = self.find(&weights);
            if known.is_none() && self.trials.len() == self.budget {
                break;
            }
            self.lot.push(known.unwrap_or(self.trials.len()));
            if known.is_none() {
                self.trials.push(Trial { by, weights, outcome: Outcome::Open });
            }
        }
    }

    /// Take in what came of a trial; `None` for one that failed. A score that is not finite is a failure.
    ///
    /// # Panics
    /// If there is no such trial, or it was told of before.
    pub fn tell(&mut self, number: usize, score: Option<f64>) {
        let trial = &mut self.trials[number];
        assert_eq!(trial.outcome, Outcome::Open, "a trial is told of once");
        trial.outcome = match score {
            Some(score) if score.is_finite() => Outcome::Scored(score),
            _ => Outcome::Failed,
        };
    }

    /// A trial by its number, from 0 on.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn trial(&self, number: usize) -> &Trial {
        &self.trials[number]
    }

    /// All of them, in the order in which they were proposed.
    #[must_use]
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// Whether to give up: trials fail, and none was scored.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        let failed = self.trials.iter().filter(|trial| trial.has_failed()).count();
        self.winner().is_none() && failed >= HOPELESS.min(self.budget)
    }

    /// The number of the best so far, the first of equals.
    #[must_use]
    pub fn winner(&self) -> Option<usize> {
        let scored = self.trials.iter().enumerate().filter(|(_, trial)| trial.score().is_some());
        let cost = |trial: &Trial| trial.cost(self.goal);
        scored.reduce(|best, other| if cost(other.1) < cost(best.1) { other } else { best }).map(|(at, _)| at)
    }

    /// The best so far.
    #[must_use]
    pub fn best(&self) -> Option<&Trial> {
        self.winner().map(|at| &self.trials[at])
    }

    /// The number of the trial with these weights.
    #[must_use]
    pub fn find(&self, weights: &[f64]) -> Option<usize> {
        self.trials.iter().position(|trial| is_same(&trial.weights, weights))
    }

    /// What is known of the checkpoints.
    #[must_use]
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The method that was asked for.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// What it does and why, where the method chose by itself.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether lower or higher scores are better.
    #[must_use]
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The most trials.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Where random numbers begin.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

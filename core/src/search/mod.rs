//! The search for the best weights: proposes weight vectors, is told their scores, and knows the best so far.
//!
//! A [`Search`] asks and is told, like [`crate::merge::Merge`]: [`Search::ask`] gives the trials that may be scored now, all of
//! them at the same time, and [`Search::tell`] takes what came out, in any order. Proposers look at whole lots only, so that the
//! same trials come in the same order however many are scored at once. Weights that are equal as f32, which is what multiplies
//! checkpoints, are one trial. A budget counts trials, failed ones too; a failed trial is never the best and never a parent.
//!
//! Every search begins with the references that its result is compared with: the last checkpoint, the plain mean, and the
//! weights that a merge would take without a search.
//!
//! ```
//! use mwa::Goal;
//! use mwa::search::{Ground, Method, Search};
//!
//! let ground = Ground::bare(3); // three checkpoints, oldest first, of which no metric is known
//! let mut search = Search::new("lcsc".parse()?, ground, 40, Goal::Min, 42)?;
//! loop {
//!     let open = search.ask();
//!     if open.is_empty() {
//!         break;
//!     }
//!     for number in open {
//!         let weights = &search.trial(number).weights;
//!         let score = (weights[0] - 0.2).powi(2) + (weights[2] - 0.5).powi(2);
//!         search.tell(number, Some(score));
//!     }
//! }
//! assert!(search.best().unwrap().score().unwrap() < 0.01);
//! # Ok::<(), mwa::Error>(())
//! ```

mod auto;
mod cma;
mod evolution;
mod greedy;
mod ground;
mod landscape;
mod line;
mod plane;
mod quadratic;
mod random;
mod score;
mod sweep;
#[cfg(test)]
mod tests;
mod verdict;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::logs::goal::Goal;
use crate::text::spelling;

pub use ground::{Ground, LAST, METRIC, UNIFORM};
pub use score::Score;
pub use verdict::{Lead, negative};

/// How many weights are tried unless the caller says.
pub const BUDGET: usize = 50;

/// A way to search: a row of the module's table. Faces know it by its name, so that a new one is a row here and nothing
/// elsewhere.
#[derive(Clone, Copy)]
pub struct Method {
    /// The name in options and reports.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Its beginning, and why it fits if it was not asked for by name.
    begin: fn(&Ground, usize, u64) -> Result<Begun>,
}

/// A proposer at its beginning, and why it was chosen if it chose itself.
struct Begun {
    proposer: Box<dyn Proposer>,
    reason: Option<String>,
}

impl Begun {
    fn plain(proposer: impl Proposer + 'static) -> Self {
        Self { proposer: Box::new(proposer), reason: None }
    }
}

impl Method {
    /// Every method; the first is the default.
    pub const ALL: [Self; 8] = [
        Self {
            name: "auto",
            about: "a line for two checkpoints, else a sweep and, of a larger budget, evolution from its best",
            begin: auto::begin,
        },
        Self {
            name: "sweep",
            about: "the metric's schemes and penalties, plain means of the newest, moving averages",
            begin: |ground, _, _| Ok(Begun::plain(sweep::Sweep::new(ground))),
        },
        Self {
            name: "greedy",
            about: "a soup: best first, each kept only if the mean with it scores better",
            begin: |ground, _, _| Ok(Begun::plain(greedy::Greedy::new(ground.count()))),
        },
        Self {
            name: "lcsc",
            about: "evolution: children of the five best, crossed and mutated; weights may be negative",
            begin: |ground, _, seed| Ok(Begun::plain(evolution::Evolution::new(ground, seed, Vec::new()))),
        },
        Self {
            name: "cma",
            about: "CMA-ES: a normal distribution that learns where scores are good; tries its mean in the end",
            begin: |ground, _, seed| Ok(Begun::plain(cma::Cma::new(ground, seed))),
        },
        Self {
            name: "line",
            about: "golden section along the line through two checkpoints, and beyond both",
            begin: |ground, _, _| line::Line::new(ground.count()).map(Begun::plain),
        },
        Self {
            name: "plane",
            about: "a grid over the plane through three checkpoints, and beyond them, to look at",
            begin: |ground, budget, _| plane::Plane::new(ground.count(), budget).map(Begun::plain),
        },
        Self {
            name: "quadratic",
            about: "each checkpoint, the mean of each two, and the lowest point of the parabola through them",
            begin: |ground, budget, _| quadratic::Quadratic::new(ground.count(), budget).map(Begun::plain),
        },
    ];

    /// The names of [`Self::ALL`].
    pub const NAMES: [&str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut row = 0;
        while row < names.len() {
            names[row] = Self::ALL[row].name;
            row += 1;
        }
        names
    };
}

impl Default for Method {
    fn default() -> Self {
        Self::ALL[0]
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|method| method.name == name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no search method `{name}`"))
                .help(format!("use {}", spelling::one_of(&Self::NAMES)))
        })
    }
}

/// Weights to try, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    by: String,
    weights: Vec<f64>,
}

impl Proposal {
    fn new(by: impl Into<String>, weights: Vec<f64>) -> Self {
        Self { by: by.into(), weights }
    }
}

/// Who proposes.
trait Proposer {
    /// Weights to try next, none when there is nothing left to try. `told` has one cost for each proposal of before: the score,
    /// or its negative where higher is better, so that lower costs are better; infinite where there is none. At most `left`
    /// new weights will be tried; what is proposed beyond is not, and nothing is asked any more.
    fn next(&mut self, told: &[f64], left: usize) -> Vec<Proposal>;
}

/// Weights that were tried, or are to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where they come from: `last`, `uniform`, `linear 0.4`, `evolution`, ….
    pub by: String,
    /// One per checkpoint, oldest first; they sum to 1 within rounding, and may be negative.
    pub weights: Vec<f64>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Open,
    Failed,
    Scored(f64),
}

impl Trial {
    /// Its score, if it has one.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        if let Outcome::Scored(score) = self.outcome { Some(score) } else { None }
    }

    /// Whether it was tried in vain.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }

    fn cost(&self, goal: Goal) -> f64 {
        match (self.score(), goal) {
            (None, _) => f64::INFINITY,
            (Some(score), Goal::Min) => score,
            (Some(score), Goal::Max) => -score,
        }
    }
}

/// So many lots in a row may bring nothing new, before a search is over.
const IDLE: usize = 1000;

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

/// Whether two vectors weigh alike: rounded to f32, as they multiply checkpoints.
#[must_use]
pub fn is_same(a: &[f64], b: &[f64]) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "as weights are rounded in a merge")]
    let is_equal = |(a, b): (&f64, &f64)| *a as f32 == *b as f32;
    a.len() == b.len() && a.iter().zip(b).all(is_equal)
}

/// All weight on one of `count`.
fn single(count: usize, at: usize) -> Vec<f64> {
    let mut weights = vec![0.0; count];
    weights[at] = 1.0;
    weights
}

/// The plain mean of those at these places.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 checkpoints")]
fn mean_of(count: usize, members: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; count];
    members.iter().for_each(|&at| weights[at] = 1.0 / members.len() as f64);
    weights
}

/// Weights of free genes, one for each checkpoint but the newest, which takes what is left to 1: the sum is 1 without a
/// division, and weights may be negative.
fn anchored(genes: &[f64]) -> Vec<f64> {
    let sum = genes.iter().fold(0.0, |sum, gene| sum + gene);
    genes.iter().copied().chain([1.0 - sum]).collect()
}

/// Genes stay within −2 … 2.
const BOUND: f64 = 2.0;

/// A gene within its bounds.
fn bounded(gene: f64) -> f64 {
    gene.clamp(-BOUND, BOUND)
}

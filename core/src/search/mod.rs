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
mod method;
mod plane;
mod proposal;
mod quadratic;
mod random;
mod score;
mod state;
mod sweep;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;

pub use ground::{Ground, LAST, METRIC, UNIFORM};
pub use method::{BUDGET, Method};
pub use score::{Score, object};
pub use state::Search;
pub use trial::{Trial, is_same};
pub use verdict::{Lead, SINGLE, WINNER, called, negative};

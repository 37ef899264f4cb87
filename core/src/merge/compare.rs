//! Comparing inputs with each other: the jobs that read all of them side by side, for a host to look at the bytes.

use super::job::{Aim, Work};
use super::{Cut, Job};
use crate::adapter::config::AdapterConfig;
use crate::error::Result;
use crate::method::product::{Factors, Measure, Method};
use crate::plan::{Cuts, Input, Plan, Recipe};
use crate::weigh::scheme::Weights;

/// A comparison of inputs, in jobs like a merge's that write nothing.
#[derive(Debug)]
pub struct Comparison {
    plan: Plan,
    cuts: Cuts,
    factors: Option<(Factors, Method)>,
}

impl Comparison {
    /// Plan to read all tensors of all inputs, and to find how far averaged factors are from the average of their products
    /// by these weights, where they are LoRA factors.
    ///
    /// # Errors
    /// As [`Plan::new`], when the inputs do not hold the same tensors.
    pub fn new(
        inputs: &[Input],
        configs: &[Option<&AdapterConfig>],
        weights: &Weights,
        cut: Cut,
    ) -> Result<Self> {
        let even = Weights::explicit(&alloc::vec![1.0; inputs.len()])?;
        let recipe = Recipe { allow_non_finite: true, by_tensor: cut.by_tensor, ..Recipe::default() };
        let plan = Plan::new(inputs, &even, &recipe)?;
        // what is not a product of factors has no residual
        let factors = Factors::unscaled(inputs, configs, weights).ok().filter(|factors| !factors.is_empty());
        let factors = factors.and_then(|factors| factors.method(Measure::Auto).map(|how| (factors, how)));
        Ok(Self { cuts: Cuts::new(&plan, cut.max_bytes), plan, factors })
    }

    /// How many jobs read tensors; the host compares their bytes.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.cuts.count()
    }

    /// How many jobs there are; those after [`Self::elements`] are to be run, and find the residual of a module each.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.elements() + self.factors.as_ref().map_or(0, |(factors, _)| factors.count() as u64)
    }

    /// Bytes that all jobs together read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.plan.bytes() + self.factors.as_ref().map_or(0, |(factors, _)| factors.bytes())
    }

    /// The job with a number below [`Self::count`].
    ///
    /// # Panics
    /// If there is no such job.
    #[must_use]
    pub fn job(&self, number: u64) -> Job<'_> {
        if number < self.cuts.count() {
            return Job(Work::Elements(self.cuts.job(&self.plan, number)));
        }
        let module = usize::try_from(number - self.cuts.count()).expect("modules are in memory");
        let (factors, how) = self.factors.as_ref().expect("no job has this number");
        Job(Work::Module(factors.job(module), Aim::Residual(*how)))
    }
}

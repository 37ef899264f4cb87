//! Greedy soup (Wortsman et al. 2022): checkpoints by their own score, best first; each is kept in the mean only if the mean
//! with it scores strictly better.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::proposal::{Proposal, Proposer, mean_of, single};

/// A soup in the making.
pub(super) struct Greedy {
    count: usize,
    state: State,
}

enum State {
    Begin,
    /// Each checkpoint is scored by itself.
    Singles,
    /// What the soup holds and costs, and who is tried next, the best at the end; the very last is being tried.
    Soup {
        members: Vec<usize>,
        cost: f64,
        others: Vec<usize>,
    },
}

impl Greedy {
    pub(super) const fn new(count: usize) -> Self {
        Self { count, state: State::Begin }
    }

    /// The newest first, so that a small budget has those.
    fn singles(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.count).rev()
    }
}

impl Proposer for Greedy {
    fn next(&mut self, told: &[f64], _: usize) -> Vec<Proposal> {
        let (members, others) = match &mut self.state {
            State::Begin => {
                self.state = State::Singles;
                let single = |at| Proposal::new(String::from("single"), single(self.count, at));
                return self.singles().map(single).collect();
            }
            State::Singles => {
                let mut order: Vec<_> =
                    self.singles().zip(told.iter().copied()).filter(|(_, cost)| cost.is_finite()).collect();
                order.sort_by(|a, b| a.1.total_cmp(&b.1)); // the newer of equals first
                let Some((best, cost)) = order.first().copied() else { return Vec::new() };
                let others = order.iter().skip(1).rev().map(|(at, _)| *at).collect();
                self.state = State::Soup { members: Vec::from([best]), cost, others };
                let State::Soup { members, others, .. } = &self.state else {
                    unreachable!("it was just set")
                };
                (members, others)
            }
            State::Soup { members, cost, others } => {
                if let (Some(tried), Some(&with)) = (others.pop(), told.first())
                    && with < *cost
                {
                    members.push(tried);
                    *cost = with;
                }
                (&*members, &*others)
            }
        };
        let Some(&tried) = others.last() else { return Vec::new() };
        let members: Vec<_> = members.iter().copied().chain([tried]).collect();
        Vec::from([Proposal::new(format!("soup of {}", members.len()), mean_of(self.count, &members))])
    }

    /// What the soup may be next, with and without the one that is being tried, and so on.
    fn ahead(&self, most: usize) -> Vec<Vec<f64>> {
        let State::Soup { members, others, .. } = &self.state else { return Vec::new() };
        let mut order = others.iter().rev().copied();
        let Some(mut tried) = order.next() else { return Vec::new() };
        let (mut soups, mut ahead) = (Vec::from([members.clone()]), Vec::new());
        for next in order {
            let with =
                |soup: &Vec<usize>, more: usize| soup.iter().copied().chain([more]).collect::<Vec<_>>();
            soups = soups.into_iter().flat_map(|soup| [with(&soup, tried), soup]).collect();
            for soup in &soups {
                if ahead.len() == most {
                    return ahead;
                }
                ahead.push(mean_of(self.count, &with(soup, next)));
            }
            tried = next;
        }
        ahead
    }
}

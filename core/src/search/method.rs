//! The methods: a row each.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use super::ground::Ground;
use super::proposal::Begun;
use super::{auto, cma, evolution, greedy, line, plane, quadratic, sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::text::spelling;

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
    /// Whether it finds weights for each part of a model.
    pub(super) has_parts: bool,
    /// Its beginning, and why it fits if it was not asked for by name.
    pub(super) begin: fn(&Ground, usize, u64) -> Result<Begun>,
}

impl Method {
    /// Every method; the first is the default.
    pub const ALL: [Self; 8] = [
        Self {
            name: "auto",
            about: "a line for two checkpoints, else a sweep and, of a larger budget, evolution from its best",
            has_parts: true,
            begin: auto::begin,
        },
        Self {
            name: "sweep",
            about: "the metric's schemes and penalties, plain means of the newest, moving averages",
            has_parts: false,
            begin: |ground, _, _| Ok(Begun::plain(sweep::Sweep::new(ground))),
        },
        Self {
            name: "greedy",
            about: "a soup: best first, each kept only if the mean with it scores better",
            has_parts: false,
            begin: |ground, _, _| Ok(Begun::plain(greedy::Greedy::new(ground.count()))),
        },
        Self {
            name: "lcsc",
            about: "evolution: children of the five best, crossed and mutated; weights may be negative",
            has_parts: true,
            begin: |ground, _, seed| Ok(Begun::plain(evolution::Evolution::new(ground, seed, Vec::new()))),
        },
        Self {
            name: "cma",
            about: "CMA-ES: a normal distribution that learns where scores are good; tries its mean in the end",
            has_parts: true,
            begin: |ground, _, seed| Ok(Begun::plain(cma::Cma::new(ground, seed))),
        },
        Self {
            name: "line",
            about: "golden section along the line through two checkpoints, and beyond both",
            has_parts: false,
            begin: |ground, _, _| line::Line::new(ground.count()).map(Begun::plain),
        },
        Self {
            name: "plane",
            about: "a grid over the plane through three checkpoints, and beyond them, to look at",
            has_parts: false,
            begin: |ground, budget, _| plane::Plane::new(ground.count(), budget).map(Begun::plain),
        },
        Self {
            name: "quadratic",
            about: "each checkpoint, the mean of each two, and the lowest point of the parabola through them",
            has_parts: false,
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

//! From the options about product space to the space.

use mwa::{Error, ErrorKind, Rank, Result, Space};

/// The rank that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RankChoice {
    Fixed(usize),
    Auto,
    Full,
}

impl RankChoice {
    pub(crate) fn parse(text: &str) -> core::result::Result<Self, &'static str> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("full", _) => Ok(Self::Full),
            (_, Ok(rank)) if rank > 0 => Ok(Self::Fixed(rank)),
            _ => Err("is no rank; write a number, auto or full"),
        }
    }
}

/// The share of the squared norm that rank `auto` keeps.
const ENERGY: f64 = 0.999;

/// What is averaged.
pub(crate) fn space(
    is_product: bool,
    rank: Option<RankChoice>,
    energy: Option<f64>,
    is_strict: bool,
) -> Result<Space> {
    let rank = match (rank, energy) {
        (None, None) => None,
        (Some(RankChoice::Fixed(rank)), None) => Some(Rank::Fixed(rank)),
        (Some(RankChoice::Full), None) => Some(Rank::Full),
        (Some(RankChoice::Auto) | None, share) => Some(Rank::Energy(share.unwrap_or(ENERGY))),
        (Some(_), Some(_)) => {
            let detail = "--energy finds ranks by itself, but --rank gives one";
            return Err(Error::new(ErrorKind::Usage, detail).help("leave one of them out"));
        }
    };
    match is_product {
        true => Ok(Space::Product(rank)),
        false if rank.is_none() && !is_strict => Ok(Space::Factors),
        false => {
            let detail =
                "--rank, --energy and --strict are for product space; factors keep the rank they have";
            Err(Error::new(ErrorKind::Usage, detail).help("add --space product"))
        }
    }
}

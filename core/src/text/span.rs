//! A range of numbers that an option or a penalty must lie in, and how messages say it.

use core::fmt;

/// Which numbers fit. Infinity and NaN never do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// From … on.
    From(f64),
    /// From … to, both included.
    Between(f64, f64),
    /// From … on, and below.
    Below(f64, f64),
    /// Above …, and at most.
    Above(f64, f64),
}

impl Span {
    /// Whether a number lies in it.
    #[must_use]
    pub fn contains(self, number: f64) -> bool {
        number.is_finite()
            && match self {
                Self::From(least) => number >= least,
                Self::Between(least, most) => (least..=most).contains(&number),
                Self::Below(least, end) => (least..end).contains(&number),
                Self::Above(start, most) => number > start && number <= most,
            }
    }
}

/// Reads on after "it must be".
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(least) => write!(f, "{least} or larger"),
            Self::Between(least, most) => write!(f, "between {least} and {most}"),
            Self::Below(least, end) => write!(f, "at least {least} and below {end}"),
            Self::Above(start, most) => write!(f, "above {start} and at most {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn ends_are_in_or_out_as_they_say() {
        for (span, text, inside, outside) in [
            (Span::From(0.0), "0 or larger", [0.0, 1e300], [-0.1, f64::INFINITY]),
            (Span::Between(0.0, 1.0), "between 0 and 1", [0.0, 1.0], [-0.1, 1.1]),
            (Span::Below(0.0, 1.0), "at least 0 and below 1", [0.0, 0.9], [1.0, f64::NAN]),
            (Span::Above(0.0, 1.0), "above 0 and at most 1", [0.1, 1.0], [0.0, 1.1]),
        ] {
            assert_eq!(span.to_string(), text);
            assert!(inside.iter().all(|number| span.contains(*number)), "{text}");
            assert!(!outside.iter().any(|number| span.contains(*number)), "{text}");
        }
    }
}

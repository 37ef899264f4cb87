//! What becomes of the values that an element has in the inputs: their weighted mean, the middle of them, their mean by curvature, or
//! what tasks add to a base.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;

use crate::error::{Error, ErrorKind, Result};
use crate::format::safetensors::TextMap;
use crate::kernel::{Curved, How, Kernel, Tasks, Twin};
use crate::merge::report::Weighting;
use crate::method::curved::Curvature;
use crate::text::json;
use crate::text::words::words;
use crate::weigh::angles::Angle;

words! {
    /// The names of what can become of the values of an element.
    BlendName {
        /// The weighted mean.
        #[default]
        Mean = "mean",
        /// The middle value.
        Median = "median",
        /// The mean without the extremes.
        TrimmedMean = "trimmed-mean",
        /// What tasks changed of a base, added to it.
        TaskArithmetic = "task-arithmetic",
        /// The same of what each changed most.
        MagnitudeMask = "magnitude-mask",
        /// The mean of that, without what goes against the elected sign.
        Ties = "ties",
        /// All that tasks changed, where enough of them have their share in it.
        Consensus = "consensus",
        /// The mean of checkpoints, each element weighed by the second moment of its gradient.
        Ota = "ota",
        /// The same of what counts most by it of what was changed of a base.
        Ffg = "ffg",
        /// From a base as far to the mean of the others as these agree.
        ModelStock = "model-stock",
        /// The point on the arc between two.
        Slerp = "slerp",
        /// The mean of directions, as long as the inputs.
        MultiSlerp = "multi-slerp",
        /// The mean on the sphere, as long as the inputs.
        Karcher = "karcher",
    }
}

/// The share that counts unless it is said: that of the paper on TIES.
pub(crate) const DENSITY: f64 = 0.2;
/// The same of the paper on Fisher grafting.
pub(crate) const GRAFTED: f64 = 0.1;

/// How much of what the others changed together a task must exceed to have its share, and how many must, unless it is said: in the
/// middle of what the paper on TALL masks tries, and what it calls consensus.
pub const LAMBDA: f64 = 0.4;
pub(crate) const AGREE: usize = 2;
/// What a report calls these, and what weighs by second moments.
const AGREEING: [&str; 2] = ["mask_lambda", "agree"];
const CURVED: [&str; 3] = ["power", "epsilon", "normalise"];

/// What becomes of the values of an element.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Blend {
    /// Their weighted mean.
    #[default]
    Mean,
    /// The middle one, of an even number the mean of the two in the middle.
    Median,
    /// The mean of what is left without so many on each side.
    Trimmed(usize),
    /// A base, and so much of the weighted sum of what tasks changed of it; 1 / their number unless it is given.
    Sum(Option<f64>),
    /// A base, and so much of the sum of what tasks changed of it most.
    Masked(Option<f64>, Trimming),
    /// A base, and so much (1 unless it is given) of the mean of what they changed most with the elected sign.
    Ties(Option<f64>, Trimming),
    /// A base, and so much of the sum of what tasks changed of it, where enough of them have their share in it.
    Consensus(Option<f64>, Agreeing),
    /// Their mean, each weighed by how curved the loss is there.
    Curved(Curvature),
    /// A base, and where what was changed of it counts most by that, this mean of what counts.
    Grafted(Curvature, Trimming),
    /// The sum of what each tensor's angles make of the inputs, or of what was changed of a base if there is one.
    Angled(Angle, bool),
}

/// Where tasks agree: where |τ| > λ·|Σ τ − τ| of at least so many of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreeing {
    /// λ
    pub lambda: f64,
    /// How many; 0 asks nobody.
    pub least: usize,
}

/// What counts of a task: the largest magnitudes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trimming {
    /// The share that counts.
    pub density: f64,
    /// Whether that is of each tensor, instead of the whole model.
    pub is_by_tensor: bool,
}

impl Trimming {
    /// How many count of so many.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of elements, of which a share is taken"
    )]
    pub(crate) fn keep(self, elements: u64) -> u64 {
        (libm::floor(self.density * elements as f64) as u64).clamp(1, elements.max(1))
    }
}

words! {
    /// Over what shares of the largest are counted.
    DensityPer {
        /// All that is merged.
        #[default]
        Model = "model",
        /// Each tensor.
        Tensor = "tensor",
    }
}

impl BlendName {
    /// Whether it is of what tasks changed of a base.
    pub(crate) fn has_base(self) -> bool {
        let has_none = matches!(self, Self::Mean | Self::Median | Self::TrimmedMean | Self::Ota);
        !has_none && self.angle().is_none_or(|angle| angle == Angle::ModelStock)
    }

    /// The angles that decide, if they do.
    pub(crate) fn angle(self) -> Option<Angle> {
        match self {
            Self::ModelStock => Some(Angle::ModelStock),
            Self::Slerp => Some(Angle::Slerp),
            Self::MultiSlerp => Some(Angle::MultiSlerp),
            Self::Karcher => Some(Angle::Karcher),
            _ => None,
        }
    }

    /// Whether it asks how much each input counts.
    pub(crate) fn weighs(self) -> bool {
        self.instead_of_weights().is_none()
    }

    /// What tables say instead of weights, where it asks for none.
    #[must_use]
    pub fn instead_of_weights(self) -> Option<&'static str> {
        match self {
            Self::Mean | Self::TaskArithmetic | Self::Slerp | Self::MultiSlerp | Self::Karcher => None,
            Self::Ota | Self::Ffg => Some("by moments"),
            _ => Some("alike"),
        }
    }
}

impl Blend {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.kind().name()
    }

    const fn kind(self) -> BlendName {
        match self {
            Self::Mean => BlendName::Mean,
            Self::Median => BlendName::Median,
            Self::Trimmed(_) => BlendName::TrimmedMean,
            Self::Sum(_) => BlendName::TaskArithmetic,
            Self::Masked(..) => BlendName::MagnitudeMask,
            Self::Ties(..) => BlendName::Ties,
            Self::Consensus(..) => BlendName::Consensus,
            Self::Curved(_) => BlendName::Ota,
            Self::Grafted(..) => BlendName::Ffg,
            Self::Angled(Angle::ModelStock, _) => BlendName::ModelStock,
            Self::Angled(Angle::Slerp, _) => BlendName::Slerp,
            Self::Angled(Angle::MultiSlerp, _) => BlendName::MultiSlerp,
            Self::Angled(Angle::Karcher, _) => BlendName::Karcher,
        }
    }

    /// The angles that decide, if they do.
    #[must_use]
    pub fn angle(self) -> Option<Angle> {
        if let Self::Angled(angle, _) = self { Some(angle) } else { None }
    }

    /// Whether it asks how much each input counts.
    #[must_use]
    pub fn weighs(self) -> bool {
        self.kind().weighs()
    }

    /// The same where there is a base among the inputs, or not.
    pub(crate) fn over(self, has_base: bool) -> Self {
        if let Self::Angled(angle, _) = self { Self::Angled(angle, has_base) } else { self }
    }

    /// Whether it is the weighted mean, of which all else that merges do is told.
    #[must_use]
    pub fn is_mean(self) -> bool {
        self == Self::Mean
    }

    /// Whether it is of what tasks changed of a base.
    #[must_use]
    pub fn has_base(self) -> bool {
        if let Self::Angled(_, has_base) = self { has_base } else { self.kind().has_base() }
    }

    /// How much of what tasks changed is added to the base, where that was said.
    #[must_use]
    pub fn scale(self) -> Option<f64> {
        match self {
            Self::Sum(scale) | Self::Masked(scale, _) | Self::Ties(scale, _) | Self::Consensus(scale, _) => {
                scale
            }
            Self::Mean
            | Self::Median
            | Self::Trimmed(_)
            | Self::Curved(_)
            | Self::Grafted(..)
            | Self::Angled(..) => None,
        }
    }

    /// What of tasks counts, where not all does.
    #[must_use]
    pub fn trimming(self) -> Option<Trimming> {
        match self {
            Self::Masked(_, trimming) | Self::Ties(_, trimming) | Self::Grafted(_, trimming) => {
                Some(trimming)
            }
            _ => None,
        }
    }

    /// How second moments weigh, where they do.
    #[must_use]
    pub fn curvature(self) -> Option<Curvature> {
        if let Self::Curved(curvature) | Self::Grafted(curvature, _) = self { Some(curvature) } else { None }
    }

    /// What is said of inputs of several runs is said of the mean: the same, with what to do instead here.
    pub(crate) fn of_one_run(self, error: &Error) -> Error {
        if self.angle().is_some() {
            return error.clone().help_instead(format!(
                "method {} turns factors, and those of several runs have no directions in common: merge checkpoints of one run, or \
                 what adapters do, by --space product",
                self.name()
            ));
        }
        error.clone().help_instead(format!(
            "method {} takes values element by element, and factors of several runs have none in common: merge \
             checkpoints of one run, or let no bad one decide by --scheme geometric-median --space product",
            self.name()
        ))
    }

    /// Check that there are enough inputs, without a base.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] if there are not.
    pub(crate) fn check(self, inputs: usize) -> Result<()> {
        if let Self::Angled(angle, _) = self {
            return angle.check(inputs);
        }
        let Self::Trimmed(outliers) = self else { return Ok(()) };
        let least = outliers.saturating_mul(2).saturating_add(1);
        if inputs >= least {
            return Ok(());
        }
        let what = if outliers == 1 { "outlier" } else { "outliers" };
        let help = match inputs.saturating_sub(1) / 2 {
            0 => "take more, or use --method median".to_owned(),
            fewer => format!("take more, expect fewer (--outliers {fewer}), or use --method median"),
        };
        let detail = format!(
            "trimmed-mean with {outliers} {what} on each side needs {least} inputs, but there are {inputs}"
        );
        Err(Error::new(ErrorKind::Weights, detail).help(help))
    }

    /// The most inputs of which GPUs compute it, where they do.
    #[must_use]
    pub fn most_on_gpu(self) -> Option<usize> {
        self.kernel(2).twin().map(Twin::most_operands)
    }

    /// What computes it, of so many inputs, the base among them.
    pub(crate) fn kernel(self, inputs: usize) -> Kernel {
        let over_base = |how, scale| Kernel::Tasks(Tasks { how, scale });
        #[expect(clippy::cast_precision_loss, reason = "nobody merges 2^53 inputs")]
        let share = || 1.0 / inputs.saturating_sub(1).max(1) as f64;
        match self {
            Self::Mean => Kernel::WeightedSum,
            Self::Angled(_, true) => over_base(How::Sum, 1.0),
            Self::Angled(_, false) if inputs < 2 => Kernel::WeightedSum,
            Self::Angled(_, false) => over_base(How::Plain, 1.0),
            Self::Median => Kernel::Middle(inputs.saturating_sub(1) / 2),
            Self::Trimmed(outliers) => Kernel::Middle(outliers),
            Self::Sum(scale) => over_base(How::Sum, scale.unwrap_or_else(share)),
            Self::Masked(scale, _) => over_base(How::Trimmed, scale.unwrap_or_else(share)),
            Self::Ties(scale, _) => over_base(How::Elected, scale.unwrap_or(1.0)),
            Self::Consensus(scale, Agreeing { lambda, least }) => {
                let least = u32::try_from(least).unwrap_or(u32::MAX);
                over_base(How::Agreed { least, lambda }, scale.unwrap_or_else(share))
            }
            Self::Curved(Curvature { power, epsilon, .. }) => {
                Kernel::Curved(Curved { power, epsilon, is_grafted: false })
            }
            Self::Grafted(Curvature { power, epsilon, .. }, _) => {
                Kernel::Curved(Curved { power, epsilon, is_grafted: true })
            }
        }
    }

    /// Those of a report.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] where it names what is not known.
    pub(crate) fn told(weighting: &Weighting) -> Result<Self> {
        let Some(name) = &weighting.method else { return Ok(Self::Mean) };
        let is_by_tensor = weighting.density_per.as_deref() == Some(DensityPer::Tensor.name());
        let trimming = Trimming { density: weighting.density.unwrap_or(DENSITY), is_by_tensor };
        let told = |name: &str| weighting.settings.get(name);
        let number = |name: &str| told(name)?.parse::<f64>().ok();
        let usual = Curvature::default();
        let curvature = Curvature {
            power: number(CURVED[0]).unwrap_or(usual.power),
            epsilon: number(CURVED[1]).unwrap_or(usual.epsilon),
            normalise: told(CURVED[2]).and_then(|it| it.parse().ok()).unwrap_or_default(),
        };
        match (name.parse(), weighting.outliers) {
            (Ok(BlendName::Mean), _) => Ok(Self::Mean),
            (Ok(BlendName::Median), _) => Ok(Self::Median),
            (Ok(BlendName::TrimmedMean), Some(outliers)) => Ok(Self::Trimmed(outliers)),
            (Ok(BlendName::TaskArithmetic), _) => Ok(Self::Sum(weighting.scale)),
            (Ok(BlendName::MagnitudeMask), _) => Ok(Self::Masked(weighting.scale, trimming)),
            (Ok(BlendName::Ties), _) => Ok(Self::Ties(weighting.scale, trimming)),
            (Ok(BlendName::Consensus), _) => {
                let least = number(AGREEING[1]).and_then(json::whole).and_then(|least| least.try_into().ok());
                let lambda = number(AGREEING[0]).unwrap_or(LAMBDA);
                let agreeing = Agreeing { lambda, least: least.unwrap_or(AGREE) };
                Ok(Self::Consensus(weighting.scale, agreeing))
            }
            (Ok(BlendName::Ota), _) => Ok(Self::Curved(curvature)),
            (Ok(BlendName::Ffg), _) => Ok(Self::Grafted(curvature, trimming)),
            (other, _) => match other.ok().and_then(BlendName::angle) {
                Some(angle) => Ok(Self::Angled(angle, angle == Angle::ModelStock)),
                None => Err(Error::new(ErrorKind::Input, format!("names an unknown method, {name}"))),
            },
        }
    }

    /// Tell a report of it.
    pub(crate) fn tell(self, weighting: Weighting) -> Weighting {
        if self.is_mean() {
            return weighting;
        }
        let outliers = if let Self::Trimmed(outliers) = self { Some(outliers) } else { None };
        let settings = match self {
            Self::Consensus(_, Agreeing { lambda, least }) => {
                texts([(AGREEING[0], format!("{lambda}")), (AGREEING[1], format!("{least}"))])
            }
            Self::Curved(curvature) | Self::Grafted(curvature, _) => {
                let Curvature { power, epsilon, normalise } = curvature;
                let normalise = normalise.name().to_owned();
                texts([
                    (CURVED[0], format!("{power}")),
                    (CURVED[1], format!("{epsilon}")),
                    (CURVED[2], normalise),
                ])
            }
            _ => weighting.settings.clone(),
        };
        let trimming = self.trimming();
        let density_per = trimming.filter(|it| it.is_by_tensor).map(|_| DensityPer::Tensor.name().to_owned());
        Weighting {
            method: Some(self.name().to_owned()),
            outliers,
            scale: self.scale(),
            density: trimming.map(|it| it.density),
            density_per,
            settings,
            ..weighting
        }
    }
}

/// Settings of a report.
fn texts<const N: usize>(settings: [(&str, String); N]) -> TextMap {
    settings.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

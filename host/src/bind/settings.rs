//! Every option of the command line by its name, as one JSON object: how other languages say what they want.

use std::path::PathBuf;

use mwa::{Error, ErrorKind, Float, Goal, MetricOptions, Result, Scheme};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::engine::device::DeviceChoice;
use crate::options::{Machine, MergeOptions, Options};
use crate::space::{RankChoice, space};
use mwa::{ChooseOptions, PENALTY, Selection, WeightRule};

/// What [`crate::merge`], [`crate::weights`], [`crate::inspect`] and [`crate::verify`] can be told, except paths of
/// checkpoints. Names and meanings are the command line's, with `_` for `-`; what is left out has its default.
///
/// ```
/// let settings = mwa_host::Settings::parse(r#"{"metric": "eval_loss", "last": 4, "penalty": 1}"#)?;
/// assert_eq!(settings.options(vec!["runs/my-lora".into()])?.choose.select.last, Some(4));
/// # Ok::<(), mwa::Error>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    last: Option<AtLeastOne>,
    every: Option<AtLeastOne>,
    /// From … to, both included; null leaves an end open.
    steps: Option<(Option<u64>, Option<u64>)>,
    top: Option<AtLeastOne>,
    adapter: Option<String>,
    drop_bad: bool,
    metric: Option<String>,
    metrics_file: Option<PathBuf>,
    #[serde(deserialize_with = "parsed")]
    goal: Option<Goal>,
    smooth: Option<f64>,
    metric_tolerance: u64,
    strict_metrics: bool,
    #[serde(deserialize_with = "parsed")]
    scheme: Option<Scheme>,
    penalty: Option<f64>,
    weights: Option<Vec<f64>>,
    dtype: Option<OutputDtype>,
    space: Option<SpaceName>,
    /// A number, `"auto"` or `"full"`.
    #[serde(deserialize_with = "rank")]
    rank: Option<RankChoice>,
    energy: Option<f64>,
    strict: bool,
    no_residual: bool,
    allow_cross_run: bool,
    force: bool,
    threads: Option<AtLeastOne>,
    /// Bytes.
    memory: Option<u64>,
    /// A word of the command line's, or the places of GPUs: `[0, 1]` is `"gpu:0,1"`.
    #[serde(deserialize_with = "device")]
    device: Option<DeviceChoice>,
}

/// A count that cannot be zero.
type AtLeastOne = core::num::NonZeroUsize;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OutputDtype {
    Keep,
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SpaceName {
    Factors,
    Product,
}

impl Settings {
    /// Read a JSON object; an empty text is an empty object.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown name, a value of the wrong type or out of range, and options that contradict
    /// each other.
    pub fn parse(json: &str) -> Result<Self> {
        let usage = |detail: String| Error::new(ErrorKind::Usage, detail);
        let json = if json.trim().is_empty() { "{}" } else { json };
        let value: serde_json::Value =
            serde_json::from_str(json).map_err(|error| usage(format!("options are not JSON: {error}")))?;
        let settings: Self = serde_path_to_error::deserialize(value)
            .map_err(|error| usage(format!("option {}: {}", error.path(), error.inner())))?;
        let others = [
            ("scheme", settings.scheme.is_some()),
            ("penalty", settings.penalty.is_some()),
            ("metric", settings.metric.is_some()),
            ("metrics_file", settings.metrics_file.is_some()),
            ("goal", settings.goal.is_some()),
        ];
        match others.iter().find(|(_, is_given)| *is_given && settings.weights.is_some()) {
            Some((other, _)) => Err(usage(format!("options weights and {other} contradict each other"))
                .help("give your own weights, or a metric and how it weighs")),
            None => Ok(settings),
        }
    }

    /// Which of the checkpoints in `inputs`, and how they are weighed.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] for a penalty or weights that suit no checkpoints at all.
    pub fn options(&self, inputs: Vec<PathBuf>) -> Result<Options> {
        let options = Options {
            inputs,
            adapter: self.adapter.clone(),
            choose: ChooseOptions {
                select: Selection {
                    steps: self.steps.map(|(first, last)| (first.unwrap_or(0), last.unwrap_or(u64::MAX))),
                    every: self.every.map(AtLeastOne::get),
                    last: self.last.map(AtLeastOne::get),
                    top: self.top.map(AtLeastOne::get),
                },
                metric: MetricOptions {
                    name: self.metric.clone(),
                    goal: self.goal,
                    smooth: self.smooth,
                    tolerance: self.metric_tolerance,
                    strict: self.strict_metrics,
                },
                rule: match &self.weights {
                    Some(weights) => WeightRule::Explicit(weights.clone()),
                    None => WeightRule::Scheme {
                        scheme: self.scheme.unwrap_or_default(),
                        penalty: self.penalty.unwrap_or(PENALTY),
                    },
                },
                drop_bad: self.drop_bad,
            },
            metrics_file: self.metrics_file.clone(),
        };
        options.checked()
    }

    /// How the merge is done.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for options of product space without it.
    pub fn merge_options(&self) -> Result<MergeOptions> {
        if let Some(share) = self.energy.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return Err(Error::new(ErrorKind::Usage, format!("option energy: {share} is no share"))
                .help("give a number above 0, at most 1"));
        }
        let is_product = self.space == Some(SpaceName::Product);
        Ok(MergeOptions {
            dtype: self.dtype(),
            space: space(is_product, self.rank, self.energy, self.strict)?,
            allow_cross_run: self.allow_cross_run,
            strict: self.strict,
            no_residual: self.no_residual,
            force: self.force,
            machine: self.machine(),
        })
    }

    /// The output dtype of averaged tensors; `None` keeps the widest of the inputs.
    #[must_use]
    pub fn dtype(&self) -> Option<Float> {
        match self.dtype? {
            OutputDtype::Keep => None,
            OutputDtype::F32 => Some(Float::F32),
            OutputDtype::Bf16 => Some(Float::BF16),
            OutputDtype::F16 => Some(Float::F16),
        }
    }

    /// How much machine to use.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine {
            threads: self.threads.map(AtLeastOne::get),
            memory: self.memory,
            device: self.device.unwrap_or_default(),
        }
    }

    /// The adapter inside checkpoints that hold several.
    #[must_use]
    pub fn adapter(&self) -> Option<&str> {
        self.adapter.as_deref()
    }
}

fn parsed<'de, D: Deserializer<'de>, T: core::str::FromStr<Err = Error>>(
    deserializer: D,
) -> core::result::Result<Option<T>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| text.parse().map_err(|error: Error| D::Error::custom(error)))
        .transpose()
}

fn device<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> core::result::Result<Option<DeviceChoice>, D::Error> {
    let text = match Option::<serde_json::Value>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(serde_json::Value::String(text)) => text,
        Some(serde_json::Value::Array(places)) => {
            let places: Vec<_> = places.iter().map(serde_json::Value::to_string).collect();
            format!("gpu:{}", places.join(","))
        }
        Some(other) => other.to_string(),
    };
    text.parse().map(Some).map_err(|error: Error| D::Error::custom(error))
}

fn rank<'de, D: Deserializer<'de>>(deserializer: D) -> core::result::Result<Option<RankChoice>, D::Error> {
    let text = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    RankChoice::parse(&text).map(Some).map_err(|detail| D::Error::custom(format!("`{text}` {detail}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mwa::{Rank, Space};

    fn refused(json: &str) -> String {
        let error = Settings::parse(json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    }

    #[test]
    fn options_reach_the_library() {
        let settings = Settings::parse(
            r#"{"steps": [500, null], "goal": "max", "scheme": "power", "dtype": "bf16", "threads": 3, "adapter": null}"#,
        );
        let settings = settings.unwrap();
        let options = settings.options(Vec::new()).unwrap();
        assert_eq!(options.choose.select.steps, Some((500, u64::MAX)));
        assert_eq!(options.choose.metric.goal, Some(Goal::Max));
        assert!(
            matches!(options.choose.rule, WeightRule::Scheme { scheme, penalty } if scheme.name == "power" && penalty == PENALTY)
        );
        assert_eq!(settings.merge_options().unwrap().dtype, Some(Float::BF16));
        assert_eq!(settings.machine().threads, Some(3));
        let device = |json| Settings::parse(json).map(|settings| settings.machine().device);
        assert_eq!(device("{}"), Ok(DeviceChoice::Auto));
        assert_eq!(device(r#"{"device": "cpu"}"#), Ok(DeviceChoice::Cpu));
        assert_eq!(device(r#"{"device": [0, 3]}"#), "gpu:0,3".parse());
    }

    #[test]
    fn ranks_are_numbers_or_words() {
        let space = |json: &str| Settings::parse(json)?.merge_options().map(|how| how.space);
        assert_eq!(
            space(r#"{"space": "product", "rank": 8}"#).unwrap(),
            Space::Product(Some(Rank::Fixed(8)))
        );
        assert_eq!(
            space(r#"{"space": "product", "energy": 0.5}"#).unwrap(),
            Space::Product(Some(Rank::Energy(0.5)))
        );
        let refused = |json| space(json).unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"rank": "all"}"#),
            "option rank: `all` is no rank; write a number, auto or full"
        );
        assert_eq!(refused(r#"{"energy": 2}"#), "option energy: 2 is no share");
        assert!(refused(r#"{"rank": "full"}"#).contains("product space"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            refused(r#"{"lst": 4}"#).starts_with("option lst: unknown field `lst`, expected one of `last`,")
        );
        assert_eq!(
            refused(r#"{"last": "4"}"#),
            "option last: invalid type: string \"4\", expected a nonzero usize"
        );
        assert!(refused(r#"{"last": 0}"#).starts_with("option last: invalid value: integer `0`"));
        assert_eq!(refused(r#"{"goal": "up"}"#), "option goal: the goal is `up`, but can only be min or max");
        assert_eq!(
            refused(r#"{"weights": [1], "metric": "loss"}"#),
            "options weights and metric contradict each other"
        );
        assert!(refused(r#"{"device": ["a"]}"#).starts_with("option device: "));
        assert!(refused("[").starts_with("options are not JSON: "));
    }
}

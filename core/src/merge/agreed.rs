//! From heads and weights to a recipe: which inputs may be averaged, which tensors are copied, what the output says of itself.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::adapter::agree::Candidate;
use crate::adapter::agree::{agree, agree_as_products, agree_metadata};
use crate::adapter::config::AdapterConfig;
use crate::adapter::kinds::Exactness;
use crate::error::Result;
use crate::format::counter::is_newest;
use crate::format::quantised;
use crate::format::safetensors::{Tensor, TextMap};
use crate::merge::MergeOptions;
use crate::method::product::Space;
use crate::plan::{Input, Plan, Recipe};
use crate::weigh::scheme::Weights;

/// What every host decides alike before it plans, and tells the user.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// How the plan is made.
    pub recipe: Recipe,
    /// The input whose files are the output byte for byte, heads included, because no other has weight.
    pub copied: Option<usize>,
    /// Things to say to the user, each once.
    pub notes: Vec<String>,
    /// How far the average of the parameters is from the average of the weights.
    pub exactness: Exactness,
}

impl Agreed {
    /// Check the inputs, oldest first; `configs` holds the adapter config of each, where it has one.
    ///
    /// # Errors
    /// Those of [`agree`] or [`agree_as_products`], and of [`agree_metadata`].
    ///
    /// # Panics
    /// If there is not one config (or `None`) per input.
    pub fn new(
        inputs: &[Input],
        configs: &[Option<&AdapterConfig>],
        weights: &Weights,
        options: MergeOptions,
    ) -> Result<Self> {
        assert_eq!(inputs.len(), configs.len(), "one config or none per input");
        let shapes = shapes(inputs);
        let candidates = candidates(inputs, configs, &shapes);
        let agreement = match options.space {
            Space::Factors => agree(&candidates)?,
            Space::Product(_) => agree_as_products(&candidates)?,
        };
        let mut notes = agreement.notes.clone();
        let newest = inputs.last().expect("agree() refuses to merge nothing");
        let exactness = agreement.exactness;
        let is_as_it_is = matches!(options.space, Space::Factors | Space::Product(None));
        let is_copied = |only: &usize| {
            let is_safetensors = inputs[*only].files.iter().all(|file| file.header.is_safetensors());
            options.dtype.is_none() && !options.rewrite && is_as_it_is && is_safetensors
        };
        let copied = sole(weights).filter(is_copied);
        if let Some(only) = copied {
            let name = &inputs[only].name;
            notes.push(match inputs.len() {
                1 => format!(
                    "{name} is one checkpoint: there is nothing to average, and its files are copied as they are; to merge, \
                     choose several"
                ),
                _ => format!("only {name} has weight: its files are copied as they are"),
            });
            return Ok(Self { recipe: Recipe::default(), copied, notes, exactness });
        }
        quantised::refuse(tensors(newest))?;
        notes.extend(newest_taken(inputs, newest));
        let none = TextMap::default();
        let named = inputs.iter().map(|input| {
            (input.name.as_str(), input.files.first().map_or(&none, |file| file.header.metadata()))
        });
        let metadata = agree_metadata(&named.collect::<Vec<_>>())?;
        notes.extend(metadata.notes);
        let frozen =
            |tensor: &Tensor| Some((tensor.name.clone(), agreement.identical(&tensor.name)?.to_owned()));
        let recipe = Recipe {
            dtype: options.dtype,
            identical: tensors(newest).filter_map(frozen).collect(),
            metadata: metadata.kept,
            allow_non_finite: options.allow_non_finite,
            ..Recipe::default()
        };
        Ok(Self { recipe, copied, notes, exactness })
    }

    /// What to say of values that became zero by narrowing, counted over all jobs ([`crate::kernel::Tally`]).
    #[must_use]
    pub fn note_underflow(plan: &Plan, underflowed: u64) -> Option<String> {
        let tensors = plan.outputs().iter().flat_map(|file| file.header.tensors());
        let elements: u64 = tensors.map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        (underflowed > 0).then(|| {
            format!("{underflowed} of {elements} values became zero in the output dtype; --dtype f32 or bf16 keeps them")
        })
    }
}

/// What to say of counters, which have no average.
fn newest_taken(inputs: &[Input], newest: &Input) -> Option<String> {
    let mut names = tensors(newest).filter(|it| is_newest(&it.name, &it.shape, it.dtype)).map(|it| &it.name);
    let first = names.next().filter(|_| inputs.len() > 1)?;
    let more = match names.count() {
        0 => " is".into(),
        1 => " and 1 tensor like it are".into(),
        count => format!(" and {count} tensors like it are"),
    };
    Some(format!(
        "`{first}`{more} not averaged but taken from {}, as counters and packed state are",
        newest.name
    ))
}

/// The one input with weight.
fn sole(weights: &Weights) -> Option<usize> {
    let mut used = weights.used();
    used.next().filter(|_| used.next().is_none())
}

fn tensors(input: &Input) -> impl Iterator<Item = &Tensor> + Clone {
    input.files.iter().flat_map(|file| file.header.tensors())
}

/// Name and shape of each tensor, by input.
type Shapes<'a> = Vec<Vec<(&'a str, &'a [u64])>>;

fn shapes(inputs: &[Input]) -> Shapes<'_> {
    let each =
        inputs.iter().map(|input| tensors(input).map(|it| (it.name.as_str(), it.shape.as_slice())).collect());
    each.collect()
}

fn candidates<'a>(
    inputs: &'a [Input],
    configs: &[Option<&'a AdapterConfig>],
    shapes: &'a Shapes<'a>,
) -> Vec<Candidate<'a>> {
    let each = inputs.iter().zip(configs).zip(shapes);
    each.map(|((input, config), tensors)| Candidate { name: &input.name, config: *config, tensors }).collect()
}

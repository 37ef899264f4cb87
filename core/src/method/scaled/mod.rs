//! Weights that are codes of scales (FP8 by blocks, rows or whole tensors): what is averaged is what they are worth.
//!
//! A weight is worth code × scale. A [`ScaledJob`] reads codes and scales of all inputs for some rows of blocks, sums what they are
//! worth, and writes codes of new scales, so that nothing is rounded but once; both tensors are its own. DeepSeek's
//! `weight_scale_inv` of 128×128 blocks and the `weight_scale` of compressed-tensors are both multiplied, whatever they are called.

mod grid;
mod job;

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use self::grid::Grid;
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::quantised::scale_of;
use crate::format::safetensors::Tensor;
use crate::kernel::element::round;
use crate::plan::{Found, Input, Plan, Tensors, Write};
use crate::text::index::Index;
use crate::weigh::modules::Groups;
use crate::weigh::scheme::Weights;

pub(crate) use job::ScaledJob;

/// The sides of a block, where a model's config says them.
pub(crate) type Block = Option<(u64, u64)>;

/// The weights of several inputs that are codes of scales.
#[derive(Clone, Debug)]
pub(crate) struct Scaled {
    weights: Vec<Weight>,
    /// The number of each weight's first job, and at the end the number of all.
    firsts: Vec<u64>,
    /// What the inputs are called.
    names: Vec<String>,
    allow_non_finite: bool,
}

/// One weight and its scales.
#[derive(Clone, Debug)]
struct Weight {
    name: String,
    scale: String,
    shape: Vec<u64>,
    scale_shape: Vec<u64>,
    grid: Grid,
    /// What is written.
    codes: Float,
    scales: Float,
    sources: Vec<Source>,
}

/// Where they lie in an input that has weight.
#[derive(Clone, Copy, Debug)]
struct Source {
    input: usize,
    weight: f32,
    codes: Place,
    scales: Place,
}

/// Where a tensor begins.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    start: u64,
    float: Float,
}

impl Scaled {
    /// Find them in all inputs. `blocks` are the sides that configs give; it may be empty. Inputs of weight zero are not read.
    ///
    /// # Errors
    /// [`ErrorKind::Names`], [`ErrorKind::Shape`] or [`ErrorKind::Dtype`] if codes or scales are missing, or do not fit each other.
    pub(crate) fn new(
        inputs: &[Input],
        weights: &Weights,
        groups: &Groups,
        blocks: &[Block],
        allow_non_finite: bool,
    ) -> Result<Self> {
        let mut made = Self {
            weights: Vec::new(),
            firsts: Vec::new(),
            names: inputs.iter().map(|input| input.name.clone()).collect(),
            allow_non_finite,
        };
        let any = |input: &Input| {
            input.files.iter().flat_map(|file| file.header.tensors()).any(|tensor| is_code(tensor.dtype))
        };
        let newest = inputs.last().filter(|newest| any(newest));
        if let Some(newest) = newest {
            let mut tensors = Vec::with_capacity(inputs.len());
            for input in inputs {
                tensors.push(Tensors::distinct(input)?);
            }
            let of_newest = || newest.files.iter().flat_map(|file| file.header.tensors());
            let index = Index::new(of_newest().map(|tensor| tensor.name.as_str()));
            let mut bare = None;
            for tensor in of_newest().filter(|tensor| is_code(tensor.dtype)) {
                let all = groups.of(&tensor.name).unwrap_or(weights);
                match scale_of(&tensor.name, &index) {
                    Some(scale) => made.weights.push(weight(inputs, &tensors, all, blocks, tensor, scale)?),
                    None if tensor.name.ends_with(".weight") => bare = bare.or(Some(tensor)),
                    None => {}
                }
            }
            if let (Some(bare), Some(other)) = (bare, made.weights.first()) {
                let detail = format!(
                    "holds {} codes without a scale, though `{}` has one in `{}`",
                    bare.dtype, other.name, other.scale
                );
                return Err(Error::new(ErrorKind::Names, detail)
                    .file(&*newest.name)
                    .tensor(&*bare.name)
                    .help("nothing says what such codes are worth: the checkpoint was not saved whole"));
            }
        }
        let mut count = 0;
        for weight in &made.weights {
            made.firsts.push(count);
            count += weight.grid.bands();
        }
        made.firsts.push(count);
        Ok(made)
    }

    /// The name of the first weight, if there is one.
    pub(crate) fn first(&self) -> Option<&str> {
        self.weights.first().map(|weight| weight.name.as_str())
    }

    /// How many weights there are.
    pub(crate) fn tensors(&self) -> usize {
        self.weights.len()
    }

    /// How many jobs there are.
    pub(crate) fn count(&self) -> u64 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// Bytes that all jobs read.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |weight: &Weight| {
            let scales = |source: &Source| weight.grid.scales() * source.scales.float.bytes() as u64;
            weight.sources.iter().map(|source| weight.grid.elements() + scales(source)).sum::<u64>()
        };
        self.weights.iter().map(of).sum()
    }

    /// The tensors that jobs write: names, dtypes and shapes.
    pub(crate) fn layout(&self) -> Vec<(String, Dtype, Vec<u64>)> {
        let of = |weight: &Weight| {
            [
                (weight.name.clone(), weight.codes.dtype(), weight.shape.clone()),
                (weight.scale.clone(), weight.scales.dtype(), weight.scale_shape.clone()),
            ]
        };
        self.weights.iter().flat_map(of).collect()
    }

    /// Where codes and scales of each weight go in the outputs of `plan`, which was made with [`Self::layout`].
    pub(crate) fn places(&self, plan: &Plan) -> Vec<Vec<(Write, Float)>> {
        let tensors = Tensors::new(plan.outputs());
        let place = |name: &str, float: Float| {
            let (file, tensor) = tensors.find(name).expect("layout() names it");
            (Write { file, range: tensor.range.clone() }, float)
        };
        let of = |it: &Weight| Vec::from([place(&it.name, it.codes), place(&it.scale, it.scales)]);
        self.weights.iter().map(of).collect()
    }

    /// The job with a number below [`Self::count`], which writes to one of [`Self::places`].
    pub(crate) fn job<'a>(&'a self, number: u64, places: &'a [Vec<(Write, Float)>]) -> ScaledJob<'a> {
        let at = self.firsts.partition_point(|first| *first <= number) - 1;
        let weight = &self.weights[at];
        ScaledJob {
            weight,
            names: &self.names,
            band: weight.grid.band(number - self.firsts[at]),
            writes: &places[at],
            allow_non_finite: self.allow_non_finite,
        }
    }

    /// The jobs of each weight, by its name.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&str, core::ops::Range<u64>)> {
        self.weights.iter().zip(self.firsts.windows(2)).map(|(it, ends)| (it.name.as_str(), ends[0]..ends[1]))
    }
}

fn is_code(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// One weight of all inputs; `newest` and `scale` are those of the last.
fn weight(
    inputs: &[Input],
    tensors: &[Tensors<'_>],
    weights: &Weights,
    blocks: &[Block],
    newest: &Tensor,
    scale: String,
) -> Result<Weight> {
    let last = inputs.len() - 1;
    let at = |i: usize| blocks.get(i).copied().flatten();
    let grid_of = |i: usize, codes: &Tensor, scales: &Tensor| {
        Grid::new(&codes.shape, &scales.shape, at(i)).ok_or_else(|| {
            let detail = match at(i) {
                Some((rows, columns)) => format!(
                    "is {:?}, which is not one scale for each block of [{rows}, {columns}] of `{}`, {:?}",
                    scales.shape, codes.name, codes.shape
                ),
                None => format!(
                    "is {:?}, which is not one scale for all, each row or each block of `{}`, {:?}",
                    scales.shape, codes.name, codes.shape
                ),
            };
            Error::new(ErrorKind::Shape, detail).file(&*inputs[i].name).tensor(&*scales.name).help(
                "scales are [], [1], [rows, 1] or [⌈rows / block⌉, ⌈columns / block⌉]; what a block is, config.json says in \
                 quantization_config.weight_block_size",
            )
        })
    };
    let find = |i: usize, name: &str| -> Result<Found<'_>> {
        tensors[i].find(name).ok_or_else(|| {
            let detail = format!("is missing, but {} has it", inputs[last].name);
            Error::new(ErrorKind::Names, detail).file(&*inputs[i].name).tensor(name)
        })
    };
    let (_, of_newest) = find(last, &scale)?;
    let grid = grid_of(last, newest, of_newest)?;
    let mut sources = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        let ((file, codes), (scale_file, scales)) = (find(i, &newest.name)?, find(i, &scale)?);
        let differs = |kind: ErrorKind, tensor: &Tensor, a: String, b: String| {
            let detail = format!("is {a}, but in {} it is {b}", inputs[last].name);
            Err(Error::new(kind, detail).file(&*input.name).tensor(&*tensor.name))
        };
        if codes.dtype != newest.dtype {
            return differs(ErrorKind::Dtype, codes, codes.dtype.to_string(), newest.dtype.to_string());
        }
        if codes.shape != newest.shape {
            return differs(
                ErrorKind::Shape,
                codes,
                format!("{:?}", codes.shape),
                format!("{:?}", newest.shape),
            );
        }
        if scales.dtype != of_newest.dtype {
            return differs(ErrorKind::Dtype, scales, scales.dtype.to_string(), of_newest.dtype.to_string());
        }
        let own = grid_of(i, codes, scales)?;
        if own != grid || scales.shape != of_newest.shape {
            let detail = format!("is scaled {own}, but in {} {grid}", inputs[last].name);
            return Err(Error::new(ErrorKind::Shape, detail)
                .file(&*input.name)
                .tensor(&*codes.name)
                .help("merge checkpoints that were quantised alike, or before they are quantised"));
        }
        let float = |tensor: &Tensor| {
            Float::of(tensor.dtype).filter(|float| float.bytes() > 1 && *float != Float::F64)
        };
        let scale_float = float(scales).ok_or_else(|| {
            let detail =
                format!("holds scales as {}; those that are understood are F32, BF16 and F16", scales.dtype);
            Error::new(ErrorKind::Dtype, detail)
                .file(&*input.name)
                .tensor(&*scales.name)
                .help("merge the checkpoints before they are quantised, or dequantise them first")
        })?;
        let code_float = Float::of(codes.dtype).expect("its dtype is the newest's, which is FP8");
        if weights.rounded(i) != 0.0 {
            sources.push(Source {
                input: i,
                weight: round(weights.values()[i]),
                codes: Place { file, start: codes.range.start, float: code_float },
                scales: Place { file: scale_file, start: scales.range.start, float: scale_float },
            });
        }
    }
    let (codes, scales) = (sources[0].codes.float, sources[0].scales.float);
    Ok(Weight {
        name: newest.name.clone(),
        scale,
        shape: newest.shape.clone(),
        scale_shape: of_newest.shape.clone(),
        grid,
        codes,
        scales,
        sources,
    })
}

#[cfg(test)]
mod tests;

//! Turn the heads of the inputs and their weights into a checked plan: the output's head, and jobs any host can run.
//!
//! The plan reads no tensor data and holds none. A [`Job`] names byte ranges of the inputs and a byte range of the
//! output, a few MiB at most, so memory is bounded by the jobs in flight, never by a file. Neighbouring tensors that
//! lie side by side in every file share jobs: a whole adapter is usually one long sum.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::slice;

use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::format::counter::is_newest;
use crate::format::safetensors::{Header, Tensor, TextMap, byte_size};
use crate::kernel::{How, Kernel, Tasks};
use crate::method::blend::Blend;
use crate::method::curved::{Means, Moments};
use crate::method::trim::Thresholds;
use crate::text::index::Index;
use crate::weigh::modules::Groups;
use crate::weigh::scheme::Weights;

mod cuts;
mod job;
pub(crate) mod split;
mod tensors;

pub(crate) use cuts::Cuts;
pub use job::{Job, Read, Write};
use split::{parted, whole_name};
pub(crate) use tensors::{Found, Tensors};

/// One input of a merge: a checkpoint, in one file or several shards.
#[derive(Clone, Debug)]
pub struct Input {
    /// How messages call it.
    pub name: String,
    /// Its files; no tensor name occurs in two of them.
    pub files: Vec<Shard>,
}

/// One file of a [`Input`].
#[derive(Clone, Debug)]
pub struct Shard {
    /// The file's name within the checkpoint.
    pub name: String,
    /// Its head.
    pub header: Header,
}

/// What is wanted of the output.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// The dtype of averaged tensors; `None` keeps the widest of the inputs, tensor by tensor.
    pub dtype: Option<Float>,
    /// Names of float tensors that must be the same in every input and are copied; what to do when they are not.
    pub identical: TextMap,
    /// The `__metadata__` of the output files.
    pub metadata: TextMap,
    /// Tensors of the output that other jobs write, with dtype and shape: the plan lays them out, whatever the inputs have
    /// under their names, and leaves their bytes alone.
    pub elsewhere: Vec<(String, Dtype, Vec<u64>)>,
    /// Weights of modules that have their own.
    pub groups: Groups,
    /// What becomes of the values of an element.
    pub blend: Blend,
    /// From which magnitude on what tasks changed counts.
    pub thresholds: Thresholds,
    /// The second moments of the last inputs, by which they are weighed; may be empty.
    pub moments: Vec<Moments>,
    /// Their mean weights, once these are known.
    pub means: Means,
    /// Let NaN and infinity through instead of failing.
    pub allow_non_finite: bool,
    /// Let no job cross from one tensor to the next, for outputs that do not lie side by side, as in memory.
    pub by_tensor: bool,
    /// Part the weights into files of at most so many bytes, whatever files they were in.
    pub shard_size: Option<u64>,
}

/// A checked merge.
#[derive(Clone, Debug)]
pub struct Plan {
    outputs: Vec<Shard>,
    segments: Vec<Segment>,
    names: Vec<String>,
    identical: TextMap,
    allow_non_finite: bool,
}

/// A run of elements with one way to compute them, contiguous in the output and in every operand.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    output: usize,
    /// byte offset in the output file
    start: u64,
    elements: u64,
    work: Work,
    operands: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// Computed element by element, into this dtype.
    Elements(Kernel, Float),
    /// The operands are equal and one of them is copied; an element is this many bytes.
    Copy(usize),
}

/// Where an operand of a segment begins.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    input: usize,
    file: usize,
    /// byte offset in that file
    start: u64,
    /// bytes per element
    size: usize,
    /// `None` for what is only copied
    float: Option<Float>,
    weight: f64,
}

impl Plan {
    /// Check the inputs against each other and lay out the output.
    ///
    /// The output has the files, and the tensors in each, of the last input: by convention the newest. Where several of them
    /// have one name, their tensors lie together in one file. With [`Recipe::shard_size`] the weights are parted anew; what lies
    /// beside them stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Weights`] when there is not one weight per input; [`ErrorKind::Names`], [`ErrorKind::Shape`] or
    /// [`ErrorKind::Dtype`] when the inputs do not hold the same tensors, with the tensor and both facts.
    pub fn new(inputs: &[Input], weights: &Weights, recipe: &Recipe) -> Result<Self> {
        let Some(newest) = inputs.last() else {
            return Err(Error::new(ErrorKind::Input, "there is nothing to merge"));
        };
        if weights.values().len() != inputs.len() {
            let (have, want) = (weights.values().len(), inputs.len());
            return Err(Error::new(
                ErrorKind::Weights,
                format!("there are {have} weights for {want} inputs"),
            )
            .help("give one weight per input, in the order of the inputs"));
        }
        let elsewhere = Index::new(recipe.elsewhere.iter().map(|(name, ..)| name.as_str()));
        let mut tensors = Vec::with_capacity(inputs.len());
        for input in inputs {
            tensors.push(Tensors::distinct(input)?);
        }
        same_names(inputs, &tensors, &elsewhere)?;
        let moments: Vec<_> =
            recipe.moments.iter().map(|it| Tensors::new(slice::from_ref(&it.shard))).collect();
        let placed = &tensors[inputs.len() - 1];
        let unplaced = recipe.elsewhere.iter().filter(|(name, ..)| placed.find(name).is_none());
        let mut unplaced: Vec<_> = unplaced.cloned().collect();
        let mut outputs: Vec<Shard> = Vec::new();
        let mut segments: Vec<Segment> = Vec::new();
        let is_parted = |file: &Shard| recipe.shard_size.is_some() && file.header.beside().is_none();
        let limit = |file: &Shard| if is_parted(file) { recipe.shard_size } else { None };
        let name = |file: &Shard| if is_parted(file) { whole_name(&file.name) } else { file.name.clone() };
        // files of one name make one output
        let mut files: Vec<(String, Vec<&Shard>)> = Vec::new();
        for file in &newest.files {
            let name = name(file);
            match files.iter_mut().find(|(known, _)| *known == name) {
                Some((_, same)) => same.push(file),
                None => files.push((name, [file].into())),
            }
        }
        for (name, same) in files {
            let file = same[0];
            let mut works = Vec::new();
            let mut layout = Vec::new();
            for tensor in same.iter().flat_map(|file| file.header.tensors()) {
                if let Some(place) = elsewhere.place(&tensor.name) {
                    layout.push(recipe.elsewhere[place].clone());
                    continue;
                }
                let found = tensors.iter().map(|input| input.find(&tensor.name));
                let found: Vec<_> = found.map(|found| found.expect("same_names() checked this")).collect();
                let squares = squares(inputs, &moments, tensor)?;
                let work = work(inputs, &found, recipe, squares.is_some())?;
                let dtype = if let Work::Elements(_, float) = work { float.dtype() } else { tensor.dtype };
                layout.push((tensor.name.clone(), dtype, tensor.shape.clone()));
                works.push((tensor.name.as_str(), work, found, squares));
            }
            // what the newest input lacks goes into its first file
            layout.append(&mut unplaced);
            let parts = match limit(file) {
                // what no file can hold is told below
                Some(limit) => parted(&name, layout, limit, |(name, dtype, shape)| {
                    (name, byte_size(*dtype, shape).unwrap_or(u64::MAX))
                })?,
                None => [(name, layout)].into(),
            };
            let made_here = Index::new(works.iter().map(|(name, ..)| *name));
            for (name, layout) in parts {
                let output = outputs.len();
                let header = Header::layout_beside(layout, recipe.metadata.clone(), file.header.beside())
                    .map_err(|error| error.file(&*name))?;
                for tensor in header.tensors() {
                    let Some(place) = made_here.place(&tensor.name) else { continue };
                    let (_, work, found, squares) = &works[place];
                    let weights = recipe.groups.of(&tensor.name).unwrap_or(weights);
                    let mut segment = segment(output, tensor, *work, found, weights, recipe);
                    if let Some(curvature) = recipe.blend.curvature() {
                        segment.weigh_by(inputs, squares.as_deref(), |input| {
                            curvature.weights(&recipe.moments[input], &recipe.means, &tensor.name, input)
                        });
                    }
                    let joins = |last: &mut Segment| !recipe.by_tensor && last.extend(&segment);
                    if segment.elements > 0 && !segments.last_mut().is_some_and(joins) {
                        segments.push(segment);
                    }
                }
                outputs.push(Shard { name, header });
            }
        }
        let names = inputs.iter().map(|input| input.name.clone()).collect();
        let identical = recipe.identical.clone();
        Ok(Self { outputs, segments, names, identical, allow_non_finite: recipe.allow_non_finite })
    }

    /// The files of input `only` as they are, head included: jobs copy the data and look at none of it.
    ///
    /// # Panics
    /// If there is no such input.
    #[must_use]
    pub fn copy(inputs: &[Input], only: usize) -> Self {
        Self::copy_from(inputs, only, Header::data_start)
    }

    fn copy_from(inputs: &[Input], only: usize, start: impl Fn(&Header) -> u64) -> Self {
        let input = &inputs[only];
        let segment = |(file, shard): (usize, &Shard)| {
            let start = start(&shard.header);
            let place = Place { input: only, file, start, size: 1, float: None, weight: 1.0 };
            let elements = shard.header.file_len() - start;
            Segment { output: file, start, elements, work: Work::Copy(1), operands: [place].into() }
        };
        let segments = input.files.iter().enumerate().map(segment).filter(|segment| segment.elements > 0);
        Self {
            outputs: input.files.clone(),
            segments: segments.collect(),
            names: inputs.iter().map(|input| input.name.clone()).collect(),
            identical: TextMap::default(),
            allow_non_finite: true,
        }
    }

    /// The files of input `only` byte for byte, heads included.
    pub(crate) fn whole(inputs: &[Input], only: usize) -> Self {
        Self::copy_from(inputs, only, |_| 0)
    }

    /// What is computed and not copied, by the names of tensors, for jobs that only look at it; made with
    /// [`Recipe::by_tensor`], so that no job crosses from one tensor to the next.
    pub(crate) fn computed(mut self) -> Self {
        self.segments.retain(|segment| matches!(segment.work, Work::Elements(..)));
        let outputs = &self.outputs;
        self.segments.sort_by_key(|segment| {
            outputs[segment.output].header.tensor_at(segment.start).map(|tensor| &tensor.name)
        });
        self
    }

    /// The same of what is weighed by second moments.
    pub(crate) fn curved(mut self) -> Self {
        self.segments.retain(|segment| matches!(segment.work, Work::Elements(Kernel::Curved(_), _)));
        self
    }

    /// How many elements are computed.
    pub(crate) fn elements(&self) -> u64 {
        self.segments.iter().map(|segment| segment.elements).sum()
    }

    /// The tensor that a job begins in.
    pub(crate) fn tensor_of(&self, job: &Job<'_>) -> String {
        let header = &self.outputs[job.segment.output].header;
        header.tensor_at(job.segment.start).map(|tensor| tensor.name.clone()).unwrap_or_default()
    }

    /// The same outputs, of which no job computes anything.
    pub(crate) fn nothing(mut self) -> Self {
        self.segments.clear();
        self
    }

    /// Whether the same elements are computed in the same order to the same places, whatever of.
    pub(crate) fn is_cut_like(&self, other: &Self) -> bool {
        let place = |segment: &Segment| (segment.output, segment.start, segment.elements, segment.work);
        self.segments.iter().map(place).eq(other.segments.iter().map(place))
    }

    /// The files to write: name and head of each.
    #[must_use]
    pub fn outputs(&self) -> &[Shard] {
        &self.outputs
    }

    /// The jobs, in the order of the output; none reads more than `max_bytes` of any one input (at least one element).
    pub fn jobs(&self, max_bytes: usize) -> impl Iterator<Item = Job<'_>> {
        let cuts = Cuts::new(self, max_bytes);
        (0..cuts.count()).map(move |number| cuts.job(self, number))
    }
}

impl Work {
    /// Bytes per element of the output.
    fn bytes(self) -> usize {
        match self {
            Self::Elements(_, float) => float.bytes(),
            Self::Copy(bytes) => bytes,
        }
    }
}

impl Segment {
    /// Let inputs count by their second moments; where these are not known, all alike, or on a base the base alone.
    fn weigh_by(
        &mut self,
        inputs: &[Input],
        squares: Option<&[&Tensor]>,
        weights: impl Fn(usize) -> (f64, f64),
    ) {
        let Work::Elements(kernel, _) = self.work else { return };
        let (Kernel::Curved(how), Some(squares)) = (kernel, squares) else { return };
        let first = inputs.len() - squares.len();
        for (i, square) in squares.iter().enumerate() {
            let (factor, added) = weights(i);
            // of what is grafted the weight is a threshold
            if !how.is_grafted {
                self.operands[first + i].weight = added;
            }
            self.operands.push(Place {
                input: first + i,
                file: inputs[first + i].files.len(),
                start: square.range.start,
                size: element_bytes(square.dtype),
                float: Float::of(square.dtype),
                weight: factor,
            });
        }
    }

    /// Take `next` in, if it follows in the output and in every operand and is computed alike.
    fn extend(&mut self, next: &Self) -> bool {
        let bytes = self.work.bytes() as u64;
        let joins = self.output == next.output
            && self.work == next.work
            && self.start + self.elements * bytes == next.start
            && self.operands.len() == next.operands.len()
            && self.operands.iter().zip(&next.operands).all(|(a, b)| {
                let end = a.start + self.elements * a.size as u64;
                Place { start: end, ..*a } == *b
            });
        if joins {
            self.elements += next.elements;
        }
        joins
    }
}

/// The same tensors everywhere. `agree` shows the difference better; this is what makes the plan sound by itself.
fn same_names(inputs: &[Input], tensors: &[Tensors<'_>], elsewhere: &Index<'_>) -> Result<()> {
    let (newest, expected) = (&inputs[inputs.len() - 1], &tensors[tensors.len() - 1]);
    let lacks = |there: &Tensors<'_>, (_, tensor): &Found<'_>| {
        there.find(&tensor.name).is_none() && !elsewhere.has(&tensor.name)
    };
    for (input, found) in inputs.iter().zip(tensors) {
        let missing = expected.sorted().find(|tensor| lacks(found, tensor));
        let extra = found.sorted().find(|tensor| lacks(expected, tensor));
        let ((_, tensor), with, without) = match (missing, extra) {
            (Some(tensor), _) => (tensor, newest, input),
            (None, Some(tensor)) => (tensor, input, newest),
            (None, None) => continue,
        };
        let detail = format!("is missing, but {} has it", with.name);
        return Err(Error::new(ErrorKind::Names, detail).file(&*without.name).tensor(&*tensor.name));
    }
    Ok(())
}

/// The second moments of a tensor in all inputs that have such; `None` where one of them lacks it, as of what is not trained.
fn squares<'a>(
    inputs: &[Input],
    moments: &[Tensors<'a>],
    tensor: &Tensor,
) -> Result<Option<Vec<&'a Tensor>>> {
    let of_inputs = inputs[inputs.len() - moments.len()..].iter().zip(moments);
    let mut all = Vec::new();
    for (input, moments) in of_inputs {
        let Some((_, found)) = moments.find(&tensor.name) else { return Ok(None) };
        let at = |kind, detail| Err(Error::new(kind, detail).file(&*input.name).tensor(&*tensor.name));
        if found.shape != tensor.shape {
            let (a, b) = (&tensor.shape, &found.shape);
            return at(ErrorKind::Shape, format!("is {a:?}, but its second moments are {b:?}"));
        }
        if Float::of(found.dtype).is_none() {
            return at(
                ErrorKind::Dtype,
                format!("has second moments in {}, which are no numbers", found.dtype),
            );
        }
        all.push(found);
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// How one tensor is made, given where it lies in each input; `is_curved` if second moments of it are known.
fn work(inputs: &[Input], found: &[Found<'_>], recipe: &Recipe, is_curved: bool) -> Result<Work> {
    let (last, (_, newest)) = (found.len() - 1, found[found.len() - 1]);
    if is_newest(&newest.name, &newest.shape, newest.dtype) {
        return Ok(Work::Copy(element_bytes(newest.dtype)));
    }
    for (input, (_, tensor)) in inputs.iter().zip(found) {
        if tensor.shape != newest.shape {
            let (a, b, other) = (&tensor.shape, &newest.shape, &inputs[last].name);
            return Err(Error::new(ErrorKind::Shape, format!("is {a:?}, but in {other} it is {b:?}"))
                .file(&*input.name)
                .tensor(&*tensor.name));
        }
    }
    let floats: Option<Vec<_>> = found.iter().map(|(_, tensor)| Float::of(tensor.dtype)).collect();
    match floats {
        Some(floats) if recipe.identical.get(&newest.name).is_none() => {
            let widest = floats.into_iter().reduce(Float::widest).expect("there is at least one input");
            let kernel = match recipe.blend {
                Blend::Curved(_) | Blend::Grafted(..) if !is_curved => Kernel::WeightedSum,
                blend => blend.kernel(inputs.len()),
            };
            Ok(Work::Elements(kernel, recipe.dtype.unwrap_or(widest)))
        }
        _ => {
            for (input, (_, tensor)) in inputs.iter().zip(found) {
                if tensor.dtype != newest.dtype {
                    let (a, b, other) = (tensor.dtype, newest.dtype, &inputs[last].name);
                    return Err(Error::new(
                        ErrorKind::Dtype,
                        format!("is {a}, but in {other} it is {b}; it must be the same in every input"),
                    )
                    .file(&*input.name)
                    .tensor(&*tensor.name));
                }
            }
            Ok(Work::Copy(element_bytes(newest.dtype)))
        }
    }
}

/// Bytes per element; types below a byte are copied bytewise.
fn element_bytes(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

fn segment(
    output: usize,
    tensor: &Tensor,
    work: Work,
    found: &[Found<'_>],
    weights: &Weights,
    recipe: &Recipe,
) -> Segment {
    let thresholds = &recipe.thresholds;
    // what is taken of one input alone passes as it is
    let is_angled = recipe.blend.angle().is_some();
    let is_alone = is_angled && weights.values().iter().filter(|it| **it != 0.0).eq(&[1.0]);
    let work = match work {
        Work::Elements(_, float) if is_alone => Work::Elements(Kernel::WeightedSum, float),
        work => work,
    };
    // nothing is grafted where nothing says how much it counts
    let is_base_alone =
        matches!((recipe.blend, work), (Blend::Grafted(..), Work::Elements(Kernel::WeightedSum, _)));
    let over_base = |input: usize, how: How| match (input.checked_sub(1), how) {
        (_, How::Plain) => weights.values()[input],
        (None, _) => 0.0,
        #[expect(clippy::cast_precision_loss, reason = "nobody merges 2^53 inputs")]
        (Some(_), How::Sum) if !is_angled => weights.values()[input] * (found.len() - 1) as f64,
        (Some(_), How::Sum) => weights.values()[input],
        (Some(_), How::Agreed { .. }) => 1.0,
        (Some(task), How::Trimmed | How::Elected) => thresholds.of(&tensor.name, task).into(),
    };
    let place = |(input, (file, tensor)): (usize, &Found<'_>)| Place {
        input,
        file: *file,
        start: tensor.range.start,
        size: element_bytes(tensor.dtype),
        float: Float::of(tensor.dtype),
        weight: match work {
            Work::Elements(Kernel::Tasks(Tasks { how, .. }), _) => over_base(input, how),
            Work::Elements(Kernel::Curved(_), _) => {
                input.checked_sub(1).map_or(0.0, |task| thresholds.of(&tensor.name, task).into())
            }
            Work::Elements(..) if is_base_alone => 1.0,
            Work::Elements(..) => weights.values()[input],
            Work::Copy(_) => 1.0,
        },
    };
    // sums in f64 use the weights unrounded
    let in_f64 = matches!(work, Work::Elements(_, Float::F64))
        || found.iter().any(|(_, tensor)| tensor.dtype == Dtype::F64);
    let is_used = |(input, _): &(usize, _)| match work {
        // the base is the first; the weights of trimmed tasks are thresholds, and tasks that must agree all count
        Work::Elements(Kernel::Tasks(Tasks { how, .. }), _)
            if *input == 0 || how != How::Sum || is_angled =>
        {
            true
        }
        Work::Elements(Kernel::Curved(_), _) => true,
        Work::Elements(..) if is_base_alone => *input == 0,
        _ if in_f64 => weights.values()[*input] != 0.0,
        _ => weights.rounded(*input) != 0.0,
    };
    let mut all = found.iter().enumerate();
    let operands = if is_newest(&tensor.name, &tensor.shape, tensor.dtype) {
        all.next_back().map(place).into_iter().collect()
    } else {
        all.filter(is_used).map(place).collect()
    };
    let elements = tensor.len() / work.bytes() as u64;
    Segment { output, start: tensor.range.start, elements, work, operands }
}

#[cfg(test)]
mod tests;

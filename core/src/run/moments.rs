//! The second moments of a checkpoint: in the state of its optimizer, or in a file of their own.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use super::checkpoint::{CONFIG_LIMIT, Checkpoint, File, model_config};
use super::readers::{MomentsWanted, Readers};
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, Stop, all, is_file, join, last, parent, size, text};
use crate::format::counter::is_newest;
use crate::format::safetensors::{Header, Tensor};
use crate::format::torch::optimizer::{MEANS, Optimizer, OptimizerKind, SQUARES, plain};
use crate::format::training::{self, Layout, Squares, is_of_ranks};
use crate::format::view::{SPAN_LIMIT, View, words};
use crate::method::curved::Moments;
use crate::plan::Shard;
use crate::text::escape::readable;
use crate::text::index::Index;
use crate::text::json;

/// Where a Trainer leaves the state of its optimizer.
const STATE: &str = "optimizer.pt";
/// Where accelerate leaves it, of whatever optimizer.
const BIN: &str = "optimizer.bin";
/// The names of parameters in the order of that state, for models whose order is not known.
const NAMES: &str = "names.json";
/// What they tell of the optimizer, in their metadata.
pub(crate) const BETA2: &str = "beta2";
pub(crate) const STEP: &str = "step";

/// Whether a file is one of moments, as `mwa moments` writes it.
pub(crate) fn are_moments(header: &Header) -> bool {
    [BETA2, "rank1"].iter().any(|name| header.metadata().get(name).is_some())
}

/// The second moments of a checkpoint.
#[derive(Clone, Debug)]
pub struct FoundMoments {
    /// Their file; its head has them under the names of the weights.
    pub file: File,
    /// What they are to be multiplied by, by the name of a weight, sorted; where that was asked for.
    pub(crate) corrections: Vec<(String, f64)>,
    /// After how many steps of which decay they were taken, as a file of moments alone tells it; where all are alike.
    pub(crate) counted: Vec<(String, String)>,
}

/// What the optimizer has counted: factors by the names of weights, and the texts that a file tells of it.
type Counted = (Vec<(String, f64)>, Vec<(String, String)>);

impl FoundMoments {
    /// After how many steps they were taken, where they tell.
    fn step(&self) -> Option<u64> {
        let (_, step) = self.counted.iter().find(|(name, _)| name == STEP)?;
        step.parse().ok()
    }

    pub(crate) fn moments(&self) -> Moments {
        let shard = Shard { name: self.file.name().to_owned(), header: self.file.header.clone() };
        Moments { shard, corrections: self.corrections.clone() }
    }
}

impl Checkpoint {
    /// The files that jobs read: its weights, and the last that with its second moments, if these are wanted.
    pub fn read_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().chain(self.moments.iter().flatten().map(|found| &found.file))
    }

    /// Look for its second moments, at a path or where a Trainer leaves them. What is wrong with them is an error of whoever needs them.
    ///
    /// # Errors
    /// That something is still to be read.
    pub(crate) fn find_moments(
        &mut self,
        files: &dyn Files,
        readers: &Readers,
        given: Option<&str>,
        is_corrected: bool,
    ) -> Maybe<()> {
        self.moments = Some(match open(self, files, readers, given, is_corrected) {
            Ok((found, more)) => {
                self.files.extend(more);
                Ok(found)
            }
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Later) => return Err(Stop::Later),
        });
        Ok(())
    }

    /// The folder in which the state of its optimizer lies.
    fn state_folder(&self) -> &str {
        if self.is_folder() { self.home() } else { parent(&self.name) }
    }

    /// The folder of its weights, from which reports name files.
    pub(crate) fn weights_folder(&self) -> &str {
        self.folder.as_deref().unwrap_or_else(|| parent(&self.name))
    }
}

/// Look for the second moments of checkpoints.
pub(crate) fn find(
    checkpoints: &mut [Checkpoint],
    files: &dyn Files,
    readers: &Readers,
    wanted: &MomentsWanted,
) -> Maybe<()> {
    let given = &wanted.files;
    if !given.is_empty() && given.len() != checkpoints.len() {
        let (have, want) = (given.len(), checkpoints.len());
        let error =
            Error::new(ErrorKind::Usage, format!("moments are given for {have} of {want} checkpoints"));
        let names: Vec<_> = checkpoints.iter().map(|it| last(&it.name)).collect();
        return Err(error.help(format!("give one for each, in this order: {}", names.join(", "))).into());
    }
    let each = checkpoints.iter_mut().enumerate();
    all(each.map(|(i, it)| {
        it.find_moments(files, readers, given.get(i).map(String::as_str), wanted.is_corrected)
    }))?;
    // in another order each would be taken for another's
    for (path, checkpoint) in given.iter().zip(&*checkpoints) {
        let step = checkpoint.moments.as_ref().and_then(|found| found.as_ref().ok()?.step());
        let of_step = |it: &&Checkpoint| step.is_some() && it.step == step;
        if let Some(other) = checkpoints.iter().find(of_step).filter(|_| checkpoint.step != step) {
            let detail = format!(
                "has moments after step {}, which are of {}, and is given for {}",
                step.unwrap_or_default(),
                last(&other.name),
                last(&checkpoint.name)
            );
            let error = Error::new(ErrorKind::Input, detail).file(&**path);
            return Err(error.help("give them in the order of their checkpoints").into());
        }
    }
    Ok(())
}

fn open(
    checkpoint: &Checkpoint,
    files: &dyn Files,
    readers: &Readers,
    given: Option<&str>,
    is_corrected: bool,
) -> Maybe<(FoundMoments, Vec<File>)> {
    let folder = match checkpoint.layout {
        Some(_) => &*checkpoint.name,
        None => checkpoint.state_folder(),
    };
    if let Some(place) = in_ranks(checkpoint, files, folder, given)? {
        return of_ranks(checkpoint, files, folder, &place, given, is_corrected);
    }
    let path = given.map_or_else(|| join(folder, STATE), str::to_owned);
    if given.is_none() && !is_file(files, &path)? {
        return Err(missing(files, folder)?.file(&*checkpoint.name).into());
    }
    let (header, (corrections, counted)) = if path.ends_with(".safetensors") {
        let header = crate::format::open(files, readers.formats, &path, None)?.header;
        let own = by_weights(&header, &|range| files.read(&path, range)).map_err(|stop| stop.file(&path))?;
        let corrections = if is_corrected { told(&header, &own) } else { Vec::new() };
        let counted = [BETA2, STEP]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), header.metadata().get(name)?.to_owned())));
        let counted = counted.collect();
        (own, (corrections, counted))
    } else {
        of_state(checkpoint, files, &path, is_corrected).map_err(|stop| stop.file(&path))?
    };
    let tensors = header.tensors();
    if let Some(place) = Index::new(tensors.iter().map(|tensor| tensor.name.as_str())).repeated() {
        let error = Error::new(ErrorKind::Names, "has second moments under this name twice");
        return Err(error.file(&*path).tensor(&*tensors[place].name).into());
    }
    let name = way(checkpoint.weights_folder(), &path);
    let len = size(files, &path)?;
    Ok((FoundMoments { file: File::at(path, name, len, header), corrections, counted }, Vec::new()))
}

/// Where the ranks of a training left the state of their optimizers, if it is theirs that is wanted.
fn in_ranks(
    checkpoint: &Checkpoint,
    files: &dyn Files,
    folder: &str,
    given: Option<&str>,
) -> Maybe<Option<(Layout, String)>> {
    let is_theirs = match given {
        // how a report names them
        Some(path) => path.starts_with(&join(folder, "")) && is_of_ranks(path),
        None => checkpoint.layout.is_some() || !is_file(files, &join(folder, STATE))?,
    };
    if is_theirs { training::find(files, folder) } else { Ok(None) }
}

/// The squares in the files of the ranks of a training, and these files where the checkpoint has them not.
fn of_ranks(
    checkpoint: &Checkpoint,
    files: &dyn Files,
    folder: &str,
    place: &(Layout, String),
    given: Option<&str>,
    is_corrected: bool,
) -> Maybe<(FoundMoments, Vec<File>)> {
    let own: Vec<_> = checkpoint.files.iter().map(|file| file.path.as_str()).collect();
    let Squares { file: (path, len, header), more, counted } = training::squares(files, folder, place, &own)?;
    let named = |path: &str| way(checkpoint.weights_folder(), path);
    if let Some(given) = given {
        let mut read = more.iter().map(|(path, _)| path.as_str()).chain(own).chain([&*path]);
        if !read.any(|path| named(path) == named(given)) {
            let detail = format!("is none of the files of the save that is read, that of {path}");
            let help = "leave --moments out, or give what mwa moments takes out of the save that you mean";
            return Err(Error::new(ErrorKind::Input, detail).file(given).help(help).into());
        }
    }
    let names = Index::new(checkpoint.tensors().map(|tensor| tensor.name.as_str()));
    let name = |name: &str| if names.has(name) { name.to_owned() } else { plain(name) };
    let header = header.renamed(|tensor| Some(name(&tensor.name)));
    let told = |(beta, step): (f64, f64)| {
        Vec::from([(BETA2.to_owned(), format!("{beta}")), (STEP.to_owned(), format!("{step}"))])
    };
    let factor = counted.filter(|_| is_corrected).and_then(|(beta, step)| correction(beta, step));
    let more = more.into_iter().map(|(path, len)| {
        let header = Header::lying(Vec::new(), Vec::new().into(), len)?;
        let name = named(&path);
        let mut file = File::at(path, name, len, header);
        file.merged = Some("");
        Ok(file)
    });
    let found = FoundMoments {
        corrections: factor.map_or_else(Vec::new, |factor| alike(&header, factor)),
        counted: counted.filter(|_| is_corrected).map_or_else(Vec::new, told),
        file: File::at(path.clone(), named(&path), len, header),
    };
    Ok((found, more.collect::<Result<_>>()?))
}

/// There is no state where it would be.
fn missing(files: &dyn Files, folder: &str) -> Maybe<Error> {
    let names = files.list(folder)?;
    let other = names.iter().find(|name| name.starts_with("optimizer_") || *name == BIN);
    let detail = format!("has no {STATE}, in which the second moments would be that the method weighs by");
    let detail = match other {
        Some(other) if other == BIN => {
            format!("{detail}; {BIN} is accelerate's, and read as --moments {}", readable(&join(folder, BIN)))
        }
        Some(other) => format!(
            "{detail}; {} is of FSDP, whose states are read beside a model in pytorch_model_fsdp_0",
            readable(other)
        ),
        None => detail,
    };
    Ok(Error::new(ErrorKind::Input, detail).help(
        "a Trainer keeps the state of its optimizer unless save_only_model is set; where it lies elsewhere, name it: of a merge by --moments, \
         one for each checkpoint, of mwa moments by --state",
    ))
}

/// The squares in the state of an optimizer, under the names of the weights beside it.
fn of_state(
    checkpoint: &Checkpoint,
    files: &dyn Files,
    path: &str,
    is_corrected: bool,
) -> Maybe<(Header, Counted)> {
    let optimizer = Optimizer::open(files, path)?;
    let kind = optimizer.kind;
    let squares = match kind.squares() {
        Some(squares) if kind != OptimizerKind::Bnb8 => squares,
        _ => return Err(unusable(kind).into()),
    };
    let names = names(checkpoint, files, path, &optimizer)?;
    let keys: Vec<_> = names.iter().map(|(number, _)| format!("{number}.{squares}")).collect();
    let index = Index::new(keys.iter().map(String::as_str));
    let name = |key: &str| index.place(key).map(|place| names[place].1.clone());
    let header = gathered(&optimizer.header, &|range| files.read(path, range), &name)?;
    let counted = if is_corrected { counted(files, path, &optimizer, &names)? } else { Counted::default() };
    Ok((header, counted))
}

fn unusable(kind: OptimizerKind) -> Error {
    let keeps = match kind {
        OptimizerKind::Bnb8 => "squares of gradients as codes of 8 bits, which are not read here",
        _ => "no squares of gradients that are as large as the weights",
    };
    Error::new(ErrorKind::Input, format!("is the state of {}, with {keeps}", kind.name()))
        .help("leave out --method: without second moments all checkpoints count alike in each element")
}

/// Which weight each number is.
pub(crate) fn names(
    checkpoint: &Checkpoint,
    files: &dyn Files,
    path: &str,
    optimizer: &Optimizer,
) -> Maybe<Vec<(usize, String)>> {
    let is_trained =
        |it: &&Tensor| Float::of(it.dtype).is_some() && !is_newest(&it.name, &it.shape, it.dtype);
    let tensors = checkpoint.tensors().filter(is_trained);
    let parameters: Vec<_> = tensors.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
    let list = join(parent(path), NAMES);
    if is_file(files, &list)? {
        let order: Vec<String> = json::parse(&text(files, &list, CONFIG_LIMIT)?).map_err(|error| {
            Error::new(ErrorKind::Input, format!("is not a list of names: {error}")).file(&*list)
        })?;
        return Ok(optimizer.named(&parameters, &order).map_err(|error| error.file(&*list))?);
    }
    let config = match &checkpoint.folder {
        Some(folder) if checkpoint.config.is_none() => model_config(files, folder)?,
        _ => None,
    };
    let type_of = |text: String| {
        let config: serde_json::Value = json::parse(&text).ok()?;
        Some(config.get("model_type")?.as_str()?.to_owned())
    };
    let own = config.and_then(type_of);
    let model = checkpoint.config.as_ref().and_then(|config| config.base_model()).or(own.as_deref());
    Ok(optimizer.names(&parameters, model)?)
}

impl Moments {
    /// Those of a whole safetensors file that holds nothing else, under the names of the weights or with `.exp_avg_sq` behind.
    ///
    /// # Errors
    /// As [`Header::parse`].
    pub fn of_file(name: &str, bytes: &[u8]) -> Result<Self> {
        let header = Header::parse(bytes, bytes.len() as u64)?;
        let part = |range: Range<u64>| {
            let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
            Ok(Cow::Borrowed(&bytes[start..end]))
        };
        let own = match by_weights(&header, &part) {
            Ok(own) => own,
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Later) => unreachable!("all bytes are there"),
        };
        let corrections = told(&header, &own);
        Ok(Self { shard: Shard { name: name.to_owned(), header: own }, corrections })
    }
}

/// What reads bytes of a file.
type ReadPart<'a> = dyn Fn(Range<u64>) -> Maybe<Cow<'a, [u8]>> + 'a;

/// Moments under the names of the weights.
fn by_weights(header: &Header, read: &ReadPart<'_>) -> Maybe<Header> {
    gathered(header, read, &|name| Some(plain(name.trim_end_matches(SQUARES))))
}

/// The tensors that get a name here, and matrices of which the means of rows and columns are kept, whole.
fn gathered(header: &Header, read: &ReadPart<'_>, name: &dyn Fn(&str) -> Option<String>) -> Maybe<Header> {
    let tensors = header.tensors();
    let half =
        |tensor: &Tensor| MEANS.iter().find_map(|end| tensor.name.strip_suffix(end).map(str::to_owned));
    let own = header.renamed(|tensor| if half(tensor).is_none() { name(&tensor.name) } else { None });
    let index = Index::new(tensors.iter().map(|tensor| tensor.name.as_str()));
    let mut views = Vec::new();
    for (tensor, stem) in tensors.iter().filter_map(|tensor| Some((tensor, half(tensor)?))) {
        let Some(weight) = name(&format!("{stem}{SQUARES}")) else { continue };
        let halves = MEANS.map(|end| index.place(&format!("{stem}{end}")).map(|place| &tensors[place]));
        let refused = |detail: String| Err(Error::new(ErrorKind::Input, detail).tensor(&*tensor.name));
        let [Some(rows), Some(columns)] = halves else {
            let detail =
                "is of the rows or the columns of second moments, and the other of the two is missing";
            return refused(detail.into())?;
        };
        if let Some(odd) =
            [rows, columns].into_iter().find(|it| it.dtype != Dtype::F32 || it.shape.len() != 1)
        {
            let detail = format!(
                "is {} {:?}: the means of rows and columns are read of matrices, in F32",
                odd.dtype, odd.shape
            );
            return Err(Error::new(ErrorKind::Input, detail).tensor(&*odd.name).into());
        }
        // once for both
        if tensor.name != rows.name {
            continue;
        }
        if rows.range.end.max(columns.range.end) > header.file_len() {
            return refused("has numbers that do not lie side by side".into())?;
        }
        let (range, shape) = (0..0, [rows, columns].map(|it| it.shape[0]).to_vec());
        let made = Tensor { name: weight, dtype: Dtype::F32, shape, range };
        if rows.len() > SPAN_LIMIT {
            return refused(format!(
                "is {:?}: the means of rows are held at once, and are too many",
                rows.shape
            ))?;
        }
        views.push(read(rows.range.clone()).and_then(|bytes| {
            let odd = words(&bytes).find(|mean| !(0.0..f32::INFINITY).contains(mean));
            match odd {
                Some(odd) => {
                    let detail = format!("has a mean of {odd}, which no mean of squares is");
                    Err(Error::new(ErrorKind::Input, detail).tensor(&*rows.name).into())
                }
                None => Ok((made, View::of_means([&rows.range, &columns.range], &bytes))),
            }
        }));
    }
    let views = all(views)?;
    Ok(if views.is_empty() { own } else { own.with_views(views)? })
}

/// What each weight's moments are to be multiplied by, as they began with 0 a few steps ago; and in words, where all are alike.
fn counted(
    files: &dyn Files,
    path: &str,
    optimizer: &Optimizer,
    names: &[(usize, String)],
) -> Maybe<Counted> {
    let keys: Vec<_> = names.iter().map(|(number, _)| format!("{number}.step")).collect();
    let tensors = optimizer.header.tensors();
    let index = Index::new(tensors.iter().map(|tensor| tensor.name.as_str()));
    let read = names.iter().zip(&keys).map(|((number, name), key)| {
        let known = optimizer.steps.iter().find(|(other, _)| other == number);
        let tensor = index.place(key).map(|place| &tensors[place]);
        let step = match (known, tensor.and_then(|it| Some((it, Float::of(it.dtype)?)))) {
            #[expect(clippy::cast_precision_loss, reason = "nobody takes 2^53 steps")]
            (Some((_, step)), _) => Some(*step as f64),
            (None, Some((tensor, float))) => {
                let first =
                    tensor.range.start..tensor.range.end.min(tensor.range.start + float.bytes() as u64);
                files.read(path, first)?.get(..float.bytes()).map(|word| float.value(word))
            }
            (None, None) => None,
        };
        let group = optimizer.groups.iter().find(|group| group.parameters.contains(number));
        Ok((name, step, group.and_then(|group| group.betas).map(|(_, beta)| beta)))
    });
    let all = all(read)?;
    let of = |(name, step, beta): &(&String, Option<f64>, Option<f64>)| {
        let factor = match optimizer.kind {
            // a sum, not a mean
            OptimizerKind::Adagrad => step.filter(|step| *step > 0.0).map(|step| 1.0 / step),
            _ => beta.zip(*step).and_then(|(beta, step)| correction(beta, step)),
        };
        ((*name).clone(), factor.unwrap_or(1.0))
    };
    let mut factors: Vec<_> = all.iter().map(of).collect();
    factors.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let is_same = all.windows(2).all(|pair| (pair[0].1, pair[0].2) == (pair[1].1, pair[1].2));
    let told = match all.first() {
        Some((_, Some(step), Some(beta))) if is_same => {
            Vec::from([(BETA2.to_owned(), format!("{beta}")), (STEP.to_owned(), format!("{step}"))])
        }
        _ => Vec::new(),
    };
    Ok((factors, told))
}

/// 1/(1 − β^step), where that is a number above 0.
fn correction(beta: f64, step: f64) -> Option<f64> {
    let share = 1.0 - libm::pow(beta, step);
    (step > 0.0 && share > 0.0 && share <= 1.0).then(|| 1.0 / share)
}

/// The same of a file of moments alone, for all of its tensors.
fn told(header: &Header, own: &Header) -> Vec<(String, f64)> {
    let number = |name: &str| header.metadata().get(name).and_then(|text| text.parse::<f64>().ok());
    let factor = number(BETA2).zip(number(STEP)).and_then(|(beta, step)| correction(beta, step));
    factor.map_or_else(Vec::new, |factor| alike(own, factor))
}

/// The same factor for all.
fn alike(own: &Header, factor: f64) -> Vec<(String, f64)> {
    let mut all: Vec<_> = own.tensors().iter().map(|tensor| (tensor.name.clone(), factor)).collect();
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The way from a folder to a file, as far as their texts tell it.
fn way(folder: &str, path: &str) -> String {
    let parts = |text: &'_ str| -> Vec<String> {
        text.split('/').filter(|part| !part.is_empty() && *part != ".").map(String::from).collect()
    };
    let (from, to) = (parts(folder), parts(path));
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let is_apart = is_rooted(folder) != is_rooted(path)
        || (shared < 2 && is_address(folder) | is_address(path))
        || from[shared..].iter().any(|part| part == "..");
    if is_apart {
        return path.to_string();
    }
    let up = from[shared..].iter().map(|_| "..");
    up.chain(to[shared..].iter().map(String::as_str)).collect::<Vec<_>>().join("/")
}

fn is_rooted(path: &str) -> bool {
    path.starts_with('/') || is_address(path)
}

fn is_address(path: &str) -> bool {
    path.contains("://")
}

/// The file of moments that a report names, of weights that lie in this folder: the other way round than `way`, whatever is a link.
#[must_use]
pub fn moments_at(folder: &str, name: &str) -> String {
    let (mut folder, mut name) = (folder, name);
    if is_rooted(name) {
        return name.to_owned();
    }
    while let Some(rest) = name.strip_prefix("../").filter(|_| !["", ".", "..", "/"].contains(&last(folder)))
    {
        (folder, name) = (parent(folder), rest);
    }
    join(folder, name)
}

/// What is wrong with the moments of these, if anything.
pub(crate) fn check(checkpoints: &[&Checkpoint], method: &'static str) -> Result<()> {
    for checkpoint in checkpoints {
        match &checkpoint.moments {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.clone()),
            None => {
                let detail = format!("method {method} weighs by second moments, which are not read here");
                return Err(Error::new(ErrorKind::Usage, detail)
                    .help("the native program, Python, Go and Java read them; or leave the method out"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_file_leads_out_of_a_folder() {
        for (folder, path, expected) in [
            ("run/checkpoint-1", "run/checkpoint-1/optimizer.pt", "optimizer.pt"),
            ("./run/checkpoint-1", "v/1.safetensors", "../../v/1.safetensors"),
            ("/a/run/1", "/a/v.safetensors", "../../v.safetensors"),
            ("run/1", "/a/v.safetensors", "/a/v.safetensors"),
            ("", "v.safetensors", "v.safetensors"),
            ("../run/1", "v.safetensors", "v.safetensors"),
            ("../run/1", "../v/1.pt", "../../v/1.pt"),
            ("s3://bucket/run/1", "s3://bucket/v.safetensors", "../../v.safetensors"),
            ("s3://bucket/run/1", "s3://other/v.safetensors", "s3://other/v.safetensors"),
            ("s3://bucket/run/1", "/a/v.safetensors", "/a/v.safetensors"),
        ] {
            assert_eq!(way(folder, path), expected);
        }
        for (folder, name, expected) in [
            ("run/1", "../v", "run/v"),
            ("run/1", "../../v", "v"),
            ("../run/1", "../../v", "../v"),
            ("../run/1", "../../../v", "../../v"),
            ("/run/1", "../../v", "/v"),
            ("run/1", "/v", "/v"),
            ("s3://bucket/run/1", "../v", "s3://bucket/run/v"),
            ("run/1", "s3://bucket/v", "s3://bucket/v"),
        ] {
            assert_eq!(moments_at(folder, name), expected);
        }
    }

    #[test]
    fn means_of_rows_are_few_and_of_squares() {
        let refused = |rows: &[f32], count: u64| {
            let end = count * 4;
            let text = format!(
                r#"{{"w.exp_avg_sq_row":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{end}]}},"w.exp_avg_sq_col":{{"dtype":"F32","shape":[1],"data_offsets":[{end},{}]}}}}"#,
                end + 4
            );
            let head = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
            let header = Header::parse(&head, head.len() as u64 + end + 4).unwrap();
            let bytes: Vec<u8> = rows.iter().flat_map(|mean| mean.to_le_bytes()).collect();
            match by_weights(&header, &|_| Ok(Cow::Borrowed(&bytes))) {
                Ok(_) => None,
                Err(Stop::Failed(error)) => Some(error.to_string()),
                Err(Stop::Later) => panic!("all is there"),
            }
        };
        assert_eq!(refused(&[0.0, 2.0], 2), None);
        for odd in [-1.0, f32::NAN, f32::INFINITY] {
            let said = format!("tensor `w.exp_avg_sq_row` has a mean of {odd}, which no mean of squares is");
            assert_eq!(refused(&[1.0, odd], 2), Some(said));
        }
        let said = refused(&[], (SPAN_LIMIT >> 2) + 1).unwrap();
        assert!(said.ends_with("the means of rows are held at once, and are too many"), "{said}");
    }

    #[test]
    fn few_steps_leave_means_of_squares_too_small() {
        assert_eq!(correction(0.999, 1.0), Some(1.0 / (1.0 - 0.999)));
        assert!((correction(0.999, 5000.0).unwrap() - 1.0067).abs() < 1e-3);
        assert_eq!((correction(0.999, 0.0), correction(1.0, 5.0), correction(2.0, 5.0)), (None, None, None));
    }
}

//! An adapter folded into its base: W + γ·B·A in the base's own files, tensor by tensor, as they stream.
//!
//! The core plans and hosts execute, as with merges: [`Folding`] gives the files to write, and pieces of them that are made in any
//! order, each of a few ranges of the inputs. Nothing is held but the pieces in flight and the factors that they need.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::Range;

use serde_json::{Map, Value};

use self::adapter::Parts;
use self::made::{Change, Made, not_finite};
use self::target::{Added, Base, Targets};
use crate::adapter::config::AdapterConfig;
use crate::dtype::{Dtype, Float};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, is_file, join, last, text};
use crate::format::safetensors::{Header, Tensor};
use crate::format::stem;
use crate::merge::Hash;
use crate::merge::report::{self, Folded, MODEL_CONFIG, REPORT, Report};
use crate::run::checkpoint::{Checkpoint, model_config};
use crate::run::readers::{OpenOptions, Readers};
use crate::text::escape::{markdown, readable};
use crate::text::json;

pub use kernel::Work;
pub use made::ReadAt;

mod adapter;
mod kernel;
mod made;
mod target;

/// What is folded into what.
#[derive(Clone, Debug)]
pub struct FoldOptions {
    /// The adapter: its folder.
    pub adapter: String,
    /// The base: its folder, or a file.
    pub base: String,
    /// Let NaN and infinity through instead of failing.
    pub allow_non_finite: bool,
}

/// A planned folding.
#[derive(Debug)]
pub struct Folding {
    /// The files that are read: the base's, then the adapter's.
    pub base: Checkpoint,
    /// See [`Self::base`].
    pub adapter: Checkpoint,
    outputs: Vec<Output>,
    /// Small files to write beside them: name and text.
    pub texts: Vec<(String, String)>,
    /// Files to copy beside them: name and path.
    pub companions: Vec<(String, String)>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// How many modules of the adapter were folded in.
    pub modules: usize,
    /// How many tensors of the base the adapter replaces as a whole.
    pub replaced: usize,
    /// How many tensors of the base change.
    pub changed: usize,
    /// The tensors that the base does not have.
    pub added: Vec<String>,
    allow_non_finite: bool,
}

/// A file to write.
#[derive(Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its first bytes.
    head: Vec<u8>,
    /// The base's file that it is byte for byte, if nothing in it changes.
    copied: Option<usize>,
    /// With their names.
    made: Vec<(String, Made)>,
}

/// A piece of an output: bytes of a tensor, or of a whole file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which output.
    pub output: usize,
    /// Its bytes there.
    pub to: Range<u64>,
    tensor: usize,
    range: Range<u64>,
}

/// What columns are multiplied by, for the weights whose columns have norms: output, tensor, factors.
pub type Factors = Vec<((usize, usize), Vec<f64>)>;

impl Folding {
    /// Open both and find the place of every tensor of the adapter.
    ///
    /// # Errors
    /// What is wrong with either, and whatever of the adapter has no place in the base.
    pub fn new(files: &dyn Files, readers: &Readers, options: &FoldOptions) -> Maybe<Self> {
        let FoldOptions { adapter: adapter_path, base: base_path, allow_non_finite } = options;
        let wanted = OpenOptions::default();
        let adapter = Checkpoint::open(files, readers, adapter_path, &wanted)?;
        let base = Checkpoint::open(files, readers, base_path, &wanted)?;
        let config = checked(&adapter, &base)?;
        let config_text = match &base.folder {
            Some(folder) => model_config(files, folder)?,
            None => None,
        };
        let base_config: Option<Value> = config_text.as_deref().and_then(|text| json::parse(text).ok());
        if let Some(how) = base_config.as_ref().and_then(|config| config.get("quantization_config")) {
            let how = how.get("quant_method").and_then(Value::as_str).unwrap_or("some method");
            let detail = format!(
                "says that the base is quantised ({how}), and an adapter is folded into plain weights"
            );
            return Err(Error::new(ErrorKind::Dtype, detail)
                .file(join(base.folder.as_deref().unwrap_or_default(), MODEL_CONFIG))
                .help("give the model as it was before it was quantised with --base")
                .into());
        }
        let base_files: Vec<_> =
            base.files.iter().map(|it| (it.name().to_owned(), it.header.clone())).collect();
        let adapter_file =
            adapter.files.first().map_or(adapter_path.as_str(), |file| file.path.as_str()).to_owned();
        let count = base_files.len();
        let heads: Vec<_> = (count..).zip(adapter.files.iter().map(|file| &file.header)).collect();
        let at = |error: Error| error.file(adapter_file.clone());
        let parts = Parts::new(&config, &heads).map_err(at)?;
        let known = Base::new(base_path, &base_files, base_config.as_ref());
        let targets = Targets::new(&config, &parts, &known).map_err(at)?;
        let named = config.base_model().map(last).filter(|name| !name.is_empty() && *name != last(base_path));
        let mut folding = Self {
            outputs: Vec::new(),
            texts: Vec::new(),
            companions: Vec::new(),
            notes: Vec::new(),
            modules: targets.modules,
            replaced: targets.replaced,
            changed: targets.changes.len(),
            added: targets.added.iter().map(|it| it.name.clone()).collect(),
            allow_non_finite: *allow_non_finite,
            base,
            adapter,
        };
        folding.lay_out(&base_files, &targets).map_err(|error| error.file(base_path))?;
        folding.notes.extend(targets.notes.iter().cloned());
        if let Some(name) = named {
            folding.notes.push(format!(
                "the adapter was trained on {name}; it fits {base_path} tensor by tensor, but nothing says that it is the same model"
            ));
        }
        folding.beside(files, config_text.as_deref(), &targets)?;
        folding.texts.push((report::CARD.to_owned(), folding.card(&config)));
        Ok(folding)
    }

    /// Lay out the files.
    fn lay_out(&mut self, base: &[(String, Header)], targets: &Targets) -> Result<()> {
        for (file, (name, header)) in base.iter().enumerate() {
            let change = |tensor: &Tensor| {
                let changes = &targets.changes;
                let at = changes.binary_search_by(|(name, _)| name.as_str().cmp(&tensor.name));
                at.ok().map(|at| &changes[at].1)
            };
            // what the base lacks comes into its last file
            let added: &[Added] = if file + 1 == base.len() { &targets.added } else { &[] };
            let output = if added.is_empty() && header.tensors().iter().all(|tensor| change(tensor).is_none())
            {
                let len = header.file_len();
                Output { name: name.clone(), len, head: Vec::new(), copied: Some(file), made: Vec::new() }
            } else {
                let own = header.tensors().iter().map(|it| (it.name.clone(), it.dtype, it.shape.clone()));
                let more = added.iter().map(|it| (it.name.clone(), it.dtype, it.shape.clone()));
                let laid =
                    Header::layout_beside(own.chain(more), header.metadata().clone(), header.beside())?;
                let old: Vec<&Tensor> = header.tensors().iter().collect();
                let index = crate::text::index::Index::new(old.iter().map(|it| it.name.as_str()));
                let made = laid.tensors().iter().map(|tensor| {
                    let from = index.place(&tensor.name).map(|place| old[place]);
                    let own = added.iter().find(|it| it.name == tensor.name && from.is_none());
                    let made = match (from, own) {
                        (Some(from), _) => {
                            let change = change(from).cloned().unwrap_or(Change::Copy);
                            of(tensor, Some((file, from.range.start)), change)
                        }
                        (None, Some(own)) => {
                            of(tensor, own.from.map(|from| (from.file, from.start)), own.change.clone())
                        }
                        (None, None) => unreachable!("all tensors are the base's or added"),
                    };
                    (tensor.name.clone(), made)
                });
                let made = made.collect();
                Output { name: name.clone(), len: laid.file_len(), head: laid.to_bytes(), copied: None, made }
            };
            self.outputs.push(output);
        }
        Ok(())
    }

    /// What lies beside the weights: copied, or written anew where it tells of them.
    fn beside(&mut self, files: &dyn Files, config: Option<&str>, targets: &Targets) -> Maybe<()> {
        let Some(folder) = self.base.folder.clone() else { return Ok(()) };
        let mut found = Checkpoint::companions_of(files, &folder)?;
        for name in files.list(&folder)? {
            let path = join(&folder, &name);
            let is_known = found.iter().any(|(known, _)| *known == name);
            let is_weights = stem(&name).is_some() || WEIGHTS.iter().any(|end| name.ends_with(end));
            let is_ours = name.starts_with('.')
                || [report::CARD, REPORT, "trainer_state.json"].contains(&name.as_str());
            if !is_known && !is_weights && !is_ours && is_file(files, &path)? {
                found.push((name, path));
            }
        }
        let index = found.iter().position(|(name, _)| name.ends_with(INDEX));
        if let Some((name, path)) = index.filter(|_| !targets.added.is_empty()).map(|at| found.remove(at)) {
            let old = text(files, &path, MOST_INDEX)?;
            let last = self.outputs.last().map(|output| output.name.clone()).unwrap_or_default();
            self.texts.push((name, indexed(&old, &targets.added, &last).map_err(|error| error.file(path))?));
        }
        if let (true, Some(config)) = (targets.is_untied, config) {
            found.retain(|(name, _)| name != MODEL_CONFIG);
            self.texts.push((MODEL_CONFIG.to_owned(), untied(config)));
        }
        found.sort();
        self.companions = found;
        let own = self.adapter.folder.clone().unwrap_or_default();
        if own.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"] {
            if is_file(files, &join(&own, name))? {
                left.push(name);
            }
        }
        if !left.is_empty() {
            self.notes.push(format!(
                "beside the adapter lie {} too; those of the base are taken: copy them over if the training changed them",
                left.join(", ")
            ));
        }
        Ok(())
    }

    fn card(&self, config: &AdapterConfig) -> String {
        let mut text = String::from("---\n");
        if let Some(base) = config.base_model().filter(|name| !name.is_empty()) {
            text += &format!("base_model: {}\n", json::quoted(&readable(base)));
        }
        text += &format!(
            "tags:\n- mwa\n---\n\n# {} with an adapter folded in\n\nThe {} modules of the adapter {} are part of the weights (W + γ·B·A, rounded once), made with mwa {}.\n",
            markdown(last(&self.base.name)),
            self.modules,
            markdown(&self.adapter.name),
            env!("CARGO_PKG_VERSION"),
        );
        text += "\nHashes of all inputs and of the result are in `mwa-report.json`; `mwa verify` folds again and compares.\n";
        text
    }

    /// The report: `paths` are the ways from the output folder to the base and to the adapter, the hashes those of their files
    /// and of the outputs. What was written beside these comes in afterwards.
    #[must_use]
    pub fn report(&self, paths: &[String], inputs: &[Vec<Hash>], outputs: &[Hash]) -> Report {
        let both = [&self.base, &self.adapter].into_iter().zip(["base", "adapter"]);
        let inputs = both.zip(paths).zip(inputs).map(|(((checkpoint, role), path), hashes)| {
            report::Input::of_role(checkpoint, role, path, 1.0, hashes)
        });
        let outputs = self.outputs.iter().zip(outputs);
        Report {
            folded: Some(Folded {
                modules: self.modules,
                changed: self.changed,
                replaced: self.replaced,
                added: self.added.clone(),
            }),
            outputs: outputs.map(|(output, hash)| hash.of(&output.name, output.len)).collect(),
            notes: self.notes.clone(),
            ..Report::unweighed("apply", inputs.collect())
        }
    }

    /// The files to write.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The first bytes of a file; none of one that is copied.
    #[must_use]
    pub fn head(&self, output: usize) -> &[u8] {
        &self.outputs[output].head
    }

    /// Everything else of all files, in pieces of about `most` bytes.
    #[must_use]
    pub fn pieces(&self, most: u64) -> Vec<Piece> {
        let mut found = Vec::new();
        for (number, output) in self.outputs.iter().enumerate() {
            if output.copied.is_some() {
                let starts = (0..output.len).step_by(usize::try_from(most).unwrap_or(usize::MAX));
                found.extend(starts.map(|at| at..(at + most).min(output.len)).map(|range| Piece {
                    output: number,
                    to: range.clone(),
                    tensor: 0,
                    range,
                }));
            }
            for (tensor, (_, made)) in output.made.iter().enumerate() {
                found.extend(made.pieces(most).into_iter().map(|range| Piece {
                    output: number,
                    to: made.to.start + range.start..made.to.start + range.end,
                    tensor,
                    range,
                }));
            }
        }
        found
    }

    /// The weights whose columns have norms, which must be known before a piece of them is made: for [`Self::measure`].
    #[must_use]
    pub fn measured(&self) -> Vec<(usize, usize)> {
        let outputs = self.outputs.iter().enumerate();
        let all = outputs.flat_map(|(number, output)| {
            output.made.iter().enumerate().map(move |(tensor, (_, made))| (number, tensor, made))
        });
        all.filter(|(.., made)| made.is_measured()).map(|(number, tensor, _)| (number, tensor)).collect()
    }

    /// Measure the columns of one of these.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn measure(
        &self,
        (output, tensor): (usize, usize),
        most: u64,
        work: &mut Work,
        read: &mut ReadAt<'_>,
        run: &dyn Fn(&mut Work) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let made = &self.outputs[output].made[tensor].1;
        Ok(made.measure(most, work, read, run)?.unwrap_or_default())
    }

    /// The bytes of a piece. `read` gives those of an input, numbered as the base's files and then the adapter's; `run` runs the
    /// arithmetic, which is [`Work::run`].
    ///
    /// # Errors
    /// Those of `read`, and [`ErrorKind::NonFinite`].
    pub fn make<'a>(
        &self,
        piece: &Piece,
        factors: &Factors,
        work: &'a mut Work,
        read: &mut ReadAt<'_>,
        run: &dyn Fn(&mut Work) -> Result<()>,
    ) -> Result<&'a [u8]> {
        let output = &self.outputs[piece.output];
        if let Some(file) = output.copied {
            crate::room::resize(
                &mut work.out,
                usize::try_from(piece.to.end - piece.to.start).expect("it is small"),
            )?;
            read(file, piece.range.clone(), &mut work.out)?;
            return Ok(&work.out);
        }
        let (name, made) = &output.made[piece.tensor];
        let key = (piece.output, piece.tensor);
        let factors =
            factors.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| factors[at].1.as_slice());
        made.make(&piece.range, factors, work, read, run)?;
        if work.non_finite > 0 && !self.allow_non_finite {
            return Err(not_finite(work.non_finite, name).file(&*output.name));
        }
        Ok(&work.out)
    }
}

/// The ending of what says which of several files holds which tensor.
const INDEX: &str = ".safetensors.index.json";
/// The most bytes of it.
const MOST_INDEX: u64 = 100_000_000;
/// Other containers of the same weights.
const WEIGHTS: [&str; 8] = [".gguf", ".onnx", ".h5", ".msgpack", ".bin.index.json", ".npz", ".pkl", ".ot"];

/// Check what both are.
fn checked(adapter: &Checkpoint, base: &Checkpoint) -> Result<AdapterConfig> {
    let config = adapter.config.clone().ok_or_else(|| {
        let error = Error::new(ErrorKind::Config, "has no adapter_config.json, so nothing says what is folded, and how strongly");
        error.file(&*adapter.name).help(
            "give the folder of a PEFT adapter; a LoRA of another program becomes one by `mwa convert IN -o ADAPTER --format peft`",
        )
    })?;
    if base.config.is_some() {
        let detail = "is an adapter itself, and an adapter is folded into a model";
        return Err(Error::new(ErrorKind::Input, detail)
            .file(&*base.name)
            .help("give the model that both were trained on with --base"));
    }
    base.check_safetensors(
        "is not a safetensors file, and those of the base are written as they lie",
        "write it anew first: `mwa merge MODEL -o FOLDER`",
    )?;
    base.check_plain(
        "an adapter is folded into plain weights",
        "give the model as it was before it was quantised with --base",
    )?;
    Ok(config)
}

fn of(tensor: &Tensor, from: Option<(usize, u64)>, change: Change) -> Made {
    let size = bytes_of(tensor.dtype);
    let cols: u64 = match &change {
        Change::Fold(delta) => delta.cols,
        _ => tensor.shape.iter().skip(1).product(),
    };
    let dtype: Option<Float> = Float::of(tensor.dtype);
    Made { to: tensor.range.clone(), dtype, size, row: cols * size, from, change }
}

/// An index with tensors more, in one of its files.
fn indexed(old: &str, added: &[Added], file: &str) -> Result<String> {
    let bad = || Error::new(ErrorKind::Header, "is not a shard index");
    let mut index: Map<String, Value> = json::parse(old).map_err(|_| bad())?;
    let map = index.get_mut("weight_map").and_then(Value::as_object_mut).ok_or_else(bad)?;
    let mut bytes = 0;
    for it in added {
        map.insert(it.name.clone(), file.into());
        bytes += it.shape.iter().product::<u64>() * bytes_of(it.dtype);
    }
    if let Some(size) = index.get_mut("metadata").and_then(|it| it.get_mut("total_size"))
        && let Some(before) = size.as_u64()
    {
        *size = (before + bytes).into();
    }
    Ok(json::pretty(&index) + "\n")
}

fn bytes_of(dtype: Dtype) -> u64 {
    (dtype.bitsize() as u64 / 8).max(1)
}

/// A model's config whose head is a tensor of its own.
fn untied(config: &str) -> String {
    const TIED: &str = "tie_word_embeddings";
    let Ok(mut fields) = json::parse::<Map<String, Value>>(config) else { return config.to_string() };
    let inner = fields.get_mut("text_config").and_then(Value::as_object_mut);
    if let Some(inner) = inner.filter(|inner| inner.contains_key(TIED)) {
        inner.insert(TIED.to_owned(), false.into());
    }
    fields.insert(TIED.to_owned(), false.into());
    json::pretty(&fields) + "\n"
}

//! The end of a merge: the report, and the texts that belong beside the weights.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::Deserialize;

use super::card::with_section;
use super::report;
use super::report::{HashedFile, Report};
use super::{Merge, Modules};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Shard, Tensors};
use crate::text::json;

/// What a host has found out when all is written, for the report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// The way from the output folder to each input; may be empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Of each input's files; the report leaves out a file that was not hashed.
    pub inputs: Vec<Vec<Hash>>,
    /// Of each output file.
    pub outputs: Vec<Hash>,
    /// What was written beside them, [`Merge::texts`] among it; empty where a host cannot hash it.
    #[serde(default)]
    pub companions: Vec<HashedFile>,
    /// What the host has to tell: which files it did not take along.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether the host has drawn a picture of the weights beside them, as [`report::PICTURE`].
    #[serde(default)]
    pub has_picture: bool,
    /// What the card tells behind the weights of how a host found them, in Markdown; may be empty.
    #[serde(default)]
    pub section: String,
}

/// The hashes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// BLAKE3 in hex, as [`crate::digest`] makes it; an empty text for a file that was not hashed.
    pub blake3: String,
    /// SHA-256 in hex, if anybody asked for it.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Of an input in an object store, what the store says of it; see [`HashedFile::identity`].
    #[serde(default)]
    pub identity: Option<String>,
}

impl Hash {
    /// A file with these hashes.
    #[must_use]
    pub fn of(&self, name: &str, len: u64) -> HashedFile {
        let mut file = HashedFile::unhashed(name.to_owned(), len);
        self.write_to(&mut file);
        file
    }

    pub(crate) fn write_to(&self, file: &mut HashedFile) {
        file.blake3.clone_from(&self.blake3);
        file.sha256.clone_from(&self.sha256);
        file.identity.clone_from(&self.identity);
    }
}

impl From<String> for Hash {
    /// BLAKE3 alone.
    fn from(blake3: String) -> Self {
        Self { blake3, sha256: None, identity: None }
    }
}

/// A file of text that belongs beside the weights: its name and what is in it.
pub type Text = (String, String);

/// What is left to write.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What was merged, with which weights and why.
    pub report: Report,
    /// Shard index, adapter config, model card and report.
    pub texts: Vec<Text>,
}

impl Merge {
    /// Shard index, adapter config, and a model's config that says another dtype: what belongs beside the weights and does not
    /// depend on hashes.
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        let mut texts: Vec<_> = shard_indexes(self.outputs());
        texts.extend_from_slice(&self.rewritten);
        if let Some(config) = &self.chosen.configs[self.owner()] {
            let text = self.rewritten().unwrap_or_else(|| config.text().to_string());
            texts.push((report::CONFIG.to_string(), text));
        }
        texts
    }

    /// The report so far, without hashes.
    #[must_use]
    pub fn preview(&self) -> Report {
        self.report(&Closing::default(), self.distance().ok().and_then(|(distance, _)| distance))
    }

    /// The report of the weights alone, where [`Merge::next_to_weigh`] is done and nothing is merged.
    #[must_use]
    pub fn weighed(&self) -> Report {
        let mut report = self.preview();
        report.outputs.clear();
        report.inputs.iter_mut().for_each(|input| input.files.clear());
        report
    }

    /// The report and the texts to write, when all jobs were told of.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is not one hash per file; [`ErrorKind::Input`] when there was nothing to merge.
    pub fn finish(&self, closing: &Closing) -> Result<Finished> {
        let inputs = closing.inputs.iter().map(Vec::len);
        let files = (0..self.chosen.inputs.len()).map(|input| self.chosen.files(input).count());
        if !inputs.eq(files) || closing.outputs.len() != self.outputs().len() {
            let error = Error::new(ErrorKind::Usage, "the hashes are not one for each file");
            return Err(error.help("give those of every checkpoint's files, and of every output, in order"));
        }
        let (distance, _) = self.distance()?;
        let mut made = self.report(closing, distance);
        for input in &mut made.inputs {
            input.files.retain(|file| !file.blake3.is_empty() || file.identity.is_some());
        }
        // what was recovered is in all of its inputs alike
        if made.recovered.is_none() {
            made.notes.extend(twins(&made.inputs));
        }
        let mut texts = self.texts();
        let config = self.chosen.configs[self.owner()].as_ref();
        let picture = Some(report::PICTURE).filter(|_| closing.has_picture);
        texts.push((report::CARD.to_string(), with_section(&made, config, picture, &closing.section)));
        texts.push((report::REPORT.to_string(), made.to_json()));
        Ok(Finished { report: made, texts })
    }

    fn report(&self, closing: &Closing, residual: Option<report::Distance>) -> Report {
        let mut inputs = self.chosen.rows.clone();
        for (i, row) in inputs.iter_mut().enumerate() {
            if let Some(path) = closing.paths.get(i) {
                row.path.clone_from(path);
            }
            if row.files.is_empty() {
                row.files = self.chosen.files(i).map(unhashed).collect();
            }
            for (file, hash) in row.files.iter_mut().zip(closing.inputs.get(i).into_iter().flatten()) {
                hash.write_to(file);
            }
        }
        let mut outputs: Vec<_> = self.outputs().iter().map(unhashed).collect();
        for (file, hash) in outputs.iter_mut().zip(&closing.outputs) {
            hash.write_to(file);
        }
        let (space, rank) = report::space_name(self.options.space);
        let mut report = Report {
            mwa: env!("CARGO_PKG_VERSION").to_string(),
            selected: self.chosen.selected.clone(),
            weighting: self.options.blend.tell(self.chosen.weighting.clone()),
            ranking: self.chosen.ranking.clone(),
            groups: match self.options.blend.angle() {
                Some(_) => self.recipe.groups.told(),
                None => self.chosen.groups.clone(),
            },
            space,
            rank,
            residual,
            quantised: self.rounded().map(|(_, off)| off),
            grafted: self.grafted(),
            dtype: report::dtype_name(self.options.dtype),
            shard_size: self.options.shard_size,
            adapter: self.chosen.adapter.clone(),
            format: None,
            round: self.chosen.round.as_ref().map(|round| round.told.clone()),
            recovered: self.chosen.recovered.clone(),
            folded: None,
            extracted: None,
            inputs,
            outputs,
            companions: closing.companions.clone(),
            advice: self.chosen.advice.clone(),
            notes: self.notes().into_iter().chain(closing.notes.iter().cloned()).collect(),
        };
        report.advise();
        report
    }

    /// The adapter's config where merged products have another rank and scale than the inputs.
    fn rewritten(&self) -> Option<String> {
        let (Modules::Product(products, _), Some(laid)) = (&self.modules, &self.laid) else { return None };
        let configs: Vec<_> = self.chosen.configs.iter().flatten().collect();
        Some(configs.last()?.rewritten(&products.config(&laid.ranks, &configs)))
    }
}

fn unhashed(file: &Shard) -> HashedFile {
    HashedFile::unhashed(file.name.clone(), file.header.file_len())
}

/// What to say of inputs that are the same model.
fn twins(inputs: &[report::Input]) -> Vec<String> {
    let is_same = |(a, b): (&HashedFile, &HashedFile)| a.blake3 == b.blake3 && !a.blake3.is_empty();
    let mut pairs = Vec::new();
    for (i, input) in inputs.iter().enumerate().filter(|(_, input)| !input.files.is_empty()) {
        let mut before = inputs[..i].iter().rev().filter(|other| other.files.len() == input.files.len());
        let twin = before.find(|other| other.files.iter().zip(&input.files).all(is_same));
        pairs.extend(twin.map(|twin| (&twin.name, &input.name)));
    }
    let same = "hold the same weights, byte for byte";
    match pairs.as_slice() {
        // a line each would be hundreds
        [(first, _), _, _, .., (_, last)] => {
            let count = pairs.len();
            vec![format!("{count} checkpoints, from {first} to {last}, {same} as one before them")]
        }
        few => few.iter().map(|(a, b)| format!("{a} and {b} {same}")).collect(),
    }
}

/// Which file of several holds which tensor, as transformers, PEFT and diffusers read it: the index's file name and its JSON;
/// one for the weights, and one for each folder beside them. None for a single file, which needs none.
#[must_use]
pub fn shard_indexes(files: &[Shard]) -> Vec<Text> {
    // files in the folder of the weights itself are by themselves
    let mut groups: Vec<_> =
        files.iter().map(|file| file.header.beside()).filter(|it| *it != Some("")).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.into_iter().filter_map(|beside| shard_index(files, beside)).collect()
}

fn shard_index(files: &[Shard], beside: Option<&str>) -> Option<Text> {
    let folder = beside.unwrap_or_default();
    let of_group = |file: &Shard| file.header.beside() == beside;
    let own = |file: &Shard| file.name.strip_prefix(folder).unwrap_or(&file.name).to_owned();
    let mut group = files.iter().filter(|file| of_group(file));
    let first = own(group.next()?);
    group.next()?;
    // written as it is found: of a million tensors, maps of values would take more memory than all else
    let (mut weight_map, mut total_size) = (String::new(), 0);
    for (file, tensor) in Tensors::new(files).sorted().filter(|(file, _)| of_group(&files[*file])) {
        let start = if weight_map.is_empty() { "" } else { "," };
        let name = json::quoted(files[file].header.own_name(&tensor.name));
        weight_map += &format!("{start}\n    {name}: {}", json::quoted(&own(&files[file])));
        total_size += tensor.len();
    }
    let known = ["adapter_model", "diffusion_pytorch_model"];
    let stem = known.into_iter().find(|stem| first.starts_with(stem)).unwrap_or("model");
    let end = if weight_map.is_empty() { "" } else { "\n  " };
    let index = format!(
        "{{\n  \"metadata\": {{\n    \"total_size\": {total_size}\n  }},\n  \"weight_map\": {{{weight_map}{end}}}\n}}\n"
    );
    Some((format!("{folder}{stem}.safetensors.index.json"), index))
}

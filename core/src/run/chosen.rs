//! From weighed checkpoints to what a merge takes: their heads, configs and rows of the report, and the output's names.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::checkpoint::{CONFIG_LIMIT, Checkpoint, File};
use super::moments::{self, FoundMoments};
use super::readers::{MomentsWanted, OpenOptions, Readers};
use super::weights::is_part;
use super::{Run, Weighed};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Files, Maybe, all, is_file, join, last, parent, text, told};
use crate::format::{STEMS, stem};
use crate::merge::report::{self, COMPANIONS, HashedFile, MODEL_CONFIG, Report};
use crate::merge::{Chosen, Merge, MergeOptions};
use crate::method::blend::Blend;
use crate::method::product::Measure;
use crate::plan::{Input, Shard};
use crate::weigh::scheme::Weights;

impl Run {
    /// What [`crate::merge::Merge::new`] takes.
    #[must_use]
    pub fn chosen(&self, weighed: Weighed) -> Chosen {
        let Weighed {
            indexes,
            inputs,
            weights,
            weighting,
            robust,
            ranking,
            groups,
            selected,
            advice,
            mut notes,
            ..
        } = weighed;
        let checkpoints = self.inputs(&indexes);
        let adapter = self.adapter.clone();
        let (rows, weights) = match &self.base {
            Some(base) => {
                if checkpoints[1..].iter().any(|it| it.name == base.name) {
                    notes.push(format!("{} is the base itself, of which it changed nothing", base.name));
                }
                let row = report::Input::base(&base.name, self.weights_key.clone());
                let shares = [&[0.0], weights.values()].concat();
                let weights = Weights::normalised(&shares).unwrap_or(weights);
                ([Vec::from([row]), inputs].concat(), weights)
            }
            None => (inputs, weights),
        };
        let chosen = Chosen::of(&checkpoints, rows, weights, weighting);
        notes.extend(way_back(&checkpoints, &chosen));
        Chosen { robust, ranking, groups, selected: Some(selected), advice, notes, adapter, ..chosen }
    }

    /// Ask for what [`Checkpoint::beside`] may want to read, where files are read before anybody says what is merged.
    ///
    /// # Errors
    /// That it is still to be read, and what the system refuses.
    pub fn ask_beside(&self, files: &dyn Files) -> Maybe<()> {
        let companions =
            all(self.checkpoints.iter().map(|checkpoint| checkpoint.companions(files)))?.concat();
        let configs = companions.into_iter().filter(|(name, _)| last(name) == MODEL_CONFIG);
        // a merge that must read it says why it cannot
        let read = configs.map(|(_, path)| told(text(files, &path, CONFIG_LIMIT)));
        all(read).map(drop)
    }

    /// What there is to tell of a choice that is not merged.
    #[must_use]
    pub fn report(&self, weighed: Weighed) -> Report {
        let Weighed { inputs, weighting, ranking, groups, selected, advice, notes, .. } = weighed;
        Report {
            selected: Some(selected),
            weighting,
            ranking,
            groups,
            adapter: self.adapter.clone(),
            advice,
            notes,
            ..Report::unweighed("weights", inputs)
        }
    }
}

/// How the note begins that says what a merge of other files than safetensors is called.
pub const WRITTEN_AS: &str = "the weights are written as ";

/// How to get a file of its own kind back for a program that loads no safetensors, where one is merged.
fn way_back(checkpoints: &[&Checkpoint], chosen: &Chosen) -> Option<String> {
    let files = checkpoints.last()?.files.iter().zip(&chosen.inputs.last()?.files);
    let is_own = |file: &File| {
        let known = stem(last(file.name())).is_some_and(|stem| STEMS.contains(&stem));
        !file.header.is_safetensors() && !known && file.merged.is_none()
    };
    let (file, merged) = files.into_iter().find(|(file, _)| is_own(file))?;
    let (own, merged) = (file.name(), &merged.name);
    // other containers than torch's are formats of their own
    stem(own)?;
    Some(format!("{WRITTEN_AS}{merged}; mwa merge with --format pt makes a file like {own} of them"))
}

impl Chosen {
    /// Checkpoints, oldest first, with the report's row of each, which gets their files, still without hashes.
    #[must_use]
    pub fn of(
        checkpoints: &[&Checkpoint],
        mut rows: Vec<report::Input>,
        weights: Weights,
        weighting: report::Weighting,
    ) -> Self {
        for (row, checkpoint) in rows.iter_mut().zip(checkpoints) {
            row.files = checkpoint.read_files().map(unhashed).collect();
        }
        let is_base = |row: &report::Input| row.role.as_deref() == Some(report::BASE);
        let moments = checkpoints.iter().filter_map(|it| it.moments.as_ref()?.as_ref().ok());
        Self {
            has_base: rows.first().is_some_and(is_base),
            moments: moments.map(FoundMoments::moments).collect(),
            inputs: checkpoints.iter().map(|checkpoint| input(checkpoint, checkpoints)).collect(),
            configs: checkpoints.iter().map(|checkpoint| checkpoint.config.clone()).collect(),
            rows,
            weights,
            weighting,
            robust: None,
            round: None,
            recovered: None,
            ranking: None,
            selected: None,
            advice: Vec::new(),
            notes: Vec::new(),
            adapter: None,
            groups: Vec::new(),
            runs: runs_of(checkpoints),
            blocks: checkpoints.iter().map(|checkpoint| checkpoint.block).collect(),
        }
    }
}

/// The number of the run of each.
fn runs_of(checkpoints: &[&Checkpoint]) -> Vec<usize> {
    let first = |of: &&Checkpoint| checkpoints.iter().position(|it| it.run() == of.run()).unwrap_or_default();
    checkpoints.iter().map(first).collect()
}

impl Report {
    /// The merge of this report again: its checkpoints, which lie at `paths`, with its weights.
    ///
    /// # Errors
    /// What is wrong with the files and with the weights.
    pub fn again(
        &self,
        files: &dyn Files,
        readers: &Readers,
        paths: &[String],
    ) -> Maybe<(Vec<Checkpoint>, Chosen)> {
        let weights = self.inputs.iter().map(|input| input.weight).collect::<Vec<_>>();
        let weights = Weights::normalised(&weights)?;
        if paths.len() != self.inputs.len() {
            let error = Error::new(ErrorKind::Usage, "the paths are not one for each input of the report");
            return Err(error.into());
        }
        let curvature = Blend::told(&self.weighting)?.curvature();
        let open = |(input, path): (&report::Input, &String)| {
            let (adapter, weights_key) = (self.adapter.clone(), input.weights_key.clone());
            let mut checkpoint = Checkpoint::open(
                files,
                readers,
                path,
                &OpenOptions { adapter, weights_key, ..OpenOptions::default() },
            )?;
            // what came later, or was left out then, was not merged
            if !input.files.is_empty() {
                checkpoint.files.retain(|file| input.files.iter().any(|merged| merged.name == file.name()));
            }
            if let Some(curvature) = curvature.filter(|_| input.role.is_none()) {
                let is_corrected = MomentsWanted::new(curvature, Vec::new()).is_corrected;
                let file = self.moments(input);
                let place = file.map(|it| moments::moments_at(checkpoint.weights_folder(), &it.name));
                checkpoint.find_moments(files, readers, place.as_deref(), is_corrected)?;
                moments::check(&[&checkpoint], "")?;
            }
            Ok(checkpoint)
        };
        let checkpoints = all(self.inputs.iter().zip(paths).map(open))?;
        let by_reference: Vec<_> = checkpoints.iter().collect();
        let chosen = Chosen::of(&by_reference, self.inputs.clone(), weights, self.weighting.clone());
        // scalars are found again
        let groups = if self.weighting.is_angled() { Vec::new() } else { self.groups.clone() };
        let chosen = Chosen { groups, ..chosen };
        Ok((checkpoints, chosen))
    }

    /// How it was merged, for [`Self::again`].
    ///
    /// # Errors
    /// [`ErrorKind::Input`] where the report names what is not known.
    pub fn merging(&self) -> Result<MergeOptions> {
        Ok(MergeOptions {
            dtype: self.dtype()?,
            blend: Blend::told(&self.weighting)?.over(self.merged() < self.inputs.len()),
            space: self.space()?,
            allow_cross_run: true,
            // what was let through comes again
            allow_non_finite: true,
            residual: Measure::Off,
            shard_size: self.shard_size,
            rewrite: self.round.is_some() || self.recovered.is_some() || self.weighting.is_robust(),
            ..MergeOptions::default()
        })
    }
}

impl Checkpoint {
    /// [`Self::companions`] that a merge copies as they are; the others become [`Merge::texts`].
    ///
    /// # Errors
    /// What the system refuses.
    pub fn beside(&self, files: &dyn Files, merge: &mut Merge) -> Maybe<Vec<(String, String)>> {
        let mut copied = Vec::new();
        for (name, path) in self.companions(files)? {
            if !merge.may_rewrite(&name) || !merge.rewrites(&name, &text(files, &path, CONFIG_LIMIT)?) {
                copied.push((name, path));
            }
        }
        Ok(copied)
    }

    /// Name and path of what lies beside its weights and belongs beside merged ones too: tokenizer, templates, configs.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn companions(&self, files: &dyn Files) -> Maybe<Vec<(String, String)>> {
        // MLX has the config of all its files beside them
        let is_mlx = self.files.iter().all(|file| last(file.name()).ends_with(MLX));
        let own = self.folder.as_deref().unwrap_or_else(|| parent(&self.name));
        let config = join(own, report::CONFIG);
        let mut found = Vec::new();
        if is_mlx && self.config.is_none() && is_file(files, &config)? {
            found.push((report::CONFIG.to_owned(), config));
        }
        if let Some(folder) = &self.folder {
            found.extend(Self::companions_of(files, folder)?);
        }
        Ok(found)
    }

    /// Those of a folder, whatever its weights.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn companions_of(files: &dyn Files, folder: &str) -> Maybe<Vec<(String, String)>> {
        let inner = |name: String| Ok(is_part(files, folder, &name)?.then_some(name));
        let inner = all(files.list(folder)?.into_iter().map(inner))?;
        let folders = [String::new()].into_iter().chain(inner.into_iter().flatten());
        let names: Vec<_> = folders.flat_map(|inner| COMPANIONS.map(|name| join(&inner, name))).collect();
        let found = names.into_iter().map(|name| {
            let path = join(folder, &name);
            Ok(is_file(files, &path)?.then_some((name, path)))
        });
        Ok(all(found)?.into_iter().flatten().collect())
    }
}

/// How MLX calls adapters, behind the step of each but the last.
const MLX: &str = "adapters.safetensors";

fn unhashed(file: &File) -> HashedFile {
    HashedFile::unhashed(file.name().to_owned(), file.len)
}

/// A checkpoint as a plan takes it, its files under the names that the output gives them.
fn input(checkpoint: &Checkpoint, all: &[&Checkpoint]) -> Input {
    let name = |file: &File| {
        let file = if file.merged == Some("") { &checkpoint.files[0] } else { file };
        if let Some(merged) = file.merged {
            return merged.to_owned();
        }
        // loose files of several names have none in common
        let is_loose = checkpoint.folder.is_none();
        if is_loose && all.iter().any(|other| other.files[0].name() != file.name()) {
            let is_mlx = all.iter().all(|other| other.files[0].name().ends_with(MLX));
            return if is_mlx { MLX } else { "merged.safetensors" }.to_owned();
        }
        safetensors_name(file.name())
    };
    let shard = |file: &File| Shard { name: name(file), header: file.header.clone() };
    Input { name: checkpoint.name.clone(), files: checkpoint.files.iter().map(shard).collect() }
}

/// `pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`, as in the format's own conversions.
fn safetensors_name(name: &str) -> String {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let file = match stem(file).filter(|_| !file.ends_with(".safetensors")) {
        Some(stem) => format!("{}.safetensors", stem.strip_prefix("pytorch_").unwrap_or(stem)),
        None => file.to_owned(),
    };
    join(folder, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_files_become_safetensors_files() {
        for (name, becomes) in [
            ("adapter_model.bin", "adapter_model.safetensors"),
            ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
            ("model.safetensors", "model.safetensors"),
            ("unet/checkpoint-3.pth.tar", "unet/checkpoint-3.safetensors"),
        ] {
            assert_eq!(safetensors_name(name), becomes);
        }
    }
}

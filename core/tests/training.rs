//! Checkpoints of training on several devices, as torch and DeepSpeed wrote them, and what of them is refused.

use core::ops::Range;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mwa::files::Kind;
use mwa::{Checkpoint, Dtype, Files, Maybe, MomentsWanted, OpenOptions, Readers, Run, Stop};

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    /// Those of a folder of the data, under its name.
    fn of(name: &str) -> Self {
        let mut files = Self::default();
        files.take(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/training").join(name), name);
        files
    }

    fn take(&mut self, folder: &Path, name: &str) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{name}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                self.take(&path, &name);
            } else {
                self.0.insert(name, fs::read(&path).unwrap());
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let bytes = self.0.remove(from).unwrap();
        self.0.insert(to.into(), bytes);
    }
}

impl Files for Memory {
    fn kind(&self, path: &str) -> Maybe<Kind> {
        let inside = format!("{path}/");
        Ok(match self.0.get(path) {
            Some(bytes) => Kind::File(bytes.len() as u64),
            None if self.0.keys().any(|name| name.starts_with(&inside)) => Kind::Folder,
            None => Kind::Missing,
        })
    }

    fn list(&self, folder: &str) -> Maybe<Vec<String>> {
        let inside = format!("{folder}/");
        let names = self.0.keys().filter_map(|name| name.strip_prefix(&inside)?.split('/').next());
        let mut names: Vec<_> = names.map(String::from).collect();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &str, range: Range<u64>) -> Maybe<Cow<'_, [u8]>> {
        let bytes = &self.0[path];
        let at = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
        Ok(Cow::Borrowed(&bytes[at(range.start)..at(range.end)]))
    }
}

fn open(files: &Memory, path: &str, key: Option<&str>) -> Result<Checkpoint, String> {
    let options = OpenOptions { weights_key: key.map(String::from), ..OpenOptions::default() };
    match Checkpoint::open(files, &Readers::ALL, path, &options) {
        Ok(checkpoint) => Ok(checkpoint),
        Err(Stop::Failed(error)) => Err(match error.advice() {
            Some(help) => format!("{error}\nhelp: {help}"),
            None => error.to_string(),
        }),
        Err(Stop::Later) => panic!("the memory has everything"),
    }
}

/// A tensor's dtype, shape, and numbers.
type Numbers = (Dtype, Vec<u64>, Vec<u8>);

/// The tensors of a checkpoint, read whole and a number at a time.
fn tensors(files: &Memory, checkpoint: &Checkpoint) -> BTreeMap<String, Numbers> {
    let mut found = BTreeMap::new();
    for file in &checkpoint.files {
        for tensor in file.header.tensors() {
            let read = |other: Option<usize>, at: u64, into: &mut [u8]| {
                let path = other.map_or(&file.path, |other| &checkpoint.files[other].path);
                let bytes = files.read(path, at..at + into.len() as u64).unwrap();
                into.copy_from_slice(&bytes);
                Ok::<(), ()>(())
            };
            let mut bytes = vec![0; usize::try_from(tensor.len()).unwrap()];
            file.header.read(tensor.range.start, &mut bytes, read).unwrap();
            let size = tensor.dtype.bitsize() / 8;
            for step in [1, 7] {
                for (number, part) in bytes.chunks(size * step).enumerate() {
                    let mut again = vec![0; part.len()];
                    let start = tensor.range.start + (number * step * size) as u64;
                    file.header.read(start, &mut again, read).unwrap();
                    assert_eq!(again, part, "{} at {start}", tensor.name);
                }
            }
            assert!(found.insert(tensor.name.clone(), (tensor.dtype, tensor.shape.clone(), bytes)).is_none());
        }
    }
    found
}

/// The second moments of a checkpoint, and the names of all files that they are read from, moments last.
fn moments(files: &Memory, path: &str) -> Result<(BTreeMap<String, Numbers>, Vec<String>), String> {
    let options = OpenOptions { moments: Some(MomentsWanted::default()), ..OpenOptions::default() };
    let run = match Run::open(files, &Readers::ALL, &[path.into()], &options) {
        Ok(run) => run,
        Err(Stop::Failed(error)) => panic!("{error}"),
        Err(Stop::Later) => panic!("the memory has everything"),
    };
    let checkpoint = &run.checkpoints[0];
    let found = match checkpoint.moments.as_ref().expect("they were wanted") {
        Ok(found) => found,
        Err(error) => return Err(format!("{error}\nhelp: {}", error.advice().unwrap_or_default())),
    };
    let mut all = BTreeMap::new();
    for tensor in found.file.header.tensors() {
        let mut bytes = vec![0; usize::try_from(tensor.len()).unwrap()];
        let read = |other: Option<usize>, at: u64, into: &mut [u8]| {
            let path = other.map_or(&found.file.path, |other| &checkpoint.files[other].path);
            into.copy_from_slice(&files.read(path, at..at + into.len() as u64).unwrap());
            Ok::<(), ()>(())
        };
        found.file.header.read(tensor.range.start, &mut bytes, read).unwrap();
        all.insert(tensor.name.clone(), (tensor.dtype, tensor.shape.clone(), bytes));
    }
    Ok((all, checkpoint.read_files().map(|file| file.name().to_owned()).collect()))
}

/// What another reader made of it: BF16 as F32, which holds it exactly.
fn expected(files: &Memory, path: &str) -> BTreeMap<String, Numbers> {
    let checkpoint = open(files, path, None).unwrap();
    widened(tensors(files, &checkpoint))
}

fn widened(tensors: BTreeMap<String, Numbers>) -> BTreeMap<String, Numbers> {
    let wide = |(name, (dtype, shape, bytes)): (String, Numbers)| {
        let bytes = match dtype {
            Dtype::BF16 => bytes.chunks(2).flat_map(|word| [0, 0, word[0], word[1]]).collect(),
            _ => bytes,
        };
        let dtype = if dtype == Dtype::BF16 { Dtype::F32 } else { dtype };
        (name, (dtype, shape, bytes))
    };
    tensors.into_iter().map(wide).collect()
}

fn refused(files: &Memory, path: &str) -> String {
    open(files, path, None).expect_err("it is refused")
}

/// How files are refused after a change.
fn refused_with(files: &Memory, path: &str, change: &dyn Fn(&mut Memory)) -> String {
    let mut files = files.clone();
    change(&mut files);
    refused(&files, path)
}

const HELP: &str = "\nhelp: its save was interrupted, or files of two saves are mixed: leave this checkpoint out, or copy it again";

#[test]
fn partitions_of_zero_2_are_put_together() {
    let files = Memory::of("zero2");
    for path in ["zero2", "zero2/global_step3"] {
        let checkpoint = open(&files, path, None).unwrap();
        assert_eq!(checkpoint.step, Some(3));
        assert_eq!(widened(tensors(&files, &checkpoint)), expected(&files, "zero2/expected.safetensors"));
        assert_eq!(
            checkpoint.notes,
            [
                "the f32 weights of DeepSpeed's optimizer are taken for 9 tensors (--weights-key module takes the module's); \
              from the module: `layers.0.frozen.weight`, `layers.1.frozen.weight`, `pos`"
            ]
        );
    }
    let module = open(&files, "zero2", Some("module")).unwrap();
    let module = tensors(&files, &module);
    let (masters, short) = (expected(&files, "zero2/expected.safetensors"), widened(module.clone()));
    assert_eq!(module["embed.weight"].0, Dtype::BF16);
    assert!(masters.keys().eq(short.keys()));
    assert_eq!(short["pos"], masters["pos"]);
    // rounded, so near the masters and not equal
    assert_ne!(short["embed.weight"], masters["embed.weight"]);
    assert!(open(&files, "zero2", Some("ema")).unwrap_err().contains("has no weights under `ema`"));
}

#[test]
fn universal_checkpoints_hold_the_same() {
    let (files, zero) = (Memory::of("universal"), Memory::of("zero2"));
    let checkpoint = open(&files, "universal", None).unwrap();
    assert_eq!(checkpoint.step, Some(3));
    assert_eq!(widened(tensors(&files, &checkpoint)), expected(&zero, "zero2/expected.safetensors"));
    let mut torn = files.clone();
    torn.0.remove("universal/zero/layers.1.norm.bias/fp32.pt");
    assert_eq!(
        refused(&torn, "universal"),
        format!(
            "universal: tensor `layers.1.norm.bias` has no zero/NAME/fp32.pt, though it is among the parameters of the model{HELP}"
        )
    );
    // the rest of a save whose first file is gone
    let model = "universal/mp_rank_00_model_states.pt";
    assert_eq!(
        refused_with(&files, "universal", &|files| files.rename(model, "universal/rank_0_optim_states.pt")),
        format!("universal: lacks its *_model_states.pt files{HELP}")
    );
}

#[test]
fn parts_of_zero_3_are_put_together() {
    let files = Memory::of("zero3");
    let checkpoint = open(&files, "zero3", None).unwrap();
    assert_eq!(widened(tensors(&files, &checkpoint)), expected(&files, "zero3/expected.safetensors"));
    assert!(open(&files, "zero3", Some("module")).unwrap_err().contains("leave out --weights-key"));
    let name = |rank: u8, kind: &str| format!("zero3/global_step3/{kind}zero_pp_rank_{rank}_mp_rank_00_");
    let mut torn = files.clone();
    torn.0.remove(&format!("{}model_states.pt", name(1, "")));
    let said = refused(&torn, "zero3/global_step3");
    assert_eq!(
        said,
        format!("zero3/global_step3: has model files of 1 ranks, but optimizer files of 2{HELP}")
    );
}

#[test]
fn second_moments_lie_as_the_weights_do() {
    for name in ["zero2", "zero3"] {
        let mut files = Memory::of(name);
        let folder = format!("{name}/global_step3");
        for path in [name, &folder] {
            let (found, names) = moments(&files, path).unwrap();
            assert_eq!(found, expected(&files, &format!("{name}/squares.safetensors")), "{path}");
            assert!(
                names.last().unwrap().ends_with("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
                "{names:?}"
            );
        }
        // a Trainer's: the model in a file beside them
        files.take(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/training").join(name),
            "run/checkpoint-3",
        );
        files.rename("run/checkpoint-3/expected.safetensors", "run/checkpoint-3/model.safetensors");
        files.0.remove("run/checkpoint-3/squares.safetensors");
        let (found, names) = moments(&files, "run/checkpoint-3").unwrap();
        assert_eq!(found, expected(&files, &format!("{name}/squares.safetensors")));
        assert_eq!(names.len(), 4, "the model, two ranks, the first again: {names:?}");
        // what rank 1 does not have
        let rank = format!("{folder}/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
        let bytes = files.0.get_mut(&rank).unwrap();
        for at in 0..bytes.len() - 10 {
            if bytes[at..].starts_with(b"exp_avg_sq") {
                bytes[at] = b'E';
            }
        }
        let said = moments(&files, name).unwrap_err();
        assert!(
            said.starts_with(&format!("{rank}: keeps no `exp_avg_sq` of each of its partitions\nhelp: ")),
            "{said}"
        );
    }
    let mut files = Memory::of("fsdp");
    let (found, names) = moments(&files, "fsdp/checkpoint-20").unwrap();
    assert_eq!(found, expected(&files, "fsdp/squares.safetensors"));
    let own =
        [".metadata", "__0_0.distcp", "__1_0.distcp"].map(|name| format!("pytorch_model_fsdp_0/{name}"));
    let more = ["__0_0.distcp", "__1_0.distcp", ".metadata"].map(|name| format!("optimizer_0/{name}"));
    assert_eq!(names, [own, more].concat());
    files.0.retain(|name, _| !name.contains("optimizer_0"));
    let said = moments(&files, "fsdp/checkpoint-20").unwrap_err();
    assert!(said.starts_with("fsdp/checkpoint-20/optimizer_0: has no .metadata"), "{said}");
    let said = moments(&Memory::of("dcp"), "dcp/checkpoint-10").unwrap_err();
    assert!(
        said.starts_with("dcp/checkpoint-10: holds no `exp_avg_sq`: `lr_scheduler`, `optimizer`, "),
        "{said}"
    );
    // universal: a file for each
    let mut files = Memory::of("universal");
    let said = moments(&files, "universal").unwrap_err();
    assert!(said.starts_with("universal: has no zero/NAME/exp_avg_sq.pt\nhelp: "), "{said}");
    let name = "universal/zero/layers.0.norm.bias";
    files.0.insert(format!("{name}/exp_avg_sq.pt"), files.0[&format!("{name}/fp32.pt")].clone());
    let (found, names) = moments(&files, "universal").unwrap();
    let weights = expected(&files, "universal");
    assert_eq!(found, BTreeMap::from([("layers.0.norm.bias".into(), weights["layers.0.norm.bias"].clone())]));
    assert!(names.ends_with(&[
        "zero/layers.0.norm.bias/exp_avg_sq.pt".into(),
        "zero/layers.0.norm.bias/exp_avg_sq.pt".into()
    ]));
}

#[test]
fn chunks_of_a_table_are_put_together() {
    let files = Memory::of("dcp");
    for step in [10, 20] {
        let checkpoint = open(&files, &format!("dcp/checkpoint-{step}"), None).unwrap();
        assert_eq!(checkpoint.step, Some(step));
        let expected = expected(&files, &format!("dcp/{step}.safetensors"));
        assert_eq!(widened(tensors(&files, &checkpoint)), expected);
        let [note] = checkpoint.notes.as_slice() else { panic!("{:?}", checkpoint.notes) };
        assert_eq!(note, "the weights alone are taken; left out: `lr_scheduler` (1), `optimizer` (3)");
        let names: Vec<_> = checkpoint.files.iter().map(|file| file.name()).collect();
        assert_eq!(names, [".metadata", "__0_0.distcp", "__1_0.distcp"]);
    }
}

#[test]
fn weights_of_an_optimizer_stand_for_those_of_the_model() {
    let files = Memory::of("masters");
    let checkpoint = open(&files, "masters/iter_0000005", None).unwrap();
    assert_eq!(tensors(&files, &checkpoint), expected(&files, "masters/expected.safetensors"));
    assert_eq!(
        checkpoint.notes,
        [
            "the weights alone are taken; left out: `_extra_state` (1), `optimizer` (1), `rng_state` (1)",
            "the optimizer's f32 weights are taken for 1 of 2 tensors, which the model has as BF16 \
             (--weights-key model takes the model's)"
        ]
    );
    let model = open(&files, "masters/iter_0000005", Some("model")).unwrap();
    assert_eq!(tensors(&files, &model)["decoder.w"].0, Dtype::BF16);
}

#[test]
fn torn_saves_are_refused_by_name() {
    let files = Memory::of("dcp");
    let path = "dcp/checkpoint-10";
    let said = |change: &dyn Fn(&mut Memory)| refused_with(&files, path, change);
    assert_eq!(
        said(&|files| drop(files.0.remove("dcp/checkpoint-10/.metadata"))),
        format!("{path}: has no .metadata, which is written last{HELP}")
    );
    assert_eq!(
        said(&|files| drop(files.0.remove("dcp/checkpoint-10/__1_0.distcp"))),
        format!("{path}/.metadata: names __1_0.distcp, which is missing: its rank did not finish{HELP}")
    );
    let short = said(&|files| files.0.get_mut("dcp/checkpoint-10/__1_0.distcp").unwrap().truncate(3000));
    assert!(short.starts_with(&format!("{path}/__1_0.distcp: tensor `")), "{short}");
    assert!(short.contains("has 3000 bytes, but by .metadata ") && short.ends_with(HELP), "{short}");
    // the ranks' files changed places: they are of the same lengths, or one is cut
    let mixed = said(&|files| {
        let other = files.0["dcp/checkpoint-10/__0_0.distcp"].clone();
        files.0.insert("dcp/checkpoint-10/__1_0.distcp".into(), other);
    });
    assert!(mixed.contains("__1_0.distcp"), "{mixed}");
    let zero = Memory::of("zero2");
    let step = "zero2/global_step3";
    let said = |change: &dyn Fn(&mut Memory)| refused_with(&zero, step, change);
    let rank = |rank: u8| format!("{step}/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    assert_eq!(
        said(&|files| drop(files.0.remove(&rank(1)))),
        format!("{}: is of 2 ranks, but there are files of 1{HELP}", rank(0))
    );
    assert_eq!(
        said(&|files| drop(files.0.remove(&rank(0)))),
        format!("{step}: has no *_optim_states.pt file of rank 0: it did not finish{HELP}")
    );
    assert_eq!(
        said(&|files| files.rename(&format!("{step}/mp_rank_00_model_states.pt"), &format!("{step}/x"))),
        format!("{step}: lacks its *_model_states.pt files{HELP}")
    );
    // a rank's partition in the place of another's
    let twice = said(&|files| {
        let other = files.0[&rank(0)].clone();
        files.0.insert(rank(1), other);
    });
    assert_eq!(
        twice,
        format!(
            "{step}: cuts group 0 otherwise than its partitions are long, at embed.weight, in rank 1{HELP}"
        )
    );
    let tensor = said(&|files| {
        let part = files.0[&format!("{step}/mp_rank_00_model_states.pt")].clone();
        files.0.insert(format!("{step}/mp_rank_01_model_states.pt"), part);
    });
    assert!(tensor.contains("a part of a model that is cut by tensor parallelism"), "{tensor}");
    let mut files = zero.clone();
    files.0.insert("zero2/latest".into(), b"global_step4\n".to_vec());
    assert_eq!(
        refused(&files, "zero2"),
        format!("zero2/latest: names global_step4 as the last save, which is missing{HELP}")
    );
}

#[test]
fn no_change_of_a_byte_reads_beyond_a_file_or_panics() {
    for (name, path, changed) in [
        ("dcp", "dcp/checkpoint-10", "dcp/checkpoint-10/.metadata"),
        ("dcp", "dcp/checkpoint-10", "dcp/checkpoint-10/__1_0.distcp"),
        ("zero2", "zero2/global_step3", "zero2/global_step3/mp_rank_00_model_states.pt"),
        ("zero2", "zero2/global_step3", "zero2/global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
    ] {
        let mut files = Memory::of(name);
        let len = files.0[changed].len();
        for at in (0..len).step_by(3) {
            files.0.get_mut(changed).unwrap()[at] ^= 0x41;
            if let Ok(checkpoint) = open(&files, path, None) {
                for file in &checkpoint.files {
                    for tensor in file.header.tensors() {
                        let mut bytes = vec![0; usize::try_from(tensor.len()).unwrap()];
                        let read = |other: Option<usize>, at: u64, into: &mut [u8]| {
                            let path = other.map_or(&file.path, |other| &checkpoint.files[other].path);
                            let bytes = files.read(path, at..at + into.len() as u64).unwrap();
                            if bytes.len() == into.len() { Ok(()) } else { Err(at) }
                        };
                        file.header.read(tensor.range.start, &mut bytes, read).unwrap();
                    }
                }
            }
            files.0.get_mut(changed).unwrap()[at] ^= 0x41;
        }
    }
}

//! Run a case of the vectors through plan and jobs, as a host would, and multiply the result out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mwa::safetensors::{Header, Tensor};
use mwa::{
    AdapterConfig, Candidate, Factors, Float, Input, Method, Plan, Products, Rank, Read, Recipe, Residual,
    Shard, Weights, agree_as_products,
};
use serde_json::Value;

pub(crate) struct Case {
    pub(crate) name: String,
    weights: Vec<f64>,
    configs: Vec<AdapterConfig>,
    files: Vec<Vec<u8>>,
    experts: BTreeMap<String, usize>,
    /// `MODULE/EXPERT` → D, and `MODULE/EXPERT/singular` → its singular values.
    pub(crate) dense: BTreeMap<String, Vec<f64>>,
    pub(crate) wanted_residuals: BTreeMap<String, f64>,
    /// The same by sketches, and its standard error.
    pub(crate) wanted_sketches: BTreeMap<String, (f64, f64)>,
}

pub(crate) struct Merged {
    /// `MODULE/EXPERT` → (rank, γBA of the output).
    pub(crate) products: BTreeMap<String, (usize, Vec<f64>)>,
    pub(crate) lost: BTreeMap<String, Residual>,
}

pub(crate) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

pub(crate) fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x - y).collect()
}

fn header(file: &[u8]) -> Header {
    Header::parse(file, file.len() as u64).expect("a safetensors file")
}

fn values(file: &[u8], tensor: &Tensor) -> Vec<f64> {
    let float = Float::of(tensor.dtype).expect("a float");
    let range = tensor.range.start as usize..tensor.range.end as usize;
    file[range].chunks_exact(float.bytes()).map(|word| float.value(word)).collect()
}

impl Case {
    pub(crate) fn read(folder: &Path, entry: &Value) -> Self {
        let name = entry["name"].as_str().expect("a name").to_owned();
        let read = |end: &str| {
            fs::read(folder.join(format!("{name}-{end}.safetensors"))).expect("the file is there")
        };
        let configs: Vec<_> = entry["configs"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|config| AdapterConfig::parse(&config.to_string()).expect("a config"))
            .collect();
        let dense = read("dense");
        let tensors = header(&dense);
        Self {
            weights: serde_json::from_value(entry["weights"].clone()).expect("numbers"),
            files: (0..configs.len()).map(|i| read(&i.to_string())).collect(),
            configs,
            experts: serde_json::from_value(entry["experts"].clone()).expect("counts"),
            dense: tensors.tensors().iter().map(|t| (t.name.clone(), values(&dense, t))).collect(),
            wanted_sketches: serde_json::from_value(entry["sketches"].clone()).expect("pairs"),
            wanted_residuals: serde_json::from_value(entry["residuals"].clone()).expect("numbers"),
            name,
        }
    }

    /// The same inputs from the last to the first.
    pub(crate) fn reversed(&self) -> Self {
        let reversed = |x: &[f64]| x.iter().rev().copied().collect();
        Self {
            name: self.name.clone(),
            weights: reversed(&self.weights),
            configs: self.configs.iter().rev().cloned().collect(),
            files: self.files.iter().rev().cloned().collect(),
            experts: self.experts.clone(),
            dense: self.dense.clone(),
            wanted_residuals: self.wanted_residuals.clone(),
            wanted_sketches: self.wanted_sketches.clone(),
        }
    }

    pub(crate) fn differs_in_scale(&self) -> bool {
        let scale =
            |config: &AdapterConfig| (config.r(), config.lora_alpha().map(f64::to_bits), config.use_rslora());
        self.configs.iter().any(|config| scale(config) != scale(&self.configs[0]))
    }

    fn inputs(&self) -> Vec<Input> {
        let input = |(i, file): (usize, &Vec<u8>)| Input {
            name: format!("checkpoint-{i}"),
            files: vec![Shard { name: "adapter_model.safetensors".into(), header: header(file) }],
        };
        self.files.iter().enumerate().map(input).collect()
    }

    fn weights(&self) -> Weights {
        Weights::normalised(&self.weights).expect("weights that sum to 1")
    }

    fn factors(&self) -> Factors {
        let configs: Vec<_> = self.configs.iter().map(Some).collect();
        Factors::new(&self.inputs(), &configs, &self.weights()).expect("whole factors")
    }

    fn products(&self) -> Products {
        let inputs = self.inputs();
        let shapes: Vec<Vec<(&str, &[u64])>> = inputs
            .iter()
            .map(|input| {
                let tensors = input.files[0].header.tensors().iter();
                tensors.map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect()
            })
            .collect();
        let candidates: Vec<_> = inputs
            .iter()
            .zip(&shapes)
            .zip(&self.configs)
            .map(|((input, tensors), config)| Candidate { name: &input.name, config: Some(config), tensors })
            .collect();
        agree_as_products(&candidates).expect("products");
        Products::new(self.factors(), &self.configs.iter().collect::<Vec<_>>()).expect("scales")
    }

    fn slices(&self, reads: impl Iterator<Item = Read>) -> Vec<&[u8]> {
        reads
            .map(|read| &self.files[read.input][read.range.start as usize..read.range.end as usize])
            .collect()
    }

    /// The relative residual of averaged factors, by module.
    pub(crate) fn residuals(&self, how: Method) -> Vec<(String, Option<Residual>)> {
        let factors = self.factors();
        let residual = |job: mwa::ModuleJob<'_>| {
            let mut read = |read: &Read, bytes: &mut [u8]| {
                bytes.copy_from_slice(&self.files[read.input][read.range.start as usize..][..bytes.len()]);
                Ok(())
            };
            let found = job.residual(how, 1 << 20, &mut read).expect("reading is copying");
            assert_eq!(
                job.residual(how, 1, &mut read).expect("reading is copying"),
                found,
                "pieces change nothing"
            );
            (job.module().to_owned(), found)
        };
        factors.jobs().map(residual).collect()
    }

    pub(crate) fn ranks(&self, rank: Rank) -> Vec<usize> {
        let products = self.products();
        let found: Vec<_> = match rank {
            Rank::Energy(energy) => products
                .surveys()
                .map(|job| {
                    job.run(Some(energy), &self.slices(job.reads()), &mut []).expect("finite factors").0
                })
                .collect(),
            _ => Vec::new(),
        };
        products.ranks(rank, &found).unwrap()
    }

    pub(crate) fn merge(&self, rank: Rank) -> Merged {
        let (products, ranks) = (self.products(), self.ranks(rank));
        let recipe = Recipe { elsewhere: products.layout(&ranks, None), ..Recipe::default() };
        let plan = Plan::new(&self.inputs(), &self.weights(), &recipe).expect("a plan");
        assert_eq!(plan.jobs(1 << 20).count(), 0, "there is nothing but factors");
        let head = plan.outputs()[0].header.to_bytes();
        let mut file = vec![0; plan.outputs()[0].header.file_len() as usize];
        file[..head.len()].copy_from_slice(&head);
        let mut lost = BTreeMap::new();
        for job in products.jobs(&plan, rank, &ranks) {
            let ranges: Vec<_> =
                job.writes().map(|write| write.range.start as usize..write.range.end as usize).collect();
            let mut outputs: Vec<Vec<u8>> = ranges.iter().map(|range| vec![0; range.len()]).collect();
            let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            let (_, found) = job.run(None, &self.slices(job.reads()), &mut slices).expect("finite factors");
            lost.insert(job.module().to_owned(), found);
            ranges.into_iter().zip(&outputs).for_each(|(range, bytes)| file[range].copy_from_slice(bytes));
        }
        let changes = products.config(&ranks, &self.configs.iter().collect::<Vec<_>>());
        let config = AdapterConfig::parse(&self.configs[0].rewritten(&changes)).expect("a config");
        Merged { products: self.multiply(&file, &config), lost }
    }

    /// γBA of every expert of every module of a merged file.
    fn multiply(&self, file: &[u8], config: &AdapterConfig) -> BTreeMap<String, (usize, Vec<f64>)> {
        let head = header(file);
        let mut products = BTreeMap::new();
        for down in head.tensors().iter().filter(|tensor| tensor.name.contains("_A")) {
            let up = down.name.replace("_A", "_B");
            let up = head.tensors().iter().find(|tensor| tensor.name == up).expect("both halves");
            let module = down.name.strip_prefix("base_model.model.").expect("PEFT's prefix");
            let module = &module[..module.rfind(".lora").expect("a factor")];
            let experts = self.experts.get(module).copied().unwrap_or(1);
            let rank = down.shape[0] as usize / experts;
            let inside = down.shape[1..].iter().product::<u64>() as usize;
            assert_eq!(self.scale(config, module, rank), 1.0, "{} {module}", self.name);
            let (a, b) = (values(file, down), values(file, up));
            for expert in 0..experts {
                let mut product = vec![0.0; up.shape[0] as usize * inside];
                for (o, row) in product.chunks_exact_mut(inside).enumerate() {
                    for k in 0..rank {
                        let factor = b[(o * rank + k) * experts + expert];
                        let from = &a[(expert * rank + k) * inside..][..inside];
                        row.iter_mut().zip(from).for_each(|(x, a)| *x += factor * a);
                    }
                }
                products.insert(format!("{module}/{expert}"), (rank, product));
            }
        }
        products
    }

    /// The scale that PEFT would give a module under a config whose patterns are plain names; checks its rank.
    fn scale(&self, config: &AdapterConfig, module: &str, rank: usize) -> f64 {
        let value = |field: &str, default: &str| {
            let patterns = config.field(field).and_then(Value::as_object).expect("a pattern field");
            let found =
                patterns.iter().find(|(key, _)| module == *key || module.ends_with(&format!(".{key}")));
            found.map_or_else(|| config.field(default).expect("a default"), |(_, value)| value).as_f64()
        };
        assert_eq!(value("rank_pattern", "r"), Some(rank as f64), "{} {module}", self.name);
        assert!(!config.use_rslora());
        value("alpha_pattern", "lora_alpha").expect("a number") / rank as f64
    }
}

//! Which inputs may be averaged.

mod config;
mod metadata;
mod tensors;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use self::config::{PRODUCT_FIELDS, Weight, differences, same_base};
use self::tensors::Shapes;
use crate::adapter::config::AdapterConfig;
use crate::adapter::kinds::{ALWAYS_FROZEN, Exactness, MARKS, Method, VARIANTS, Variant, Verdict, method};
use crate::error::{Error, ErrorKind, Result};
use crate::text::index::Index;
use crate::text::json;

pub use metadata::{Metadata, agree_metadata};
pub(crate) use tensors::{Half, half};

/// One input, as far as its heads tell.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Its `adapter_config.json`; kohya and diffusers files and whole models have none.
    pub config: Option<&'a AdapterConfig>,
    /// The name and shape of each tensor.
    pub tensors: &'a [(&'a str, &'a [u64])],
}

/// What inputs that may be averaged agree on.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// Things to say to the user, each once.
    pub notes: Vec<String>,
    /// How far the average of the parameters is from the average of the weights.
    pub exactness: Exactness,
    frozen: Vec<&'static str>,
}

impl Agreement {
    /// Whether a tensor must be byte-identical in every input, and is then copied; if so, what to say
    /// when it is not. Integer and bool tensors must be in any case.
    #[must_use]
    pub fn identical(&self, tensor: &str) -> Option<&'static str> {
        let segment = self.frozen.iter().find(|segment| has_segment(tensor, segment))?;
        Some(match *segment {
            "alpha" => {
                "each file scales its factors by alpha/rank, so factors under different alphas do not average: \
                 scale both factors by √(alpha/other alpha) first, as kohya's merge_lora.py does"
            }
            "on_input" => "it says which side of the layer is scaled; the files were trained differently",
            _ => {
                "it is frozen or made from a seed, so it is the same in all checkpoints of one run: these are not"
            }
        })
    }
}

/// Whether `segment` (one or more whole path parts) is in a tensor's name.
fn has_segment(tensor: &str, segment: &str) -> bool {
    tensor.match_indices(segment).any(|(start, _)| {
        let (before, after) = (&tensor[..start], &tensor[start + segment.len()..]);
        (before.is_empty() || before.ends_with('.')) && (after.is_empty() || after.starts_with('.'))
    })
}

/// Check that inputs may be averaged parameter by parameter.
///
/// ```
/// use mwa::{AdapterConfig, Candidate, agree};
/// let tensors: &[(&str, &[u64])] = &[("q.lora_A.weight", &[8, 64]), ("q.lora_B.weight", &[64, 8])];
/// let old = AdapterConfig::parse(r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16}"#)?;
/// let new = AdapterConfig::parse(r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 32}"#)?;
/// let inputs = [
///     Candidate { name: "checkpoint-100", config: Some(&old), tensors },
///     Candidate { name: "checkpoint-200", config: Some(&new), tensors },
/// ];
/// let error = agree(&inputs).unwrap_err();
/// assert_eq!(error.to_string(), "checkpoint-200: lora_alpha is 32, but 16 in checkpoint-100");
/// # Ok::<(), mwa::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Method`] if the method may not be averaged, [`ErrorKind::Config`] if configs disagree,
/// [`ErrorKind::Names`] and [`ErrorKind::Shape`] if tensors do, [`ErrorKind::Input`] if there are none.
pub fn agree(inputs: &[Candidate<'_>]) -> Result<Agreement> {
    check(inputs, false)
}

/// Check that inputs may be merged as sums of products B·A: like [`agree`], but ranks, alphas, their patterns and
/// the modules adapted may differ.
///
/// # Errors
/// As [`agree`]; [`ErrorKind::Method`] also if the method is not a plain product of two factors.
pub fn agree_as_products(inputs: &[Candidate<'_>]) -> Result<Agreement> {
    check(inputs, true)
}

/// What to do with other adapters than PEFT's in product space.
pub(crate) const PEFT_ALONE: &str = "product space merges PEFT adapters: name folders with their adapter_config.json, or make such of others by mwa convert --format peft";

fn check(inputs: &[Candidate<'_>], product: bool) -> Result<Agreement> {
    let Some((first, rest)) = inputs.split_first() else {
        return Err(Error::new(ErrorKind::Input, "there is nothing to merge: no inputs"));
    };
    let mut notes = Notes::default();
    let (exactness, frozen, prunes) = match first.config {
        Some(config) => {
            let method = same_method(first.name, config, rest)?;
            let exactness = permitted(first.name, config, method, rest.is_empty(), &mut notes)?;
            same_configs(first.name, config, rest, method, product, &mut notes)?;
            let frozen = ALWAYS_FROZEN.iter().chain(method.frozen).copied().collect();
            (exactness, frozen, method.peft_type == "ADALORA")
        }
        None => {
            if let Some(odd) = rest.iter().find(|input| input.config.is_some()) {
                return Err(without_config(first, odd.name));
            }
            let exactness = told_by_names(first, &mut notes);
            let frozen: &[_] = match exactness {
                Exactness::Linear => &[], // a model of its own may well train something it calls alpha
                _ if product => &["on_input"],
                _ => &["alpha", "on_input"],
            };
            (exactness, frozen.to_vec(), false)
        }
    };
    if product && exactness != Exactness::Product {
        let (what, help) = match first.config {
            Some(_) => {
                (kind(first), "product space cannot merge it; average its parameters instead (factor space)")
            }
            None => ("no PEFT adapter", PEFT_ALONE),
        };
        let detail = format!("is {what}, which is not a plain product of two factors");
        return Err(Error::new(ErrorKind::Method, detail).file(first.name).help(help));
    }
    let ours = Shapes::new(first);
    tensors::whole(first.name, &ours, prunes)?;
    for input in rest {
        let theirs = Shapes::new(input);
        tensors::whole(input.name, &theirs, prunes)?;
        tensors::same_names((first.name, &ours), (input.name, &theirs), product)?;
        tensors::same_shapes((first.name, &ours), (input.name, &theirs), product)?;
    }
    Ok(Agreement { notes: notes.each_once(), exactness, frozen })
}

/// Notes in the order of their finding, one per subject however many inputs it concerns.
#[derive(Default)]
struct Notes {
    subjects: Vec<String>,
    said: Vec<String>,
}

impl Notes {
    fn say(&mut self, subject: &str, text: String) {
        self.subjects.push(subject.to_string());
        self.said.push(text);
    }

    fn each_once(self) -> Vec<String> {
        let index = Index::new(self.subjects.iter().map(String::as_str));
        let said = self.said.into_iter().zip(&self.subjects).enumerate();
        said.filter(|(i, (_, subject))| index.is_first(subject, *i)).map(|(_, (text, _))| text).collect()
    }
}

fn without_config(without: &Candidate<'_>, with: &str) -> Error {
    let (detail, help) = match told_by_names(without, &mut Notes::default()) {
        Exactness::Linear => {
            ("is a whole model, but {} is an adapter", "merge models with models, and adapters with adapters")
        }
        _ => (
            "has no adapter config, but {} has one",
            "copy the adapter_config.json of the same run beside it, or leave it out",
        ),
    };
    Error::new(ErrorKind::Config, detail.replace("{}", with)).file(without.name).help(help)
}

fn same_method(name: &str, config: &AdapterConfig, rest: &[Candidate<'_>]) -> Result<&'static Method> {
    for input in rest {
        let other = input.config.ok_or_else(|| without_config(input, name))?;
        if other.peft_type() != config.peft_type() {
            let detail = format!("peft_type is {}, but {} in {name}", other.peft_type(), config.peft_type());
            return Err(Error::new(ErrorKind::Config, detail).file(input.name).help("leave one of them out"));
        }
    }
    method(config.peft_type()).map_err(|error| error.file(name))
}

/// Ask the tables. A single input is copied, so that any method will do.
fn permitted(
    name: &str,
    config: &AdapterConfig,
    method: &Method,
    alone: bool,
    notes: &mut Notes,
) -> Result<Exactness> {
    let mut exactness = method.exactness;
    let mut ask = |what: &str, verdict: Verdict| match verdict {
        Verdict::Refuse(reason) if !alone => {
            Err(Error::new(ErrorKind::Method, format!("is {what}, which {reason}"))
                .file(name)
                .help("choose its best checkpoint instead of an average"))
        }
        Verdict::Warn(reason) if !alone => {
            notes.say(what, format!("{what} {reason}"));
            Ok(())
        }
        _ => Ok(()),
    };
    ask(method.peft_type, method.verdict)?;
    if method.peft_type == "LORA" {
        for variant in VARIANTS.iter().filter(|variant| applies(variant, config)) {
            ask(variant.name, variant.verdict)?;
            exactness = exactness.max(variant.exactness);
        }
    }
    Ok(exactness)
}

/// What keeps an input from being a plain product.
fn kind(input: &Candidate<'_>) -> &'static str {
    let Some(config) = input.config else { return "no adapter" };
    let odd = VARIANTS.iter().find(|variant| {
        variant.exactness != Exactness::Product && config.peft_type() == "LORA" && applies(variant, config)
    });
    odd.map_or_else(
        || method(config.peft_type()).map_or("unknown", |method| method.peft_type),
        |odd| odd.name,
    )
}

fn applies(variant: &Variant, config: &AdapterConfig) -> bool {
    let text = config.field(variant.field).and_then(serde_json::Value::as_str);
    match variant.value.strip_suffix('*') {
        Some(start) => text.is_some_and(|text| text.starts_with(start)),
        None if variant.value.is_empty() => config.is_set(variant.field),
        None => text == Some(variant.value),
    }
}

fn same_configs(
    name: &str,
    config: &AdapterConfig,
    rest: &[Candidate<'_>],
    method: &Method,
    product: bool,
    notes: &mut Notes,
) -> Result<()> {
    for input in rest {
        let other = input.config.ok_or_else(|| without_config(input, name))?;
        let mut wrong = Vec::new();
        for found in differences(config, other, method, product) {
            let fact = format!("{} is {}, but {} in {name}", found.field, found.theirs, found.ours);
            match found.weight {
                Weight::Error => wrong.push((found.field, fact)),
                Weight::Note => notes.say(&found.field, format!("{}: {fact}; taken as the same", input.name)),
                Weight::Base => match same_base(config.base_model(), other.base_model()) {
                    Ok(remark) => notes.say(&found.field, format!("{}: {fact}; {remark}", input.name)),
                    Err(()) => wrong.push((found.field, fact)),
                },
            }
        }
        if method.peft_type == "OFT" && modern_oft(config) != modern_oft(other) {
            let version = |config: &AdapterConfig| {
                config.field("peft_version").map_or("absent (below 0.18)".to_string(), json::text)
            };
            let fact = format!("peft_version is {}, but {} in {name}", version(other), version(config));
            wrong.push(("peft_version".to_string(), fact));
        }
        if !wrong.is_empty() {
            let facts: Vec<&str> = wrong.iter().map(|(_, fact)| fact.as_str()).collect();
            return Err(Error::new(ErrorKind::Config, facts.join("; "))
                .file(input.name)
                .help(advise(&wrong, method)));
        }
    }
    Ok(())
}

/// PEFT 0.18 changed the Cayley-Neumann form that OFT's parameters go through, and began to write
/// `peft_version` (`peft/tuners/oft/config.py`, `check_kwargs`).
fn modern_oft(config: &AdapterConfig) -> bool {
    let version = config.field("peft_version").and_then(serde_json::Value::as_str).unwrap_or("0");
    let mut numbers = version.split(['.', '@', '+']).map(|part| part.parse::<u64>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (0, 18)
}

fn advise(wrong: &[(String, String)], method: &Method) -> &'static str {
    let has = |field: &str| wrong.iter().any(|(name, _)| name == field);
    if method.peft_type == "ADALORA" && has("rank_pattern") {
        "AdaLoRA pruned different singular directions; average checkpoints saved after its last pruning step (tfinal)"
    } else if has("peft_version") {
        "PEFT 0.18 changed what OFT's parameters mean; average checkpoints of one side of it"
    } else if has("init_lora_weights") {
        "the two adapters may refer to different base weights, or one was converted (PiSSA) and the other not"
    } else if has("base_model_name_or_path") {
        "adapters of different models cannot be averaged; if it is one model, give it one name in both configs"
    } else if wrong.iter().all(|(name, _)| PRODUCT_FIELDS.contains(&name.as_str()))
        && method.exactness == Exactness::Product
    {
        "factors average only at one rank and scale, in the same modules; product space merges others (--space product)"
    } else {
        "only checkpoints of one run can be averaged"
    }
}

/// Without a config, the names of the tensors are all there is.
fn told_by_names(input: &Candidate<'_>, notes: &mut Notes) -> Exactness {
    let mut exactness = Exactness::Linear;
    for (mark, algorithm, verdict, how) in MARKS {
        if input.tensors.iter().any(|(name, _)| name.contains(mark)) {
            exactness = exactness.max(*how);
            if let Verdict::Warn(reason) = verdict {
                notes.say(algorithm, format!("{algorithm} {reason}"));
            }
        }
    }
    exactness
}

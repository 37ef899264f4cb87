//! Which PEFT methods may be averaged.
//!
//! One row per `peft_type` of PEFT 0.21 (`peft/utils/peft_types.py`). *Linear*: the average of the parameters is
//! the average of the adapted weights. Everything else was measured on a tiny model, two checkpoints of one run
//! 20 steps apart: ‖W(mean θ) − mean W(θ)‖ / ‖W₁ − W₂‖ lies between 4e-3 and 1e-1, and at 3e-1 for VBLORA.

use alloc::format;
use core::fmt;

use crate::error::{Error, ErrorKind, Result};

/// How a method's parameters make its weights, from exact to approximate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// Averaging the parameters averages the adapted weights, exactly.
    Linear,
    /// ΔW = scale·B·A: close for checkpoints of one run, and exact when merged in product space.
    Product,
    /// Close for checkpoints of one run; wrong for others.
    SameRun,
}

/// Whether parameters may be averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Average,
    /// Yes, with a warning.
    Warn(&'static str),
    /// No.
    Refuse(&'static str),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Average => f.write_str("may be averaged"),
            Self::Warn(why) => write!(f, "may be averaged, but {why}"),
            Self::Refuse(why) => write!(f, "is not averaged: {why}"),
        }
    }
}

/// A row of [`METHODS`].
#[derive(Debug)]
pub struct Method {
    /// The name in `adapter_config.json`.
    pub peft_type: &'static str,
    /// Whether its parameters may be averaged.
    pub verdict: Verdict,
    /// How far the average of parameters is from the average of weights.
    pub exactness: Exactness,
    /// Config fields that must agree, beside [`SHARED_FIELDS`].
    pub fields: &'static [&'static str],
    /// Float tensors that are frozen, or random from a seed: path segments of their names. They must be
    /// byte-identical and are copied. (Integer tensors must be, whatever the method.)
    pub frozen: &'static [&'static str],
}

use Exactness::{Linear, Product, SameRun};
use Verdict::{Average, Refuse, Warn};

/// Fields that mean the same in every method that has them; a method without one agrees in it trivially.
pub(crate) const SHARED_FIELDS: &[&str] = &[
    "r",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "fan_in_fan_out",
    "modules_to_save",
    "target_modules",
    "exclude_modules",
    "trainable_token_indices",
    "layer_replication",
    // Prompt methods (`PromptLearningConfig`): the layout of `prompt_embeddings`.
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
];

/// Tensors that are frozen in every method: the base embedding that PEFT saves beside a targeted one
/// (`save_embedding_layers`), and the untouched copy that a raw training state keeps.
pub(crate) const ALWAYS_FROZEN: &[&str] = &["base_layer.weight", "original_module"];

const LORA_FIELDS: &[&str] = &[
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "init_lora_weights",
    "corda_config",
    "loftq_config",
    "kasa_config",
    "use_qalora",
    "qalora_group_size",
    "use_bdlora",
    "alora_invocation_tokens",
    "target_parameters",
    "arrow_config",
    "monteclora_config",
    "init_r",
];
const OFT_FIELDS: &[&str] =
    &["oft_block_size", "coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms"];
const PSOFT_FIELDS: &[&str] = &[
    "psoft_alpha",
    "ab_svd_init",
    "psoft_svd",
    "psoft_svd_lowrank_niter",
    "random_seed",
    "psoft_orth",
    "psoft_mag_a",
    "psoft_mag_b",
    "use_cayley_neumann",
    "num_cayley_neumann_terms",
    "cayley_neumann_eps",
];
const WAVEFT_FIELDS: &[&str] = &[
    "random_loc_seed",
    "n_frequency",
    "n_frequency_pattern",
    "scaling",
    "use_idwt",
    "wavelet_family",
    "proportional_parameters",
];

const FACTORS: Verdict =
    Warn("is a product of factors: the average is close for checkpoints of one run, and only for those");
const DORA: Verdict = Warn("averages magnitudes exactly, directions only for checkpoints of one run");
const ROUTER: Verdict = Refuse("chooses among experts with a router, which is not linear in its parameters");

/// Every `peft_type` this version knows.
pub const METHODS: &[Method] = &[
    row("LORA", Average, Product, LORA_FIELDS, &[]),
    // Parameters that are the weights, or enter them linearly.
    row("IA3", Average, Linear, &["feedforward_modules"], &[]),
    row("LN_TUNING", Average, Linear, &[], &[]),
    row("TRAINABLE_TOKENS", Average, Linear, &["token_indices"], &[]),
    row("BEFT", Average, Linear, &[], &[]),
    row("C3A", Average, Linear, &["block_size", "block_size_pattern"], &[]),
    row("MISS", Average, Linear, &["mini_r", "init_weights"], &[]),
    row(
        "BONE",
        Warn("is no longer loaded by PEFT 0.21; its successor is MISS"),
        Linear,
        &["init_weights"],
        &[],
    ),
    row("SHIRA", Average, Linear, &["mask_type"], &[]),
    row("SUPERTUNING", Average, Linear, &["sparsity", "select_top", "lora_alpha"], &[]),
    row(
        "FOURIERFT",
        Average,
        Linear,
        &["random_loc_seed", "n_frequency", "n_frequency_pattern", "scaling"],
        &[],
    ),
    row("WAVEFT", Average, Linear, WAVEFT_FIELDS, &[]),
    row(
        "FROD",
        Average,
        Linear,
        &["projection_prng_key", "sparse_rate", "regularization_alpha"],
        &["frod_V"],
    ),
    row(
        "TINYLORA",
        Average,
        Linear,
        &["projection_seed", "u", "weight_tying"],
        &["tinylora_A", "tinylora_B", "tinylora_P"],
    ),
    // Prompts: what is stored is what the model sees.
    row("PROMPT_TUNING", Average, Linear, &[], &[]),
    row("PREFIX_TUNING", Average, Linear, &["prefix_projection"], &[]),
    row("CARTRIDGE", Average, Linear, &["num_frozen_tokens"], &[]),
    row("CPT", Average, Linear, &["cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask"], &[]),
    row("P_TUNING", Average, Linear, &[], &[]),
    row("MULTITASK_PROMPT_TUNING", FACTORS, SameRun, &["num_tasks", "num_ranks"], &[]),
    row(
        "ADAPTION_PROMPT",
        Warn("multiplies a prompt by a gate: the average is close for checkpoints of one run"),
        SameRun,
        &["adapter_len", "adapter_layers"],
        &[],
    ),
    // Trained scales around random projections that every checkpoint of a run shares.
    row("VERA", Average, SameRun, &["projection_prng_key"], &["vera_A", "vera_B"]),
    row("PVERA", Average, SameRun, &["projection_prng_key", "sample_at_inference"], &["pvera_A", "pvera_B"]),
    row(
        "RANDLORA",
        Average,
        SameRun,
        &["projection_prng_key", "randlora_alpha", "sparse", "very_sparse"],
        &["randlora_A", "randlora_B"],
    ),
    // One vector for all modules: which modules there are decides where it goes, and no tensor name tells.
    row("UNILORA", Average, SameRun, &["proj_seed", "theta_d_length", "target_modules"], &[]),
    // Products of factors, rotations, normalised rows.
    row(
        "LOHA",
        Warn("multiplies four factors: only checkpoints close to each other average well"),
        SameRun,
        &["alpha", "use_effective_conv2d"],
        &[],
    ),
    row(
        "LOKR",
        Warn(
            "is a Kronecker product, whose factors may trade scale: only checkpoints of one run average well",
        ),
        SameRun,
        &["alpha", "use_effective_conv2d", "decompose_both", "decompose_factor"],
        &[],
    ),
    row("ADALORA", FACTORS, SameRun, LORA_FIELDS, &[]),
    row("OFT", Average, SameRun, OFT_FIELDS, &[]),
    row("BOFT", Average, SameRun, &["boft_block_size", "boft_block_num", "boft_n_butterfly_factor"], &[]),
    row(
        "HRA",
        Warn(
            "stores Householder vectors, whose sign and scale are free: only checkpoints of one run average well",
        ),
        SameRun,
        &["apply_GS"],
        &[],
    ),
    row(
        "DELORA",
        Warn("normalises its rows: only checkpoints of one run average well"),
        SameRun,
        &["lambda_pattern"],
        &["delora_w_norm"],
    ),
    row("GRALORA", FACTORS, SameRun, &["alpha", "gralora_k", "hybrid_r"], &[]),
    row("GLORA", FACTORS, SameRun, &["config_A_B", "config_C", "config_D_E"], &[]),
    row("HIRA", FACTORS, SameRun, &[], &[]),
    row("DEFT", FACTORS, SameRun, &["decomposition_method", "alpha", "para", "init_scale"], &[]),
    row("PEANUT", FACTORS, SameRun, &["depth", "act_fn", "scaling"], &[]),
    row("PSOFT", FACTORS, SameRun, PSOFT_FIELDS, &[]),
    row("OSF", FACTORS, SameRun, &["effective_rank", "target_svd_config"], &[]),
    row(
        "ROAD",
        Warn("stores angles: they average well while they stay close"),
        SameRun,
        &["variant", "group_size"],
        &[],
    ),
    // Never.
    row(
        "VBLORA",
        Refuse("picks vectors by a softmax over its top k: the average of logits picks others"),
        SameRun,
        &[],
        &[],
    ),
    row("POLY", ROUTER, SameRun, &[], &[]),
    row("LILY", ROUTER, SameRun, &[], &[]),
    row(
        "XLORA",
        Refuse("saves only a router over other adapters, which is not linear in its parameters"),
        SameRun,
        &[],
        &[],
    ),
    row(
        "SHADOW",
        Refuse("trains a second, small model beside the base: nothing says its weights may be averaged"),
        SameRun,
        &[],
        &[],
    ),
    row(
        "ADAMSS",
        Refuse("trains inside clustered subspaces that it may prune; whether they average was not measured"),
        SameRun,
        &[],
        &[],
    ),
];

const fn row(
    peft_type: &'static str,
    verdict: Verdict,
    exactness: Exactness,
    fields: &'static [&'static str],
    frozen: &'static [&'static str],
) -> Method {
    Method { peft_type, verdict, exactness, fields, frozen }
}

/// What a `peft_type` is.
///
/// # Errors
/// [`ErrorKind::Method`] for one this version does not know.
pub fn method(peft_type: &str) -> Result<&'static Method> {
    METHODS.iter().find(|method| method.peft_type == peft_type).ok_or_else(|| {
        Error::new(
            ErrorKind::Method,
            format!(
                "has peft_type `{peft_type}`, a method this version does not know; \
                 nothing says its parameters may be averaged"
            ),
        )
        .help("a newer version may know it")
    })
}

/// A row of [`VARIANTS`]: an option of `LoraConfig` that changes what the tensors mean.
#[derive(Debug)]
pub(crate) struct Variant {
    /// The field of `adapter_config.json`.
    pub field: &'static str,
    /// The value that turns it on; `""` is any but null, false and empty; a `*` at the end is any rest.
    pub value: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// Whether the parameters may be averaged.
    pub verdict: Verdict,
    /// How exact that is.
    pub exactness: Exactness,
}

/// What `LoraConfig` can turn a LoRA into (`peft/tuners/lora/config.py`). Inits not listed are start points only.
pub(crate) const VARIANTS: &[Variant] = &[
    variant("use_dora", "", "DoRA", DORA, SameRun),
    variant("kasa_config", "", "KaSA", FACTORS, SameRun),
    variant("arrow_config", "", "Arrow", ROUTER, SameRun),
    variant(
        "monteclora_config",
        "",
        "MonteCLoRA",
        Refuse("stores variances beside means: the variance of an average is not the average of variances"),
        SameRun,
    ),
    variant("use_bdlora", "", "block-diagonal LoRA", Average, SameRun),
    // One tensor holds all experts: (E·r, in) expert-major against (out, r·E) expert-minor; a product per expert.
    variant("target_parameters", "", "LoRA on expert parameters", Average, Product),
    variant("use_qalora", "", "QALoRA", Average, Product),
    variant("alora_invocation_tokens", "", "activated LoRA", Average, Product),
    variant("layer_replication", "", "layer replication", Average, Product),
    // These inits change the base, at training and again at load: all inputs must have the same one.
    variant("init_lora_weights", "pissa", "PiSSA", Average, Product),
    variant(
        "init_lora_weights",
        "pissa_niter_*",
        "PiSSA by randomised SVD",
        Warn("the base it subtracts from is not the same to the last bit each time it is loaded"),
        Product,
    ),
    variant("init_lora_weights", "olora", "OLoRA", Average, Product),
    variant("init_lora_weights", "corda", "CorDA", Average, Product),
    variant("init_lora_weights", "loftq", "LoftQ", Average, Product),
    variant("init_lora_weights", "lora_ga", "LoRA-GA", Average, Product),
    // B never trains, so the average of A is exact; the bytes tell.
    variant("init_lora_weights", "mica", "MiCA", Average, Product),
];

const fn variant(
    field: &'static str,
    value: &'static str,
    name: &'static str,
    verdict: Verdict,
    exactness: Exactness,
) -> Variant {
    Variant { field, value, name, verdict, exactness }
}

/// What tensor names alone say, for files without a config: (part of a name, algorithm, verdict, exactness).
/// kohya, `LyCORIS` (`weight_list` in each of its modules) and diffusers; one file may mix several.
pub(crate) const MARKS: &[(&str, &str, Verdict, Exactness)] = &[
    (".lora_down.", "LoRA", Average, Product),
    (".lora_A.", "LoRA", Average, Product),
    ("lora.down.", "LoRA", Average, Product),
    (".lora_linear_layer.", "LoRA", Average, Product),
    (".lora_mid.", "LoCon with a Tucker core", FACTORS, SameRun),
    (".dora_scale", "DoRA", DORA, SameRun),
    (".hada_w1", "LoHa", FACTORS, SameRun),
    (".lokr_w", "LoKr", FACTORS, SameRun),
    (".oft_blocks", "OFT", Warn("stores rotations: they average well while they stay close"), SameRun),
    (".bm.weight", "GLoRA", FACTORS, SameRun),
];

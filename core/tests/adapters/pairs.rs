//! Two adapters: equal, alike, or not to be averaged.

use std::fs;

use mwa::Exactness::{Linear, Product};
use mwa::safetensors::TextMap;
use mwa::{ErrorKind, METHODS, Verdict, agree, agree_as_products, agree_metadata};

use crate::{Adapter, ask, folder, refused};

#[test]
fn the_order_of_target_modules_is_chance() {
    let tensors = Adapter::open("LORA").tensors;
    let [a, b, c] =
        ["cfg1", "cfg2", "cfg3"].map(|name| Adapter { tensors: tensors.clone(), ..Adapter::open(name) });
    assert_eq!(ask(&[&a, &b, &c], agree).expect("one run").notes, [""; 0]);
}

#[test]
fn all_differing_fields_are_listed() {
    let error = refused(&Adapter::open("sub-r8"), &Adapter::open("sub-rslora-r16"));
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.to_string(), "b: r is 16, but 8 in a; use_rslora is true, but false in a");
    assert!(error.advice().expect("advice").contains("one rank and scale"));
}

#[test]
fn product_space_takes_other_ranks_but_not_dora() {
    let [small, large, dora] = ["sub-r8", "sub-rslora-r16", "sub-dora-r4"].map(Adapter::open);
    let agreement = ask(&[&small, &large], agree_as_products).expect("plain LoRA of two ranks");
    assert_eq!(agreement.exactness, Product);
    let error = ask(&[&dora, &dora], agree_as_products).expect_err("DoRA is not a product");
    assert_eq!(error.kind(), ErrorKind::Method);
    let wide = small.tensors(|name, shape| {
        if name.contains("q_proj.lora_A") {
            shape[1] += 1;
        }
    });
    assert_eq!(ask(&[&small, &wide], agree_as_products).expect_err("other width").kind(), ErrorKind::Shape);
}

#[test]
fn start_points_and_conversions_do_not_mix() {
    let pissa = Adapter::open("pissa");
    let error = refused(&pissa, &pissa.with(&[("init_lora_weights", true.into()), ("r", 8.into())]));
    assert!(error.to_string().contains("init_lora_weights is true, but \"pissa\" in a"), "{error}");
    let niter = pissa.with(&[("init_lora_weights", "pissa_niter_16".into())]);
    assert!(ask(&[&niter, &niter], agree).expect("one run").notes[0].contains("randomised SVD"));
}

#[test]
fn base_models_are_compared_by_name() {
    let here = Adapter::open("sub-r8");
    let base = |name: &str| here.with(&[("base_model_name_or_path", name.into())]);
    let moved = ask(&[&here, &base("/models/arith-llama-2m"), &base("/x/arith-llama-2m")], agree);
    assert_eq!(moved.expect("one model").notes.len(), 1);
    let error = refused(&here, &base("arith-llama-8m"));
    assert!(error.to_string().contains("base_model_name_or_path is \"arith-llama-8m\""), "{error}");
    let quantised = ask(&[&base("unsloth/L-bnb-4bit"), &base("meta/L")], agree).expect("one model");
    assert!(quantised.notes[0].contains("quantised"), "{:?}", quantised.notes);
}

#[test]
fn methods_have_conditions_of_their_own() {
    let vera = Adapter::open("VERA");
    assert!(refused(&vera, &vera.with(&[("projection_prng_key", 1.into())])).to_string().contains("prng"));
    let fourier = Adapter::open("FOURIERFT");
    assert!(refused(&fourier, &fourier.with(&[("random_loc_seed", 1.into())])).to_string().contains("777"));
    let oft = Adapter::open("OFT");
    assert!(
        refused(&oft, &oft.with(&[("peft_version", "0.17.1".into())]))
            .advice()
            .expect("advice")
            .contains("0.18")
    );
    ask(&[&oft, &oft.with(&[("peft_version", "0.18.0.dev0@abc".into())])], agree).expect("one side of 0.18");
    let ada = Adapter::open("ADALORA");
    let mask = serde_json::json!({"model.layers.0.self_attn.q_proj.lora_E": [true, false]});
    assert!(refused(&ada, &ada.with(&[("rank_pattern", mask)])).advice().expect("advice").contains("pruned"));
    let uni = Adapter::open("UNILORA");
    assert_eq!(refused(&uni, &uni.with(&[("target_modules", ".*proj".into())])).kind(), ErrorKind::Config);
    let lora = Adapter::open("LORA");
    let regex =
        ask(&[&lora, &lora.with(&[("target_modules", ".*(q|o)_proj".into())])], agree).expect("same tensors");
    assert!(regex.notes[0].contains("target_modules"), "{:?}", regex.notes);
    assert_eq!(refused(&lora, &ada).to_string(), "b: peft_type is ADALORA, but LORA in a");
}

#[test]
fn refusals_say_why() {
    let lora = Adapter::open("LORA");
    let unknown = lora.with(&[("peft_type", "NEWLORA".into())]);
    let error = refused(&unknown, &unknown);
    assert_eq!(error.kind(), ErrorKind::Method);
    assert!(error.to_string().contains("nothing says its parameters may be averaged"), "{error}");
    for (field, value) in [
        ("arrow_config", serde_json::json!({"top_k": 2})),
        ("monteclora_config", serde_json::json!({"num_samples": 8})),
    ] {
        let adapter = lora.with(&[(field, value)]);
        assert_eq!(refused(&adapter, &adapter).kind(), ErrorKind::Method, "{field}");
    }
    for method in METHODS.iter().filter(|method| matches!(method.verdict, Verdict::Refuse(_))) {
        let adapter = lora.with(&[("peft_type", method.peft_type.into())]);
        assert_eq!(refused(&adapter, &adapter).kind(), ErrorKind::Method, "{}", method.peft_type);
        ask(&[&adapter], agree).expect("one adapter alone is copied, not averaged");
    }
}

#[test]
fn renamed_tensors_are_recognised() {
    let lora = Adapter::open("LORA");
    let renamed =
        |from: &'static str, to: &'static str| lora.tensors(move |name, _| *name = name.replace(from, to));
    for (other, cause) in [
        (renamed("base_model.model.", "base_model.model._orig_mod."), "torch.compile"),
        (renamed(".weight", ".default.weight"), "`default`"),
        (renamed("base_model", "module.base_model"), "DataParallel"),
        (renamed("model.layers", "_fsdp_wrapped_module.model.layers"), "FSDP"),
    ] {
        let error = refused(&lora, &other);
        assert_eq!(error.kind(), ErrorKind::Names);
        assert!(error.advice().expect("advice").contains(cause), "{:?}", error.advice());
        assert!(error.to_string().contains("lacks 8 tensors that a has"), "{error}");
    }
    let four = renamed("model.model.layers", "model.language_model.model.layers");
    let five = renamed("model.model.layers", "model.model.language_model.layers");
    assert!(refused(&four, &five).advice().expect("advice").contains("transformers 4 and 5"));
    let error = refused(&lora, &Adapter { tensors: lora.tensors[2..].to_vec(), ..lora.clone() });
    assert_eq!(
        error.to_string(),
        "b: lacks 2 tensors that a has: `base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight`, \
         `base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight`"
    );
}

#[test]
fn torn_and_resized_tensors_are_named() {
    let lora = Adapter::open("LORA");
    let wider = lora.tensors(|name, shape| {
        let rank = usize::from(name.contains("lora_B"));
        shape[rank] = 16;
    });
    let error = refused(&lora, &wider);
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(
        error.to_string(),
        "b: tensor `base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight` is [16, 32], but a has [8, 32] \
         (and 7 more tensors like it)"
    );
    assert!(error.advice().expect("advice").contains("the ranks are 16 and 8"));
    for torn in [vec![0], vec![128], vec![0, 32]] {
        let torn = lora.tensors(|name, shape| {
            if name.contains("lora_A") {
                shape.clone_from(&torn);
            }
        });
        let error = refused(&torn, &torn);
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.advice().expect("advice").contains("ZeRO-3"), "{error}");
    }
    let ada = Adapter::open("ADALORA");
    let pruned =
        ada.tensors(|_, shape| shape.iter_mut().filter(|size| **size == 8).for_each(|size| *size = 0));
    ask(&[&pruned, &pruned], agree).expect("AdaLoRA may prune a module to rank 0");
    let resized = Adapter::open("modules_to_save");
    let error = refused(
        &resized,
        &resized.tensors(|_, shape| {
            if shape[0] == 64 {
                shape[0] = 72;
            }
        }),
    );
    assert!(error.advice().expect("advice").contains("vocabulary"), "{error}");
}

#[test]
fn files_without_a_config_agree_by_their_tensors() {
    let file = |names: &[(&str, &[u64])]| Adapter {
        config: None,
        tensors: names
            .iter()
            .map(|(name, shape)| ((*name).to_string(), String::new(), shape.to_vec()))
            .collect(),
    };
    let kohya = file(&[
        ("lora_unet_q.lora_down.weight", &[4, 32]),
        ("lora_unet_q.lora_up.weight", &[32, 4]),
        ("lora_unet_q.alpha", &[]),
    ]);
    let agreement = ask(&[&kohya, &kohya], agree).expect("one run");
    assert!(agreement.identical("lora_unet_q.alpha").expect("alpha scales").contains("√"));
    assert!(agreement.identical("lora_unet_q.lora_up.weight").is_none());
    let products = ask(&[&kohya, &kohya], agree_as_products).expect("products");
    assert!(products.identical("lora_unet_q.alpha").is_none(), "product space folds alpha in");
    let loha = file(&[("lora_unet_q.hada_w1_a", &[4, 4])]);
    assert_eq!(ask(&[&loha, &loha], agree).expect("one run").notes.len(), 1);
    let model = file(&[("model.snake.alpha", &[1]), ("model.norm.weight", &[8])]);
    let agreement = ask(&[&model, &model], agree).expect("a model");
    assert_eq!((agreement.exactness, agreement.identical("model.snake.alpha")), (Linear, None));
    let error = refused(&Adapter::open("LORA"), &Adapter { config: None, ..Adapter::open("LORA") });
    assert_eq!(error.to_string(), "b: has no adapter config, but a has one");
}

#[test]
fn metadata_keeps_what_is_true_of_all() {
    let map = |pairs: &[(&str, &str)]| -> TextMap {
        pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    };
    let a = map(&[("ss_network_dim", "4"), ("ss_steps", "10"), ("sshs_model_hash", "a"), ("ss_epoch", "1")]);
    let b = map(&[("ss_network_dim", "4"), ("ss_steps", "20"), ("sshs_model_hash", "a")]);
    let merged = agree_metadata(&[("a", &a), ("b", &b)]).expect("nothing to refuse");
    assert_eq!(merged.kept, map(&[("ss_network_dim", "4")]));
    assert_eq!(merged.notes.len(), 2);
    assert!(merged.notes[0].ends_with("ss_epoch, ss_steps") && merged.notes[1].ends_with("sshs_model_hash"));
    let a = map(&[("ss_session_id", "1"), ("ss_sd_model_hash", "x")]);
    let b = map(&[("ss_session_id", "2"), ("ss_sd_model_hash", "y")]);
    let notes = agree_metadata(&[("a", &a), ("b", &b)]).expect("nothing to refuse").notes;
    assert!(notes[1].contains("sessions") && notes[2].contains("base models"), "{notes:?}");
}

#[test]
fn diffusers_adapters_agree_in_their_metadata() {
    let text = fs::read_to_string(folder().join("diffusers/metadata.json")).expect("a real one");
    let real: TextMap = serde_json::from_str(&text).expect("a map");
    assert_eq!(agree_metadata(&[("a", &real), ("b", &real)]).expect("equal").kept, real);
    let changed = |from: &str, to: &str| -> TextMap {
        real.pairs().iter().map(|(key, value)| (key.clone(), value.replace(from, to))).collect()
    };
    let retyped = changed("lora_alpha\": 8", "lora_alpha\": 8.0");
    assert_eq!(agree_metadata(&[("a", &real), ("b", &retyped)]).expect("8 is 8.0").kept, real);
    let error = agree_metadata(&[("a", &real), ("b", &changed("lora_alpha\": 8", "lora_alpha\": 16"))]);
    assert!(
        error.expect_err("another scale").to_string().contains("transformer.lora_alpha is 16, but 8 in a")
    );
    let without = TextMap::from(vec![("format".to_string(), "pt".to_string())]);
    let error = agree_metadata(&[("a", &real), ("b", &without)]).expect_err("alpha would be lost");
    assert_eq!((error.kind(), error.at_file()), (ErrorKind::Config, Some("b")));
}

//! The model card: a README.md that says what the merged model is and what it was made of.

use alloc::format;
use alloc::string::{String, ToString};

use crate::adapter::config::AdapterConfig;
use crate::merge::report::{Report, ServerStep, labels};
use crate::text::escape::{markdown, readable};
use crate::text::json::quoted;

/// The README.md of a merge; `config` is the adapter's, none for a full model; `picture` the file that shows the weights, if there
/// is one.
#[must_use]
pub fn card(report: &Report, config: Option<&AdapterConfig>, picture: Option<&str>) -> String {
    with_section(report, config, picture, "")
}

/// [`card`], with more behind the weights.
pub(crate) fn with_section(
    report: &Report,
    config: Option<&AdapterConfig>,
    picture: Option<&str>,
    section: &str,
) -> String {
    let is_product = report.space == "product";
    let files = report.outputs.iter().filter(|file| file.name.starts_with("adapter_model")).count();
    // JSON's quotes make YAML scalars that cannot be misread
    let mut text = String::from("---\n");
    if let Some(config) = config {
        if let Some(base) = config.base_model() {
            text += &format!("base_model: {}\n", quoted(&readable(base)));
        }
        text += "library_name: peft\n";
    }
    text += "tags:\n- merge\n- mwa\n";
    if let Some(config) = config {
        text += &format!("- {}\n", quoted(&readable(&config.peft_type().to_ascii_lowercase())));
    }
    text += "---\n\n";
    if let Some(recovered) = report.describe_recovered() {
        text += &format!(
            "# Recovered checkpoint\n\nLayers that were lost are filled in: {}. Made with mwa {}.\n",
            markdown(&recovered),
            report.mwa
        );
        return text + &closing(config.map(|_| files));
    }
    text += "# Merged checkpoints\n\n";
    let source = "metrics-weighted averaging, after [arXiv 2504.18580](https://arxiv.org/abs/2504.18580)";
    let round = report.round.as_ref().filter(|_| !is_product);
    let (what, source) = match (round, report.weighting.method.as_deref()) {
        (Some(round), _) => {
            let step = |it: &ServerStep| {
                format!("Step {} of the server's {} (rate {}) towards the average", it.step, it.kind, it.rate)
            };
            (round.server.as_ref().map_or_else(|| "The average".to_string(), step), "a federated round")
        }
        (_, Some(method)) if report.weighting.is_angled() => {
            (format!("The {method}, tensor by tensor,"), "by the angles between them, docs/methods.md")
        }
        _ if is_product => ("The weighted average of what they do".to_string(), source),
        (_, None) => ("A weighted average".to_string(), source),
        (_, Some(_)) if report.inputs.iter().any(|input| input.role.is_some()) => {
            ("What tasks changed of their base, put together and added to it:".to_string(), "task vectors")
        }
        (_, Some(method)) => (format!("The {method}, element by element,"), "the weights are not used"),
    };
    let merged = report.merged();
    let of = match round {
        Some(round) if round.clients == 1 => "what 1 client returned".to_string(),
        Some(round) => format!("what {} clients returned", round.clients),
        None if merged == 1 => "1 checkpoint".to_string(),
        None if is_product => format!("{merged} LoRA adapters (Σ wγBA, product space)"),
        None => format!("{merged} checkpoints"),
    };
    text += &format!("{what} of {of}, made with mwa {} ({source}).\n\n", report.mwa);
    if let Some(selected) = &report.selected {
        text += &format!("Checkpoints: {}.\n\n", markdown(&selected.line));
    }
    text += &format!("Weights: {}.\n\n", markdown(&report.weighting.describe()));
    if let Some(picture) = picture {
        text += &format!("![The metric over the steps, and the weight of each checkpoint]({picture})\n\n");
    }
    let groups = report.describe_groups();
    if !groups.is_empty() {
        text += "Some modules have weights of their own, in the order of the table:\n\n";
        groups.iter().for_each(|group| text += &format!("- {}\n", markdown(group)));
        text += "\n";
    }
    for advice in &report.advice {
        text += &format!("What to expect: {}.\n\n", markdown(&advice.text));
    }
    if let Some(distance) = &report.residual {
        let how =
            if is_product { "cut to the rank of this adapter" } else { "A and B averaged each by itself" };
        text += &format!(
            "Space: {}. With {how}, the result is off from the exact average of the adapters' products by {}.\n\n",
            report.space,
            markdown(&distance.describe())
        );
    }
    let metric = markdown(report.weighting.metric.as_deref().unwrap_or("metric"));
    let has_updates = report.inputs.iter().any(|input| input.update.is_some());
    let (head, rule) = if has_updates { (" update |", "---|") } else { ("", "") };
    text += &format!("| checkpoint | step | {metric} |{head} weight |\n|---|---|---|{rule}---|\n");
    for (input, label) in report.inputs.iter().zip(labels(&report.inputs)) {
        let step = input.step.map_or_else(|| "–".to_string(), |step| step.to_string());
        let metric = input.metric.map_or_else(|| "–".to_string(), |metric| format!("{metric:.6}"));
        let role = if input.role.is_some() { " (base)" } else { "" };
        let update = input.update.map_or_else(String::new, |update| format!(" {update:.4} |"));
        let weight = report.weighting.shown(input);
        text += &format!("| {} | {step} | {metric} |{update} {weight} |\n", markdown(label) + role);
    }
    text + section + &closing(config.map(|_| files))
}

/// What is said in the end of all.
fn closing(adapter: Option<usize>) -> String {
    let mut text = String::from(
        "\nHashes of all inputs and of the result are in `mwa-report.json`; `mwa verify` checks them.\n",
    );
    if adapter.is_some_and(|files| files > 1) {
        text += "\nPEFT loads an adapter from one file: `mwa convert THIS -o ONE --format peft` makes that of these.\n";
    } else if adapter.is_some() {
        text += "\n```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base_model, \"path/to/this/folder\")\n```\n";
    }
    text
}

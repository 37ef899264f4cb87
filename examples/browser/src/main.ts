/** Open a run from what the user drops, picks, or the sample; hand it to the view. */
import { dropped, MergeError, openRun, ready, type Input, type Run } from "mwa-merge";
import { byId, h, problem } from "./dom";
import { openSample, type Sample } from "./sample";
import { RunView } from "./view";

const [drop, folder, files] = [byId("drop"), byId<HTMLInputElement>("folder"), byId<HTMLInputElement>("files")];
const [opening, failed, place] = [byId("opening"), byId("open-error"), byId("run")];

/** What is open: it stays until another run is. */
let current: { run: Run; sample: Sample | undefined; title: string; view: RunView } | undefined;
let turn = 0;

async function open(inputs: Iterable<Input> | Promise<Iterable<Input>>, sample?: Sample): Promise<void> {
  const mine = (turn += 1);
  failed.hidden = true;
  opening.textContent = "Reading heads and logs…";
  try {
    const { loose, table } = apart([...(await inputs)]);
    const text = await table?.text();
    const isOnlyTable = table !== undefined && loose.length === 0;
    if (isOnlyTable && !current) throw new MergeError("input", `${table.name} is a table of metrics, and no run is open`, "drop it together with the run, or after it");
    const run = isOnlyTable ? current!.run : await openRun(loose);
    if (mine !== turn) return;
    show(run, isOnlyTable ? current!.sample : sample, text, table?.name);
  } catch (error) {
    if (mine !== turn) return;
    opening.textContent = current?.title ?? "";
    failed.replaceChildren(...problem(error), ...(current ? [h("p", { class: "hint" }, `What was open still is: ${current.title}.`)] : []));
    failed.hidden = false;
  }
}

/** Put a run in the place of the one before. */
function show(run: Run, sample: Sample | undefined, table: string | undefined, tableName: string | undefined): void {
  const view = new RunView(run, table, sample);
  current?.view.close();
  const count = run.checkpoints.length;
  const name = `${title(run.checkpoints)}: ${count} ${count === 1 ? "checkpoint" : "checkpoints"}${table === undefined ? "" : `, weighed by ${tableName}`}`;
  current = { run, sample, title: name, view };
  opening.textContent = name;
  place.replaceChildren(view.element);
  place.hidden = false;
  document.body.classList.add("opened");
  byId("sample").classList.remove("primary");
  view.start();
}

/** What was opened, in a few words. */
function title(checkpoints: { run: string; label: string }[]): string {
  const runs = [...new Set(checkpoints.map(({ run }) => run))];
  if (runs.length > 1) return `${runs.length} runs`;
  return runs[0]?.split("/").at(-1) || checkpoints[0]!.label;
}

/** A loose table of metrics is not a checkpoint: it goes to the weights. */
function apart(inputs: Input[]): { loose: Input[]; table: File | undefined } {
  // checkpoints have files of JSON too
  const endings = inputs.length === 1 ? /(?<!^(?:adapter_config|config|trainer_state))\.(csv|jsonl|json)$/i : /\.(csv|jsonl)$/i;
  const isTable = (input: Input) => input instanceof File && !input.webkitRelativePath && endings.test(input.name);
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

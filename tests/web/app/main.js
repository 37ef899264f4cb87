import { merge, openRun } from "mwa-merge";

const names = await (await fetch("sample/files.json")).json();
const inputs = await Promise.all(names.map(async (name) => ({ name, data: await (await fetch(`sample/${name}`)).blob() })));
const run = await openRun(inputs);
for (const device of ["cpu", "gpu"]) {
  const { report, ...how } = await merge(run, { device, threads: 2 });
  document.title += `|${report.outputs[0].blake3} ${how.device}`;
}

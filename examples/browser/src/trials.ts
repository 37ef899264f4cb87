/** Trials as a table: read from what a user pastes or a search wrote down before, and written for the next time. */
import type { Trial } from "mwa-merge";

/** Scores of weights, from CSV (a column for each checkpoint, oldest first, then the score) or from the lines of a search's journal. */
export function readTrials(text: string, count: number): Trial[] {
  const trials: Trial[] = [];
  for (const [i, line] of text.split("\n").map((line) => line.trim()).entries()) {
    if (!line || line.startsWith("#")) continue;
    const [weights, score] = line.startsWith("{") ? ofJson(line, i) : ofCsv(line, i);
    if (!weights) continue;
    if (weights.length !== count) throw new Error(`line ${i + 1} of the table has ${weights.length} weights, and ${count} checkpoints are chosen: one each, oldest first, then the score`);
    if (score !== undefined) trials.push({ number: trials.length + 1, by: "the table", weights, score, seconds: 0 });
  }
  return trials;
}

function ofCsv(line: string, at: number): [weights?: number[], score?: number] {
  const words = line.split(/[,;\t]/).map((word) => word.trim());
  const numbers = words.map((word) => (word === "" ? NaN : Number(word)));
  // the names of the columns
  if (at === 0 && numbers.every(Number.isNaN)) return [];
  if (!numbers.every(Number.isFinite)) throw new Error(`line ${at + 1} of the table has “${words[numbers.findIndex((number) => !Number.isFinite(number))]}” where a number must be`);
  return [numbers.slice(0, -1), numbers.at(-1)!];
}

function ofJson(line: string, at: number): [weights?: number[], score?: number] {
  let row: { weights?: number[]; score?: number; holdout?: string; mwa_search?: number };
  try {
    row = JSON.parse(line);
  } catch {
    throw new Error(`line ${at + 1} of the table is not whole`);
  }
  // what belongs to the journal and not to its trials, and scores on other data
  if (row.mwa_search !== undefined || row.holdout !== undefined) return [];
  return [row.weights, row.score];
}

/** As a table that is read again, the names of the checkpoints above it. */
export function writeTrials(trials: Trial[], names: string[]): string {
  const rows = trials.filter(({ score }) => score !== undefined).map(({ weights, score }) => [...weights, score].join(","));
  return [[...names, "score"].join(","), ...rows, ""].join("\n");
}

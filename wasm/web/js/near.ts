/** Find the name that was probably meant. */

/** The known name closest to `wanted`, with a few letters wrong. */
export function nearest(wanted: string, known: Iterable<string>): string | undefined {
  let [best, least] = [undefined as string | undefined, 2 + Math.floor(wanted.length / 4)];
  for (const name of known) {
    const distance = edits(wanted, name);
    if (distance < least) [best, least] = [name, distance];
  }
  return best;
}

/** How many letters must be inserted, deleted or replaced to make `a` into `b` (Levenshtein). */
function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 0; i < a.length; i += 1) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j += 1) next.push(Math.min(row[j]! + (a[i] === b[j] ? 0 : 1), row[j + 1]! + 1, next[j]! + 1));
    row = next;
  }
  return row[b.length]!;
}

/** The options of the core's table, under JavaScript's names. */
// made from core/src/options/mod.rs
// end of what is made

/** Options under the core's names, as JSON. */
export function toJson(options: object): string {
  const named = Object.entries(options).map(([name, value]) => [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]);
  return JSON.stringify(Object.fromEntries(named));
}

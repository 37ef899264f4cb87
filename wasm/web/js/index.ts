/**
 * Merge LoRA checkpoints by their metrics. Nothing is uploaded: files are read where they are, in ranges.
 *
 * @module
 */
/// <reference lib="dom" preserve="true" />
export { MergeError, type ErrorKind } from "./error.js";
export { ready } from "./core.js";
export { spoken } from "./speech.js";
export { dropped } from "./dropped.js";
export { openRun, weigh, weights, Run, type OpenOptions, type Weighing } from "./run.js";
export { compare, type Comparison } from "./compare.js";
export type { DeviceChoice } from "./gpu.js";
export { merge, preview, type Merged, type MergedFile, type MergedInMemory, type MergeOptions, type Preview, type Progress } from "./merge.js";
export { search, type Candidate, type Compared, type Evaluate, type Score, type Searched, type SearchOptions, type Trial } from "./search.js";
export type { Output } from "./output.js";
export type { Input, NamedData, RangeFile } from "./source.js";
export type * from "./types.js";

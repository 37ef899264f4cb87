/**
 * Merge LoRA checkpoints by their metrics, in Node, Deno and Bun.
 *
 * @module
 */
import "./platform-node.js";

export * from "./index.js";

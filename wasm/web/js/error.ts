/** What went wrong, in the same words on every runtime, with options as each calls them. */
import { spoken } from "./speech.js";

/** The kinds of failure. They never change their meaning between versions. */
export type ErrorKind =
  | "header" | "dtype" | "shape" | "names" | "config" | "method" | "metric" | "weights" | "non-finite" | "overflow"
  | "differs" | "cross-run" | "device" | "input" | "output" | "io" | "usage" | "stopped" | "bug";

/** A merge that cannot be done: a stable kind, the place, the facts, and what to do about it. */
export class MergeError extends Error {
  override readonly name = "MergeError";

  constructor(
    /** One word for programs. */
    readonly kind: ErrorKind,
    message: string,
    /** What to do about it, for people. */
    readonly help?: string,
    /** The file or checkpoint. */
    readonly file?: string,
    /** The tensor. */
    readonly tensor?: string,
    /** The facts, without the place. */
    readonly detail = message,
  ) {
    super(message);
  }
}

/** Facts as the core throws them, and as workers send them. */
interface Facts {
  kind: ErrorKind;
  message: string;
  help?: string | null;
  file?: string | null;
  tensor?: string | null;
  detail?: string | null;
}

function isFacts(value: unknown): value is Facts {
  return typeof value === "object" && value !== null && "kind" in value && "message" in value;
}

/** Make a `MergeError` of what the core threw; leave other errors alone. */
export function asError(thrown: unknown): unknown {
  if (thrown instanceof WebAssembly.RuntimeError) {
    return new MergeError("bug", `this is a bug in mwa: ${thrown.message}`, "please report it");
  }
  if (thrown instanceof Error && !(thrown instanceof MergeError)) return thrown;
  if (!isFacts(thrown)) return thrown;
  const { kind, message, help, file, tensor, detail } = thrown;
  const told = help == null ? undefined : spoken(help);
  return new MergeError(kind, spoken(message), told, file ?? undefined, tensor ?? undefined, detail == null ? undefined : spoken(detail));
}

/** Call into the core. */
export function call<T>(work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    throw asError(thrown);
  }
}

/** An error as plain data, to send to another thread. */
export function facts(error: unknown): Facts {
  if (isFacts(error)) {
    const { kind, message, help, file, tensor, detail } = error;
    return { kind, message, help: help ?? null, file: file ?? null, tensor: tensor ?? null, detail: detail ?? null };
  }
  return { kind: "io", message: error instanceof Error ? error.message : String(error) };
}

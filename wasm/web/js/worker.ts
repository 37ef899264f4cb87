/** One thread of the pool. */
import { Desk } from "./desk.js";
import type { Request } from "./pool.js";
import { serve } from "./serve.js";
import init from "./wasm/mwa.js";

const desk = new Desk();
await serve<Request>(async (request) => {
  if (request.what !== "load") return desk.answer(request);
  await init({ module_or_path: request.module });
  return {};
});

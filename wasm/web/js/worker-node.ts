/** One thread of the pool of a program: a web worker where there are such, as in Deno and Bun, or one of Node's. */
import "./platform-node.js";
import { parentPort } from "node:worker_threads";
import { Desk } from "./desk.js";
import { serve, server } from "./serve.js";

const { answers } = new Desk();
if (typeof Worker !== "undefined") serve(answers);
else parentPort!.on("message", server(answers, (reply, transfer) => parentPort!.postMessage(reply, transfer as never)));

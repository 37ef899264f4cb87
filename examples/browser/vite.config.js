// Build the page: relative paths, so that it runs under any path; the sample run beside it; a list of all files for offline use.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const examples = fileURLToPath(new URL("..", import.meta.url));

/** All files in folders of examples/, by path from there. */
function files(...folders) {
  const list = (folder) =>
    readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? list(path) : [path];
    });
  return folders.flatMap((folder) => list(join(examples, folder))).map((path) => relative(examples, path).replaceAll("\\", "/"));
}

/** Put the sample run and its base model under sample/, and their list into sample/files.json. */
function sample() {
  const paths = files("sample-run", "base");
  const list = JSON.stringify(paths.map((path) => ({ path, size: readFileSync(join(examples, path)).length })));
  return {
    name: "sample",
    configureServer({ middlewares }) {
      middlewares.use("/sample", (request, response, next) => {
        const path = request.url.slice(1);
        if (path === "files.json") response.end(list);
        else if (paths.includes(path)) response.end(readFileSync(join(examples, path)));
        else next();
      });
    },
    generateBundle() {
      this.emitFile({ type: "asset", fileName: "sample/files.json", source: list });
      for (const path of paths) this.emitFile({ type: "asset", fileName: `sample/${path}`, source: readFileSync(join(examples, path)) });
    },
  };
}

/** Tell the service worker which files there are, and which build they are of. */
function offline() {
  return {
    name: "offline",
    enforce: "post",
    generateBundle(_, bundle) {
      const hash = createHash("sha256");
      const names = Object.keys(bundle).sort();
      for (const name of names) hash.update(name).update(bundle[name].source ?? bundle[name].code);
      const source = readFileSync(new URL("src/offline.js", import.meta.url), "utf8")
        .replace('"BUILD"', JSON.stringify(hash.digest("hex").slice(0, 16)))
        .replace('["FILES"]', JSON.stringify(["./", ...names.filter((name) => name !== "index.html")]));
      this.emitFile({ type: "asset", fileName: "offline.js", source });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [sample(), offline()],
  build: { target: "es2022", rollupOptions: { input: ["index.html", "embed.html"] }, modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  worker: { format: "es" },
  optimizeDeps: { exclude: ["mwa-merge"] },
});

"""Merge a run through the core module in wasmtime-py: a whole host, from files to a folder. Stands alone.

    python wasm/module.py mwa.module.wasm RUN OUTPUT ['{"last": 5, "metric": "eval_loss"}']

The module has no bounds but its memory's: bytes are copied at once, not one by one as the component's lists are here.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from wasmtime import Engine, Instance, Module, Store


class MergeError(Exception):
    """What the core says is wrong: `kind`, the `file` and `tensor` at fault, and `help` if there is any."""

    def __init__(self, failure):
        super().__init__(": ".join(filter(None, (failure["file"], failure["tensor"], failure["detail"]))))
        self.kind, self.file, self.tensor, self.help = (failure[it] for it in ("kind", "file", "tensor", "help"))


class Core:
    """An instance of the module: bytes in, bytes out."""

    def __init__(self, path):
        engine = Engine()
        self.store = Store(engine)
        self.exports = Instance(self.store, Module.from_file(engine, str(path)), []).exports(self.store)

    def call(self, name, *arguments):
        return self.exports[f"mwa_{name}"](self.store, *arguments)

    def give(self, data):
        """The address of bytes in the module."""
        address = self.call("allocate", len(data))
        if address == 0:
            raise MemoryError(f"the module has no room for {len(data)} bytes")
        self.exports["memory"].write(self.store, data, address)
        return address

    def open(self, request):
        """The handle of a merge."""
        handle = self.call("open", self.give(request))
        if handle == 0:
            raise MergeError(json.loads(self.answer())["error"])
        return handle

    def answer(self):
        start = self.call("answer")
        return bytes(self.exports["memory"].read(self.store, start, start + self.call("answer_length")))

    def ask(self, name, *arguments):
        """The answer of a call that gives a status; None after the last step."""
        status, answer = self.call(name, *arguments), self.answer()
        if status == 0 and (answer or name != "next"):
            raise MergeError(json.loads(answer)["error"])
        return answer if status else None


def look(question):
    """What lies on this machine's disk: the answer's JSON, and its bytes."""
    (kind, asked), = question.items()
    try:
        if kind == "read":
            path, start, end = asked
            with open(path or ".", "rb") as file:
                file.seek(start)
                data = file.read(end - start)
            return {"bytes": len(data)}, data
        path = Path(asked or ".")
        if kind == "list":
            return {"names": sorted(os.listdir(path))}, b""
        if kind == "place":
            return {"place": str(path.resolve())}, b""
        if path.is_file():
            return {"file": path.stat().st_size}, b""
        return "folder" if path.is_dir() else "other" if path.exists() else "missing", b""
    except OSError as error:
        return {"failed": [error.strerror, None]}, b""


def merge(core, run, output, options):
    """Merge the run into a new folder, which is removed if that fails, and give the report."""
    request = {"verb": "merge", "paths": [str(run)], "options": options}
    handle = core.open(json.dumps(request).encode())
    os.mkdir(output)
    try:
        return finish(core, handle, Path(output))
    except BaseException:
        shutil.rmtree(output)
        raise
    finally:
        core.call("close", handle)


def finish(core, handle, output):
    known, outputs = None, []

    def start():
        # where ranks are found first, the files to write are known only now
        known = json.loads(core.ask("state", handle))
        return known, [begin(core, handle, output, number, file) for number, file in enumerate(known["outputs"])]

    while (step := core.ask("next", handle)) is not None:
        step = json.loads(step)
        if "look" in step:
            answers = [look(question) for question in step["look"]]
            text = json.dumps([answer for answer, _ in answers]).encode()
            core.ask("tell", handle, core.give(len(text).to_bytes(4, "little") + text + b"".join(data for _, data in answers)))
            continue
        known = known or json.loads(core.ask("state", handle))
        job = step["work"]
        chunks = b"".join(piece(known["inputs"][read["file"]], read["start"], read["end"]) for read in job["reads"])
        try:
            written = core.ask("run", handle, job["number"], core.give(chunks))
        except MergeError:
            if core.call("again", handle) != 1:
                raise
            # without a bad checkpoint, as drop_bad wants; what was written is void
            for file in outputs:
                file.close()
            known, outputs = None, []
            continue
        if job["writes"] and not outputs:
            known, outputs = start()
        for write in job["writes"]:
            length = write["end"] - write["start"]
            outputs[write["file"]].seek(write["start"])
            outputs[write["file"]].write(written[:length])
            written = written[length:]
    if not outputs:
        known, outputs = start()
    for file in outputs:
        file.close()
    for companion in known["companions"]:
        copy = output / companion["name"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(companion["path"], copy)
    ending = {"paths": [way(output, checkpoint["name"]) for checkpoint in known["report"]["inputs"]]}
    texts = json.loads(core.ask("finish", handle, core.give(json.dumps(ending).encode())))
    for text in texts:
        (output / text["name"]).write_bytes(text["content"].encode())
    return json.loads((output / "mwa-report.json").read_text())


def way(output, path):
    """The way from the output to a checkpoint, by which a merge is verified, wherever both are moved together."""
    place = Path(path or ".").resolve()
    try:
        return Path(os.path.relpath(place, output.resolve())).as_posix()
    except ValueError:  # on another drive
        return place.as_posix()


def begin(core, handle, output, number, file):
    path = output / file["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = open(path, "wb")
    made.truncate(file["length"])
    if file["head"]:
        made.write(core.ask("head", handle, number))
    return made


def piece(path, start, end):
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


if __name__ == "__main__":
    module, run, output, *options = sys.argv[1:]
    report = merge(Core(module), run, output, json.loads(options[0]) if options else {})
    for file in report["outputs"]:
        print(file["name"], file["blake3"])

"""Merge files through the component in wasmtime-py. Stands alone; files in memory in, files out.

    python wasm/host.py mwa.component.wasm merged.safetensors 0.7 a.safetensors 0.3 b.safetensors

For small files only: wasmtime-py moves lists of bytes at about 0.4 MB/s. The native binding has no such limit.
"""

import json
import sys
from types import SimpleNamespace

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker, Variant


class MergeError(Exception):
    """What the core says is wrong: stable `kind`, the `file` and `tensor` at fault, and `help` if there is any."""

    def __init__(self, failure):
        super().__init__(failure.detail)
        self.code, self.kind, self.file = failure.code, failure.kind, failure.file
        self.tensor, self.help = failure.tensor, failure.help


class Merger:
    """The component's interface `mwa:merge/merger`, with failures raised."""

    def __init__(self, component: bytes):
        engine = Engine()
        self.store = Store(engine)
        self.component = Component(engine, component)
        self.instance = Linker(engine).instantiate(self.store, self.component)
        self.interface = self.instance.get_export_index(self.store, "mwa:merge/merger@0.2.0")

    def call(self, name, *arguments):
        index = self.instance.get_export_index(self.store, name, self.interface)
        function = self.instance.get_func(self.store, index)
        result = function(self.store, *arguments)
        if hasattr(function, "post_return"):
            function.post_return(self.store)
        if isinstance(result, Variant) and result.tag in ("ok", "err"):
            if result.tag == "err":
                raise MergeError(result.payload)
            result = result.payload
        if hasattr(result, "kind") and hasattr(result, "detail"):
            raise MergeError(result)
        return result

    def merge(self, files, paths, options=None, chunk=None):
        """Merge what lies at `paths` among `files`, bytes by path; gives the merged files by name, and the report.

        Options are those of the command line; `chunk` is the most bytes that a job reads of one file.
        """
        session = self.call("[static]session.open", "merge", list(paths), json.dumps(options or {}), chunk, False)
        outputs = inputs = None
        while (step := self.call("[method]session.next", session)) is not None:
            # wasmtime-py gives a case's payload alone where that tells which case it is
            if isinstance(step, list):
                self.call("[method]session.tell", session, [answer(files, question) for question in step])
                continue
            job, inputs = step, inputs or self.call("[method]session.inputs", session)
            chunks = [files[inputs[read.file]][read.start : read.end] for read in job.reads]
            piece = bytes(self.call("[method]session.run", session, job.number, chunks))
            for write in job.writes:
                outputs = outputs or self.start(session)
                length = write.end - write.start
                outputs[write.file][1][write.start : write.end], piece = piece[:length], piece[length:]
        outputs = outputs or self.start(session)
        ending = SimpleNamespace(**{"paths": [], "left-out": [], "notes": [], "hashes": None})
        texts = {text.name: text.content for text in self.call("[method]session.finish", session, ending)}
        report = json.loads(texts["mwa-report.json"])
        session.drop(self.store)
        return {name: bytes(data) for name, data in outputs}, report

    def start(self, session):
        """The outputs before any job has written into them: their heads, and zeros."""
        outputs = self.call("[method]session.outputs", session)
        head = lambda output: bytearray(bytes(output.head)) + bytearray(output.length - len(output.head))  # noqa: E731
        return [(output.name, head(output)) for output in outputs]


def answer(files, question):
    """What files in memory answer: a folder is there when a file lies in it."""
    tag, asked = question.tag, question.payload
    path = asked[0] if tag == "read" else asked
    inside = [other[len(path) :].lstrip("/").split("/")[0] for other in files if other.startswith(f"{path}/")]
    if tag == "kind":
        if path in files:
            return Variant("file", len(files[path]))
        return Variant("folder" if inside else "missing")
    if tag == "list":
        return Variant("names", sorted(set(inside)))
    return Variant("place", path) if tag == "place" else Variant("bytes", files[path][asked[1] : asked[2]])


if __name__ == "__main__":
    component, output, *rest = sys.argv[1:]
    weights, paths = [float(weight) for weight in rest[::2]], rest[1::2]
    with open(component, "rb") as file:
        merger = Merger(file.read())
    files = {}
    for path in paths:
        with open(path, "rb") as file:
            files[path] = file.read()
    [merged] = merger.merge(files, paths, {"weights": weights})[0].values()
    with open(output, "wb") as file:
        file.write(merged)

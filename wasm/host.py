"""Merge files through the component in wasmtime-py. Stands alone; bytes in, bytes out.

    python wasm/host.py mwa.component.wasm merged.safetensors 0.7 a.safetensors 0.3 b.safetensors

For small files only: wasmtime-py moves lists of bytes at about 0.4 MB/s. The native binding has no such limit.
"""

import sys

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker, Record, Variant


def record(**fields):
    """A WIT record: wasmtime-py takes any object with the fields as attributes, in their WIT spelling."""
    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


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
        self.interface = self.instance.get_export_index(self.store, "mwa:merge/merger@0.1.0")

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

    def merge(self, inputs, weighing, space=None, **recipe):
        """Merge single-file checkpoints: `inputs` are (name, step, config text or None, bytes); gives the bytes.

        The recipe's other fields are those of wit/world.wit, with their usual values where they are not given.
        """
        checkpoints = []
        for name, step, config, data in inputs:
            size = self.call("head-size", data[:512], len(data))
            head = record(name="adapter_model.safetensors", bytes=data[:size], length=len(data))
            checkpoints.append(record(name=name, step=step, config=config, files=[head]))
        usual = dict(strict=False, residual="off", dtype=None, allow_cross_run=False)
        usual |= dict(allow_non_finite=False, rewrite=False, chunk=None)
        space = space or Variant("factors")
        merge = self.call(
            "[static]merge.open", checkpoints, record(weighing=weighing, space=space, **(usual | recipe))
        )
        merged = None
        while (job := self.call("[method]merge.next", merge)) is not None:
            chunks = [inputs[read.input][3][read.start : read.end] for read in job.reads]
            piece = bytes(self.call("[method]merge.run", merge, job.number, chunks))
            for write in job.writes:
                merged = merged or self.start(merge)
                length = write.end - write.start
                merged[write.start : write.end], piece = piece[:length], piece[length:]
        merged = merged or self.start(merge)
        merge.drop(self.store)
        return bytes(merged)

    def start(self, merge):
        """The output before any job has written into it: its head, and zeros."""
        [output] = self.call("[method]merge.outputs", merge)
        return bytearray(bytes(output.head)) + bytearray(output.length - len(output.head))


if __name__ == "__main__":
    component, output, *rest = sys.argv[1:]
    weights, paths = [float(weight) for weight in rest[::2]], rest[1::2]
    with open(component, "rb") as file:
        merger = Merger(file.read())
    inputs = []
    for path in paths:
        with open(path, "rb") as file:
            inputs.append((path, None, None, file.read()))
    with open(output, "wb") as file:
        file.write(merger.merge(inputs, Variant("explicit", weights)))

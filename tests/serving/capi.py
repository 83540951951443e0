"""Runs a SavedModel through TensorFlow's C API by ctypes: an independent checker with no TensorFlow in Python and none
of ours.

    python tests/serving/capi.py MODEL_FOLDER INPUTS.npz OUTPUTS.npz SIGNATURE [the same four again ...]

INPUTS.npz holds one array an input alias; strings are NumPy text arrays, bytes that are no UTF-8 as lone surrogates.
OUTPUTS.npz gets one array an output alias, strings as text. Several requests in one process: give the aliases a prefix
of their number, "0/x", "1/x".
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.random

NUMPY_TYPES = {1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 9: "i8", 10: "?", 19: "f2", 22: "u4", 23: "u8"}
STRING = 7
STRING_BYTES = 24


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a serialized protobuf message; enough of the wire format to find tensor names."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
        elif kind == 2:
            length = varint()
            yield number, message[position : position + length]
            position += length
        else:
            position += {1: 8, 5: 4}[kind]


def table(message: bytes, number: int) -> dict[str, bytes]:
    """A map field."""
    entries = [dict(fields(value)) for key, value in fields(message) if key == number]  # type: ignore[arg-type]
    return {entry[1].decode(): entry.get(2, b"") for entry in entries}  # type: ignore[union-attr, misc]


def tensors(signature: bytes, number: int) -> dict[str, tuple[str, int]]:
    """Tensor name and data type by alias of a signature's inputs (1) or outputs (2)."""
    found = {}
    for alias, info in table(signature, number).items():
        values = dict(fields(info))
        found[alias] = (values[1].decode(), int(values[2]))  # type: ignore[union-attr, arg-type]
    return found


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class Output(ctypes.Structure):
    """TF_Output."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed")
    return Path(spec.submodule_search_locations[0])


class Runner:
    """One SavedModel in one TF_Session."""

    def __init__(self, folder: str) -> None:
        self.library = ctypes.CDLL(str(package_folder("tensorflow") / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
        for name in [
            "TF_NewStatus",
            "TF_NewGraph",
            "TF_NewSessionOptions",
            "TF_NewBuffer",
            "TF_LoadLibrary",
            "TF_LoadSessionFromSavedModel",
            "TF_GraphOperationByName",
            "TF_AllocateTensor",
            "TF_TensorData",
        ]:
            getattr(self.library, name).restype = ctypes.c_void_p
        for name in ("TF_Message", "TF_StringGetDataPointer"):
            getattr(self.library, name).restype = ctypes.c_char_p if name == "TF_Message" else ctypes.c_void_p
        for name in ("TF_TensorByteSize", "TF_StringGetSize"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.library.TF_Dim.restype = ctypes.c_int64
        self.status = ctypes.c_void_p(self.library.TF_NewStatus())
        file = Path(folder) / "saved_model.pb"
        graph = file.read_bytes() if file.is_file() else b""
        libraries = [package_folder("scann") / "scann_ops" / "cc" / "_scann_ops.so"] if b"Scann>" in graph else []
        if b"NormalizeUTF8" in graph:  # every graph that takes raw text cleans it so
            libraries += sorted((package_folder("tensorflow_text") / "python" / "ops").glob("*.so"))
        for operations in libraries:
            self.library.TF_LoadLibrary(str(operations).encode(), self.status)
            self.check("TF_LoadLibrary")
        self.graph = ctypes.c_void_p(self.library.TF_NewGraph())
        self.library.TF_NewBuffer.restype = ctypes.POINTER(Buffer)
        meta_graph = self.library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = ctypes.c_void_p(self.library.TF_NewSessionOptions())
        self.session = ctypes.c_void_p(
            self.library.TF_LoadSessionFromSavedModel(
                options, None, folder.encode(), tags, 1, self.graph, meta_graph, self.status
            )
        )
        self.check("TF_LoadSessionFromSavedModel")
        buffer = meta_graph.contents
        self.signatures = table(ctypes.string_at(buffer.data, buffer.length), 5)

    def check(self, call: str) -> None:
        """Ends the process when the last call failed."""
        if self.library.TF_GetCode(self.status):
            raise SystemExit(f"{call}: {self.library.TF_Message(self.status).decode()}")

    def output(self, name: str) -> Output:
        """A tensor of the graph by its name, "operation:index"."""
        operation, _, index = name.partition(":")
        found = self.library.TF_GraphOperationByName(self.graph, operation.encode())
        if not found:
            raise SystemExit(f"no operation {operation}")
        return Output(found, int(index or 0))

    def tensor(self, array: np.ndarray, dtype: int) -> ctypes.c_void_p:
        """A TF_Tensor of an array."""
        shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        if dtype != STRING:
            array = np.ascontiguousarray(array, NUMPY_TYPES[dtype]).reshape(array.shape)
        size = array.size * STRING_BYTES if dtype == STRING else array.nbytes
        tensor = ctypes.c_void_p(self.library.TF_AllocateTensor(dtype, shape, array.ndim, ctypes.c_size_t(size)))
        data = self.library.TF_TensorData(tensor)
        if dtype == STRING:
            for place, text in enumerate(array.ravel()):
                value = str(text).encode("utf-8", "surrogateescape")
                string = ctypes.c_void_p(data + place * STRING_BYTES)
                self.library.TF_StringInit(string)
                self.library.TF_StringCopy(string, value, ctypes.c_size_t(len(value)))
        elif size:
            ctypes.memmove(data, array.ctypes.data, size)
        return tensor

    def array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        """The array of a TF_Tensor."""
        dtype = self.library.TF_TensorType(tensor)
        shape = [self.library.TF_Dim(tensor, axis) for axis in range(self.library.TF_NumDims(tensor))]
        data = self.library.TF_TensorData(tensor)
        if dtype != STRING:
            raw = ctypes.string_at(data, self.library.TF_TensorByteSize(tensor)) if data else b""
            return np.frombuffer(raw, NUMPY_TYPES[dtype]).reshape(shape)
        texts = []
        for place in range(int(np.prod(shape))):
            string = ctypes.c_void_p(data + place * STRING_BYTES)
            start, size = self.library.TF_StringGetDataPointer(string), self.library.TF_StringGetSize(string)
            texts.append(ctypes.string_at(start, size).decode())
        return np.array(texts, "U").reshape(shape)

    def run(self, inputs: dict[str, np.ndarray], signature_name: str) -> dict[str, np.ndarray]:
        """Runs one request."""
        if signature_name not in self.signatures:
            raise SystemExit(f"no signature {signature_name}; there are {sorted(self.signatures)}")
        given, wanted = (tensors(self.signatures[signature_name], number) for number in (1, 2))
        if set(given) != set(inputs):
            raise SystemExit(f"inputs are {sorted(given)}, got {sorted(inputs)}")
        feeds = (Output * len(given))(*(self.output(name) for name, _ in given.values()))
        values = (ctypes.c_void_p * len(given))(
            *(self.tensor(inputs[alias], dtype).value for alias, (_, dtype) in given.items())
        )
        fetches = (Output * len(wanted))(*(self.output(name) for name, _ in wanted.values()))
        answers = (ctypes.c_void_p * len(wanted))()
        self.library.TF_SessionRun(
            self.session, None, feeds, values, len(given), fetches, answers, len(wanted), None, 0, None, self.status
        )
        self.check("TF_SessionRun")
        return {alias: self.array(ctypes.c_void_p(answer)) for alias, answer in zip(wanted, answers, strict=True)}


@functools.cache
def load(folder: str) -> Runner:
    """A model of which several signatures are asked is loaded once."""
    return Runner(folder)


def main(folder: str, inputs_file: str, outputs_file: str, signature_name: str = "serving_default") -> None:
    """Runs the requests of one file."""
    with np.load(inputs_file) as arrays:
        requests: dict[str, dict[str, np.ndarray]] = {}
        for name in arrays.files:
            prefix, slash, alias = name.rpartition("/")
            requests.setdefault(prefix + slash, {})[alias] = arrays[name]
    runner = load(folder)
    answers = {
        prefix + alias: array
        for prefix, inputs in requests.items()
        for alias, array in runner.run(inputs, signature_name).items()
    }
    if any(name == "tensorflow" or name.split(".")[0] == "serving" for name in sys.modules):
        raise SystemExit("this process must not import TensorFlow or the serving code: it would not be independent")
    np.savez(outputs_file, **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    for place in range(1, len(sys.argv), 4):
        main(*sys.argv[place : place + 4])

"""Files of models that were exported: told apart by their content, and opened as functions.

TorchScript and torch.export files run code when they are opened, so `open_model` is called for trusted ones only.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.trust import ONNX_CURE

Form = Literal["pt2", "torchscript", "onnx"]

Model = Callable[[Tensor], object]
"""float32 (1, 3, H, W) or (1, H, W, 3) to whatever the model returns."""

_PARTS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages of ONNX by kind, and in each the numbers of the fields that hold others (onnx.proto, version 1.16)."""

_GRAPH, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 7, 9, 13, 14, 1


def form_of(content: bytes, name: str) -> Form:
    """Form of a model's file. Raises BundleError, naming the kind where it is known, for a file of another one."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _form_of_archive(content, name)
    known = {b"\x89HDF": "a Keras or HDF5 file", b"\x80\x02": "a pickle", b"\x80\x04": "a pickle"}
    for start, kind in known.items():
        if content.startswith(start):
            raise _refusal(name, f"is {kind}")
    try:
        fields = {number for number, _ in _fields(content)}
    except ValueError:
        raise _refusal(name, "is none of these, or is damaged") from None
    if _GRAPH not in fields:
        raise _refusal(name, "is none of these, or is damaged")
    return "onnx"


def _form_of_archive(content: bytes, name: str) -> Form:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {one.partition("/")[2] or one for one in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        raise _refusal(name, "is damaged") from None
    if "archive_format" in parts or any(one.startswith("models/") for one in parts):
        return "pt2"
    if "constants.pkl" in parts and any(one.startswith("code/") for one in parts):
        return "torchscript"
    if "data.pkl" in parts:
        raise _refusal(name, "is a checkpoint, weights without their network (docs/networks.md)")
    raise _refusal(name, "is another archive")


def _refusal(name: str, kind: str) -> BundleError:
    return BundleError(f"{name} {kind}; give a model as torch.export (.pt2), TorchScript or ONNX file")


def open_model(content: bytes, form: Form, device: torch.device) -> Model:
    """The model as a function. For trusted files: all but ONNX run code. Raises BundleError for damaged files."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about formats, useless to the user
            if form == "onnx":
                return _onnx(content, device)
            if form == "torchscript":
                return _torchscript(content, device)
            return _exported(content, device)
    except BundleError:
        raise
    except Exception as error:  # a file of any bytes raises whatever they lead to
        raise BundleError(f"the model cannot be opened: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__


def _torchscript(content: bytes, device: torch.device) -> Model:
    module = torch.jit.load(io.BytesIO(content), map_location=device).eval()

    def run(x: Tensor) -> object:
        # The profiling executor changes a program after its first calls, and with it the last bits of its results.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return module(x)

    return run


def _exported(content: bytes, device: torch.device) -> Model:
    program = torch.export.load(io.BytesIO(content))
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module: Model = program.module()
    return module


def _onnx(content: bytes, device: torch.device) -> Model:
    """A session of one thread, as the other networks compute in a worker's thread."""
    if _has_outside_weights(content):  # which would be looked for in the working folder
        raise BundleError("the model keeps weights in another file; get the bundle again")
    try:
        import onnxruntime
    except ImportError:
        raise BundleError(f"ONNX models need onnxruntime; install it: {ONNX_CURE}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [one for one in wanted if one in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(content, options, providers=[*providers, "CPUExecutionProvider"])
    given, stated = _only_input(session.get_inputs())

    def run(x: Tensor) -> object:
        if len(stated) != x.ndim or any(isinstance(a, int) and a != b for a, b in zip(stated, x.shape, strict=True)):
            raise BundleError(f"the model takes {list(stated)} and not {list(x.shape)}")
        found = session.run(None, {given: x.cpu().numpy()})
        return tuple(torch.from_numpy(one).to(x.device) for one in found)

    return run


def _only_input(inputs: Sequence[Any]) -> tuple[str, tuple[int | str | None, ...]]:
    """Name of a model's input and its sides; a number where it takes that one only."""
    if len(inputs) != 1:
        raise BundleError(f"the model takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), not one")
    if inputs[0].type != "tensor(float)":
        raise BundleError(f"the model takes {inputs[0].type}, not tensor(float), which is float32")
    return inputs[0].name, tuple(inputs[0].shape)


def whole_model(content: bytes, folder: Path) -> bytes:
    """An ONNX file with the weights that it keeps in other files of its folder, as PyTorch's exporter does.

    Raises BundleError where such a file lies elsewhere, is not there, or is too short.
    """
    try:
        return _whole(content, "model", folder) if _has_outside_weights(content) else content
    except BundleError:
        raise
    except (ValueError, RecursionError):
        raise BundleError("the model is damaged; get the file again") from None


def _has_outside_weights(content: bytes) -> bool:
    """True for an ONNX file with a tensor in another file."""
    waiting: list[tuple[str, bytes]] = [("model", content)]
    while waiting:
        kind, message = waiting.pop()
        for number, value in _fields(message):
            if kind == "tensor" and number == _DATA_LOCATION and value == _EXTERNAL:
                return True
            if isinstance(value, bytes) and number in _PARTS[kind]:
                waiting.append((_PARTS[kind][number], value))
    return False


def _whole(message: bytes, kind: str, folder: Path) -> bytes:
    """A message in which tensors of other files have their bytes; everything else stays as it is."""
    made = bytearray()
    outside: dict[str, str] = {}
    for number, value, raw in _raw_fields(message):
        if kind == "tensor" and number == _DATA_LOCATION:
            continue
        if kind == "tensor" and number == _EXTERNAL_DATA and isinstance(value, bytes):
            entry = {key: text for key, text in _fields(value) if isinstance(text, bytes)}
            outside[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
        elif isinstance(value, bytes) and number in _PARTS[kind]:
            made += _sized(number, _whole(value, _PARTS[kind][number], folder))
        else:
            made += raw
    return bytes(made + _sized(_RAW_DATA, _outside_bytes(outside, folder)) if outside else made)


def _outside_bytes(entry: Mapping[str, str], folder: Path) -> bytes:
    """Bytes of a tensor in another file; entry: its location, offset and length (onnx.proto, external_data)."""
    name, offset = entry.get("location", ""), int(entry.get("offset", 0))
    if not name or Path(name).name != name or name in (".", ".."):
        raise BundleError(f"the model keeps weights in {name!r:.60}, not in a file beside it; save it as one file")
    try:
        with (folder / name).open("rb") as file:
            file.seek(offset)
            found = file.read(int(entry["length"]) if "length" in entry else -1)
    except OSError as error:
        raise BundleError(
            f"the model keeps weights in {name}, which must lie beside it: {error.strerror or error}"
        ) from None
    if len(found) < int(entry.get("length", 0)):
        raise BundleError(
            f"{name} has {len(found):,} of {int(entry['length']):,} bytes of a tensor; get the file again"
        )
    return found


def _sized(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _written(number << 3 | 2) + _written(len(content)) + content


def _written(value: int) -> bytes:
    """A number as protobuf has it, seven bits a byte."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message with their numbers. Raises ValueError where it is none."""
    for number, value, _ in _raw_fields(message):
        yield number, value


def _raw_fields(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Fields of a protobuf message: number, value, and the bytes of the whole field. Raises ValueError."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value, message[start:place]
            continue
        if wire not in (1, 2, 5) or number == 0:
            raise ValueError(f"no protobuf at byte {place}")
        length, place = _varint(message, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
        if place + length > len(message):
            raise ValueError(f"{place + length - len(message)} bytes are missing")
        yield number, message[place : place + length], message[start : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("a number is cut off")
        byte = message[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:
            return value, place
    raise ValueError("a number has no end")

"""Files of models: the house's small network in every form, and tiny ones that are right or wrong in one respect.

ONNX is written here byte by byte, since the packages that export it are large and needed by no user.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.small import ResidualBlock, SmallNet

FLOAT, UINT8, DOUBLE = 1, 2, 11
"""Element types of ONNX."""

# ---- protobuf ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def number(key: int, value: int) -> bytes:
    return varint(key << 3) + varint(value)


def message(key: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return varint(key << 3 | 2) + varint(len(content)) + content


def text(key: int, value: str) -> bytes:
    return message(key, value.encode())


Attribute = int | str | Sequence[int]


def attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return message(5, text(1, name), number(3, value), number(20, 2))
    if isinstance(value, str):
        return message(5, text(1, name), text(4, value), number(20, 3))
    return message(5, text(1, name), *(number(8, one) for one in value), number(20, 7))


def shaped(key: int, name: str, dims: Sequence[int | str], element: int = FLOAT) -> bytes:
    """Description of an input or output; names are dynamic axes."""
    axes = [message(1, number(1, one) if isinstance(one, int) else text(2, one)) for one in dims]
    return message(key, text(1, name), message(2, message(1, number(1, element), message(2, *axes))))


@dataclass
class Onnx:
    """A model of one graph."""

    inputs: list[bytes] = field(default_factory=lambda: [shaped(11, "x", (1, 3, "h", "w"))])
    outputs: list[bytes] = field(default_factory=list)
    nodes: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)

    def tensor(self, values: Tensor, name: str | None = None) -> str:
        """Add an initialiser; returns its name."""
        name = name or f"t{len(self.tensors)}"
        dims = [number(1, one) for one in values.shape]
        raw = values.detach().contiguous().numpy().tobytes()
        self.tensors.append(message(5, *dims, number(2, FLOAT), text(8, name), message(9, raw)))
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """Add a node; returns the name of its output."""
        name = f"n{len(self.nodes)}"
        given = [text(1, one) for one in inputs]
        more = [attribute(key, value) for key, value in attributes.items()]
        self.nodes.append(message(1, *given, text(2, name), text(4, kind), *more, text(7, domain)))
        return name

    def conv(self, x: str, layer: nn.Conv2d) -> str:
        """A convolution as it is in torch."""
        side, pad, stride = layer.kernel_size[0], cast(tuple[int, int], layer.padding)[0], layer.stride[0]
        names = [self.tensor(layer.weight)] + ([] if layer.bias is None else [self.tensor(layer.bias)])
        return self.node("Conv", x, *names, kernel_shape=[side] * 2, pads=[pad] * 4, strides=[stride] * 2)

    def enlarged(self, x: str, factor: int) -> str:
        """Bilinear with half-pixel centres."""
        scales = self.tensor(torch.tensor([1.0, 1.0, factor, factor]))
        return self.node("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def output(self, name: str, dims: Sequence[int | str], element: int = FLOAT) -> Onnx:
        """Name an output."""
        self.outputs.append(shaped(12, name, dims, element))
        return self

    def content(self) -> bytes:
        """The bytes of the file."""
        graph = message(7, *self.nodes, text(2, "graph"), *self.tensors, *self.inputs, *self.outputs)
        return number(1, 8) + graph + message(8, text(1, ""), number(2, 17))


def small_as_onnx(network: SmallNet) -> bytes:
    """The network with dynamic sides."""
    net, model = cast(SmallNet, fold_batch_norm(network.eval())), Onnx()

    def sequence(x: str, layers: nn.Sequential) -> str:
        for layer in layers:
            if isinstance(layer, nn.Sequential):
                x = sequence(x, layer)
            elif isinstance(layer, ResidualBlock):
                inner = sequence(sequence(x, layer.first), layer.second)
                x = model.node("Relu", model.node("Add", x, inner))
            elif isinstance(layer, nn.Conv2d):
                x = model.conv(x, layer)
            elif isinstance(layer, nn.ReLU):
                x = model.node("Relu", x)
        return x

    x, features = sequence("x", net.stem), []
    for stage in net.stages:
        x = sequence(x, cast(nn.Sequential, stage))
        features.append(x)
    laterals = [cast(nn.Conv2d, one) for one in net.laterals]
    merged = model.conv(features[-1], laterals[-1])
    for lateral, feature in zip(laterals[-2::-1], features[-2::-1], strict=True):
        merged = model.node("Add", model.conv(feature, lateral), model.enlarged(merged, 2))
    last = model.enlarged(model.conv(sequence(merged, net.smooth), net.classify), 4)
    return model.output(last, (1, net.n_classes, "h", "w")).content()


def pointwise(
    weights: Tensor, *, dims: Sequence[int | str] = (1, 3, "h", "w"), element: int = FLOAT, end: str | None = None
) -> Onnx:
    """A 1 x 1 convolution, without its output; weights: (C, 3)."""
    layer = nn.Conv2d(3, len(weights), 1)
    layer.weight, layer.bias = nn.Parameter(weights[..., None, None]), nn.Parameter(torch.zeros(len(weights)))
    model = Onnx(inputs=[shaped(11, "x", dims, element)])
    found = model.conv("x", layer)
    if end == "Softmax":
        model.node("Softmax", found, axis=1)
    elif end:
        model.node(end, found)
    return model


# ---- torch ---------------------------------------------------------------------------------------------------------


def traced(network: nn.Module, side_px: int = 128) -> bytes:
    """TorchScript of any size where the network allows it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # the check of the sides becomes a constant
        torch.jit.save(torch.jit.trace(network.eval(), torch.randn(1, 3, side_px, side_px)), buffer)
    return buffer.getvalue()


def scripted(module: nn.Module) -> bytes:
    """TorchScript with all branches."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def exported(network: nn.Module, multiple: int = 32, fixed_px: int = 0) -> bytes:
    """torch.export, of any multiple or of one size."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        rows, columns = (multiple * torch.export.Dim(name, min=2, max=128) for name in ("rows", "columns"))
        shapes = None if fixed_px else ({2: rows, 3: columns},)
        example = (
            torch.randn(1, 3, fixed_px, fixed_px) if fixed_px else torch.randn(1, 3, 4 * multiple, 5 * multiple),
        )
        torch.export.save(torch.export.export(network.eval(), example, dynamic_shapes=shapes), buffer)
    return buffer.getvalue()


class Writes(nn.Module):
    """Writes a file when it computes, as hostile code would."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same, and a file."""
        torch.save(x, self.path)
        return self.layer(x)  # type: ignore[no-any-return]


class Flattens(nn.Module):
    """Returns one vector a patch."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3)."""
        return x.mean(dim=(2, 3))


class Pair(nn.Module):
    """Returns two maps."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) twice."""
        return x, x


class Named(nn.Module):
    """Returns a dict, as segmentation models of torchvision do."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) by name."""
        return {"out": x}


class Chance(nn.Module):
    """Dropout that was not turned off."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same with holes."""
        return nn.functional.dropout(x, 0.5, training=True)


class Double(nn.Module):
    """Returns float64."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same."""
        return x.double()


class OneSize(nn.Module):
    """A network that fails on every size but 192 x 192."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(1, 3, 192, 192))

    def forward(self, x: Tensor) -> Tensor:
        """(1, 3, 192, 192) to the network's logits."""
        logits: Tensor = self.network(x + self.zeros)
        return logits


class Raises(nn.Module):
    """Raises an error for every patch."""

    def forward(self, x: Tensor) -> Tensor:
        """Nothing."""
        if x.sum() > -1e9:
            raise ValueError("only grey pictures")
        return x


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """An archive."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pickled_command(command: str) -> bytes:
    """A pickle that runs a command of the shell when it is read."""
    call = b"cposix\nsystem\n(V" + command.encode() + b"\ntR."
    return b"\x80\x02" + call


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(64)
SAFETENSORS = struct.pack("<Q", 2) + b"{}"

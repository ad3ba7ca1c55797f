"""A network whose weights are the file of an exported model: the bytes are a tensor of the bundle.

C: classes, c: channels that the model returns, H, W: size of a patch, P: side of the only patch that a model takes,
b: side of a block, to which a classifier gives one class. Each patch is computed by itself and in
float32, whatever the batch and the precision of the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import lcm
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.model_file import Form, Model, first_line, open_model
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.trust import EXPORTED
from wsi_magnet.schema import Bounds

LEAST_PROBABILITY = 1e-30
"""Replaces 0 before the logarithm."""

Activation = Literal["logits", "softmax", "sigmoid"]
Colours = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]


@dataclass(eq=False)
class _Opened:
    """A model that is opened by the first thread that needs it."""

    device: torch.device
    model: Model | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, content: Callable[[], bytes], form: Form) -> Model:
        with self.lock:
            if self.model is None:
                self.model = open_model(content(), form, self.device)
            return self.model


class ExportedNet(nn.Module):
    """A model's file as a network. It is opened when a patch is first computed, and not before."""

    def __init__(
        self,
        n_classes: int,
        form: Form,
        sha256: str,
        size_bytes: Annotated[int, Bounds(1)],
        activation: Activation = "logits",
        colours: Colours = "rgb",
        layout: Layout = "nchw",
        input_px: Annotated[int, Bounds(0)] = 0,
        margin_px: Annotated[int, Bounds(0)] = 0,
        input_multiple: Annotated[int, Bounds(1)] = 1,
        output_stride: Annotated[int, Bounds(1, 64)] = 1,
        block_px: Annotated[int, Bounds(0)] = 0,
        resized_px: Annotated[int, Bounds(0)] = 0,
    ) -> None:
        """sha256, size_bytes: of the file. activation: of what it returns: "logits", "softmax" (probabilities that add
        up to 1) or "sigmoid" (a probability for each class by itself). colours, layout: of its input. input_px: side of
        the only patch that it takes, 0 for any; larger ones are computed in windows, of which `margin_px` pixels along
        the edge are left to the neighbours. input_multiple: divisor of the sides otherwise. output_stride: pixels of
        the input per pixel of what it returns, along a side. block_px: not 0 for a classifier of patches: side of the
        blocks, each of which gets the class of the patch round its centre; the first block begins `margin_px` pixels
        from the edge. resized_px: side to which a classifier's patches are resized, 0 for none.
        """
        super().__init__()
        if block_px:
            if not block_px <= input_px or 2 * margin_px < input_px - block_px:
                raise BundleError(f"margins of {margin_px} and blocks of {block_px} pixels do not fit {input_px}")
        elif input_px and 2 * margin_px >= input_px:
            raise BundleError(f"margins of {margin_px} pixels leave nothing of the model's {input_px}")
        self.n_classes, self.form, self.sha256 = n_classes, form, sha256
        self.activation, self.colours, self.layout = activation, colours, layout
        self.input_px, self.margin_px, self.output_stride = input_px, margin_px, output_stride
        self.block_px, self.resized_px = block_px, resized_px
        self.multiple = lcm(input_multiple, output_stride)
        self._given: dict[str, Any] = {"size_bytes": size_bytes, "input_multiple": input_multiple}
        self.model: Tensor
        self.register_buffer("model", torch.zeros(size_bytes, dtype=torch.uint8))
        self._opened = _Opened(torch.device("cpu"))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised RGB, float (N, 3, H, W), to logits, float32 (N, C, H, W). Raises BundleError."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._patch(one) for one in x.float().split(1)])

    def raw(self, x: Tensor) -> Tensor:
        """Output of the model, float32 (1, c, H / stride, W / stride); (1, c, 1, 1) of a classifier.

        x: normalised RGB, float32 (1, 3, H, W), of a size that the model takes. Raises BundleError, with the numbers,
        where it fails or returns anything else.
        """
        if self.resized_px and x.shape[-1] != self.resized_px:
            size = (self.resized_px, self.resized_px)
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        given = x.flip(1) if self.colours == "bgr" else x
        given = (given.permute(0, 2, 3, 1) if self.layout == "nhwc" else given).contiguous()
        model = self._opened.get(self._content, self.form)
        try:
            found = model(given)
        except (BundleError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a program of somebody else's may raise anything
            raise BundleError(f"the model fails on a patch of {list(given.shape)}: {first_line(error)}") from error
        maps = _only_output(found)
        shape = self._shape(maps, x)
        if list(maps.shape) != shape or maps.dtype is not torch.float32:
            stated = "a class a patch" if self.block_px else f"an output stride of {self.output_stride}"
            raise BundleError(
                f"the model returned {_name(maps)} for a patch of {list(given.shape)}; with {self.n_classes} classes "
                f"and {stated} that must be float32 {shape}"
            )
        if self.block_px:
            return maps[..., None, None]
        return maps.permute(0, 3, 1, 2) if self.layout == "nhwc" else maps

    def _shape(self, maps: Tensor, x: Tensor) -> list[int]:
        """Shape that the model's output must have. x: its input, (1, 3, H, W)."""
        if self.block_px:
            return [1, 1 if self.n_classes == 2 and maps.shape[-1:] == (1,) else self.n_classes]
        channels = 1 if self.n_classes == 2 and _channels(maps, self.layout) == 1 else self.n_classes
        sides = [side // self.output_stride for side in x.shape[-2:]]
        return [1, *sides, channels] if self.layout == "nhwc" else [1, channels, *sides]

    def _patch(self, x: Tensor) -> Tensor:
        """float32 (1, 3, H, W) to logits (1, C, H, W)."""
        height, width = x.shape[-2:]
        if self.block_px:
            return self._blocks(x)
        if self.input_px:
            return self._windows(x)
        below, beside = (-side % self.multiple for side in (height, width))
        padded = F.pad(x, (0, beside, 0, below), mode="replicate") if below or beside else x
        return self._logits(padded)[..., :height, :width]

    def _windows(self, x: Tensor) -> Tensor:
        """Logits of a patch of any size by windows of P x P."""
        side = self.input_px
        short = [max(0, side - length) for length in x.shape[-2:]]
        (top, left), (below, beside) = [one // 2 for one in short], [one - one // 2 for one in short]
        padded = F.pad(x, (left, beside, top, below), mode="replicate") if any(short) else x
        found = x.new_empty(1, self.n_classes, *padded.shape[-2:])
        for y, rows in self._starts(padded.shape[-2]):
            for x0, columns in self._starts(padded.shape[-1]):
                window = self._logits(padded[..., y : y + side, x0 : x0 + side])
                inside = [slice(one.start - start, one.stop - start) for one, start in ((rows, y), (columns, x0))]
                found[..., rows, columns] = window[..., inside[0], inside[1]]
        return found[..., top : top + x.shape[-2], left : left + x.shape[-1]]

    def _blocks(self, x: Tensor) -> Tensor:
        """Logits of a patch of any size: for each block those of the P x P round it; the margin has its neighbours'."""
        side, block, margin = self.input_px, self.block_px, self.margin_px
        height, width = x.shape[-2:]
        counts = [max(1, -(-(length - 2 * margin) // block)) for length in (height, width)]
        below, beside = (
            count * block + 2 * margin - length for count, length in zip(counts, (height, width), strict=True)
        )
        padded = F.pad(x, (0, beside, 0, below), mode="replicate") if below or beside else x
        first = margin - (side - block) // 2
        rows, columns = ([first + i * block for i in range(count)] for count in counts)
        found = [[self._logits(padded[..., y : y + side, x0 : x0 + side]) for x0 in columns] for y in rows]
        maps = torch.cat([torch.cat([one[..., :1, :1] for one in row], dim=3) for row in found], dim=2)
        large = maps.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
        return F.pad(large, (margin,) * 4, mode="replicate")[..., :height, :width]

    def _starts(self, length: int) -> Iterator[tuple[int, slice]]:
        """First pixel of each window along an axis, and the pixels that are taken from it."""
        side, margin = self.input_px, self.margin_px
        last = length - side
        starts = [*range(0, last, side - 2 * margin), last]
        for start in starts:
            yield start, slice(start + margin if start else 0, length if start == last else start + side - margin)

    def _logits(self, x: Tensor) -> Tensor:
        """Logits of a patch of a size that the model takes."""
        maps = self.raw(x)
        if self.output_stride > 1 and not self.block_px:
            maps = F.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False)
        if self.activation == "logits":
            return torch.cat([torch.zeros_like(maps), maps], dim=1) if maps.shape[1] < self.n_classes else maps
        if maps.shape[1] < self.n_classes:
            maps = torch.cat([1 - maps, maps], dim=1)
        return maps.clamp(min=LEAST_PROBABILITY).log()  # of sigmoids too: the softmax divides them by their sum

    def _content(self) -> bytes:
        return self.model.cpu().numpy().tobytes()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExportedNet:
        """Move to a device: the opened model; the bytes stay where they are."""
        device = fn(torch.empty(0)).device
        if device.type != "meta" and device != self._opened.device:
            self._opened = _Opened(device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedNet:
        """A copy that shares the bytes and the opened model, neither of which ever changes."""
        with torch.device("meta"):
            copy = ExportedNet(
                self.n_classes,
                self.form,
                self.sha256,
                activation=self.activation,
                colours=self.colours,
                layout=self.layout,
                input_px=self.input_px,
                margin_px=self.margin_px,
                output_stride=self.output_stride,
                block_px=self.block_px,
                resized_px=self.resized_px,
                **self._given,
            )
        copy.model, copy._opened = self.model, self._opened
        return copy.train(self.training)


def _only_output(found: object) -> Tensor:
    """The only tensor of what a model returned: itself, or in a tuple, list or dict."""
    values = list(found.values()) if isinstance(found, dict) else found
    several = list(values) if isinstance(values, list | tuple) else [values]
    if len(several) != 1:
        names = " and ".join(_name(one) for one in several[:4])
        raise BundleError(f"the model returned {len(several)} outputs, {names}; export it with one")
    if not isinstance(several[0], Tensor):
        raise BundleError(f"the model returned {type(several[0]).__name__}, not a tensor")
    return several[0]


def _channels(maps: Tensor, layout: Layout) -> int:
    return maps.shape[1 if layout == "nchw" else -1] if maps.ndim == 4 else 0


def _name(one: object) -> str:
    return (
        f"{str(one.dtype).removeprefix('torch.')} {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
    )


INFO = NetworkInfo(EXPORTED, ExportedNet, builds_on_meta=True, trainable=False, recordable=False)

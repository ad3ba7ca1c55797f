"""Inference form of networks: the same functions, faster, and not to be trained or saved.

Batch normalisation is folded, memory is channels-last, and weights have the data type of the computation. On a GPU the
operation after a convolution is fused into it, because reading and writing a map once more takes as long as the
convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.config import Precision
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import round_up
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.system import computes_bf16

CHANNELS_AT_ONCE = 8
"""Channels that tensor cores compute at once in half precision; cuDNN has only slow code for other multiples."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Data types of the networks' arithmetic."""

    backbone: torch.dtype
    refiner: torch.dtype


ARITHMETIC: Mapping[str, Arithmetic] = {
    "fp32": Arithmetic(torch.float32, torch.float32),
    "mixed": Arithmetic(torch.float32, torch.bfloat16),
    "bf16": Arithmetic(torch.bfloat16, torch.bfloat16),
    "fp16": Arithmetic(torch.float16, torch.float16),
}
"""By precision."""


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve "auto" to the fastest precision that changes less than a thousandth of the labels.

    That is fp16 on CUDA and "mixed" on CPUs with bf16 instructions (docs/performance.md), elsewhere fp32. Raises
    ConfigError for fp16 on a CPU.
    """
    if precision == "auto" and device.type == "cpu":
        return "mixed" if computes_bf16() else "fp32"
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "precision fp16 needs a CUDA device; on CPU use fp32, mixed or bf16", arguments=("precision",)
        )
    return precision


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Context in which networks in the `inference_form` of that dtype are called."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def inference_form(
    network: nn.Module, device: torch.device, dtype: torch.dtype, *, folds_by_name: bool = True
) -> nn.Module:
    """A copy of a network in evaluation mode, on `device`, whose convolutions compute in `dtype`.

    Call it within `computing_in` of that dtype, which then need not convert the weights for each patch. folds_by_name:
    see `NetworkInfo`.
    """
    form = fold_batch_norm(network, by_name=folds_by_name).to(device)
    if device.type == "cuda" and torch.backends.cudnn.is_available():
        _replace_convolutions(form, _on_cuda)
    if device.type == "cpu" and dtype is torch.float32 and torch.backends.mkldnn.is_available():
        _replace_convolutions(form, _on_cpu)
    for module in form.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    return form.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class CudaConv2d(nn.Conv2d):
    """Convolution by cuDNN with addition and ReLU fused into it; implements `Fused`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        missing = round_up(self.out_channels, CHANNELS_AT_ONCE) - self.out_channels
        if not missing or self.weight.dtype is torch.float32:
            return super().forward(x)
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, missing))
        bias = None if self.bias is None else F.pad(self.bias, (0, missing))
        padded = F.conv2d(x, weight, bias, self.stride, self._pad, self.dilation)
        return padded[:, : self.out_channels]

    def with_relu(self, x: Tensor) -> Tensor:
        """relu(convolution(x))."""
        found: Tensor = torch.cudnn_convolution_relu(
            self._own(x), self.weight, self.bias, self.stride, self._pad, self.dilation, 1
        )
        return found

    def with_sum(self, x: Tensor, kept: Tensor) -> Tensor:
        """relu(convolution(x) + kept)."""
        found: Tensor = torch.cudnn_convolution_add_relu(
            self._own(x), self.weight, self._own(kept), 1.0, self.bias, self.stride, self._pad, self.dilation, 1
        )
        return found

    @property
    def _pad(self) -> tuple[int, ...]:
        assert not isinstance(self.padding, str)
        return self.padding

    def _own(self, x: Tensor) -> Tensor:
        # Autocast does not convert the arguments of these two functions.
        return x.to(self.weight.dtype).contiguous(memory_format=torch.channels_last)


class PointwiseConv2d(nn.Conv2d):
    """1 x 1 convolution by oneDNN.

    With one thread PyTorch has another implementation, which transposes the channels twice and takes twice as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        found: Tensor = torch.mkldnn_convolution(x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        return found


def _on_cuda(convolution: nn.Conv2d) -> type[nn.Conv2d] | None:
    plain = convolution.groups == 1 and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return CudaConv2d if plain else None


def _on_cpu(convolution: nn.Conv2d) -> type[nn.Conv2d] | None:
    pointwise = convolution.kernel_size == convolution.stride == (1, 1) and convolution.groups == 1
    return PointwiseConv2d if pointwise and convolution.padding in ((0, 0), "same", "valid") else None


def _replace_convolutions(network: nn.Module, choose: Callable[[nn.Conv2d], type[nn.Conv2d] | None]) -> None:
    """Replace convolutions for which `choose` returns a faster class."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and (kind := choose(child)):
                setattr(parent, name, _as(kind, child))


def _as(kind: type[nn.Conv2d], convolution: nn.Conv2d) -> nn.Conv2d:
    with torch.device("meta"):
        exchanged = kind(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            stride=convolution.stride,  # type: ignore[arg-type]
            padding=convolution.padding,  # type: ignore[arg-type]
            dilation=convolution.dilation,  # type: ignore[arg-type]
            bias=convolution.bias is not None,
        )
    exchanged.weight, exchanged.bias = convolution.weight, convolution.bias
    return exchanged.eval()

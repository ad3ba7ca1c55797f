"""Networks in the form in which they are quickest to use: the same functions, not to be trained or saved.

Batch normalisation is folded away, channels lie last, and weights have the type that is computed with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_magnet.nets.fold import fold_batch_norm


def inference_form(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a network in evaluation mode, on `device`, whose convolutions compute in `dtype`.

    With another dtype than float32 it is to be used within `torch.autocast` of that dtype, which spares it the
    conversion of its weights for each patch.
    """
    form = fold_batch_norm(network).to(device)
    if device.type == "cpu" and dtype is torch.float32 and torch.backends.mkldnn.is_available():
        _exchange_pointwise(form)
    for module in form.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    return form.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class _Pointwise(nn.Conv2d):
    """A 1 x 1 convolution through oneDNN. With one thread PyTorch computes those by other means, which turn channels
    round for it and back and take twice as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        found: Tensor = torch.mkldnn_convolution(x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        return found


def _exchange_pointwise(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.kernel_size == child.stride == (1, 1) and child.groups == 1:
                setattr(parent, name, _pointwise(child))


def _pointwise(convolution: nn.Conv2d) -> _Pointwise:
    with torch.device("meta"):
        exchanged = _Pointwise(convolution.in_channels, convolution.out_channels, 1, bias=convolution.bias is not None)
    exchanged.weight, exchanged.bias = convolution.weight, convolution.bias
    return exchanged.eval()

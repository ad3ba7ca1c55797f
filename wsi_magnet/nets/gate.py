"""Refinement modules that weigh the finer against the coarser map, everywhere alike or at each pixel. Not in the paper.

N: batch, C: classes, H, W: size of the patch; O: the finer map, Y: the coarser one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.magnet.uncertainty import uncertainty
from wsi_magnet.nets.layers import conv_relu

WIDTH = 16
"""Channels of the layers."""

DILATIONS = (1, 2, 4, 8)
"""Of the 3 x 3 convolutions, which together see 31 x 31 pixels."""

STEM_WIDTH = 8
"""Channels of the stem on the pixels."""

MEAN_RADIUS_PX = 4
"""Pixels are seen less the mean of a window of that radius: stains and light differ from slide to slide, edges and
texture do not."""

LEAST = 1e-6
"""Added to a probability before the logarithm."""

MOMENTUM = 0.01
"""Momentum of the running statistics, as in the published module."""


LEAST_POOLED = 1e-4
"""Least probability that enters a pool: one scale alone does not rule a class out."""


class PoolModule(nn.Module):
    """The logarithmic opinion pool of two maps, with a weight for each: R = softmax(a log O + b log Y).

    With weights of 1, where training starts, it is Bayes' rule for scales that err independently and classes that are
    equally frequent (Genest and Zidek 1986, "Combining probability distributions"). Two numbers cannot learn the
    training images by heart.
    """

    receptive_radius_px = 0
    """Receptive radius of a pixel's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(1))

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine: O, coarse: Y, probabilities, float (N, C, H, W) each. Returns logits of R, float32 (N, C, H, W)."""
        of_fine, of_coarse = self.weights.clamp_min(0)
        logits: Tensor = of_fine * pool_logarithm(fine) + of_coarse * pool_logarithm(coarse)
        return logits / self.temperature

    def divide_logits(self, temperature: float) -> None:
        """Divide the logits by a temperature, from now on."""
        self.temperature.mul_(temperature)


def pool_logarithm(probabilities: Tensor) -> Tensor:
    """Logarithm of probabilities, those below `LEAST_POOLED` taken as that: float32."""
    return probabilities.float().clamp_min(LEAST_POOLED).log()


class GateModule(nn.Module):
    """A gate says at each pixel how far the finer and how far the coarser map is right: R = (1 - g) Y + g O.

    g is computed from O, Y, their uncertainties, their disagreement and, if wanted, the pixels; what neither map has is
    added as a residual to the logits. About 9,000 weights.
    """

    def __init__(self, n_classes: int, *, uses_rgb: bool = False) -> None:
        """uses_rgb: with a stem on the pixels, which `forward` then needs."""
        super().__init__()
        self.uses_rgb = uses_rgb
        self.receptive_radius_px = sum(DILATIONS) + (1 + MEAN_RADIUS_PX if uses_rgb else 0)
        """Receptive radius of a pixel's logits."""
        if uses_rgb:
            self.stem_conv = nn.Conv2d(3, STEM_WIDTH, 3, padding=1, bias=False)
            self.stem_bn = nn.BatchNorm2d(STEM_WIDTH, momentum=MOMENTUM)
        inputs = 2 * n_classes + 3 + (STEM_WIDTH if uses_rgb else 0)
        for i, dilation in enumerate(DILATIONS, start=1):
            convolution = nn.Conv2d(inputs, WIDTH, 3, padding=dilation, dilation=dilation, bias=False)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(WIDTH, momentum=MOMENTUM))
            inputs = WIDTH
        self.choose = nn.Conv2d(WIDTH, 1, 1)
        self.residual = nn.Conv2d(WIDTH, n_classes, 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(1))

    def forward(self, *, fine: Tensor, coarse: Tensor, rgb: Tensor | None = None) -> Tensor:
        """fine: O, coarse: Y, probabilities, float (N, C, H, W) each; rgb: float (N, 3, H, W), 0 to 1. Returns logits
        of R, float32 (N, C, H, W).
        """
        return self.with_choice(fine=fine, coarse=coarse, rgb=rgb)[0]

    def with_choice(self, *, fine: Tensor, coarse: Tensor, rgb: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of R, and the logit of the gate, float32 (N, 1, H, W), above 0 where O is taken rather than Y."""
        x = self._seen(fine, coarse, rgb)
        for i in range(1, len(DILATIONS) + 1):
            x = conv_relu(self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}"), x)
        choice = self.choose(x).float()
        mixed = torch.lerp(coarse.float(), fine.float(), choice.sigmoid().expand_as(coarse))
        logits = (mixed + LEAST).log() + self.residual(x).float()
        return logits / self.temperature, choice

    def divide_logits(self, temperature: float) -> None:
        """Divide the logits by a temperature, from now on."""
        self.temperature.mul_(temperature)

    def _seen(self, fine: Tensor, coarse: Tensor, rgb: Tensor | None) -> Tensor:
        """Input of the first layer."""
        disagreement = (fine - coarse).abs().sum(dim=1, keepdim=True) / 2
        maps = [fine, coarse, uncertainty(fine), uncertainty(coarse), disagreement]
        if self.uses_rgb:
            assert rgb is not None, "this module needs the patch's pixels"
            maps.append(conv_relu(self.stem_conv, self.stem_bn, less_local_mean(rgb)))
        return torch.cat(maps, dim=1)


def less_local_mean(rgb: Tensor) -> Tensor:
    """Pixels less the mean of the window round each, as far as it lies inside: float (N, 3, H, W) to the same."""
    side = 2 * MEAN_RADIUS_PX + 1
    return rgb - F.avg_pool2d(rgb, side, stride=1, padding=MEAN_RADIUS_PX, count_include_pad=False)

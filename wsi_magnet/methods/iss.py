"""Iterative instance segmentation (Li, Hariharan and Malik, CVPR 2016): one network, applied to its own result again.

Reimplemented from the paper's idea; there is no reference code. The network sees the pixels and the result so far and
gives a better result, at one resolution and with the same weights in every step. Differences: classes of tissue instead
of the instance in a box; a small U-Net (186,277 weights for 5 classes) that adds to the logits of the result so far,
instead of a large network that replaces it; and steps that are trained together, each with its loss, half of the time
from the coarser result and half from the truth made worse (`perturb.py`).

Local: a pixel depends on pixels up to 28 * steps + 1 away. Lengths are the network's pixels, as in the paper. N: batch,
C: classes, H, W: size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.blocks import PlainBlock, centred, convolution, padded, pointwise
from wsi_magnet.methods.losses import allowed_classes, set_loss, single_labels
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.methods.perturb import perturbed_classes
from wsi_magnet.nets.small import upsample

STRIDE = 4
"""Stride of the network's coarsest features."""

WIDTHS = (16, 32, 64)
"""Channels at strides 1, 2 and 4."""

STEP_RADIUS_PX = 28
"""Receptive radius that a step adds. One step alone has one pixel more, 29, for the second pixel of a block of 4; the
pixel that it then depends on is the first of a block, which has 28.
"""

FLOOR = 1e-4
"""Least probability of a class in the input, so that its logarithm is finite."""

PERTURBED = 0.5
"""Share of the windows of a training that start from the truth made worse instead of the coarser result."""


class StepNet(nn.Module):
    """U-Net of three levels without normalisation: pixels and probabilities to a correction of the logits."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        fine, middle, deep = WIDTHS
        self.stem = convolution(3 + n_classes, fine)
        self.down = nn.ModuleList([convolution(fine, middle, stride=2), convolution(middle, deep, stride=2)])
        self.deep = nn.Sequential(PlainBlock(deep), PlainBlock(deep))
        self.lateral = nn.ModuleList([pointwise(middle, fine), pointwise(deep, middle)])
        self.merge = nn.ModuleList([convolution(fine, fine), convolution(middle, middle)])
        self.classify = pointwise(fine, n_classes, gain=0.1)

    def forward(self, rgb: Tensor, probabilities: Tensor) -> Tensor:
        """Correction of the logits, float (N, C, H, W).

        rgb: float (N, 3, H, W), 0 to 1; probabilities: float (N, C, H, W); H, W multiples of 4.
        """
        x = F.relu(self.stem(torch.cat([centred(rgb), probabilities * 2 - 1], dim=1)))
        levels = []
        for down in self.down:
            levels.append(x)
            x = F.relu(down(x))
        x = self.deep(x)
        for level, lateral, merge in reversed(list(zip(levels, self.lateral, self.merge, strict=True))):
            x = F.relu(merge(level + upsample(lateral(x), level.shape[-2:])))
        correction: Tensor = self.classify(x)
        return correction


class IterativeSegmentation(Method):
    """The coarser result, corrected `steps` times by one network."""

    info = MethodInfo(
        name="ISS",
        origin="reimplemented",
        source="Li, Hariharan, Malik: Iterative Instance Segmentation, CVPR 2016",
        differs="Classes instead of instances in boxes; a small U-Net with residual logits; steps are trained "
        "together, from the coarser result and from the truth made worse.",
        needs=Needs(rgb=True, head=True),
        parameters={"steps": 3},
        steps=100,
    )

    def __init__(self, n_classes: int, parameters: Mapping[str, float] | None = None, head: nn.Module | None = None):
        """As `Method`; raises ConfigError also where steps is no whole number of at least 1."""
        super().__init__(n_classes, parameters, head)
        steps = self.parameters["steps"]
        if steps < 1 or steps != int(steps):
            raise ConfigError(f"steps of ISS must be a whole number of at least 1; got {steps}")
        self.steps = int(steps)

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """A U-Net with fresh weights, which changes its input little."""
        return StepNet(n_classes)

    def receptive_radius_px(self, mpp: float) -> int:
        """85 for 3 steps: 28 for each, and 1."""
        return self.steps * STEP_RADIUS_PX + 1

    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities after the last step, of the cell: float32 (N, C, h, w).

        On CPUs one patch at a time: the bits of a convolution depend on the number of patches.
        """
        assert maps.rgb is not None
        size = 1 if maps.coarse.device.type == "cpu" else len(maps.coarse)
        batches = zip(maps.rgb.split(size), maps.coarse.split(size), strict=True)
        return maps.inner(torch.cat([self.logits(*batch)[-1].softmax(dim=1) for batch in batches]))

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Mean of the steps' losses of label sets."""
        assert maps.rgb is not None
        start = torch.stack(
            [
                perturbed_classes(likely, rng) if float(torch.rand((), generator=rng)) < PERTURBED else coarse
                for coarse, likely in zip(maps.coarse, likely_truth(maps.coarse, sets), strict=True)
            ]
        )
        losses = [set_loss(logits, sets, class_weights) for logits in self.logits(maps.rgb, start)]
        return torch.stack(losses).mean()

    def logits(self, rgb: Tensor, start: Tensor) -> list[Tensor]:
        """Logits after each step, float32 (N, C, H, W). rgb: (N, 3, H, W), 0 to 1; start: probabilities."""
        height, width = start.shape[-2:]
        network, rgb = cast(nn.Module, self.head), padded(rgb, STRIDE)
        logits, found = padded(start, STRIDE).clamp(min=FLOOR).log(), []
        for _ in range(self.steps):
            logits = logits + network(rgb, logits.softmax(dim=1))
            found.append(logits[..., :height, :width])
        return found


def likely_truth(coarse: Tensor, sets: Tensor) -> Tensor:
    """Probabilities that agree with the labels: one class where one is allowed, else the coarser result's share of each
    allowed class. coarse: float (N, C, H, W); sets: int32 (N, H, W). Returns float (N, C, H, W), 1 in sum over C.
    """
    allowed = allowed_classes(sets, coarse.shape[1])
    shares = coarse.clamp(min=FLOOR) * allowed
    truth: Tensor = torch.where(
        (single_labels(sets, coarse.shape[1]) >= 0).unsqueeze(1),
        allowed.to(coarse.dtype),
        shares / shares.sum(dim=1, keepdim=True).clamp(min=FLOOR),
    )
    return truth

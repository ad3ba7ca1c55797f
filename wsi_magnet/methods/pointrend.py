"""PointRend: the least certain points of the coarse result are predicted again, from features sampled there. Adapted.

Source: Kirillov, Wu, He, Girshick, "PointRend: Image Segmentation as Rendering", CVPR 2020: sections 3.1 (choice of
points), 3.2 (features and head of a point) and 5 (semantic segmentation). Differences:

- The network sees the downsampled image alone, as on the poster: features and coarse result are those of the coarsest
  scale, and the subdivision leads from its resolution to the finest one, in steps of 2.
- Each patch is rendered by itself, so that the N points of a step are the least certain of a patch, not of an image. N
  is a share of its area, that of the paper by default.
- The backbone is frozen: there is no loss of the coarse result, and its logits are the logarithms of probabilities.
- A pixel that no step has touched keeps the coarse result, bit for bit, and so does one of which the coarse result is
  certain.

The choice of points is global within the patch: whether a pixel is among the N least certain depends on all the others.
Apart from that choice a pixel depends on its neighbourhood alone. The features come from the whole context.

N: batch, C: classes, F: feature channels, P: points, H, W: size of the patch, h, w: size of a step's map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.magnet.uncertainty import confidence
from wsi_magnet.methods.blocks import padded
from wsi_magnet.methods.losses import set_loss
from wsi_magnet.methods.method import Context, Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.methods.sampling import at_points

WIDTH = 256
"""Channels of the head's layers."""

LAYERS = 3
"""Hidden layers of the head."""

PREDICTOR_DEVIATION = 0.001
"""Standard deviation of the predictor's first weights."""

OVERSAMPLING = 3
"""Points drawn in training for each that is kept."""

UNCERTAIN_SHARE = 0.75
"""Share of the points of a training window that are its least certain; the others are uniform."""

WINDOW_PX = 384
"""Side of the window that has `points` points in training; others have as many per pixel."""

LEAST_PROBABILITY = 1 / 510
"""Probabilities are stored as bytes; below half a step of them the logarithm would be that of the rounding."""

SURE_MARGIN = -math.log(LEAST_PROBABILITY) - 0.01
"""Margin of logits from which on one class has all the probability."""


class PointHead(nn.Module):
    """Features and coarse logits of points to logits: three layers of 256, the coarse logits joined to each input.

    As published: 202,526 weights for 256 feature channels and 5 classes.
    """

    def __init__(self, n_classes: int, feature_channels: int) -> None:
        super().__init__()
        widths = (feature_channels, *(WIDTH for _ in range(LAYERS - 1)))
        self.layers = nn.ModuleList(nn.Conv1d(width + n_classes, WIDTH, 1) for width in widths)
        self.predict = nn.Conv1d(WIDTH + n_classes, n_classes, 1)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv1d)
            _initialise(layer)
        nn.init.normal_(self.predict.weight, std=PREDICTOR_DEVIATION)
        nn.init.zeros_(self.predict.bias)  # type: ignore[arg-type]

    def forward(self, *, features: Tensor, coarse: Tensor) -> Tensor:
        """features: float (N, F, P); coarse: logits, float (N, C, P). Returns logits, float (N, C, P)."""
        x = features
        for layer in self.layers:
            x = F.relu_(layer(torch.cat([x, coarse], dim=1)))
        logits: Tensor = self.predict(torch.cat([x, coarse], dim=1))
        return logits


def _initialise(layer: nn.Conv1d) -> None:
    """Weights of He et al. for rectified layers, no bias."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class PointRend(Method):
    """PointRend on the features of the coarsest scale."""

    info = MethodInfo(
        name="PointRend",
        origin="adapted",
        source="Kirillov et al., CVPR 2020, sections 3.1, 3.2 and 5",
        differs="Features and coarse result are the coarsest scale's; points are chosen in each patch; the backbone is "
        "frozen; certain pixels stay.",
        needs=Needs(rgb=False, context=True, head=True),
        parameters={"share": 8192 / (1024 * 2048), "points": 2048},
        fit={"share": (1 / 256, 1 / 64, 1 / 16)},
        local=False,
    )
    # share: points of a step per pixel of the patch; the paper's 8192 of 1024 x 2048. points: of a training window of
    # 384 x 384; the paper's number for its crops.

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> PointHead:
        """A point head with fresh weights."""
        return PointHead(n_classes, feature_channels)

    def receptive_radius_px(self, mpp: float) -> int:
        """Enough for the bilinear steps of a ratio of 8; the choice of points has no limit."""
        return 16

    @torch.no_grad()
    def refine(self, maps: PatchMaps) -> Tensor:
        """The coarse result with its least certain points predicted again, step after step (section 3.1, inference).

        `change` is the difference of the logits to the coarse ones, at the resolution of the step: upsampling it is
        upsampling the logits, because the coarse result is already there at every resolution.
        """
        context = _context(maps)
        coarse = padded(maps.coarse, context.ratio)
        height, width = coarse.shape[-2:]
        count = max(1, round(self.parameters["share"] * height * width))
        change = coarse.new_zeros(*coarse.shape[:2], height // context.ratio, width // context.ratio)
        block = context.ratio // 2
        while block:
            change = F.interpolate(change, scale_factor=2, mode="bilinear", align_corners=False)
            change = self._predict_again(change, coarse_logits(F.avg_pool2d(coarse, block)), context, block, count)
            block //= 2
        return maps.inner(_changed(maps.coarse, change[..., : maps.size_hw[0], : maps.size_hw[1]]))

    def _predict_again(self, change: Tensor, coarse: Tensor, context: Context, block: int, count: int) -> Tensor:
        """`change` with the least certain points predicted again. change, coarse: (N, C, h, w); block: pixels of the
        patch along a side of one of theirs.
        """
        margins = confidence(coarse + change)
        index = most_uncertain(margins, count)
        points = torch.stack([index // change.shape[-1], index % change.shape[-1]], dim=-1)
        assert self.head is not None
        at_index = index.unsqueeze(1).expand(-1, change.shape[1], -1)
        coarse_at = coarse.flatten(2).gather(2, at_index)
        features = context.at_points(context.features, (points + 0.5) * block)
        # One patch at a time: the bits of a convolution depend on the size of the batch.
        pairs = zip(features.split(1), coarse_at.split(1), strict=True)
        predicted = torch.cat([self.head(features=own, coarse=its) for own, its in pairs])
        sure = margins.flatten(2).gather(2, index.unsqueeze(1)) >= SURE_MARGIN
        new = torch.where(sure, change.flatten(2).gather(2, at_index), predicted - coarse_at)
        return change.flatten(2).scatter(2, at_index, new).view_as(change)

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Set loss at points of which most are uncertain (section 3.1, training)."""
        context, (height, width) = _context(maps), maps.size_hw
        count = max(1, round(self.parameters["points"] * height * width / WINDOW_PX**2))
        coarse = coarse_logits(maps.coarse)
        places = draw_places(coarse, count, rng)
        points = places * places.new_tensor([height, width])
        assert self.head is not None
        logits = self.head(features=context.at_points(context.features, points), coarse=at_points(coarse, places))
        return set_loss(logits.unsqueeze(2), _sets_at(sets, points).unsqueeze(1), class_weights)


def coarse_logits(probabilities: Tensor) -> Tensor:
    """Logarithms of the probabilities, of which the least counts as `LEAST_PROBABILITY`."""
    return probabilities.clamp(min=LEAST_PROBABILITY).log()


def most_uncertain(margins: Tensor, count: int) -> Tensor:
    """Indices into h * w of the `count` pixels of least margin, at most all: int64 (N, count).

    margins: float (N, 1, h, w). Of equal ones the first in reading order is taken first.
    """
    return margins.flatten(1).sort(dim=1, stable=True).indices[:, :count]


def draw_places(coarse: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Random places, most of them uncertain, in [0, 1] over the window: float32 (N, count, 2), y before x.

    Of three times as many uniform places those of least margin are kept, and others are uniform. The margin is that of
    the logits sampled at a place: sampled margins would call the middle between two pixels that are certain of
    different classes certain. coarse: logits, float (N, C, H, W). rng: on the CPU.
    """
    uncertain = int(UNCERTAIN_SHARE * count)
    drawn, uniform = (
        torch.rand(len(coarse), number, 2, generator=rng).to(coarse.device)
        for number in (OVERSAMPLING * count, count - uncertain)
    )
    index = most_uncertain(confidence(at_points(coarse, drawn).unsqueeze(2)), uncertain)
    return torch.cat([drawn.gather(1, index.unsqueeze(2).expand(-1, -1, 2)), uniform], dim=1)


def _sets_at(sets: Tensor, points_yx: Tensor) -> Tensor:
    """Sets of the pixels that hold the points: int32 (N, P). points_yx: in pixels of the window."""
    height, width = sets.shape[-2:]
    y, x = (points_yx[..., axis].long().clamp(max=size - 1) for axis, size in ((0, height), (1, width)))
    return sets.flatten(1).gather(1, y * width + x)


def _changed(coarse: Tensor, change: Tensor) -> Tensor:
    """Probabilities after a change of their logits; where there is none, as they were. (N, C, H, W) each."""
    refined = (coarse_logits(coarse) + change).softmax(dim=1)
    return torch.where((change != 0).any(dim=1, keepdim=True), refined, coarse)


def _context(maps: PatchMaps) -> Context:
    """The context, which the method needs."""
    assert maps.context is not None
    return maps.context

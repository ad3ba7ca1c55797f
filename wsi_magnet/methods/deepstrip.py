"""DeepStrip: contours of the coarse result moved by a network that sees the band along them as a strip (Zhou et al.,
CVPR 2020).

Reimplemented from the paper, which has no public code. What differs: one prediction layer, whose softmax over each
column chooses the contour, instead of a layer of all possible contours and one that selects; dice of the strip and
continuity as losses, without the matching of strips under a shift; contours of every class instead of one object,
merged by confidence; columns where the contour enters a pixel instead of equal arc lengths (see `strips`). The
height of a strip is a length on the slide.

N: batch, C: classes, T, P: columns and places of a packed strip (see `strips`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.methods.strips import NORMAL_COLUMNS, Ints, Strips, nearest, put_back, trace, unroll

WIDTH = 16
DILATIONS = (1, 2, 4, 8)

COLUMNS_SEEN = 2 + sum(DILATIONS)
"""Columns on either side that the network's result depends on."""

BLOCK = 2048
"""Places of a packed strip that the network sees at once, so that memory does not depend on the number of contours."""

_CHANNELS = 5
"""RGB, probability of the class, and the row."""


class StripNet(nn.Module):
    """Dilated residual convolutions on strips, 10,161 parameters; without normalisation, so that columns stay local."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(_CHANNELS, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        self.score = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, strip: Tensor) -> Tensor:
        """Float (N, 5, rows, P) to a score for each pixel to be the contour's, (N, rows, P)."""
        x = F.relu(self.stem(strip))
        for block in self.blocks:
            x = x + F.relu(block(x))
        scores: Tensor = self.score(x)[:, 0]
        return scores


class DeepStrip(Method):
    """Contours of the coarse result, moved within a band by the network's choice in each column."""

    info = MethodInfo(
        name="DeepStrip",
        origin="reimplemented",
        source="Zhou et al., CVPR 2020",
        differs="One prediction layer with a softmax over each column; dice and continuity as losses; contours of all "
        "classes, merged by confidence.",
        needs=Needs(head=True),
        parameters={"half_width_um": 10.0, "shortest_um": 20.0, "continuity": 0.1},
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> StripNet:
        """One network for the contours of every class; it sees no features."""
        return StripNet()

    def receptive_radius_px(self, mpp: float) -> int:
        """Half a strip to the contour, the columns that the network sees along it, and half a strip from there."""
        columns = max(COLUMNS_SEEN + NORMAL_COLUMNS, self._shortest(mpp)) + 1
        return 2 * self._half_px(mpp) + math.ceil(math.sqrt(2) * columns) + 2

    def can_change(self, maps: PatchMaps) -> bool:
        """False without a contour whose band touches the cell."""
        strips = self._strips(maps, 0)
        return strips is not None and _touches(strips, maps)

    @torch.no_grad()
    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities with the moved contours; exactly the coarse ones beyond the bands and without a contour."""
        return maps.inner(torch.stack([self._refined(maps, i) for i in range(len(maps.coarse))]))

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Mean over the patches of the dice loss, inside and outside, on the pixels of the strips whose label sets are
        on one side, and `continuity` times the mean squared step between columns, in pixels. Weights of classes are
        not used: a contour lies between two of them.
        """
        return torch.stack([self._loss(maps, i, sets[i]) for i in range(len(sets))]).mean()

    def _refined(self, maps: PatchMaps, i: int) -> Tensor:
        coarse = maps.coarse[i].float()
        strips = self._strips(maps, i)
        if strips is None or not _touches(strips, maps):
            return coarse
        tails = _tails(self._contour(maps, i, strips))
        moved = put_back(coarse.cpu().double().numpy(), strips, tails.cpu().double().numpy())
        return torch.from_numpy(moved).to(coarse)

    def _loss(self, maps: PatchMaps, i: int, sets: Tensor) -> Tensor:
        assert self.head is not None
        strips = self._strips(maps, i)
        if strips is None:  # nothing to move, nothing to learn
            return torch.stack([parameter.sum() * 0 for parameter in self.head.parameters()]).sum()
        contour = self._contour(maps, i, strips)
        inside = _tails(contour)[1:] + contour / 2
        truth, known = (one.to(contour) for one in _sides(sets, strips, self.n_classes))
        dice = (_dice(inside, truth, known) + _dice(1 - inside, 1 - truth, known)) / 2
        offsets = (contour * _rows(strips).to(contour)).sum(dim=0)
        steps = offsets[torch.from_numpy(strips.following).to(offsets.device)] - offsets
        return dice + self.parameters["continuity"] * steps.square().mean()

    def _contour(self, maps: PatchMaps, i: int, strips: Strips) -> Tensor:
        """Probability of each pixel of the strip to be its column's contour, float32 (rows, T)."""
        blocks = [self._scores(maps, i, strips, start) for start in range(0, len(strips.packed), BLOCK)]
        scores = torch.cat(blocks, dim=1)
        return scores[:, torch.from_numpy(strips.places).to(scores.device)].float().softmax(dim=0)

    def _scores(self, maps: PatchMaps, i: int, strips: Strips, start: int) -> Tensor:
        """Scores of a block of the packed strip, (rows, BLOCK or less)."""
        assert self.head is not None
        assert maps.rgb is not None
        first = max(start - COLUMNS_SEEN, 0)
        columns = strips.packed[first : start + BLOCK + COLUMNS_SEEN]
        scores: Tensor = self.head(_strip_input(maps.rgb[i], maps.coarse[i], strips, columns).unsqueeze(0))[0]
        return scores[:, start - first : start - first + BLOCK]

    def _strips(self, maps: PatchMaps, i: int) -> Strips | None:
        return trace(
            maps.coarse[i].cpu().double().numpy(),
            half_px=self._half_px(maps.mpp),
            shortest=self._shortest(maps.mpp),
            neighbours=COLUMNS_SEEN,
        )

    def _half_px(self, mpp: float) -> int:
        return max(2, round(self.parameters["half_width_um"] / mpp))

    def _shortest(self, mpp: float) -> int:
        return max(4, round(self.parameters["shortest_um"] / mpp))


def _touches(strips: Strips, maps: PatchMaps) -> bool:
    """True if the band of a contour touches the cell."""
    first = maps.margin_px - strips.half_px
    inside = (strips.points_yx >= first) & (strips.points_yx <= np.array(maps.size_hw) - 1 - first)
    return bool(inside.all(axis=1).any())


def _rows(strips: Strips) -> Tensor:
    """Distances of the rows from the contour, in pixels, (rows, 1)."""
    return torch.arange(-strips.half_px, strips.half_px + 1).unsqueeze(1)


def _strip_input(rgb: Tensor, coarse: Tensor, strips: Strips, columns: Ints) -> Tensor:
    """Float32 (5, rows, len(columns)): RGB about 0, probability of the column's class about 0, row from -1 to 1."""
    colours = (unroll(rgb, strips, columns) - 0.5) * 4
    all_classes = unroll(coarse, strips, columns)
    own = torch.from_numpy(strips.classes[columns]).to(coarse.device)
    likely = all_classes.gather(0, own.expand(1, *all_classes.shape[1:])) - 0.5
    rows = (_rows(strips).to(likely) / strips.half_px).expand(likely.shape)
    return torch.cat([colours, likely * 2, rows])


def _tails(contour: Tensor) -> Tensor:
    """Probability of a contour in a row or farther out, (rows + 1, T)."""
    return torch.cat([contour.flip(0).cumsum(dim=0).flip(0), torch.zeros_like(contour[:1])])


def _sides(sets: Tensor, strips: Strips, n_classes: int) -> tuple[Tensor, Tensor]:
    """Pixels of the strip that are inside the column's class for certain, and those where that or the reverse is; bool
    (rows, T). sets: int32 (H, W).
    """
    found = nearest(sets.cpu().numpy(), strips, beyond=(1 << n_classes) - 1)
    own = (1 << strips.classes).astype(np.int32)
    inside = found == own
    return torch.from_numpy(inside), torch.from_numpy(inside | (found & own == 0))


def _dice(inside: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 minus the dice of the known pixels."""
    common, total = (known * inside * truth).sum(), (known * (inside + truth)).sum()
    return 1 - (2 * common + 1) / (total + 1)

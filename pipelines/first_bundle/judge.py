"""Figures on held-out tiles: MagNet beside the two halves it is made of, each pixel counted once at the finest scale.

Glands, stroma and background are judged on the gland tiles, where all glands are outlined; benign against tumour on
the tumour tiles, inside what is outlined there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from first_bundle.models import Backbone, double
from first_bundle.progressive import logits_of, propose, pyramid
from first_bundle.tiles import ANY, BACKGROUND, BENIGN, GLAND, STROMA, TUMOUR, Pixels, Tile
from wsi_magnet.nets.bundle import Bundle

METHODS = ("Downsample", "Patching", "MagNet")
"""The coarsest scale alone; the finest alone; all, progressively."""

Counts = npt.NDArray[np.int64]
GROUP_OF_CHANNEL = np.array([0, 1, 2, 2])
"""Background, stroma, benign gland, tumour gland -> background, stroma, gland."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one method got right."""

    tissue: Counts
    """(3, 3) pixels of the gland tiles, truth by prediction: background, stroma, gland."""
    grade: Counts
    """(2, 2) pixels outlined in the tumour tiles, truth by the likelier of the two: benign, tumour."""

    @property
    def ious(self) -> npt.NDArray[np.float64]:
        """Of background, stroma and gland."""
        hits = np.diag(self.tissue)
        return np.asarray(hits / np.maximum(self.tissue.sum(axis=0) + self.tissue.sum(axis=1) - hits, 1))

    @property
    def recalls(self) -> npt.NDArray[np.float64]:
        """Share of the benign, and of the tumour pixels, that are told as such."""
        return np.asarray(np.diag(self.grade) / np.maximum(self.grade.sum(axis=1), 1))


def judge(tiles: Sequence[Tile], bundle: Bundle) -> dict[str, Judgement]:
    """Run all methods over the tiles."""
    judgements = {name: Judgement(np.zeros((3, 3), np.int64), np.zeros((2, 2), np.int64)) for name in METHODS}
    for tile in tiles:
        maps, sets = segment(tile, bundle)
        for name, probabilities in maps.items():
            if tile.kind == "glands":
                judgements[name].tissue[:] += tissue_counts(probabilities, sets)
            else:
                judgements[name].grade[:] += grade_counts(probabilities, sets)
    return judgements


def segment(tile: Tile, bundle: Bundle) -> tuple[dict[str, Tensor], Pixels]:
    """Each method's probabilities, (1, C, H, W), and the sets, (H, W), both at the finest scale."""
    spec = bundle.spec
    backbone = Backbone(bundle.backbone, spec.temperature)
    images, sets = pyramid(tile, spec.mpps)
    coarsest = cumulative = (logits_of(images[0], backbone) / spec.temperature[0]).softmax(dim=1)
    fine = coarsest
    for scale, above in enumerate(spec.select_above, start=1):
        refiner = bundle.refiners[spec.refiner_of[scale - 1]]
        proposal = propose(images[scale], cumulative, backbone, refiner, scale)
        fine, cumulative, coarsest = proposal.fine, proposal.merge(above), double(coarsest)
    return {"Downsample": coarsest, "Patching": fine, "MagNet": cumulative}, sets[-1]


def tissue_counts(probabilities: Tensor, sets: Pixels) -> Counts:
    """(3, 3) over the pixels whose set is one of background, stroma, gland; others are left out."""
    truth = np.full(sets.shape, -1)
    for index, value in enumerate((BACKGROUND, STROMA, GLAND)):
        truth[sets == value] = index
    return _confusion(truth, GROUP_OF_CHANNEL[probabilities[0].argmax(dim=0).numpy()], 3)


def grade_counts(probabilities: Tensor, sets: Pixels) -> Counts:
    """(2, 2) over the pixels outlined as benign or as tumour."""
    truth = np.full(sets.shape, -1)
    truth[sets == BENIGN] = 0
    truth[((sets & TUMOUR) > 0) & (sets != ANY)] = 1
    return _confusion(truth, (probabilities[0, 3] > probabilities[0, 2]).numpy().astype(int), 2)


def _confusion(truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], n: int) -> Counts:
    known = truth >= 0
    return np.bincount(truth[known] * n + predicted[known], minlength=n * n).reshape(n, n)


def table(judgements: Mapping[str, Judgement]) -> str:
    """As text, a method a line; percent."""
    lines = ["method        mIoU  gland  stroma  background | benign  tumour  balanced"]
    for name, judgement in judgements.items():
        background, stroma, gland = 100 * judgement.ious
        benign, tumour = 100 * judgement.recalls
        mean = (background + stroma + gland) / 3
        lines.append(
            f"{name:<12}{mean:>6.1f}{gland:>7.1f}{stroma:>8.1f}{background:>12.1f} |"
            f"{benign:>7.1f}{tumour:>8.1f}{(benign + tumour) / 2:>10.1f}"
        )
    any_of = next(iter(judgements.values()))
    tissue, grade = any_of.tissue.sum(axis=1), any_of.grade.sum(axis=1)
    lines.append(
        f"pixels: background {tissue[0]:,}, stroma {tissue[1]:,}, gland {tissue[2]:,}; "
        f"benign {grade[0]:,}, tumour {grade[1]:,}"
    )
    return "\n".join(lines)

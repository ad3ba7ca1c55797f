"""The protocol of a method: from the pixels and the coarser result of a patch to the result of its cell.

MagNet's step is one method; the others of the poster refine the coarsest result at the finest scale. A method sees
tensors and no slide. N: batch, C: classes, H, W: size of the patch with its margin, F: feature channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.methods.sampling import at_points

ABOVE_0 = ("_um", "_px", "epsilon", "theta_beta")
"""Ends of the names of parameters that must be above 0: lengths, and those by which something is divided."""

MOST = {"share": 1.0, "steps": 1000.0, "iterations": 1000.0}
"""Greatest values of parameters with these names: a share, and counts by which the time of a patch grows."""

MOST_VALUE = 1e9
"""Greatest value of every other parameter: its square and its quotient are numbers of float32."""

Origin = Literal["faithful", "adapted", "reimplemented"]


@dataclass(frozen=True, slots=True)
class Needs:
    """Inputs of a method besides the coarser result; what is not needed is neither read nor computed."""

    rgb: bool = True
    """The patch's pixels."""
    fine: bool = False
    """Probabilities of the backbone on the patch (O)."""
    features: bool = False
    """Features of the backbone on the patch."""
    context: bool = False
    """Features and probabilities of the patch of the coarsest scale that holds the cell."""
    head: bool = False
    """Weights of its own, which a training makes."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """Description of a method."""

    name: str
    """Name in the poster."""
    origin: Origin
    """"faithful": as its source; "adapted": to patches of slides; "reimplemented": from the paper alone."""
    source: str
    """Paper, and section or figure."""
    differs: str
    """Differences from the source, in a sentence or two."""
    needs: Needs = Needs()
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Names and default values of the parameters that are not learned; "_um" where they are lengths."""
    fit: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of parameters among which a training chooses on its validation rows."""
    steps: int = 400
    """Steps of a training of the head where its configuration has none: as many as take minutes on a CPU."""
    local: bool = True
    """False where a step of the method sees the whole patch, so that its result may jump at the borders of cells."""


@dataclass(frozen=True, eq=False)
class Context:
    """The patch of the coarsest scale that holds the cell, and the place of the method's patch in it."""

    probabilities: Tensor
    """float32 (N, C, h, w), of the backbone."""
    features: Tensor
    """float32 (N, F, h / s, w / s), s: stride of the features."""
    ratio: int
    """Pixels of the patch per pixel of the context, along an axis."""
    corner_yx: tuple[float, float]
    """Upper left corner of the patch, its margin included, in pixels of the context from the context's corner."""

    def at(self, maps: Tensor, size_hw: tuple[int, int], patch_hw: tuple[int, int]) -> Tensor:
        """Maps of the context at the patch's place, bilinear with half-pixel centres: (N, K, *size_hw).

        maps: `probabilities`, `features`, or other maps of the same extent, (N, K, h', w'). size_hw: size of the
        result, which covers the patch. patch_hw: size of the patch, its margin included, in its own pixels. Beyond the
        context its nearest pixel is taken.
        """
        grid = torch.stack(
            [
                self._positions(size_hw[axis], patch_hw[axis], axis, maps).view(shape).expand(size_hw)
                for axis, shape in ((1, (1, -1)), (0, (-1, 1)))
            ],
            dim=-1,
        )
        return F.grid_sample(
            maps.float(),
            grid.expand(len(maps), *grid.shape),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )

    def at_points(self, maps: Tensor, points_yx: Tensor) -> Tensor:
        """Maps of the context at points of the patch, bilinear with half-pixel centres: float32 (N, K, P).

        maps: as in `at`. points_yx: float (N, P, 2), in the patch's own pixels from its corner, its margin included;
        the centre of its first pixel is (0.5, 0.5). Beyond the context its nearest pixel is taken.
        """
        corner, extent = (
            torch.tensor(pair, dtype=torch.float64, device=maps.device)
            for pair in (self.corner_yx, self.probabilities.shape[-2:])
        )
        return at_points(maps, ((corner + points_yx / self.ratio) / extent).float())

    def _positions(self, count: int, length: int, axis: int, maps: Tensor) -> Tensor:
        """Centres of the result's pixels along an axis, in [-1, 1] over the context."""
        extent = self.probabilities.shape[-2 + axis]
        centres = (torch.arange(count, dtype=torch.float64, device=maps.device) + 0.5) * (length / count)
        return ((self.corner_yx[axis] + centres / self.ratio) * (2 / extent) - 1).float()


@dataclass(frozen=True, eq=False)
class PatchMaps:
    """Everything that a method may see of a batch of patches."""

    coarse: Tensor
    """float32 (N, C, H, W): probabilities of the coarser result, upsampled (Y)."""
    mpp: float
    """Microns per pixel."""
    margin_px: int = 0
    """Margin round the cell; a result is needed of the cell alone."""
    rgb: Tensor | None = None
    """float32 (N, 3, H, W), 0 to 1."""
    fine: Tensor | None = None
    """float32 (N, C, H, W): probabilities of the backbone on the patch (O)."""
    features: Tensor | None = None
    """float32 (N, F, H / s, W / s): features of the backbone on the patch; s is usually 4."""
    context: Context | None = None
    scale: int = 1
    """Index of the scale, 0 = coarsest."""
    ratio: int = 1
    """Pixels of the scale per pixel of the coarsest, along an axis."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """H, W."""
        return self.coarse.shape[-2], self.coarse.shape[-1]

    def inner(self, maps: Tensor) -> Tensor:
        """(N, K, H, W) without the margin; a view."""
        return without_margin(maps, self.margin_px)


class Method(ABC):
    """A method with its parameters and, where it learns, its head; thread-safe once it is made.

    A subclass sets `info`, and overrides `refine`; if it looks beyond a pixel also `receptive_radius_px`; if it learns
    also `build_head` and `loss`. Its result at a pixel may depend on the patch only: then it cannot depend on tiles.
    """

    info: ClassVar[MethodInfo]

    def __init__(self, n_classes: int, parameters: Mapping[str, float] | None = None, head: nn.Module | None = None):
        """parameters: those that differ from the defaults. Raises ConfigError for one that the method does not have, or
        that is negative, too large (`MOST`) or, where it is a length or a divisor, 0; and BundleError where a head is
        needed and missing.
        """
        name, own = self.info.name, self.info.parameters
        if unknown := sorted((parameters or {}).keys() - own.keys()):
            raise ConfigError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(own) or 'none'}")
        for key, value in (parameters or {}).items():
            most, positive = MOST.get(key, MOST_VALUE), key.endswith(ABOVE_0)
            if not 0 <= value <= most or (value == 0 and positive):
                least = "above 0" if positive else "from 0 on"
                raise ConfigError(f"{name}: parameter {key} is {value:g}, not a number {least}, at most {most:g}")
        if self.info.needs.head and head is None:
            raise BundleError(
                f"the bundle has no weights for {name}; train them with `methods: [{name}]` in the configuration"
            )
        self.n_classes = n_classes
        self.parameters = {**own, **(parameters or {})}
        self.head = head

    @property
    def needs(self) -> Needs:
        """Inputs of the method; those of `info`, unless its parts need more."""
        return self.info.needs

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module | None:
        """A head with fresh weights; None for a method that learns nothing.

        feature_channels: F of the bundle's network, 0 if it has none.
        """
        return None

    def receptive_radius_px(self, mpp: float) -> int:
        """Distance, in pixels of a scale of that mpp, beyond which a pixel of the patch has no influence on another;
        for a method without such a limit, the margin that it is given.
        """
        return 0

    def margin_px(self, scale: int, ratio: int, halo_px: int) -> int:
        """Margin of the maps that the method is given round a cell, at most the halo, which is the default.

        scale, ratio: as in `PatchMaps`. halo_px: margin of the patch, at least the receptive radius.
        """
        return halo_px

    def can_change(self, maps: PatchMaps) -> bool:
        """False where the coarser result alone, N = 1, shows that `refine` would return it: the cell is not read then.

        maps: with `coarse` alone.
        """
        return True

    @abstractmethod
    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the cell: float32 (N, C, H - 2 * margin_px, W - 2 * margin_px), 1 in sum over C."""

    def loss(self, maps: PatchMaps, sets: Tensor, rng: torch.Generator, class_weights: Tensor | None = None) -> Tensor:
        """Loss of the head on a batch of windows, a float32 scalar with gradients to `self.head`.

        maps: with `margin_px` 0. sets: label sets, int32 (N, H, W), a bit for each class a pixel may be. rng: the only
        source of chance, on the CPU. class_weights: float32 (C,), weight of each class's pixels, as in the training of
        the backbone; None for equal weights. A head that predicts no classes has no use for them.
        """
        raise NotImplementedError(f"{self.info.name} learns nothing")

"""MagNet's step as a method: refine O and Y to R, and overwrite Y with R where the query score selects it.

Faithful: Huynh, Tran, Luu, Hoai, "Progressive Semantic Segmentation", CVPR 2021, sections 3.2 and 3.3; the arithmetic
is in `magnet/`. It differs in the selection: by a threshold of the score, which needs no knowledge of the rest of the
slide, and, if a bundle asks for it, by degrees. It refines at every scale after the first, the other methods of this
package at the finest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_magnet.geometry import round_up
from wsi_magnet.magnet.grid_selection import may_select, refined_pixels, select_on_grid, spread
from wsi_magnet.magnet.step import magnet_step, refine_parts, refine_patch, without_margin
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.nets.spec import BundleSpec

ROUNDING = 1e-4
"""Margin below the threshold within which a score could still reach it by other rounding."""


class MagNet(Method):
    """MagNet's step with a bundle's refinement modules and thresholds."""

    info: ClassVar[MethodInfo] = MethodInfo(
        "MagNet",
        "faithful",
        "Huynh et al., CVPR 2021, sections 3.2 and 3.3",
        "Pixels are selected by a fitted threshold of the query score instead of the k best of the image.",
        Needs(rgb=False, fine=True),
    )

    def __init__(
        self,
        spec: BundleSpec,
        refiners: Sequence[Callable[..., Tensor]],
        radii_px: Sequence[int | None],
        *,
        uses_rgb: bool = False,
    ) -> None:
        """refiners: called as `refiner(fine=..., coarse=...)`, with `rgb=...` too if they use the pixels. radii_px:
        receptive radii; None: no limit.
        """
        super().__init__(len(spec.classes))
        self._needs = replace(self.info.needs, rgb=uses_rgb)
        self._spec, self._refiners, self._radii_px = spec, tuple(refiners), tuple(radii_px)

    @property
    def needs(self) -> Needs:
        """The pixels too, where the modules use them."""
        return self._needs

    def margin_px(self, scale: int, ratio: int, halo_px: int) -> int:
        """The radii of refinement module and median, at most the halo."""
        radius_px = self._radii_px[self._module(scale)]
        if radius_px is None:
            return halo_px
        return min(halo_px, round_up(self._blur_px(ratio) + radius_px, 2))

    def can_change(self, maps: PatchMaps) -> bool:
        """False where no score can reach the threshold of the scale, whatever O is."""
        if self._spec.select_above[maps.scale - 1] <= ROUNDING:
            return True
        return bool(without_margin(self._selectable(maps), self._spec.median_px // 2).any())

    def refine(self, maps: PatchMaps) -> Tensor:
        """See `Method.refine` (paper, section 3.3)."""
        fine, coarse, ratio, step = maps.fine, maps.coarse, maps.ratio, maps.scale - 1
        assert fine is not None
        refined = self._refined(fine, maps)
        around = maps.margin_px - self._blur_px(ratio)
        weight = select_on_grid(
            coarse=without_margin(coarse, around),
            refined=without_margin(refined, around),
            ratio=ratio,
            above=self._spec.select_above[step],
            width=self._spec.width_of(step),
            median_px=self._spec.median_px,
        )
        selected = spread(without_margin(weight, self._spec.median_px // 2), ratio)
        if fine.device.type != "cpu" and not self._spec.width_of(step):
            selected = selected > 0
        return magnet_step(coarse=maps.inner(coarse), refined=maps.inner(refined), selected=selected)

    def _refined(self, fine: Tensor, maps: PatchMaps) -> Tensor:
        """R, float32 (N, C, H, W); on a CPU only where it can be selected.

        A GPU is faster on a whole batch than on parts of it.
        """
        module = self._module(maps.scale)
        refiner, radius_px, coarse = self._refiners[module], self._radii_px[module], maps.coarse
        rgb = maps.rgb if self.needs.rgb else None
        if fine.device.type != "cpu" or radius_px is None:
            return refine_patch(fine=fine, coarse=coarse, refiner=refiner, rgb=rgb)
        rim, median_px = self._spec.median_px // 2, self._spec.median_px
        parts, selectable = [], self._selectable(maps)
        for i in range(len(fine)):
            one = slice(i, i + 1)
            where = refined_pixels(selectable[one], rim=rim, ratio=maps.ratio, median_px=median_px)
            needed = F.pad(where, (maps.margin_px - self._blur_px(maps.ratio),) * 4)
            shown = None if rgb is None else rgb[one]
            part = refine_parts(
                fine=fine[one], coarse=coarse[one], refiner=refiner, needed=needed, radius_px=radius_px, rgb=shown
            )
            parts.append(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _selectable(self, maps: PatchMaps) -> Tensor:
        """Blocks in which R could be selected, whatever its values: bool (N, 1, h, w), including the blocks round the
        cell that medians need.
        """
        coarse = without_margin(maps.coarse, maps.margin_px - self._blur_px(maps.ratio))
        above = self._spec.select_above[maps.scale - 1] - ROUNDING
        return may_select(coarse=coarse, ratio=maps.ratio, above=above, median_px=self._spec.median_px)

    def _module(self, scale: int) -> int:
        return self._spec.refiner_of[scale - 1]

    def _blur_px(self, ratio: int) -> int:
        """Radius of the median, in pixels of the scale."""
        return self._spec.median_px // 2 * ratio

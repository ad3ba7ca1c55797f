"""DenseCRF: a random field in which every pixel of a patch is joined to every other.

Adapted from P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS
2011. The energy of a labelling is the sum of -log p of its pixels in the coarser result, and of a penalty for each pair
of pixels of different classes (Potts): w for pixels that are near and of like colour, exp(-|Δplace|² / 2 theta_alpha² -
|Δcolour|² / 2 theta_beta²), and w_g for pixels that are near, exp(-|Δplace|² / 2 theta_gamma²) (equation 3). The
probabilities are found by mean field (algorithm 1): softmax(log p + w · K q + w_g · G q), some times over. Both kernels
are normalised symmetrically, n_i k n_j with n = 1 / √(K 1), and a pixel's own q is in the sums, as in the authors'
program of 2013.

The kernel of colours is filtered by a permutohedral lattice, as published: an approximation, with which at least 98 %
of the labels are those of the exact sum for moderate weights, and fewer for w = 10. The kernel of the distance is
filtered by matrices, which is exact and faster.

**It is mean field per patch**: a pixel is joined to all pixels of its patch, and to none beyond. So it is not local, no
margin makes it independent of the division into cells, and its result may jump at a cell's border. The margin is two
theta_alpha, where the weight of a pixel of the same colour has fallen to 0.14, but at most 160 pixels.

theta_alpha and theta_gamma are lengths; theta_beta is in grey levels of 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsi_magnet.methods.method import Method, MethodInfo, PatchMaps
from wsi_magnet.methods.permutohedral import Lattice, build_lattice
from wsi_magnet.methods.smoothing import Smoothing

SMALLEST = 1e-5
"""Probabilities below count as this, so that their log is finite."""

MOST_MARGIN_PX = 160
"""Largest margin: the time grows with its square."""


@dataclass(frozen=True, slots=True)
class PairKernels:
    """Weights and widths of the two kernels."""

    colour_weight: float
    """w."""
    theta_alpha_px: float
    """Standard deviation in place, of the kernel of colours."""
    theta_beta: float
    """Standard deviation in colour, in grey levels of 255."""
    distance_weight: float
    """w_g."""
    theta_gamma_px: float
    """Standard deviation of the kernel of the distance."""


class DenseCRF(Method):
    """Mean field of the fully connected random field of a patch."""

    info = MethodInfo(
        name="DenseCRF",
        origin="adapted",
        source="Krähenbühl and Koltun, NIPS 2011, equation 3 and algorithm 1",
        differs=(
            "A field for each patch instead of one for the image, so that results may jump at the borders of cells; "
            "widths in place are lengths; kernels are normalised symmetrically, and that of the distance is exact."
        ),
        parameters={
            "w": 10.0,
            "theta_alpha_um": 40.0,
            "theta_beta": 13.0,
            "w_g": 3.0,
            "theta_gamma_um": 1.5,
            "iterations": 5,
        },
        local=False,
        fit={"w": (3.0, 10.0), "theta_alpha_um": (20.0, 40.0), "theta_beta": (7.0, 13.0)},
    )

    def receptive_radius_px(self, mpp: float) -> int:
        """The margin that it is given, since all pixels of a patch have influence: two theta_alpha, at most 160."""
        return min(MOST_MARGIN_PX, round(2 * self.parameters["theta_alpha_um"] / mpp))

    def refine(self, maps: PatchMaps) -> Tensor:
        """Probabilities of the cell: float32 (N, C, H - 2 * margin_px, W - 2 * margin_px)."""
        assert maps.rgb is not None
        kernels, iterations = self._kernels(maps.mpp), int(self.parameters["iterations"])
        patches = zip(maps.coarse, maps.rgb, strict=True)
        return torch.stack([maps.inner(mean_field(coarse, rgb, kernels, iterations)) for coarse, rgb in patches])

    def _kernels(self, mpp: float) -> PairKernels:
        own = self.parameters
        return PairKernels(
            own["w"], own["theta_alpha_um"] / mpp, own["theta_beta"], own["w_g"], own["theta_gamma_um"] / mpp
        )


def mean_field(probabilities: Tensor, rgb: Tensor, kernels: PairKernels, iterations: int) -> Tensor:
    """Probabilities of the field's classes, float32 (C, H, W).

    probabilities: of each pixel by itself, float32 (C, H, W). rgb: float32 (3, H, W), 0 to 1.
    """
    height, width = probabilities.shape[-2:]
    lattice = colour_lattice(rgb, kernels)
    smoothing = Smoothing((height, width), kernels.theta_gamma_px, rgb.device)
    logits = probabilities.clamp(min=SMALLEST).log()
    result = logits.softmax(dim=0)
    for _ in range(iterations):
        like = lattice.filter(result.flatten(1).T.contiguous()).T.reshape(result.shape)
        near = smoothing.filter(result)
        result = (logits + kernels.colour_weight * like + kernels.distance_weight * near).softmax(dim=0)
    return result


def colour_lattice(rgb: Tensor, kernels: PairKernels) -> Lattice:
    """The lattice whose filter is the symmetrically normalised kernel of places and colours."""
    height, width = rgb.shape[-2:]
    rows = torch.arange(height, device=rgb.device).view(-1, 1).expand(height, width)
    cols = torch.arange(width, device=rgb.device).view(1, -1).expand(height, width)
    places = torch.stack([rows, cols]).float() / kernels.theta_alpha_px
    lattice = build_lattice(torch.cat([places, rgb * (255 / kernels.theta_beta)]).flatten(1))
    sums = lattice.filter(places.new_ones(height * width, 1))[:, 0]
    return lattice.scaled(sums.rsqrt())

"""Strips: the band along the contours of each class, unrolled into an image and put back.

T: columns, one for each pixel that a contour runs through; rows are distances along its normal, a pixel apart, from
`-half_px` (inside the class) to `half_px`. Coordinates are (y, x) in pixels, whole numbers at the centres of pixels.
Nothing here depends on more than the neighbourhood: columns lie where a contour enters a pixel, since the phase of
equal arc lengths would depend on where the contour begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.spatial import cKDTree
from skimage.measure import find_contours
from torch import Tensor
from torch.nn import functional as F

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SIGMA = 2.0
"""Columns over which a contour is smoothed for its normals; a contour of whole pixels has steps."""

NORMAL_COLUMNS = 9
"""Columns on either side that a normal depends on: four sigmas, and one for the difference."""

_NUDGE_YX = (1.1e-4, 2.3e-4)
"""Added to a pixel's centre to find its nearest column, so that no two are equally near."""


_LEAST = 1e-6
"""Least sum of weights that is divided by."""


@dataclass(frozen=True, eq=False)
class Strips:
    """The columns of all contours of a patch, of one class after another."""

    half_px: int
    """Rows on either side of the contour."""
    points_yx: Floats
    """(T, 2), on the contour."""
    normals_yx: Floats
    """(T, 2), of length 1, out of the class."""
    classes: Ints
    """(T,), the class inside."""
    following: Ints
    """(T,), the next column of the contour; at the end of an open one itself."""
    packed: Ints
    """(P,), the column at each place of the packed strip, where every contour lies between its neighbouring columns:
    once more its own where it is closed, its last where it ends at the patch's edge."""
    places: Ints
    """(T,), the place of each column in the packed strip."""

    def positions(self, columns: Ints) -> Floats:
        """(rows, len(columns), 2): coordinates of the pixels of a strip."""
        rows = np.arange(-self.half_px, self.half_px + 1, dtype=np.float64)[:, None, None]
        moved: Floats = self.points_yx[columns] + rows * self.normals_yx[columns]
        return moved


def trace(probabilities: Floats, *, half_px: int, shortest: int, neighbours: int) -> Strips | None:
    """The contours round each class, where it is as likely as the likeliest other; None without any.

    probabilities: float64 (C, H, W). shortest: least number of columns of a contour; shorter ones are left out.
    neighbours: columns on either side of each contour in the packed strip.
    """
    found = [
        (label, points, closed)
        for label in range(len(probabilities))
        for points, closed in _contours(probabilities, label)
        if len(points) >= shortest
    ]
    if not found:
        return None
    sizes = [len(points) for _, points, _ in found]
    starts = np.cumsum([0, *sizes[:-1]])
    linked = [
        start + _linked(size, closed, 0, 1) for start, size, (_, _, closed) in zip(starts, sizes, found, strict=True)
    ]
    packed = [
        start + _linked(size, closed, neighbours, neighbours)
        for start, size, (_, _, closed) in zip(starts, sizes, found, strict=True)
    ]
    return Strips(
        half_px,
        points_yx=np.concatenate([points for _, points, _ in found]),
        normals_yx=np.concatenate([_normals(points, closed) for _, points, closed in found]),
        classes=np.repeat([label for label, _, _ in found], sizes),
        following=np.concatenate([columns[1:] for columns in linked]),
        packed=np.concatenate(packed),
        places=np.arange(sum(sizes)) + np.repeat(neighbours * (2 * np.arange(len(sizes)) + 1), sizes),
    )


def _linked(size: int, closed: bool, before: int, after: int) -> Ints:
    """Columns of a contour, with some before and after."""
    columns = np.arange(-before, size + after)
    return columns % size if closed else columns.clip(0, size - 1)


def _contours(probabilities: Floats, label: int) -> list[tuple[Floats, bool]]:
    """Points of each contour of a class, and whether it is closed; it may be of one point."""
    others = np.delete(probabilities, label, axis=0).max(axis=0)
    if min(others.shape) < 2:
        return []
    found = []
    for vertices in find_contours(probabilities[label] - others, 0.0):
        closed = bool((vertices[0] == vertices[-1]).all())
        found.append((_thinned(vertices[:-1] if closed else vertices, closed), closed))
    return found


def _thinned(vertices: Floats, closed: bool) -> Floats:
    """The first of the vertices in each pixel; the contour is followed from pixel to pixel."""
    pixels = np.floor(vertices + 0.5)
    entered = (pixels != np.roll(pixels, 1, axis=0)).any(axis=1)
    if not closed:
        entered[0] = True
    thinned: Floats = vertices[entered]
    return thinned


def _normals(points: Floats, closed: bool) -> Floats:
    """Unit vectors out of the class, which `find_contours` leaves on the same side throughout."""
    smooth = gaussian_filter1d(points, _SIGMA, axis=0, mode="wrap" if closed else "nearest")
    padded = np.concatenate([smooth[-1:], smooth, smooth[:1]]) if closed else np.pad(smooth, ((1, 1), (0, 0)), "edge")
    along = padded[2:] - padded[:-2]
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-12)
    normals: Floats = np.stack([-along[:, 1], along[:, 0]], axis=1)
    return normals


def unroll(images: Tensor, strips: Strips, columns: Ints) -> Tensor:
    """The strip of an image at some columns, bilinear; beyond the image its nearest pixel.

    images: float (K, H, W). Returns float32 (K, rows, len(columns)).
    """
    positions = torch.from_numpy(strips.positions(columns))
    height, width = images.shape[-2:]
    extent = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float64)
    grid = (positions.flip(-1) * 2 / extent - 1).float().to(images.device)
    return F.grid_sample(
        images.float().unsqueeze(0), grid.unsqueeze(0), mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def nearest(images: npt.NDArray[np.int32], strips: Strips, beyond: int) -> npt.NDArray[np.int32]:
    """The values of an image at the columns, int32 (rows, T), those of the nearest pixels; `beyond` outside.

    images: int32 (H, W).
    """
    positions = np.floor(strips.positions(np.arange(len(strips.classes))) + 0.5).astype(np.int64)
    padded = np.pad(images, 1, constant_values=beyond)
    y, x = (positions[..., axis].clip(-1, images.shape[axis]) + 1 for axis in (0, 1))
    values: npt.NDArray[np.int32] = padded[y, x]
    return values


def put_back(coarse: Floats, strips: Strips, tails: Floats) -> Floats:
    """Probabilities with the contours' new positions; pixels beyond `half_px` of every contour keep theirs exactly.

    In a class's band its weight is the probability that its new contour lies farther out than the pixel; elsewhere it
    is its coarse probability. Weights of more than 1 in sum are divided by it: the more confident class wins. Where
    several bands meet and all their contours turn away, the coarse result has what is missing to 1, as otherwise a
    third class would win that is hardly likely there. coarse: float64 (C, H, W). tails: float64 (rows + 1, T), the
    probability of a contour in that row or farther out.
    """
    weights, bands = coarse.copy(), np.zeros(coarse.shape[1:], dtype=np.int64)
    for label in np.unique(strips.classes):
        is_class = coarse[label] > np.delete(coarse, label, axis=0).max(axis=0)
        y, x, inside = _inside(is_class, strips, tails, np.flatnonzero(strips.classes == label))
        weights[label, y, x] = inside
        bands[y, x] += 1
    total = weights.sum(axis=0)
    divided = weights / np.maximum(total, _LEAST)
    filled = weights + (1 - total) * coarse
    moved = np.where((total < 1) & (bands > 1) | (total < _LEAST), filled, divided)
    return np.where(bands > 0, moved, coarse)


def _inside(is_class: npt.NDArray[np.bool_], strips: Strips, tails: Floats, columns: Ints) -> tuple[Ints, Ints, Floats]:
    """Coordinates of the pixels in the band of some columns, and their probability of being inside.

    is_class: bool (H, W), the coarse result's side of the contour: at a sharp bend the normal of the nearest column may
    tell the wrong one. Each pixel belongs to its nearest column. A moved polygon would cross itself where the contour
    is bent sharply.
    """
    points = strips.points_yx[columns]
    far = np.ones(is_class.shape, dtype=bool)
    y, x = np.floor(points + 0.5).astype(np.int64).T
    far[y, x] = False
    pixels = np.argwhere(distance_transform_edt(far) <= strips.half_px + 1)
    distances, nearest_column = cKDTree(points).query(pixels + _NUDGE_YX, distance_upper_bound=strips.half_px)
    pixels, own = pixels[np.isfinite(distances)], columns[nearest_column[np.isfinite(distances)]]
    outward = ((pixels - strips.points_yx[own]) * strips.normals_yx[own]).sum(axis=1)
    outward = np.where(is_class[pixels[:, 0], pixels[:, 1]], -np.abs(outward), np.abs(outward))
    row = np.floor(outward + 0.5)
    index = (row + strips.half_px).astype(np.int64).clip(0, 2 * strips.half_px)
    share = row + 0.5 - outward  # of the row's pixel that is farther out
    inside = tails[index + 1, own] + (tails[index, own] - tails[index + 1, own]) * share
    return pixels[:, 0], pixels[:, 1], inside.clip(0, 1)

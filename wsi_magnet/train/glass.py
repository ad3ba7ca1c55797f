"""Glass in training: bare glass and empty scan areas painted into crops, as whole slides have them beside tissue.

Annotated tiles are cut out of tissue. Networks that learn from them alone have never seen glass, and take it for one of
their classes. A painting is drawn once, as a value in microns round the centre of a crop, so that every scale of a view
shows the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsi_magnet.annotations.types import Sets
from wsi_magnet.planning.tissue import is_stained
from wsi_magnet.slides.types import Image

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

WAVES_UM = (6.0, 600.0)
"""Shortest and longest wave of a tissue border: from single cells to the outline of a biopsy."""

WAVES = 6
"""Waves that a border is the sum of."""

SCAN_WHITE = 255.0
"""Brightness of areas that were not scanned."""

PENS = ((40.0, 60.0, 180.0), (90.0, 150.0, 220.0), (30.0, 140.0, 70.0), (25.0, 24.0, 28.0), (190.0, 45.0, 60.0))
"""RGB of felt-tip pens: blue, faded blue, green, black, red."""

PEN_SHARE = 0.12
"""Share of the paintings with a stroke of a pen."""

OPEN_GLASS_UM = 80.0
"""Side of the smallest square of glass that counts as glass in label sets that leave it open; smaller white gaps are
clefts between fibres, vessels and retraction round glands."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A sine that displaces a border."""

    length_um: float
    height_um: float
    phase: float


@dataclass(frozen=True, slots=True)
class Border:
    """A straight line, displaced by waves; glass lies on its outer side."""

    angle: float
    """Direction of the outer side, in radians."""
    offset_um: float
    """Distance of the line from the crop's centre, positive towards the outer side."""
    waves: tuple[Wave, ...]
    """Empty for the straight edge of a scan."""
    scanned: bool = True
    """False: an area that the scanner left out, of uniform white."""

    def beyond(self, y_um: Floats, x_um: Floats) -> Floats:
        """Distance beyond the border, negative on the inner side: float32 (H, W), in microns, along `angle`.

        y_um: (H, 1), x_um: (1, W), from the crop's centre.
        """
        across = x_um * cos(self.angle) + y_um * sin(self.angle)
        along = y_um * cos(self.angle) - x_um * sin(self.angle)
        for wave in self.waves:
            across = across + wave.height_um * np.sin(along * np.float32(2 * pi / wave.length_um) + wave.phase)
        return np.asarray(across - np.float32(self.offset_um), np.float32)


@dataclass(frozen=True, slots=True)
class Look:
    """Appearance of glass; a pen's stroke lies on it."""

    colour: tuple[float, float, float]
    """RGB, 0 to 255."""
    shading: float
    """Change of brightness across the crop."""
    shading_angle: float
    noise: float
    """Standard deviation of a pixel."""
    blur_px: float
    """Blur of the border."""
    specks: int
    """Grains of dust."""
    pen: Pen | None = None


@dataclass(frozen=True, slots=True)
class Pen:
    """A stroke of a felt-tip pen on the glass."""

    colour: tuple[float, float, float]
    """RGB, 0 to 255."""
    opacity: float
    middle: Border
    """The middle of the stroke."""
    width_um: float


@dataclass(frozen=True, slots=True)
class Glass:
    """A painting: the union of the outer sides of borders."""

    borders: tuple[Border, ...]
    look: Look
    label: int
    """Label set of painted pixels: background alone."""
    seed: int

    def image(self, image: Image, mpp: float) -> Image:
        """Paint the glass: uint8 (H, W, 3) RGB to the same."""
        glass = self._area(image.shape, mpp, scanned=True)
        if not glass.any():
            return image
        cover = ndimage.gaussian_filter(glass.astype(np.float32), self.look.blur_px)[..., None]
        painted: Floats = image + cover * (self._glass(image.shape[:2], mpp) - image)
        return np.clip(np.rint(painted), 0, 255).astype(np.uint8)

    def empty(self, image: Image, mpp: float) -> Image:
        """Paint the areas that were not scanned: uint8 (H, W, 3) RGB to the same."""
        empty = self._area(image.shape, mpp, scanned=False)
        return np.where(empty[..., None], np.uint8(SCAN_WHITE), image) if empty.any() else image

    def labels(self, sets: Sets, mpp: float) -> Sets:
        """Label the painted pixels: uint32 (H, W) to the same."""
        painted = self._area(sets.shape, mpp, scanned=True) | self._area(sets.shape, mpp, scanned=False)
        return np.where(painted, np.uint32(self.label), sets)

    def _area(self, shape: Sequence[int], mpp: float, *, scanned: bool) -> Mask:
        """Bool (H, W): glass, or areas that were not scanned."""
        y_um, x_um = _from_centre(shape, mpp)
        area = np.zeros(tuple(shape[:2]), bool)
        for border in self.borders:
            if border.scanned == scanned:
                area |= border.beyond(y_um, x_um) > 0
        return area

    def _glass(self, shape: Sequence[int], mpp: float) -> Floats:
        """Bare glass with dust and pen: float32 (H, W, 3)."""
        height, width = shape[:2]
        rng = np.random.default_rng([self.seed, round(1000 * mpp)])
        down, across = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None, :]
        angle = self.look.shading_angle
        shade = self.look.shading * (down * sin(angle) + across * cos(angle))
        glass = np.asarray(self.look.colour, np.float32) + shade[..., None].astype(np.float32)
        if (pen := self.look.pen) is not None:
            stroke = np.abs(pen.middle.beyond(*_from_centre(shape, mpp))) < pen.width_um / 2
            ink = np.float32(pen.opacity) * stroke[..., None]
            glass += ink * (np.asarray(pen.colour, np.float32) - glass)
        glass += rng.normal(0, self.look.noise, (height, width, 1)).astype(np.float32)
        for _ in range(self.look.specks):
            y, x, radius = rng.integers(height), rng.integers(width), rng.uniform(0.5, 3)
            rows, cols = np.ogrid[max(0, y - 4) : min(y + 5, height), max(0, x - 4) : min(x + 5, width)]
            grain = (rows - y) ** 2 + (cols - x) ** 2 <= radius**2
            glass[rows, cols] *= np.where(grain, rng.uniform(0.3, 0.9), 1.0)[..., None].astype(np.float32)
        return glass.astype(np.float32)


def _from_centre(shape: Sequence[int], mpp: float) -> tuple[Floats, Floats]:
    """Microns from the centre: float32 (H, 1) and (1, W)."""
    y_um, x_um = ((np.arange(length, dtype=np.float32) - (length - 1) / 2) * np.float32(mpp) for length in shape[:2])
    return y_um[:, None], x_um[None, :]


def draw_glass(rng: np.random.Generator, extent_um: float, label: int) -> Glass:
    """Draw a painting. extent_um: side of the crop. label: the label set of background alone."""
    kind = rng.choice(["margin", "strip", "scan edge", "margin and scan edge", "bare"], p=[0.45, 0.2, 0.15, 0.15, 0.05])
    angle = float(rng.uniform(0, 2 * pi))
    borders: list[Border] = []
    if kind == "bare":
        borders.append(Border(angle, -2 * extent_um, ()))
    if kind in ("margin", "margin and scan edge"):
        borders.append(_margin(rng, angle, float(rng.uniform(-0.4, 0.45)) * extent_um))
    if kind == "strip":
        half = float(rng.uniform(0.08, 0.4)) * extent_um
        middle = float(rng.uniform(-0.2, 0.2)) * extent_um
        borders.append(_margin(rng, angle, half + middle))
        borders.append(_margin(rng, angle + pi, half - middle))
    if kind in ("scan edge", "margin and scan edge"):
        quarter = float(rng.integers(4)) * pi / 2
        borders.append(Border(quarter, float(rng.uniform(-0.3, 0.45)) * extent_um, (), scanned=False))
    return Glass(tuple(borders), _look(rng, extent_um), label, int(rng.integers(2**32)))


def _margin(rng: np.random.Generator, angle: float, offset_um: float) -> Border:
    shortest, longest = np.log(WAVES_UM)
    lengths = np.exp(rng.uniform(shortest, longest, WAVES))
    heights = lengths * rng.uniform(0, 0.15, WAVES)
    phases = rng.uniform(0, 2 * pi, WAVES)
    waves = tuple(Wave(*map(float, one)) for one in zip(lengths, heights, phases, strict=True))
    return Border(angle, offset_um, waves)


def _look(rng: np.random.Generator, extent_um: float) -> Look:
    brightness = rng.uniform(215, 253)
    colour = np.minimum(brightness + rng.normal(0, 2.5, 3), 254)
    return Look(
        (float(colour[0]), float(colour[1]), float(colour[2])),
        float(rng.uniform(0, 8)),
        float(rng.uniform(0, 2 * pi)),
        float(rng.uniform(0.2, 3)),
        float(rng.uniform(0.4, 1.4)),
        int(rng.integers(0, 6)) if rng.random() < 0.4 else 0,
        _pen(rng, extent_um) if rng.random() < PEN_SHARE else None,
    )


def _pen(rng: np.random.Generator, extent_um: float) -> Pen:
    colour = PENS[int(rng.integers(len(PENS)))]
    middle = _margin(rng, float(rng.uniform(0, 2 * pi)), float(rng.uniform(-0.5, 0.5)) * extent_um)
    return Pen(colour, float(rng.uniform(0.5, 1)), middle, float(rng.uniform(100, 700)))


def narrowed(sets: Sets, image: Image, mpp: float, background: int | None, unlabelled: int) -> Sets:
    """Label sets without background where the image shows tissue: "background or stroma" becomes stroma there.

    sets: uint32 (H, W). image: uint8 (H, W, 3) RGB, the same pixels. background: its bit; None changes nothing.
    unlabelled: the full set, which stays. Only glass of at least `OPEN_GLASS_UM` along each side stays open.
    """
    if background is None:
        return sets
    bit = np.uint32(background)
    open_sets = (sets & bit > 0) & (sets != bit) & (sets != unlabelled)
    if not open_sets.any():
        return sets
    side = max(1, round(OPEN_GLASS_UM / mpp))
    bare = ~is_stained(image)
    core = ndimage.uniform_filter(bare.astype(np.float32), side, mode="nearest") > 0.9
    glass = bare & ndimage.maximum_filter(core, side)
    return np.where(open_sets & ~glass, sets & ~bit, sets)

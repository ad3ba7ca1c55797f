"""Where a slide shows H&E-stained tissue: a small map from one look at a low level.

Haematoxylin and eosin both let red and blue through better than green. Glass, dust, shadows and black pen are grey,
green pen is green, and blue pen lets green through better than red; so how far green lies below both others tells
tissue from all of them, however bright it is.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import ndimage
from skimage.filters import threshold_otsu

from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.scales import Scale
from wsi_magnet.slides.read import read_whole
from wsi_magnet.slides.types import Image, SlideReader
from wsi_magnet.storage.location import Location, read_bytes, replace_bytes

Map = npt.NDArray[np.bool_]
"""bool (rows, columns), True where there is tissue."""
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

MAP_MPP = 8.0
"""Microns per pixel of the map: a needle biopsy is 60 such pixels wide, a gland 10 to 50."""

MOST_MAP_PX = 2048
"""Most pixels of the map along an axis, so that its memory is bounded; above 16 mm its pixels grow."""

BLOCK_PX = 512
"""Side of the blocks of the map in which the slide is read."""

WHITE = 255
"""Grey of what cannot be read, as of glass."""

LEAST_PINK, MOST_PINK = 0.03, 0.07
"""Between these lies the threshold on "pink" (see `pink`): noise on bare glass stays under 0.02, pale stroma begins at
0.05. Otsu's threshold alone cuts through the tissue where there is no glass, and through the noise where there is
nothing else."""

SPECK_MM2 = 0.005
"""Smaller pieces are dirt; a disc of 80 microns."""

LUMEN_MM2 = 1.0
"""Smaller gaps in tissue belong to it: the lumen of a cystic gland is 1 mm across."""

MOST_OPEN = 1.5
"""A gap may be cut off by the slide's edge along this many times the length of its border with tissue: a lumen at the
edge of a tile is, and the glass round a small section is not."""

MOST_FRAME = 1 / 3
"""Nor may it take up more of the slide's whole edge: lumens take a quarter where a tile of 1.4 mm is cut out of cystic
glands, and the glass beside the ragged end of a biopsy, whose border with tissue is long, takes half or more."""


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Where there is tissue on a slide's canvas."""

    tissue: Map
    """Its pixel (0, 0) lies at the canvas's corner."""
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of the map."""
    threshold: float
    """The least "pink" that counted as tissue."""

    @property
    def share(self) -> float:
        """Part of the canvas that is tissue."""
        return float(self.tissue.mean())

    def cells(self, scale: Scale, cell_px: int) -> Map:
        """Bool (rows, columns): which cells of `cell_px` pixels of a scale hold tissue or lie next to it."""
        x, y = (own / of_map for own, of_map in zip(scale.downsample_xy, self.downsample_xy, strict=True))
        top, bottom = _spans(scale.size.height, cell_px, y, self.tissue.shape[0])
        left, right = _spans(scale.size.width, cell_px, x, self.tissue.shape[1])
        # counts[i, j]: the tissue pixels above row i and left of column j, so that any rectangle's are four look-ups.
        counts = np.pad(self.tissue.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        below = counts[np.ix_(bottom, right)] - counts[np.ix_(bottom, left)]
        found: Map = below > counts[np.ix_(top, right)] - counts[np.ix_(top, left)]
        return found

    def around(self, scale: Scale, box: Box) -> Map:
        """Bool (box height, box width): which pixels of a scale lie in tissue or within a map pixel of it."""
        rows = _look_up(box.y0, box.y1, scale.downsample_xy[1] / self.downsample_xy[1], self.tissue.shape[0])
        cols = _look_up(box.x0, box.x1, scale.downsample_xy[0] / self.downsample_xy[0], self.tissue.shape[1])
        # The few map pixels under the box, and their neighbours, are grown; not the whole map for every box.
        top, left = max(rows[0] - 1, 0), max(cols[0] - 1, 0)
        grown = ndimage.binary_dilation(self.tissue[top : rows[-1] + 2, left : cols[-1] + 2], np.ones((3, 3)))
        around: Map = grown[np.ix_(rows - top, cols - left)]
        return around

    def save(self, path: Location) -> None:
        """Write the map as a black and white PNG, which people can look at too."""
        picture = io.BytesIO()
        Pillow.fromarray(self.tissue).save(picture, format="PNG")
        replace_bytes(path, picture.getvalue())

    @staticmethod
    def load(path: Location, downsample_xy: tuple[float, float]) -> TissueMap:
        """Read a map that was saved; its threshold is not kept."""
        with Pillow.open(io.BytesIO(read_bytes(path))) as picture:
            return TissueMap(np.asarray(picture.convert("1")), downsample_xy, threshold=0.0)

    @staticmethod
    def everything(canvas: Size) -> TissueMap:
        """All of a canvas, for slides of which every part is to be analysed."""
        return TissueMap(np.ones((1, 1), np.bool_), (float(canvas.width), float(canvas.height)), threshold=0.0)


def find_tissue(reader: SlideReader, *, canvas: Size, mpp_xy: tuple[float, float]) -> TissueMap:
    """Find the H&E-stained tissue of a slide.

    canvas: its extent in level-0 pixels; mpp_xy: microns per level-0 pixel. Where the slide cannot be read counts as
    tissue: whether it can be analysed is found out there.
    """
    scale = map_scale(canvas, mpp_xy)
    thumbnail, unread = read_whole(reader, scale, block_px=BLOCK_PX, unread_grey=WHITE)
    colours = relative_to_glass(thumbnail)
    score = pink(colours)
    threshold = float(np.clip(threshold_otsu(score), LEAST_PINK, MOST_PINK))
    tissue = _clean((score >= threshold) | _dark(colours), (scale.mpp / 1000) ** 2)
    return TissueMap(tissue | unread, scale.downsample_xy, threshold)


def map_scale(canvas: Size, mpp_xy: tuple[float, float]) -> Scale:
    """The scale of a slide's tissue map."""
    longest_um = max(canvas.width * mpp_xy[0], canvas.height * mpp_xy[1])
    mpp = max(MAP_MPP, longest_um / MOST_MAP_PX, *mpp_xy)
    downsample_xy = mpp / mpp_xy[0], mpp / mpp_xy[1]
    size = Size(max(1, round(canvas.width / downsample_xy[0])), max(1, round(canvas.height / downsample_xy[1])))
    return Scale(0, mpp, downsample_xy, size)


def pink(colours: Floats) -> Floats:
    """How far green lies below red and blue: float32 (rows, columns), 0 on glass, 0.05 to 0.3 in H&E.

    colours: as from `relative_to_glass`.
    """
    score: Floats = np.minimum(colours[..., 0], colours[..., 2]) - colours[..., 1]
    return score


def relative_to_glass(thumbnail: Image) -> Floats:
    """Colours as parts of the slide's own glass, over a few pixels each: float32 (rows, columns, 3) RGB in 0..1.

    thumbnail: uint8 (rows, columns, 3) RGB.
    """
    smooth = ndimage.gaussian_filter(thumbnail.astype(np.float32), (1, 1, 0))
    relative: Floats = np.minimum(smooth / _glass(smooth), np.float32(1))
    return relative


def _glass(smooth: Floats) -> Floats:
    """The commonest colour (R, G, B) among bright and nearly grey ones; white where there are none to speak of.

    Pure white is no glass but what a scanner left out, and would hide a glass that is tinted.
    """
    darkest, green = smooth.min(axis=-1), smooth[..., 1]
    pale = np.minimum(smooth[..., 0], smooth[..., 2]) - green <= 12
    candidates = smooth[(darkest > 150) & (darkest < 253) & pale]
    if len(candidates) < 0.001 * green.size:
        return np.full(3, 255, np.float32)
    counts = np.bincount(candidates[:, 1].astype(np.intp), minlength=256).astype(np.float64)
    commonest = int(np.argmax(ndimage.uniform_filter1d(counts, 5)))
    near = candidates[np.abs(candidates[:, 1] - commonest) <= 4]
    glass: Floats = near.mean(axis=0, dtype=np.float64).astype(np.float32)
    return glass


def _dark(colours: Floats) -> Map:
    """Dense nuclei, too dark to be very pink: green is absorbed most, and blue much less (black pen: all alike)."""
    red, green, blue = np.moveaxis(-np.log(np.maximum(colours, 1 / 255)), -1, 0)
    dark: Map = (green > 0.5) & (red < 0.97 * green) & (blue < 0.6 * green)
    return dark


def _clean(tissue: Map, pixel_mm2: float) -> Map:
    """Without specks, and with its lumens."""
    pieces, areas = _pieces(tissue)
    tissue = (areas * pixel_mm2 >= SPECK_MM2)[pieces] & tissue
    gaps, areas = _pieces(~tissue)
    beside_tissue = np.bincount(gaps[ndimage.binary_dilation(tissue)], minlength=len(areas))
    on_edge = np.bincount(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]), minlength=len(areas))
    inside = (on_edge <= MOST_OPEN * beside_tissue) & (on_edge <= MOST_FRAME * 2 * sum(tissue.shape))
    lumen = (areas * pixel_mm2 < LUMEN_MM2) & inside
    cleaned: Map = tissue | lumen[gaps]
    return cleaned


def _pieces(found: Map) -> tuple[Indices, Indices]:
    """The number of the connected piece that each pixel belongs to, 0 = none, and the pieces' areas in pixels."""
    pieces, _ = ndimage.label(found)
    return pieces, np.bincount(pieces.ravel())


def _look_up(first: int, past: int, map_px: float, map_length: int) -> Indices:
    """The map pixel that holds the centre of each of the scale's pixels along an axis."""
    centres = np.arange(first, past) + 0.5
    return np.minimum((centres * map_px).astype(np.intp), map_length - 1)


def _spans(length: int, cell_px: int, map_px: float, map_length: int) -> tuple[Indices, Indices]:
    """First and past-the-last map pixel of each cell along an axis, with one more on each side.

    map_px: pixels of the map a pixel of the scale.
    """
    edges = np.arange(ceil_div(length, cell_px) + 1) * cell_px * map_px
    first = np.clip(np.floor(edges[:-1]).astype(np.intp) - 1, 0, map_length - 1)
    past = np.clip(np.ceil(edges[1:]).astype(np.intp) + 1, 1, map_length)
    return first, past

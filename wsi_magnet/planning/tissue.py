"""Tissue map: the parts of a slide to look at, found in one read of a low level.

Two questions have two answers. Where the networks look is decided here, generously: stained tissue, its lumens, and
gaps that tissue surrounds or that an edge cuts. Which pixels there are glass is decided at the mask's own scale: by the
networks, where a bundle has a background class, else by colour (`TissueMap.on_tissue`).

Haematoxylin and eosin both transmit red and blue better than green. Glass, dust, shadows and black pen are grey, green
pen is green, and blue pen transmits green better than red. So the distance of green below both others separates tissue
from all of them, whatever its brightness.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
"""bool (rows, columns), True for tissue."""
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

MAP_MPP = 8.0
"""Microns per pixel of the map: a needle biopsy is 60 pixels wide, a gland 10 to 50."""

MOST_MAP_PX = 2048
"""Most pixels of the map along an axis, which bounds its memory; for slides above 16 mm its pixels are larger."""

BLOCK_PX = 512
"""Side of the blocks of the map in which the slide is read."""

WHITE = 255
"""Grey of regions that cannot be read, as of glass."""

LEAST_PINK, MOST_PINK = 0.03, 0.07
"""Limits of the threshold on `pink`: noise on bare glass stays under 0.02, pale stroma begins at 0.05. Otsu's threshold
alone divides the tissue of a slide without glass, and the noise of a slide without tissue."""

PALE_PINK = 0.04
"""Least `pink` of a stained pixel, half way between noise and pale stroma."""

SPECK_MM2 = 0.005
"""Least area of a piece of tissue, a disc of 80 microns; smaller ones are dirt."""

LUMEN_MM2 = 1.0
"""Most area of a gap within tissue that counts as tissue: the lumen of a cystic gland is 1 mm across, that of a bowel
more."""

MOST_OPEN = 1.5
"""Most length of a gap's border with the slide's edge, as a multiple of its border with tissue: a lumen at the edge of
a tile is below it, the glass round a small section above."""

SMALL_MM2, MOST_OPEN_SMALL = 0.2, 2.5
"""The same for gaps below that area, such as a lumen in the corner of a tile, of which two edges cut off most."""

MOST_FRAME = 1 / 3
"""Most share of the slide's whole edge along which a gap may lie: lumens take a quarter in a tile of 1.4 mm cut out of
cystic glands; the glass beside the ragged end of a biopsy, whose border with tissue is long, takes half or more."""

FIELD_UM = 1000.0
"""Longest side below which a canvas is a field cut out of a slide: a gap in it is a lumen, however much of the field it
takes, unless tissue bulges into it. In half a millimetre of a cystic gland a lumen takes three quarters."""

LEAST_GLASS_MM2 = 0.1
"""Least area of a gap of a field that may be glass."""

MOST_BULGE, LEAST_BAY = 0.4, 0.2
"""Most of the field's tissue in the convex hull of a lumen, and least of a gap in the convex hull of the tissue from
which it is a bay, and so a lumen, in any case. A lumen is convex and lies in bays of tissue; at the edge of a section
it is the other way round."""

THIN_PX = 4
"""Mean width up to which a gap beside an area that was not scanned is the blurred rim of tissue and no lumen."""

LOOK_OPEN, LOOK_EDGE = 3.0, 1 / 2
"""`MOST_OPEN` and `MOST_FRAME` of gaps that are looked at without counting as tissue."""

LOOK_UM = 250.0
"""Distance from tissue up to which the networks decide what is background. Beyond it lie pen, dust and labels, which
they may never have seen."""

_TISSUE_GREY, _GAP_GREY, _NOT_SCANNED_GREY = 255, 128, 64
"""Values in the saved map."""

HALF_COVERED = 0.45
"""Least darkness of a tissue pixel, as a part of the darkest within two pixels: at the border of tissue a pixel shows
some of both, and is as much darker than glass as tissue covers it."""

NEARLY_BLACK, BRIGHT, LEAST_BRIGHT = 40, 120, 0.01
"""Most of the brightest channel of a dark pixel, least of the darkest channel of a bright one, and the share of bright
pixels from which a slide is bright field: even a slide full of dense nuclei has as many."""


@dataclass(frozen=True, slots=True)
class TissueReference:
    """Values that a saved tissue map lacks; small, and sent to workers with the run."""

    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of the map."""
    glass: tuple[float, float, float]
    """RGB of the slide's bare glass."""


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Map of the tissue on a slide's canvas."""

    tissue: Map
    """The map; its pixel (0, 0) lies at the canvas's corner."""
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of the map."""
    threshold: float
    """Least value of `pink` that counted as tissue; 0 for a map that was loaded."""
    gaps: Map | None = None
    """Glass that is looked at because tissue surrounds it or an edge cuts it: the networks may know it for a lumen."""
    glass: tuple[float, float, float] = (255.0, 255.0, 255.0)
    """RGB of the slide's bare glass."""
    not_scanned: Map | None = None
    """Areas at the slide's edge that the scanner left out."""
    dark_share: float = 0.0
    """Share of the canvas that is nearly black, on slides without bright glass; 0 for others and for a loaded map."""

    @property
    def reference(self) -> TissueReference:
        """All but the pixels."""
        return TissueReference(self.downsample_xy, self.glass)

    @cached_property
    def looked_at(self) -> Map:
        """Bool, as `tissue`: tissue and gaps."""
        return self.tissue if self.gaps is None else self.tissue | self.gaps

    @cached_property
    def bare(self) -> Map:
        """Bool, as `tissue`: glass, without areas that were not scanned."""
        return ~self.tissue if self.not_scanned is None else ~(self.tissue | self.not_scanned)

    def replaced(self, tissue: Map) -> TissueMap:
        """The map with other tissue, of the same shape, and without gaps or areas that were not scanned."""
        return replace(self, tissue=tissue, gaps=None, not_scanned=None, threshold=0.0)

    @property
    def share(self) -> float:
        """Share of the canvas that is tissue."""
        return float(self.tissue.mean())

    def cells(self, scale: Scale, cell_px: int) -> Map:
        """Bool (rows, columns): cells, `cell_px` pixels of a scale wide, that hold tissue or gaps or lie next to it."""
        looked_at = self.looked_at
        x, y = (own / of_map for own, of_map in zip(scale.downsample_xy, self.downsample_xy, strict=True))
        top, bottom = _spans(scale.size.height, cell_px, y, looked_at.shape[0])
        left, right = _spans(scale.size.width, cell_px, x, looked_at.shape[1])
        # counts[i, j]: the pixels above row i and left of column j, so that any rectangle's are four look-ups.
        counts = np.pad(looked_at.astype(np.int32).cumsum(0, np.int32).cumsum(1, np.int32), ((1, 0), (1, 0)))
        below = counts[np.ix_(bottom, right)] - counts[np.ix_(bottom, left)]
        found: Map = below > counts[np.ix_(top, right)] - counts[np.ix_(top, left)]
        return found

    def around(self, scale: Scale, box: Box) -> Map:
        """Bool (box height, box width): True for pixels of a scale in tissue or within a map pixel of it."""
        return _within(self.tissue, 1, self._pixels(scale, box))

    def near(self, scale: Scale, box: Box) -> Map:
        """Bool (box height, box width): True for pixels of a scale within `LOOK_UM` of tissue or a gap."""
        map_mpp = scale.mpp * self.downsample_xy[0] / scale.downsample_xy[0]
        return _within(self.looked_at, max(1, round(LOOK_UM / map_mpp)), self._pixels(scale, box))

    def on_tissue(self, scale: Scale, box: Box, image: Image | None) -> Map:
        """Bool (box height, box width): True for pixels of a scale in tissue, by the map and the colours of `image`.

        The border of the map is a staircase, so within two map pixels of it colour decides. image: uint8 (rows,
        columns, 3) RGB, at least as large as the box, from its corner; None leaves all to the map, with a margin of one
        of its pixels.
        """
        inside = self.around(scale, box)
        if image is None or not inside.any():
            return inside
        pixels, image = self._pixels(scale, box), image[: box.size.height, : box.size.width]
        border = _within(self.bare, 2, pixels)
        if border.any():
            inside &= ~border | _is_covered(image, self.glass)
        if self.not_scanned is not None:
            # The edge of a scan is sharp, and cuts through lumens.
            edge = _within(self.not_scanned, 1, pixels)
            if edge.any():
                inside &= ~(edge & _is_uniform(image))
        return inside

    def _pixels(self, scale: Scale, box: Box) -> tuple[Indices, Indices]:
        """Rows and columns of the map under the pixels of a box."""
        rows = _look_up(box.y0, box.y1, scale.downsample_xy[1] / self.downsample_xy[1], self.tissue.shape[0])
        cols = _look_up(box.x0, box.x1, scale.downsample_xy[0] / self.downsample_xy[0], self.tissue.shape[1])
        return rows, cols

    def save(self, path: Location) -> None:
        """Write the map as a grey PNG: tissue white, gaps and areas that were not scanned in two greys."""
        grey = np.zeros(self.tissue.shape, np.uint8)
        for found, value in (
            (self.not_scanned, _NOT_SCANNED_GREY),
            (self.gaps, _GAP_GREY),
            (self.tissue, _TISSUE_GREY),
        ):
            if found is not None:
                grey[found] = value
        picture = io.BytesIO()
        Pillow.fromarray(grey).save(picture, format="PNG")
        replace_bytes(path, picture.getvalue())

    @staticmethod
    def load(path: Location, reference: TissueReference) -> TissueMap:
        """Read a saved map; its threshold is not kept."""
        with Pillow.open(io.BytesIO(read_bytes(path))) as picture:
            grey = np.asarray(picture.convert("L"))
        return TissueMap(
            grey == _TISSUE_GREY,
            reference.downsample_xy,
            0.0,
            grey == _GAP_GREY,
            reference.glass,
            grey == _NOT_SCANNED_GREY,
        )

    @staticmethod
    def everything(canvas: Size, dark_share: float = 0.0) -> TissueMap:
        """Map of a canvas that is to be analysed as a whole."""
        downsample_xy = (float(canvas.width), float(canvas.height))
        return TissueMap(np.ones((1, 1), np.bool_), downsample_xy, threshold=0.0, dark_share=dark_share)


def find_tissue(reader: SlideReader, *, canvas: Size, mpp_xy: tuple[float, float]) -> TissueMap:
    """Find the H&E-stained tissue of a slide.

    canvas: its extent in level-0 pixels. mpp_xy: microns per level-0 pixel. Regions that cannot be read count as
    tissue: other levels of the slide may be readable there.
    """
    scale = map_scale(canvas, mpp_xy)
    thumbnail, unreadable = _thumbnail(reader, scale)
    smooth = _smooth(thumbnail)
    glass = _glass(smooth)
    colours = _relative(smooth, glass)
    score = pink(colours)
    threshold = float(np.clip(threshold_otsu(score), LEAST_PINK, MOST_PINK))
    stained = (score >= threshold) | _dark(colours)
    not_scanned = _not_scanned(thumbnail)
    longest_um = max(canvas.width * mpp_xy[0], canvas.height * mpp_xy[1])
    tissue, gaps = _with_gaps(stained, not_scanned, (scale.mpp / 1000) ** 2, is_field=longest_um < FIELD_UM)
    red, green, blue = (float(channel) for channel in glass)
    return TissueMap(
        tissue | unreadable,
        scale.downsample_xy,
        threshold,
        gaps & ~unreadable,
        (red, green, blue),
        not_scanned & ~tissue & ~unreadable,
        dark_share(thumbnail),
    )


def darkness(reader: SlideReader, *, canvas: Size, mpp_xy: tuple[float, float]) -> float:
    """`TissueMap.dark_share` of a slide whose tissue is not searched for; the arguments are those of `find_tissue`."""
    return dark_share(_thumbnail(reader, map_scale(canvas, mpp_xy))[0])


def _thumbnail(reader: SlideReader, scale: Scale) -> tuple[Image, Map]:
    """The canvas in one read of a low level, with the pixels that cannot be read."""
    return read_whole(reader, scale, block_px=BLOCK_PX, unreadable_grey=WHITE)


def map_scale(canvas: Size, mpp_xy: tuple[float, float]) -> Scale:
    """Scale of a slide's tissue map."""
    longest_um = max(canvas.width * mpp_xy[0], canvas.height * mpp_xy[1])
    mpp = max(MAP_MPP, longest_um / MOST_MAP_PX, *mpp_xy)
    downsample_xy = mpp / mpp_xy[0], mpp / mpp_xy[1]
    size = Size(max(1, round(canvas.width / downsample_xy[0])), max(1, round(canvas.height / downsample_xy[1])))
    return Scale(0, mpp, downsample_xy, size)


def dark_share(thumbnail: Image) -> float:
    """Share of a slide that is nearly black; 0 where some of it is bright, as in bright field, whose scans may lie on
    black.

    thumbnail: uint8 (rows, columns, 3) RGB.
    """
    if (thumbnail.min(axis=-1) > BRIGHT).mean() >= LEAST_BRIGHT:
        return 0.0
    return float((thumbnail.max(axis=-1) < NEARLY_BLACK).mean())


def is_stained(image: Image, glass: Sequence[float] | None = None) -> Map:
    """Pixels with H&E stain: bool (rows, columns).

    image: uint8 (rows, columns, 3) RGB. glass: RGB of bare glass; None finds it in the image.
    """
    smooth = _smooth(image)
    return _stained(smooth, _glass(smooth) if glass is None else np.asarray(glass, np.float32))


def _stained(smooth: Floats, glass: Floats) -> Map:
    colours = _relative(smooth, glass)
    return (pink(colours) >= PALE_PINK) | _dark(colours)


def _is_covered(image: Image, glass: Sequence[float]) -> Map:
    """Pixels at least half of which tissue covers, for the border of tissue: bool (rows, columns)."""
    smooth = _smooth(image)
    darker = np.float32(glass[1]) - smooth[..., 1]
    covered: Map = _stained(smooth, np.asarray(glass, np.float32)) & (
        darker >= HALF_COVERED * ndimage.maximum_filter(darker, 5)
    )
    return covered


def _is_uniform(image: Image) -> Map:
    """Pixels of the uniform white or black of areas that were not scanned."""
    uniform: Map = (image == 255).all(axis=-1) | (image == 0).all(axis=-1)
    return uniform


def pink(colours: Floats) -> Floats:
    """Distance of green below both red and blue: float32 (rows, columns), 0 on glass, 0.05 to 0.3 in H&E.

    colours: as `_relative` returns them.
    """
    score: Floats = np.minimum(colours[..., 0], colours[..., 2]) - colours[..., 1]
    return score


def _smooth(image: Image) -> Floats:
    smooth: Floats = ndimage.gaussian_filter(image.astype(np.float32), (1, 1, 0))
    return smooth


def _relative(smooth: Floats, glass: Floats) -> Floats:
    """Colours relative to the slide's own glass: float32 (rows, columns, 3) RGB in 0..1."""
    relative: Floats = np.minimum(smooth / glass, np.float32(1))
    return relative


def _glass(smooth: Floats) -> Floats:
    """Most frequent colour (R, G, B) among bright and nearly grey ones; white if these are less than a thousandth.

    Pure white is not glass but what the scanner left out, and would outnumber a tinted glass.
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
    """Dense nuclei, too dark to be pink: green is absorbed most, blue much less (black pen absorbs all alike)."""
    red, green, blue = np.moveaxis(-np.log(np.maximum(colours, 1 / 255)), -1, 0)
    dark: Map = (green > 0.5) & (red < 0.97 * green) & (blue < 0.6 * green)
    return dark


def _not_scanned(thumbnail: Image) -> Map:
    """Areas at the slide's edge that the scanner left out: uniformly white, or black."""
    areas, _ = ndimage.label(_is_uniform(thumbnail))
    at_edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    left_out: Map = np.isin(areas, at_edge[at_edge > 0])
    return left_out


def _with_gaps(stained: Map, left_out: Map, pixel_mm2: float, *, is_field: bool = False) -> tuple[Map, Map]:
    """Tissue without specks and with its lumens, and further gaps to look at.

    left_out: areas that were not scanned, whose edge cuts lumens as the slide's own does. is_field: True for a field
    cut out of a slide.
    """
    pieces, areas = _pieces(stained)
    tissue = (areas * pixel_mm2 >= SPECK_MM2)[pieces] & stained
    gaps, areas = _pieces(~tissue & ~left_out)
    count = len(areas)
    beside_tissue = np.bincount(gaps[ndimage.binary_dilation(tissue)], minlength=count)
    on_canvas_edge = np.bincount(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]), minlength=count)
    on_left_out = np.bincount(gaps[ndimage.binary_dilation(left_out)], minlength=count)
    on_edge, frame = on_canvas_edge + on_left_out, 2 * sum(tissue.shape)
    is_gap = areas > THIN_PX * on_left_out
    is_gap[0] = False
    most_open = np.where(areas * pixel_mm2 < SMALL_MM2, MOST_OPEN_SMALL, MOST_OPEN)
    enclosed = (on_edge <= most_open * beside_tissue) & (on_edge <= MOST_FRAME * frame)
    # The true size of a gap that an edge cuts is not known.
    lumen = is_gap & enclosed & ((areas * pixel_mm2 < LUMEN_MM2) | (on_edge > 0))
    if is_field and tissue.any():
        for number in np.flatnonzero(is_gap & ~lumen):
            small = areas[number] * pixel_mm2 < LEAST_GLASS_MM2
            lumen[number] = small or not _is_bulged_into(gaps == number, tissue)
    open_gap = (on_edge <= LOOK_OPEN * beside_tissue) & (on_edge <= LOOK_EDGE * frame)
    looked_at = is_gap & ((on_edge == 0) | open_gap)
    return tissue | lumen[gaps], (looked_at & ~lumen)[gaps]


def _is_bulged_into(gap: Map, tissue: Map) -> bool:
    """True for a gap into which tissue bulges, so that it is the glass beside a section."""
    bulge, bay = _convex_hull(gap) & tissue, _convex_hull(tissue) & gap
    return bool(bulge.sum() > MOST_BULGE * tissue.sum() and bay.sum() < LEAST_BAY * gap.sum())


def _convex_hull(found: Map) -> Map:
    """Pixels in the convex hull of the found ones, as far as 64 directions tell."""
    points, grid = np.argwhere(found), np.indices(found.shape)
    inside = np.ones(found.shape, np.bool_)
    for angle in np.linspace(0, 2 * np.pi, 64, endpoint=False):
        y, x = np.sin(angle), np.cos(angle)
        inside &= grid[0] * y + grid[1] * x <= (points @ (y, x)).max() + 1e-9
    return inside


def _pieces(found: Map) -> tuple[Indices, Indices]:
    """Connected pieces: the number of each pixel's piece, 0 = none, and the areas by number, in pixels."""
    pieces, _ = ndimage.label(found)
    return pieces, np.bincount(pieces.ravel())


def _within(found: Map, distance_px: int, pixels: tuple[Indices, Indices]) -> Map:
    """Bool (rows, columns): map pixels, looked up, with a found one at most so many rows and columns away."""
    rows, cols = pixels
    # Only the map pixels under the box and their neighbours are dilated, not the whole map for every box.
    top, left = max(rows[0] - distance_px, 0), max(cols[0] - distance_px, 0)
    part = found[top : rows[-1] + distance_px + 1, left : cols[-1] + distance_px + 1]
    grown = ndimage.maximum_filter(part, 2 * distance_px + 1, mode="constant", cval=False)
    within: Map = grown[np.ix_(rows - top, cols - left)]
    return within


def _look_up(first: int, past: int, map_px: float, map_length: int) -> Indices:
    """Index of the map pixel under the centre of each of the scale's pixels, along an axis."""
    centres = np.arange(first, past) + 0.5
    return np.minimum((centres * map_px).astype(np.intp), map_length - 1)


def _spans(length: int, cell_px: int, map_px: float, map_length: int) -> tuple[Indices, Indices]:
    """First and past-the-last map pixel of each cell along an axis, with a margin of one.

    map_px: map pixels per pixel of the scale.
    """
    edges = np.arange(ceil_div(length, cell_px) + 1) * cell_px * map_px
    first = np.clip(np.floor(edges[:-1]).astype(np.intp) - 1, 0, map_length - 1)
    past = np.clip(np.ceil(edges[1:]).astype(np.intp) + 1, 1, map_length)
    return first, past

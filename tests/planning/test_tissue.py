"""Tissue: H&E is found and nothing else, and every cell that holds some is listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides_made import GLASS_RGB, glass, stained, write_scn, write_stained_slide
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.planning.tissue import MAP_MPP, MOST_MAP_PX, TissueMap, find_tissue, is_stained, map_scale
from wsi_magnet.scales import Scale, build_ladder
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import Image, Level, SlideInfo

SIDE = 300
"""Side of the pictures: 2.4 mm of a slide at the mpp of the map."""

MIDDLE = (slice(100, 200), slice(100, 200))

Drawing = npt.NDArray[np.float64]


class Seen:
    """A slide whose level 0 is a picture at the map's mpp, parts of which may be unreadable."""

    def __init__(self, image: npt.NDArray[np.number], unreadable: Box | None = None) -> None:
        self._image = np.clip(image, 0, 255).astype(np.uint8)
        self._unreadable = unreadable
        size = Size(image.shape[1], image.shape[0])
        mpp_xy = MAP_MPP, MAP_MPP
        self.info = SlideInfo("seen", "test", "test", (Level(size, (1.0, 1.0)),), Box.of(size), mpp_xy, "test", "0")

    def read_level(self, level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        """See `SlideReader.read_level`."""
        if self._unreadable and not box.intersect(self._unreadable).empty:
            raise SlideReadError("torn")
        return self._image[box.slices_yx].copy(), (float(box.x0), float(box.y0))

    def close(self) -> None:
        """Nothing to release."""


def found(image: npt.NDArray[np.number], unreadable: Box | None = None) -> npt.NDArray[np.bool_]:
    reader = Seen(image, unreadable)
    tissue = find_tissue(reader, canvas=reader.info.canvas, mpp_xy=reader.info.require_mpp()).tissue
    assert tissue.shape == image.shape[:2]
    return tissue


def blank() -> Drawing:
    return glass(Size(SIDE, SIDE)).astype(np.float64)


def with_square(colour: tuple[float, float, float]) -> Drawing:
    """Glass with a square of one colour, as noisy as the glass, in the middle."""
    image = blank()
    image[MIDDLE] += np.subtract(colour, GLASS_RGB)
    return image


def share_of_square(tissue: npt.NDArray[np.bool_]) -> float:
    outside = tissue.copy()
    outside[98:202, 98:202] = False
    assert not outside.any()
    return float(tissue[MIDDLE].mean())


@pytest.mark.parametrize(
    "colour",
    [
        pytest.param((224, 168, 196), id="stroma"),
        pytest.param((190, 130, 180), id="epithelium"),
        pytest.param((237, 222, 236), id="pale"),
        pytest.param((120, 80, 160), id="nuclei"),
        pytest.param((57, 51, 130), id="dense nuclei, blue"),
        pytest.param((170, 40, 70), id="blood"),
    ],
)
def test_stains_are_tissue(colour: tuple[int, int, int]) -> None:
    assert share_of_square(found(with_square(colour))) > 0.95


@pytest.mark.parametrize(
    "colour",
    [
        pytest.param((30, 140, 70), id="green pen"),
        pytest.param((40, 60, 180), id="blue pen"),
        pytest.param((90, 150, 220), id="faded blue pen"),
        pytest.param((25, 24, 28), id="black pen"),
        pytest.param((120, 118, 119), id="dust"),
        pytest.param((205, 203, 204), id="shadow"),
        pytest.param((230, 215, 150), id="yellowed mounting medium"),
        pytest.param((255, 255, 255), id="not scanned"),
    ],
)
def test_the_rest_of_a_glass_is_not(colour: tuple[int, int, int]) -> None:
    assert not found(with_square(colour)).any()


@pytest.mark.parametrize("noise", [0, 2, 8])
def test_an_empty_slide_has_none(noise: float) -> None:
    rng = np.random.default_rng(0)
    even = np.empty((SIDE, SIDE, 3))
    even[:] = GLASS_RGB
    assert not found(even + rng.normal(0, noise, even.shape)).any()


def test_uneven_light_is_not_tissue() -> None:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    assert not found(blank() * (1 - 0.15 * (x**2 + y**2))[..., None]).any()


@pytest.mark.parametrize("tint", [(228, 223, 229), (225, 214, 226), (240, 238, 225), (200, 198, 202)], ids=str)
def test_the_glass_may_be_tinted(tint: tuple[int, int, int]) -> None:
    """Tissue on it is found as on white, with or without parts that were not scanned."""
    image = with_square((224, 168, 196)) * np.divide(tint, GLASS_RGB)
    assert share_of_square(found(image)) > 0.95
    image[:40] = 255
    assert share_of_square(found(image)) > 0.95


def test_tissue_may_fill_the_frame() -> None:
    """No glass to compare with, and lumens as bright as glass: a tile cut out of a section."""
    assert found(stained(Size(SIDE, SIDE))).mean() > 0.99
    assert found(np.full((SIDE, SIDE, 3), (224, 168, 196))).all()


def test_lumens_belong_to_tissue_and_glass_does_not() -> None:
    image = with_square((224, 168, 196))
    image[130:170, 130:170] = GLASS_RGB
    assert share_of_square(found(image)) > 0.95


def test_a_lumen_at_the_edge_belongs_to_tissue() -> None:
    image = np.full((SIDE, SIDE, 3), (224, 168, 196), np.float64)
    image[:60, 100:180] = GLASS_RGB
    assert found(image).all()


@pytest.mark.parametrize("empty", [255, 0])
def test_a_lumen_at_the_edge_of_an_empty_area_belongs_to_tissue(empty: int) -> None:
    """The corner of a mosaic that was not scanned cuts a lumen."""
    image = np.full((SIDE, SIDE, 3), (224, 168, 196), np.float64)
    image[60:120, 60:180] = GLASS_RGB
    image[:100, :100] = empty
    tissue = found(image)
    assert tissue[104:, 104:].all()
    assert tissue[60:120, 104:180].all()
    assert not tissue[:96, :96].any()


def test_a_rim_beside_an_empty_area_is_no_lumen() -> None:
    """The scanner saturates glass to white; what is not quite white round the tissue is its blurred rim."""
    image = np.full((SIDE, SIDE, 3), 255.0)
    image[97:203, 97:203] = 246
    image[MIDDLE] = (224, 168, 196)
    tissue = found(image)
    assert tissue[MIDDLE].mean() > 0.99
    assert tissue.sum() < 1.1 * 100**2


def test_a_wide_lumen_is_looked_at_without_being_tissue() -> None:
    """A ring of bowel 1.4 mm wide, with 1.3 mm² of glass in it."""
    image = with_square((224, 168, 196))
    image[20:280, 20:280] = (224, 168, 196)
    image[80:225, 80:225] = GLASS_RGB
    reader = Seen(image)
    mapped = find_tissue(reader, canvas=reader.info.canvas, mpp_xy=reader.info.require_mpp())
    assert not mapped.tissue[84:221, 84:221].any()
    assert mapped.looked_at[20:280, 20:280].mean() > 0.99
    assert not mapped.looked_at[:16].any()
    scale = Scale(0, MAP_MPP, (1.0, 1.0), Size(SIDE, SIDE))
    assert mapped.cells(scale, 50)[2, 2]
    assert mapped.near(scale, Box(100, 100, 200, 200)).all()
    assert not mapped.around(scale, Box(100, 100, 200, 200)).any()


def test_glass_round_a_small_section_is_no_lumen() -> None:
    """The whole slide is under a square millimetre."""
    image = with_square((224, 168, 196))[50:170, 50:170]
    tissue = found(image)
    assert tissue[52:, 52:].mean() > 0.95
    assert not tissue[:48].any()


def test_glass_beside_a_corner_of_ragged_tissue_is_no_lumen() -> None:
    """A crop of 0.55 x 0.7 mm of the edge of a slide: the border between tissue and glass is longer than the frame."""
    image = blank()[:87, :69]
    rows, cols = np.mgrid[:87, :69]
    teeth = 34 + 12 * ((rows // 3) % 2)
    corner = (rows < 60) & (cols < teeth)
    image[corner] += np.subtract((224, 168, 196), GLASS_RGB)
    tissue = found(image)
    assert tissue[corner].mean() > 0.9
    assert not tissue[:, 50:].any()
    assert not tissue[63:].any()


@pytest.mark.parametrize("centre", [(0, 0), (30, 40), (60, 0), (40, 40)])
def test_a_lumen_may_fill_most_of_a_field_cut_out_of_tissue(centre: tuple[int, int]) -> None:
    """A field of 0.64 mm, two thirds to three quarters of it the lumen of a cystic gland that its edges cut."""
    image = np.full((80, 80, 3), (224.0, 168.0, 196.0))
    rows, cols = np.mgrid[:80, :80]
    white = np.hypot(rows - centre[0], cols - centre[1]) < 44 if centre != (0, 0) else np.hypot(rows, cols) < 76
    image[white] = GLASS_RGB
    assert 0.3 < white.mean() < 0.95
    assert found(image).all()


def test_specks_are_dirt() -> None:
    image = blank()
    image[50:56, 50:56] = image[200:204, 100:110] = (224, 120, 180)
    assert not found(image).any()


def test_what_cannot_be_read_may_be_tissue() -> None:
    tissue = found(blank(), Box(120, 120, 125, 125))
    assert tissue[118:127, 118:127].all()
    assert tissue.mean() < 0.25


def test_the_map_is_bounded() -> None:
    for canvas, mpp in ((Size(200_000, 100_000), 0.25), (Size(2220, 2967), 0.499), (Size(1152, 700), 28.969)):
        scale = map_scale(canvas, (mpp, mpp))
        assert scale.mpp >= max(MAP_MPP, mpp)
        assert max(scale.size.wh) <= MOST_MAP_PX
        assert scale.size.width * scale.downsample_xy[0] == pytest.approx(canvas.width, rel=0.01)


def covers(tissue: TissueMap, scale: Scale, cell_px: int, row: int, col: int) -> bool:
    """True if a cell holds tissue or lies a map pixel beside it, pixel by pixel."""
    x, y = (own / of_map for own, of_map in zip(scale.downsample_xy, tissue.downsample_xy, strict=True))
    for r, c in np.argwhere(tissue.tissue):
        beside_y = row * cell_px * y < r + 2 and r - 1 < (row + 1) * cell_px * y
        beside_x = col * cell_px * x < c + 2 and c - 1 < (col + 1) * cell_px * x
        if beside_y and beside_x:
            return True
    return False


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=3),
    st.tuples(st.floats(2, 7), st.floats(2, 7)),
    st.integers(4, 20),
)
def test_cells(
    shape: tuple[int, int], places: list[tuple[int, int]], downsample_xy: tuple[float, float], cell_px: int
) -> None:
    pixels = np.zeros(shape, np.bool_)
    for row, col in places:
        pixels[row % shape[0], col % shape[1]] = True
    tissue = TissueMap(pixels, (16.0, 12.0), 0.0)
    size = Size(
        max(1, round(shape[1] * 16.0 / downsample_xy[0])),
        max(1, round(shape[0] * 12.0 / downsample_xy[1])),
    )
    scale = Scale(0, 1.0, downsample_xy, size)
    cells = tissue.cells(scale, cell_px)
    assert cells.shape == (-(-size.height // cell_px), -(-size.width // cell_px))
    for row, col in np.ndindex(cells.shape):
        assert cells[row, col] == covers(tissue, scale, cell_px, row, col), (row, col)


def test_everything_is_everything() -> None:
    canvas = Size(5000, 3001)
    everything = TissueMap.everything(canvas)
    assert everything.share == 1.0
    for scale in build_ladder((8.0, 4.0, 2.0, 1.0), (0.25, 0.25), canvas).scales:
        cells = everything.cells(scale, 64)
        assert cells.all()
        assert cells.shape == (-(-scale.size.height // 64), -(-scale.size.width // 64))


def test_a_pyramid_and_its_level_0_show_the_same_tissue(tmp_path: Path) -> None:
    size = Size(6000, 4500)
    maps = []
    for levels in (1, 6):
        reader = open_slide(write_stained_slide(tmp_path / f"{levels}.tif", size, tissue_share=0.3, levels=levels))
        maps.append(find_tissue(reader, canvas=reader.info.canvas, mpp_xy=reader.info.require_mpp()))
    assert (maps[0].tissue ^ maps[1].tissue).mean() < 0.01
    assert 0.2 < maps[0].share < 0.45


@pytest.mark.slow
def test_bounds_are_the_maps_origin(tmp_path: Path) -> None:
    image = np.concatenate([stained(Size(2400, 2000)), glass(Size(2400, 2000))])
    reader = open_slide(write_scn(tmp_path / "a.scn", image, whole=Size(5000, 6000), corner_xy=(900, 1100)))
    tissue = find_tissue(reader, canvas=reader.info.canvas, mpp_xy=(0.25, 0.25)).tissue
    half = len(tissue) // 2
    assert tissue[: half - 2].all()
    assert not tissue[half + 2 :].any()


REAL = {
    "slides/CMU-1-Small-Region.svs": (0.34, 0.40),
    "slides/BS9_HE2.tif": (0.21, 0.28),
    "slides/tiff_with_asap_xml/example.tif": (0.16, 0.23),
    "slides/camelyon_low.dcm": (0.22, 0.28),
    "gleason_strip/stripA_test100-104_assumed-mpp0.5.tif": (0.99, 1.0),
    "rings_mosaics/P1_D5_3_12_tiles4-5-6_no-mpp.tif": (0.80, 0.84),
    "rings_mosaics/P1_D5_9_13_tiles4-6_no-mpp.tif": (0.98, 1.0),
    "rings_glands/img/P1_D5_3_12_5.png": (0.9, 1.0),
    "rings_glands/img/P1_D5_3_12_6.png": (0.99, 1.0),
    "rings_glands/img/P1_D5_14_10_1.png": (0.99, 1.0),
    "rings_tumour/img/P3_A8_7_11_1.png": (0.99, 1.0),
    "gleason_tiles/img/test104.jpg": (0.99, 1.0),
}
"""Least and most share of tissue, estimated by eye on an overlay."""


@pytest.mark.parametrize("name", REAL)
def test_real_slides(test_data: Path, name: str) -> None:
    reader = open_slide(test_data / name)
    mpp_xy = reader.info.mpp_xy or ((0.93, 0.93) if "rings" in name else (0.5, 0.5))
    least, most = REAL[name]
    assert least <= find_tissue(reader, canvas=reader.info.canvas, mpp_xy=mpp_xy).share <= most


def test_pixels_by_their_slow_twin(tmp_path: Path) -> None:
    """Each pixel of a scale looks up the map pixel under its centre, and the ones round it."""
    rng = np.random.default_rng(0)
    drawn = rng.random((9, 11))
    tissue = TissueMap(drawn < 0.1, (32.0, 30.0), 0.05, drawn > 0.93, (240.0, 238.0, 241.0))
    tissue.save(tmp_path / "tissue.png")
    tissue = TissueMap.load(tmp_path / "tissue.png", tissue.reference)
    assert (tissue.looked_at == ((drawn < 0.1) | (drawn > 0.93))).all()
    scale = Scale(0, 20.0, (3.9, 4.1), Size(90, 65))
    far = 2  # LOOK_UM in pixels of the map, which are 164 µm wide
    for box in (scale.grid, Box(13, 22, 40, 31), Box(88, 60, 90, 65)):
        around, near = tissue.around(scale, box), tissue.near(scale, box)
        image = np.full((*box.size.hw, 3), 240, np.uint8)  # glass: only what is far from the border is tissue
        inner = tissue.on_tissue(scale, box, image)
        assert around.shape == near.shape == inner.shape == box.size.hw
        assert (tissue.on_tissue(scale, box, None) == around).all()
        for y in range(box.y0, box.y1):
            for x in range(box.x0, box.x1):
                row, col = min(int((y + 0.5) * 4.1 / 30), 8), min(int((x + 0.5) * 3.9 / 32), 10)
                place = y - box.y0, x - box.x0
                assert around[place] == neighbours(tissue.tissue, row, col, 1).any()
                assert near[place] == neighbours(tissue.looked_at, row, col, far).any()
                assert inner[place] == (neighbours(tissue.tissue, row, col, 2).all() and around[place])


def neighbours(found: npt.NDArray[np.bool_], row: int, col: int, distance: int) -> npt.NDArray[np.bool_]:
    return found[max(row - distance, 0) : row + distance + 1, max(col - distance, 0) : col + distance + 1]


def test_stained_pixels_at_any_scale() -> None:
    image = np.full((64, 64, 3), (240, 238, 241), np.uint8)
    image[:, 20:40], image[:, 50:] = (200, 140, 180), (110, 109, 112)
    stained_pixels = is_stained(image, (240.0, 238.0, 241.0))
    assert stained_pixels[:, 22:38].all()
    assert not stained_pixels[:, :18].any()
    assert not stained_pixels[:, 42:].any()
    assert (is_stained(image) == stained_pixels).mean() > 0.95

"""ASAP's and ImageScope's XML: frames, classes, holes, and documents that mean harm."""

from __future__ import annotations

from math import cos, pi, sin
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.made import (
    ALL,
    GLAND,
    STROMA,
    asap,
    asap_annotation,
    imagescope,
    imagescope_region,
    opened,
    read,
    slide,
    square,
)
from wsi_magnet.annotations.types import Sets
from wsi_magnet.annotations.xml import parse_asap, parse_imagescope, parse_xml
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box

INFO = slide(40, 30)
SQUARE = square(5, 5, 15, 15)


def read_text(folder: Path, text: str, coding: str = "") -> Sets:
    path = folder / "a.xml"
    path.write_text(text)
    return read(path, INFO, coding)


def asap_labels(*annotations: str) -> list[str]:
    return [drawn.label for drawn in parse_asap(parse_xml(asap(*annotations).encode()))]


def imagescope_labels(text: str) -> list[str]:
    return [drawn.label for drawn in parse_imagescope(parse_xml(text.encode()))]


# ---- ASAP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Polygon", "Spline", "Rectangle"])
def test_asap_regions_with_decimal_commas(tmp_path: Path, kind: str) -> None:
    ring = [[x + 0.25, y + 0.25] for x, y in SQUARE[:-1]]
    expected = np.full((30, 40), ALL)
    expected[5:15, 5:15] = STROMA
    assert np.array_equal(read_text(tmp_path, asap(asap_annotation(ring, kind=kind))), expected)


@pytest.mark.parametrize(
    ("group", "name", "label"),
    [("Tumor", "Annotation 3", "Tumor"), ("None", "gland", "gland"), ("None", "Annotation 3", "unclassified")],
)
def test_asaps_class_is_the_group_or_a_name_that_somebody_gave(group: str, name: str, label: str) -> None:
    assert asap_labels(asap_annotation(SQUARE, group=group, name=name)) == [label]


def test_asaps_points_come_in_their_order() -> None:
    text = asap(asap_annotation(SQUARE[:-1])).replace('Order="0"', 'Order="9"')
    assert parse_asap(parse_xml(text.encode()))[0].region.area == 100


@pytest.mark.parametrize("kind", ["Dot", "PointSet", "Measurement"])
def test_asaps_dots_are_no_regions(kind: str) -> None:
    assert asap_labels(asap_annotation([[1, 1]], kind=kind)) == []


@pytest.mark.parametrize("far", ["nan", "1e308"])
def test_an_ellipse_of_no_pixels_is_refused(tmp_path: Path, far: str) -> None:
    text = imagescope(imagescope_region(SQUARE[:3], kind=2)).replace('X="15"', f'X="{far}"')
    with pytest.raises(AnnotationError, match="not finite, or beyond"):
        read_text(tmp_path, text)


def test_a_kind_that_asap_does_not_have_is_refused() -> None:
    with pytest.raises(AnnotationError, match="annotation 1 'a': unknown type 'Cloud'"):
        asap_labels(asap_annotation(SQUARE, kind="Cloud"))


def test_xml_counts_from_level_0_and_not_from_the_canvas(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(asap(asap_annotation(SQUARE)))
    sets = read(path, slide(40, 30, bounds=Box(5, 10, 35, 30)))
    expected = np.full((20, 30), ALL)
    expected[:5, :10] = STROMA
    assert np.array_equal(sets, expected)


def test_a_real_file_of_asap_fills_its_area(test_data: Path) -> None:
    (path,) = (test_data / "slides" / "tiff_with_asap_xml").glob("*.xml")
    total = sum(drawn.region.area for drawn in parse_asap(parse_xml(path.read_bytes())))
    sets = read(path, slide(10_000, 10_000), "*=stroma", downsample=2.0)
    assert (sets == STROMA).sum() * 4 == pytest.approx(total, rel=0.05)


# ---- ImageScope --------------------------------------------------------------------------------------------------


def test_a_negative_region_is_a_hole_in_its_layer(tmp_path: Path) -> None:
    hole = imagescope_region(square(8, 8, 12, 12), negative=True)
    expected = np.full((30, 40), ALL)
    expected[5:15, 5:15] = STROMA
    expected[8:12, 8:12] = ALL
    assert np.array_equal(read_text(tmp_path, imagescope(hole, imagescope_region(SQUARE))), expected)


@pytest.mark.parametrize("corners", [SQUARE[:-1], [SQUARE[0], SQUARE[2]]])
def test_an_ellipse_lies_in_the_box_of_its_points(tmp_path: Path, corners: list[list[float]]) -> None:
    sets = read_text(tmp_path, imagescope(imagescope_region(corners, kind=2)))
    y, x = np.mgrid[0:30, 0:40] + 0.5
    assert np.array_equal(sets == STROMA, (x - 10) ** 2 + (y - 10) ** 2 < 25)


@pytest.mark.parametrize("corners", [SQUARE[:-1], SQUARE, [SQUARE[0], SQUARE[2]]])
def test_a_rectangle_by_two_corners_or_by_all(tmp_path: Path, corners: list[list[float]]) -> None:
    assert (read_text(tmp_path, imagescope(imagescope_region(corners, kind=1))) == STROMA).sum() == 100


@pytest.mark.parametrize(
    ("name", "description", "text", "label"),
    [
        ("Tumor", "stroma", "gland", "Tumor"),
        ("", "stroma", "gland", "stroma"),
        (" ", "", "gland", "gland"),
        ("", "", "", "unclassified"),
    ],
)
def test_imagescopes_class_is_the_first_name_that_is_there(name: str, description: str, text: str, label: str) -> None:
    region = imagescope_region(SQUARE, text=text)
    assert imagescope_labels(imagescope(region, name=name, description=description)) == [label]


def arc(share: float) -> list[list[float]]:
    """That share of a circle, in a hundred steps."""
    return [[20 + 9 * cos(2 * pi * share * i / 100), 15 + 9 * sin(2 * pi * share * i / 100)] for i in range(101)]


def test_a_freehand_contour_that_does_not_come_back_is_refused() -> None:
    with pytest.raises(AnnotationError, match="region 1 'stroma': unclosed contour, its ends 50% of its length apart"):
        imagescope_labels(imagescope(imagescope_region(arc(0.6))))


@pytest.mark.parametrize("ring", [arc(0.97), SQUARE[:-1]], ids=["nearly closed", "a polygon's corners"])
def test_contours_whose_last_edge_is_left_out_are_closed(ring: list[list[float]]) -> None:
    assert imagescope_labels(imagescope(imagescope_region(ring))) == ["stroma"]


@pytest.mark.parametrize("kind", [3, 4, 5])
def test_arrows_and_rulers_are_no_regions(kind: int) -> None:
    assert imagescope_labels(imagescope(imagescope_region([[1, 1], [2, 2]], kind=kind))) == []


def test_an_unclosed_contour_is_found_in_a_real_file(test_data: Path) -> None:
    path = test_data / "annotations" / "imagescope" / "CMU-1.xml"
    with pytest.raises(AnnotationError, match="region 4 'Fibroblast': unclosed contour, its ends 14%"):
        parse_imagescope(parse_xml(path.read_bytes()))


# ---- any XML -----------------------------------------------------------------------------------------------------

BOMB = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "subset",
    [f'[<!ENTITY a0 "lol">{BOMB}]', '[<!ENTITY a9 SYSTEM "file:///etc/hostname">]', 'SYSTEM "http://localhost/a.dtd"'],
    ids=["bomb", "file", "net"],
)
def test_a_document_type_is_refused_at_once(tmp_path: Path, subset: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f"<?xml version='1.0'?><!DOCTYPE Annotations {subset}><Annotations>&a9;</Annotations>")
    with pytest.raises(AnnotationError, match="declares a document type"):
        opened(path, INFO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Annotations><Annotation>", "not XML, or truncated"),
        ("<?xml version='1.0' encoding='nowhere'?><a/>", "not XML"),
        ("<html/>", "XML of an unknown kind"),
        (asap(asap_annotation(SQUARE)).replace('X="5"', 'X="five"'), "without numbers X and Y"),
        (asap(asap_annotation(SQUARE)).replace('X="5"', 'X="nan"'), "not finite"),
        (asap(asap_annotation(SQUARE)).replace('X="5"', ""), "without numbers X and Y"),
        (asap(asap_annotation(SQUARE[:2])), "2 different points"),
    ],
)
def test_documents_that_cannot_be_read_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"a\.xml: .*{message}"):
        read_text(tmp_path, text)


def test_sixteen_bit_text_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    text = "<?xml version='1.0' encoding='utf-16'?>" + imagescope(
        imagescope_region(SQUARE, text="x"), name="benign gland"
    )
    path.write_bytes(text.encode("utf-16"))
    assert read(path, INFO)[10, 10] == GLAND

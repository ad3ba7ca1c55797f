"""OME-XML for Bio-Formats: sizes, channels and labels, as in OME 2016-06."""

from __future__ import annotations

from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.runs import MadeRun, labels_of, run_serially
from wsi_magnet.config import Ngff, RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.events import Event
from wsi_magnet.results.ome_xml import NAMESPACE, Product, image_of, ome_xml

CLASSES = (LabelClass(1, "stroma", (150, 200, 150)), LabelClass(3, "Gleason 3", (255, 220, 60)))

ORDER = {
    "OME": ["Image", "StructuredAnnotations"],
    "Image": ["Pixels", "AnnotationRef"],
    "Pixels": ["Channel", "TiffData", "MetadataOnly"],
}
"""The schema's sequence of an element's children, of those that are used."""


def parsed(product: Product, classes: tuple[LabelClass, ...] = CLASSES, *, tiff: bool = True) -> ElementTree.Element:
    return ElementTree.fromstring(ome_xml(image_of(product, Size(300, 200), 0.5, classes, {"n": [1, 2]}), tiff=tiff))


def all_of(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return root.findall(f".//{{{NAMESPACE}}}{tag}")


def one(root: ElementTree.Element, tag: str) -> ElementTree.Element:
    (found,) = all_of(root, tag)
    return found


def pairs(root: ElementTree.Element, about: str) -> dict[str, str | None]:
    (found,) = [a for a in all_of(root, "MapAnnotation") if a.get("Namespace") == f"wsi-magnet/{about}"]
    return {m.attrib["K"]: m.text for m in all_of(found, "M")}


def test_size_and_microns() -> None:
    pixels = one(parsed("mask"), "Pixels")
    names = ("SizeX", "SizeY", "SizeC", "PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeYUnit", "Type")
    assert [pixels.get(name) for name in names] == ["300", "200", "1", "0.5", "µm", "µm", "uint8"]


def test_a_mask_names_its_labels() -> None:
    assert pairs(parsed("mask"), "labels") == {
        "0": "background",
        "1": "stroma",
        "3": "Gleason 3",
        "255": "not analysed",
    }


def test_probabilities_have_a_named_and_coloured_channel_a_class() -> None:
    channels = [(c.get("Name"), int(c.attrib["Color"]) % 2**32) for c in all_of(parsed("probabilities"), "Channel")]
    assert channels == [("stroma", 0x96C896FF), ("Gleason 3", 0xFFDC3CFF)]


def test_a_black_channel_is_shown_in_white() -> None:
    channel = one(parsed("probabilities", (LabelClass(0, "background", (0, 0, 0)),)), "Channel")
    assert channel.get("Color") == "-1"


def test_each_channel_is_a_page_of_a_tiff_and_none_elsewhere() -> None:
    pages = [(d.get("IFD"), d.get("FirstC")) for d in all_of(parsed("probabilities"), "TiffData")]
    elsewhere = parsed("probabilities", tiff=False)
    assert (pages, all_of(elsewhere, "TiffData"), len(all_of(elsewhere, "MetadataOnly"))) == (
        [("0", "0"), ("1", "1")],
        [],
        1,
    )


@pytest.mark.parametrize("product", get_args(Product))
@pytest.mark.parametrize("tiff", [True, False])
def test_elements_stand_in_the_order_of_the_schema(product: Product, tiff: bool) -> None:
    for element in parsed(product, tiff=tiff).iter():
        names = [child.tag.rpartition("}")[2] for child in element]
        order = ORDER.get(element.tag.rpartition("}")[2])
        assert order is None or names == sorted(names, key=order.index)


@pytest.mark.parametrize("product", get_args(Product))
def test_the_image_of_a_tiff_refers_to_its_annotations_and_no_other_does(product: Product) -> None:
    """QuPath's Bio-Formats logs each reference in an OME-Zarr as missing."""
    root, elsewhere = parsed(product), parsed(product, tiff=False)
    refs = [ref.get("ID") for ref in all_of(root, "AnnotationRef")]
    assert refs == [a.get("ID") for a in all_of(root, "MapAnnotation")] != []
    assert (all_of(elsewhere, "AnnotationRef"), len(all_of(elsewhere, "MapAnnotation"))) == ([], len(refs))


def test_provenance_is_text() -> None:
    assert pairs(parsed("mask"), "provenance") == {"n": "[1, 2]"}


@given(st.text())
@example("Präparat &#181; \r\n\t <腺> غدة")
@pytest.mark.parametrize("tiff", [True, False])
def test_no_name_makes_a_character_reference(tiff: bool, name: str) -> None:
    """Bio-Formats breaks them before it parses, and reads the file as a plain TIFF."""
    text = ome_xml(image_of("mask", Size(1, 1), 1.0, (LabelClass(1, name, (0, 0, 0)),), {name: name}), tiff=tiff)
    told = pairs(ElementTree.fromstring(text.encode()), "labels")["1"] or ""
    assert "&#" not in text
    assert len(told) == len(name)


def told_size(folder: Path, product: Product = "mask") -> tuple[int, int]:
    """Rows and columns, as the OME-XML beside an image has them."""
    text = (folder / f"{product}.ome.zarr" / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    pixels = one(ElementTree.fromstring(text), "Pixels")
    return int(pixels.attrib["SizeY"]), int(pixels.attrib["SizeX"])


@pytest.mark.parametrize("ngff", get_args(Ngff))
def test_a_run_leaves_it_beside_every_image_it_keeps(made_run: MadeRun, tmp_path: Path, ngff: Ngff) -> None:
    config = RunConfig(tile_px=512, ngff=ngff, keep_probabilities=True, keep_uncertainty=True)
    folder = run_serially(made_run, tmp_path, config).folder
    assert {told_size(folder, product) for product in get_args(Product)} == {labels_of(folder).shape}


def test_size_follows_the_finest_complete_scale(made_run: MadeRun, tmp_path: Path) -> None:
    """After a stopped run it describes a coarser level, after the resumed run the finest."""

    def stop_late(event: Event) -> None:
        found = list(tmp_path.rglob("METADATA.ome.xml"))
        if found:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_serially(made_run, tmp_path, observe=stop_late)
    (mask,) = tmp_path.glob("*/mask.ome.zarr")
    before = told_size(mask.parent)
    folder = run_serially(made_run, tmp_path).folder
    assert before == labels_of(folder, 2).shape
    assert told_size(folder) == labels_of(folder).shape

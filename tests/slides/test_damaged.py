"""Damaged files: each is read, or refused in one line that names the file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import tifffile

from wsi_magnet.errors import SlideOpenError, WsiMagnetError
from wsi_magnet.geometry import Box
from wsi_magnet.slides import openslide
from wsi_magnet.slides.registry import open_slide

HEADER_BYTES = 2048
"""Bytes at the beginning that are damaged, of formats without directories."""

VALUE_BYTES = 1000
"""Bytes of a long value in a TIFF's directory that are damaged."""


class _NamelessProperties(dict[str, str]):
    """Properties as of a slide one of whose names is no UTF-8: it is listed, and not found."""

    def __iter__(self) -> Iterator[str]:
        return iter([*super().keys(), "\ufffd"])

    def keys(self) -> list[str]:  # type: ignore[override]
        return list(self)


def header(slide: Path) -> list[int]:
    """Positions of the bytes that describe the pixels."""
    if slide.suffix not in (".svs", ".tif"):
        return list(range(HEADER_BYTES))
    found = list(range(16))
    with tifffile.TiffFile(slide) as file:
        for page in file.pages:
            assert isinstance(page, tifffile.TiffPage)
            found += range(page.offset, page.offset + 20 * len(page.tags) + 8)
            for tag in page.tags.values():
                found += range(tag.valueoffset, tag.valueoffset + min(tag.count, VALUE_BYTES))
    return [position for position in found if position < slide.stat().st_size]


def damaged(slide: Path, folder: Path, count: int) -> Iterator[Path]:
    """Copies of a slide with a few bytes of its header replaced, always the same."""
    intact, positions, chance = slide.read_bytes(), header(slide), random.Random(7)
    for number in range(count):
        content = bytearray(intact)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.choice(positions)] = chance.randrange(256)
        copy = folder / f"{number}{slide.suffix}"
        copy.write_bytes(content)
        yield copy
        copy.unlink()


def refusal(slide: Path) -> str | None:
    """Open a slide and read a corner of each level; the text of a WsiMagnetError, None if all can be read."""
    try:
        with closing(open_slide(slide)) as reader:
            for level, stored in enumerate(reader.info.levels):
                reader.read_level(level, Box(0, 0, 64, 64).intersect(Box.of(stored.size)))
    except WsiMagnetError as error:
        return str(error)
    return None


def check_damaged(slide: Path, folder: Path, count: int) -> None:
    """Some copies can be read, and the others are refused in one line with their path."""
    texts = {copy: refusal(copy) for copy in damaged(slide, folder, count)}
    refused = {copy: text for copy, text in texts.items() if text is not None}
    assert 0 < len(refused) < count
    assert all(str(copy) in text and "\n" not in text for copy, text in refused.items())


def test_a_damaged_svs_is_read_or_refused(small_svs: Path, tmp_path: Path) -> None:
    check_damaged(small_svs, tmp_path, 60)


@pytest.mark.parametrize("name", ["camelyon_low.dcm", "tiff_with_asap_xml/example.tif"])
def test_other_damaged_formats_are_read_or_refused(test_data: Path, tmp_path: Path, name: str) -> None:
    check_damaged(test_data / "slides" / name, tmp_path, 30)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Handle that replaces OpenSlide's for every file: a slide of one level."""
    found = SimpleNamespace(
        properties={"openslide.vendor": "hamamatsu", "openslide.quickhash-1": "1"},
        level_dimensions=((300, 200),),
        level_downsamples=(1.0,),
    )
    monkeypatch.setattr(openslide, "_open_handle", lambda path: found)
    return found


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("properties", _NamelessProperties({"openslide.vendor": "hamamatsu"}), "KeyError"),
        ("properties", {}, "openslide.vendor"),
        ("level_dimensions", ((300, -1),), "negative"),
        ("level_dimensions", (), "ValueError"),
        ("level_downsamples", (), "ValueError"),
    ],
)
def test_metadata_that_cannot_be_read_are_an_error_with_path_and_remedy(
    handle: SimpleNamespace, tmp_path: Path, field: str, value: object, reason: str
) -> None:
    slide = tmp_path / "a.ndpi"
    slide.write_bytes(b"no image")
    setattr(handle, field, value)
    with pytest.raises(SlideOpenError, match="metadata are damaged") as caught:
        open_slide(slide)
    assert str(slide) in str(caught.value)
    assert reason in str(caught.value)
    assert "copy the file again" in str(caught.value)


def test_tiles_too_large_to_be_decoded_are_refused(handle: SimpleNamespace, tmp_path: Path) -> None:
    """OpenSlide would end the process where it gets no memory for a tile."""
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"no image")
    handle.properties |= {"openslide.level[0].tile-width": "16777456", "openslide.level[0].tile-height": "240"}
    with pytest.raises(SlideOpenError, match="tiles of 16777456 x 240 pixels in level 0"):
        open_slide(slide)


def test_an_error_of_the_system_keeps_its_own_text(
    handle: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path, size: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(openslide, "hash_ends", unreadable)
    del handle.properties["openslide.quickhash-1"]
    slide = tmp_path / "a.ndpi"
    slide.write_bytes(b"no image")
    with pytest.raises(SlideOpenError, match="openslide: Input/output error"):
        open_slide(slide)

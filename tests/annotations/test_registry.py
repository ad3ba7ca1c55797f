"""A file is opened by what is in it, and a file that is none says what would be one."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.annotations.made import feature, opened, slide, square, write_geojson
from wsi_magnet.annotations.label_image import LabelImage
from wsi_magnet.annotations.shapes import ShapeAnnotation
from wsi_magnet.errors import AnnotationError

INFO = slide(20, 20)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.json", format="png")
    write_geojson(tmp_path / "a.png", feature([square(0, 0, 9, 9)]))
    kinds = [type(opened(tmp_path / name, INFO)) for name in ("a.json", "a.png")]
    assert kinds == [LabelImage, ShapeAnnotation]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"row,label\n", "it is neither a label image"),
        (b"\x1f\x8bnot packed", "cannot be read"),
        (gzip.compress(b"{" * 5000, mtime=0)[:30], "cannot be read"),
        (b"\xff\xfe\x00\x01\x02", "it is neither a label image"),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"a\.bin.* {message}"):
        opened(tmp_path / "a.bin", INFO)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.png", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(AnnotationError, match=rf"cannot be read: {message}"):
            opened(path, INFO)

"""A picture of a mask over its tissue, with a legend and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsi_magnet.errors import ResultMismatchError, SlideOpenError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_CLASS, LabelClass
from wsi_magnet.report.colours import vivid
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.reader import Result
from wsi_magnet.scales import Scale
from wsi_magnet.slides.read import read_whole
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.storage.location import Location

Pixels = npt.NDArray[np.uint8]

_BLOCK_PX = 1024
"""Side of the blocks in which the slide is read."""

UNREADABLE = 190
"""Grey value of regions of the slide that cannot be decoded."""

_FONT_PX = 20
"""Size of Pillow's own font, the only one available everywhere; it lacks µ and ², so units are spelt out."""
_ALARM_RGB = (176, 0, 32)
_NICE_UM = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """Size and opacity of the picture."""

    longest_px: int = 2000
    """Maximum of the picture's longer side, without the legend."""
    opacity: float = 0.35
    """Opacity of the colours over the tissue; outlines are opaque."""


def draw_overlay(result: Location, style: OverlayStyle | None = None) -> Image.Image:
    """The mask of a result folder over its slide. Raises StoreError, SlideOpenError."""
    style = style or OverlayStyle()
    source = Result(result)
    sizes = source.mask_image.spec.sizes
    level = next((i for i in source.levels if max(sizes[i].wh) <= style.longest_px), source.levels[-1])
    mpp = source.mpp_of(level)
    with closing(open_own_slide(source)) as reader:
        tissue = tissue_at(reader, sizes[level], mpp)
    labels = source.mask_image.read(level, Box.of(sizes[level]))
    classes = vivid(source.classes)
    picture = Image.fromarray(blend(tissue, labels, classes, style.opacity))
    full_px = picture.width
    picture.thumbnail((style.longest_px, style.longest_px))
    shown_mpp = mpp * full_px / picture.width
    areas = {one.value: one.area_mm2 for one in source.areas.values()} | {NOT_ANALYSED: source.not_analysed_mm2}
    title = f"{source.name}: mask at {source.geometry.mpp:g} microns/px, drawn at {shown_mpp:.3g}"
    if source.running:
        stamp_preliminary(picture)
    return _with_legend(picture, classes, areas, shown_mpp, [title, "Not for diagnosis."], source.alarms)


def stamp_preliminary(picture: Image.Image) -> None:
    """Write "PRELIMINARY" across the upper left corner of a picture."""
    font = ImageFont.load_default(max(16, max(picture.size) // 24))
    draw, text = ImageDraw.Draw(picture), "PRELIMINARY"
    left, top, right, bottom = draw.textbbox((12, 10), text, font)
    draw.rectangle((left - 8, top - 6, right + 8, bottom + 6), fill="white", outline=_ALARM_RGB, width=3)
    draw.text((12, 10), text, _ALARM_RGB, font)


def open_own_slide(source: Result) -> SlideReader:
    """Open the slide of a result. Raises SlideOpenError, ResultMismatchError where the file is another slide now."""
    try:
        reader = open_slide(source.slide.path, mpp=source.record.config.mpp)
    except SlideOpenError as error:
        raise SlideOpenError(
            f"{error}; put the slide back there (`wsi-magnet report` shows a result without its slide)"
        ) from error
    if reader.info.identity != source.identity:
        reader.close()
        raise ResultMismatchError(f"{reader.info.path} is no longer the slide that {source.folder} was made from")
    return reader


def tissue_at(reader: SlideReader, size: Size, mpp: float) -> Pixels:
    """The slide's canvas at that mpp, uint8 (height, width, 3), read block by block; undecodable regions are grey."""
    dx, dy = (mpp / m for m in reader.info.require_mpp())
    scale = Scale(0, mpp, (dx, dy), size)
    return read_whole(reader, scale, block_px=_BLOCK_PX, unreadable_grey=UNREADABLE)[0]


def blend(tissue: Pixels, labels: Pixels, classes: Sequence[LabelClass], opacity: float) -> Pixels:
    """Colours over tissue: uint8 (H, W, 3) and labels uint8 (H, W) to uint8 (H, W, 3); background stays as it is."""
    palette = np.zeros((256, 3), np.float32)
    alpha = np.zeros(256, np.float32)
    for one in classes:
        if one.value:
            palette[one.value], alpha[one.value] = one.color, opacity
    palette[NOT_ANALYSED], alpha[NOT_ANALYSED] = NOT_ANALYSED_CLASS.color, 0.8
    a = np.where(_outlines(labels) & (alpha[labels] > 0), 1.0, alpha[labels])[..., None]
    return np.asarray((tissue * (1 - a) + palette[labels] * a + 0.5).astype(np.uint8))


def _outlines(labels: Pixels) -> npt.NDArray[np.bool_]:
    """True where a pixel's right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _with_legend(
    picture: Image.Image,
    classes: Sequence[LabelClass],
    area_mm2: dict[int, float],
    mpp: float,
    lines: Sequence[str],
    alarms: Sequence[Alarm],
) -> Image.Image:
    font = ImageFont.load_default(_FONT_PX)
    shown = [c for c in classes if c.value and area_mm2.get(c.value)]
    if area_mm2.get(NOT_ANALYSED):
        shown.append(NOT_ANALYSED_CLASS)
    width, line = max(picture.width, 640, *(int(font.getlength(one)) + 24 for one in lines)), _FONT_PX + 14
    wrapped = [part for one in alarms for part in _wrapped(_plain(f"ALARM, {one.kind}: {one.text}"), font, width - 24)]
    rows = len(lines) + len(wrapped) + len(shown)
    canvas = Image.new("RGB", (width, picture.height + line * (rows + 1)), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    y = picture.height + 8
    scale_bar(draw, width, y + line, mpp, font)
    for number, text in enumerate([*lines, *wrapped]):
        draw.text((12, y), text, "black" if number < len(lines) else _ALARM_RGB, font)
        y += line
    y -= line
    for one in shown:
        y += line
        draw.rectangle((12, y, 12 + _FONT_PX, y + _FONT_PX), fill=one.color, outline="black")
        draw.text((24 + _FONT_PX, y - 2), f"{one.name}: {area_mm2[one.value]:.3f} sq mm", "black", font)
    return canvas


def _plain(text: str) -> str:
    """Text in the letters of Pillow's own font."""
    return text.replace("µm/px", "microns/px").replace("µm", "microns").replace("mm²", "sq mm")


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines of a text, at most `width` pixels wide where its words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def scale_bar(draw: ImageDraw.ImageDraw, width: int, y: int, mpp: float, font: Any) -> None:
    """Draw a bar of a round length, about a fifth of the width, at the right."""
    length_um = max((n for n in _NICE_UM if n / mpp <= width / 5), default=_NICE_UM[0])
    length_px = length_um / mpp
    x1 = width - 24
    draw.rectangle((x1 - length_px, y, x1, y + 5), fill="black")
    text = f"{length_um // 1000} mm" if length_um >= 1000 else f"{length_um} microns"
    draw.text((x1 - length_px / 2, y + 8), text, "black", font, anchor="ma")

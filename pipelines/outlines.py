"""The picture of docs/qupath.md: outlines of the demo slide's glands, exact and simplified.

wsi-magnet run demo/rings_P1_D5_9_13.tif --mpp 0.93 -o out
wsi-magnet export out/rings_P1_D5_9_13 --to geojson -o exact.geojson
wsi-magnet export out/rings_P1_D5_9_13 --to geojson -o simple.geojson --simplify 2
python pipelines/outlines.py exact.geojson simple.geojson docs/images/outlines.jpg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import openslide
from PIL import Image, ImageDraw

SLIDE = Path(__file__).resolve().parent.parent / "demo" / "rings_P1_D5_9_13.tif"
CORNER_XY, SIZE_WH = (1780, 180), (420, 300)
ZOOM, SMOOTHING, GAP_PX = 2, 2, 12
BLUE = (20, 60, 200)


def main(exact: str, simple: str, target: str) -> None:
    """Draw both beside each other, and print how many points they have."""
    (x, y), (width, height) = CORNER_XY, SIZE_WH
    with openslide.OpenSlide(SLIDE) as slide:
        tissue = slide.read_region(CORNER_XY, 0, SIZE_WH).convert("RGB")
    picture = Image.new("RGB", (2 * ZOOM * width + GAP_PX, ZOOM * height), "white")
    for place, path in enumerate((exact, simple)):
        rings = glands(Path(path))
        print(f"{path}: {sum(map(len, rings))} points")
        scale = ZOOM * SMOOTHING
        panel = tissue.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(panel)
        for ring in rings:
            points = [((a - x) * scale, (b - y) * scale) for a, b in ring]
            draw.line(points, BLUE, 5)
            for a, b in points if place else []:
                draw.ellipse((a - 6, b - 6, a + 6, b + 6), BLUE)
        panel = panel.resize((width * ZOOM, height * ZOOM), Image.Resampling.LANCZOS)
        picture.paste(panel, (place * (ZOOM * width + GAP_PX), 0))
    picture.save(target, quality=88)


def glands(path: Path) -> list[list[tuple[float, float]]]:
    """All rings of that class."""
    features = json.loads(path.read_text())["features"]
    return [
        ring
        for feature in features
        if feature["properties"]["classification"]["name"] == "gland"
        for ring in feature["geometry"]["coordinates"]
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Situations of slide, bundle and training with the alarms that they raise, and those that they should.

    python -m benchmarks.alarms [--bundle FILE]

Slides are generated, except for those of WSI_MAGNET_TEST_DATA, whose rows are left out without it. The exit code is 1
if anything raises another alarm than it should.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from tests.nets.made import networks_of, small_spec
from tests.runs import free_spec, write_bundle
from tests.train.made import glands, write_data
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.results.alarms import Alarm
from wsi_magnet.results.events import Event, ScaleFinished
from wsi_magnet.results.reader import open_result
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import result_folder, segment_slide
from wsi_magnet.train.alarms import TrainingNumbers, training_alarms
from wsi_magnet.train.profile import add_profile

Pixels = npt.NDArray[np.uint8]

RED, GREEN, BLUE = (220, 130, 170), (165, 150, 170), (170, 110, 220)
"""Stained colours that the free bundle takes for its three classes."""

GLASS = (240, 240, 240)
MPPS = (8.0, 4.0, 2.0)


@dataclass(frozen=True, slots=True)
class Situation:
    """Something that may deserve an alarm."""

    name: str
    expected: tuple[str, ...]
    """Kinds of alarms, or "refused"."""
    raised: Callable[[Path], tuple[Alarm, ...]]
    """Alarms that it raises; takes an empty folder."""
    may_raise_more: bool = False
    """True where others may be raised besides."""


def tissue(*colours: tuple[int, int, int], glass: bool = False, side_px: int = 512, grain_px: int = 12) -> Pixels:
    """Tissue of grains of some colours, with or without a rim of glass: uint8 (side, side, 3)."""
    rng = np.random.default_rng(len(colours))
    grid = rng.integers(len(colours), size=(side_px // grain_px + 1,) * 2)
    image = np.array(colours, np.uint8)[np.kron(grid, np.ones((grain_px,) * 2, int))[:side_px, :side_px]]
    rim = side_px // 8
    if glass:
        image[:rim], image[-rim:] = GLASS, GLASS
    return np.asarray(np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8))


GOOD = tissue(RED, GREEN, BLUE, glass=True)


def free_bundle(folder: Path, **changes: Any) -> Path:
    """The free bundle of the tests at 8, 4 and 2 µm/px."""
    return write_bundle(folder / "free.safetensors", free_spec(mpps=MPPS, **changes))


def segmented(
    folder: Path, image: Pixels | Path, bundle: Path | None, mpp: float | None = 2.0, **config: Any
) -> tuple[Alarm, ...]:
    """Alarms of a run."""
    slide = image if isinstance(image, Path) else folder / "slide.png"
    if not isinstance(image, Path):
        Pillow.fromarray(image).save(slide)
    options = RunConfig(**{"tile_px": 512, "mpp": mpp, "refine": "all", **config})
    return segment_slide(slide, folder / "out", bundle=bundle, config=options, execution=SerialExecutor()).alarms


def on_free(
    image: Pixels, *, mpp: float = 2.0, config: Mapping[str, Any] | None = None, **changes: Any
) -> Callable[[Path], tuple[Alarm, ...]]:
    """Run of an image with the free bundle."""
    return lambda folder: segmented(folder, image, free_bundle(folder, **changes), mpp, **(config or {}))


def stopped(folder: Path) -> tuple[Alarm, ...]:
    """Alarms of a result whose run was stopped after its first scale."""

    def stop(event: Event) -> None:
        if isinstance(event, ScaleFinished):
            raise KeyboardInterrupt

    slide, config = folder / "slide.png", RunConfig(tile_px=512, mpp=2.0, refine="all")
    Pillow.fromarray(GOOD).save(slide)
    try:
        bundle = free_bundle(folder)
        segment_slide(slide, folder, bundle=bundle, config=config, execution=SerialExecutor(), observe=stop)
    except KeyboardInterrupt:
        pass
    return open_result(result_folder(slide, folder)).alarms


def refused(folder: Path) -> tuple[Alarm, ...]:
    """The error of a slide that is far too coarse, as an alarm."""
    try:
        return segmented(folder, GOOD, free_bundle(folder), 29.0)
    except WsiMagnetError as error:
        return (Alarm("refused", str(error).partition(": ")[2]),)


def like_training(*, strange: bool) -> Callable[[Path], tuple[Alarm, ...]]:
    """Run of an image like those that a bundle was profiled with, or unlike them."""

    def raised(folder: Path) -> tuple[Alarm, ...]:
        manifest = write_data(folder, (("a", "train"), ("b", "train"), ("c", "validation")), labels="0=1; 1=2")
        classes = (ClassInfo("tissue", 1, (200, 0, 0)), ClassInfo("gland", 2, (0, 0, 200)))
        ladder = {"mpps": (2.0, 1.0), "refiner_of": (0,), "temperature": (1.0, 1.0)}
        spec = small_spec(classes=classes, select_above=(0.0,), refine_above=(0.0,), **ladder)
        save_bundle(folder / "plain.safetensors", spec, *networks_of(spec))
        profiled = folder / "profiled.safetensors"
        add_profile(folder / "plain.safetensors", manifest, profiled, "cpu")
        image = glands(50, 300)[0]
        if strange:
            image = np.where(image % 7 < 3, (90, 30, 160), 255 - image).astype(np.uint8)
        found = segmented(folder, image, profiled, 1.0, tissue=False)
        return tuple(one for one in found if one.kind == "unlike the training data")  # its weights are random

    return raised


def fluorescence() -> Pixels:
    """Blue nuclei on black."""
    image = np.zeros((512, 512, 3), np.uint8)
    y, x = np.mgrid[:512, :512]
    image[(y % 40 - 20) ** 2 + (x % 40 - 20) ** 2 < 60] = (40, 20, 200)
    return image


def on_black() -> Pixels:
    """A stained section whose scan lies on black."""
    image = np.zeros((512, 512, 3), np.uint8)
    image[:, 256:] = GOOD[:, 256:]
    return image


def profile(**values: Any) -> TrainingProfile:
    """A profile of ten images."""
    return TrainingProfile(**{"images": 10, "uncertainty": (0.9, 0.9, 0.9), **values})


def off(*above: float) -> dict[str, Any]:
    """Thresholds of selection; above 1 nothing is selected."""
    return {"select_above": above}


BLANK = np.full((256, 256, 3), GLASS, np.uint8)
SHARES = {"1": (0.0, 1.0), "2": (0.1, 1.0), "3": (0.0, 1.0)}

RED_IS_NONE = (
    ClassInfo("background", 0, (255, 255, 255)),
    ClassInfo("green", 2, (60, 180, 60)),
    ClassInfo("blue", 3, (60, 60, 220)),
)
"""Classes of a bundle that takes red tissue for background."""

ON_FREE = (
    Situation("stained tissue of three classes", (), on_free(GOOD)),
    Situation("the same, with a profile that it fits", (), on_free(GOOD, profile=profile(class_shares=SHARES))),
    Situation("the same, a fifth of the cells refined", (), on_free(GOOD, config={"refine": 0.2})),
    Situation("a section whose scan lies on black", (), on_free(on_black())),
    Situation("12 µm pixels, coarsest scale 8 µm/px", ("upsampled",), on_free(GOOD, mpp=12.0)),
    Situation("29 µm pixels", ("refused",), refused),
    Situation("blue nuclei on black", ("fluorescence", "no tissue"), on_free(fluorescence())),
    Situation("bare glass", ("no tissue",), on_free(BLANK)),
    Situation("bare glass, --no-tissue", ("one class",), on_free(BLANK, config={"tissue": False})),
    Situation(
        "blue nuclei on black, --no-tissue", ("fluorescence",), on_free(fluorescence(), config={"tissue": False})
    ),
    Situation("tissue that is all background", ("all background",), on_free(tissue(RED), classes=RED_IS_NONE)),
    Situation(
        "the same, --no-tissue",
        ("all background",),
        on_free(tissue(RED), classes=RED_IS_NONE, config={"tissue": False}),
    ),
    Situation(
        "the same, 12 µm pixels",
        ("all background", "upsampled"),
        on_free(tissue(RED), mpp=12.0, classes=RED_IS_NONE),
    ),
    Situation("one class everywhere", ("one class",), on_free(tissue(RED))),
    Situation(
        "more of a class than training had",
        ("class share",),
        on_free(tissue(RED, BLUE), profile=profile(class_shares={"1": (0.0, 0.1)})),
    ),
    Situation(
        "a class missing that training always had",
        ("class never predicted",),
        on_free(tissue(RED, BLUE), profile=profile(class_shares=SHARES)),
    ),
    Situation(
        "more uncertain than validation", ("uncertain",), on_free(GOOD, profile=profile(uncertainty=(0.01,) * 3))
    ),
    Situation("thresholds that select nothing", ("not refined",), on_free(GOOD, **off(1.5, 1.5))),
    Situation(
        "auto reads no cell again", ("not refined",), on_free(GOOD, config={"refine": "auto"}, refine_above=(2.0, 2.0))
    ),
    Situation("only the finest scale changes nothing", (), on_free(GOOD, **off(0.05, 1.5))),
    Situation("a run stopped after its first scale", ("preliminary",), stopped),
)

PROFILED = (
    Situation("tissue like the training data", (), like_training(strange=False)),
    Situation("tissue unlike the training data", ("unlike the training data",), like_training(strange=True)),
)

GENERATED = (*ON_FREE, *PROFILED)

TRAINED = TrainingNumbers(
    mpps=(8.0, 4.0, 2.0, 1.0),
    miou=(0.746, 0.80, 0.83, 0.85),
    refined_miou=0.84,
    changed=(0.0, 0.05, 0.03, 0.01),
    pixels_by_class={"train": {"gland": 10**6}, "validation": {"gland": 10**5}},
    predicted={"gland": 10**5},
    validation_images=5,
    validation_groups=3,
    test_factor=0.9,
)
"""A good training."""


def trained(name: str, *expected: str, **changes: Any) -> Situation:
    """A training with these numbers."""
    return Situation(f"training: {name}", expected, lambda _: training_alarms(replace(TRAINED, **changes)))


TRAININGS = (
    trained("refining gains ten points"),
    trained(
        "refiners worse than none, thresholds leave them off",
        "refiners no better",
        "refinement switched off",
        miou=(0.746, 0.746, 0.746, 0.746),
        refined_miou=0.5339,
        changed=(0.0, 0.0, 0.0, 0.0),
    ),
    trained("refining gains nothing", "refiners no better", miou=(0.746, 0.747, 0.747, 0.748)),
    trained("two scales that change nothing", "refinement switched off", changed=(0.0, 0.05, 0.0, 0.0)),
    trained("a class of twelve pixels", "class without pixels", pixels_by_class={"validation": {"gland": 12}}),
    trained("a class never predicted", "class never predicted", predicted={"gland": 0}),
    trained("one validation image", "small validation", validation_images=1, validation_groups=1),
    trained("test images unlike training", "unlike the training data", test_factor=2.1),
)

DEMO = Path(__file__).resolve().parents[1] / "demo" / "rings_P1_D5_9_13.tif"

STRANGE = ("unlike the training data",)

REAL: tuple[tuple[str, str, float | None, tuple[str, ...]], ...] = (
    ("prostate, RINGS, test tile", "rings_glands/img/P1_D5_9_13_4.png", 0.93, ()),
    ("prostate, RINGS, test tile", "rings_glands/img/P1_D5_9_13_6.png", 0.93, ()),
    ("prostate, RINGS, test tile", "rings_glands/img/P1_D4_5_14_3.png", 0.93, ()),
    ("prostate, RINGS, mosaic with an empty quadrant", "rings_mosaics/P1_D5_3_12_tiles4-5-6_no-mpp.tif", 0.93, ()),
    ("prostate, the demo", str(DEMO), 0.93, ()),
    ("prostate, another laboratory", "gleason_tiles/img/test100.jpg", 0.5, ("class share",)),
    ("colon, benign", "glas/img/P02_train_1.png", 0.62005, STRANGE),
    ("colon, carcinoma", "glas/img/P01_train_13.png", 0.62005, STRANGE),
    ("skin", "slides/CMU-1-Small-Region.svs", None, STRANGE),
    ("duodenum", "slides/BS9_HE2.tif", None, STRANGE),
)
"""Slides of the test data for a bundle of prostate glands: name, file, mpp, and an alarm that must be among those
raised; none of any kind where there is none."""


def real_situations(bundle: Path | None, data: Path) -> Iterator[Situation]:
    """Real slides with a bundle of prostate glands."""
    for name, file, mpp, expected in REAL:
        if (data / file).exists():

            def raised(folder: Path, file: str = file, mpp: float | None = mpp) -> tuple[Alarm, ...]:
                return segmented(folder, data / file, bundle, mpp, refine="auto", tile_px=2048)

            yield Situation(f"{name}, {Path(file).name}", expected, raised, may_raise_more=bool(expected))


def as_it_should(situation: Situation, alarms: tuple[Alarm, ...]) -> bool:
    """True for the expected kinds of alarms."""
    kinds, expected = {one.kind for one in alarms}, set(situation.expected)
    return kinds == expected or (situation.may_raise_more and expected < kinds)


def run(situation: Situation) -> tuple[Alarm, ...]:
    """Alarms of a situation, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return situation.raised(Path(folder))


def main() -> int:
    """Print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle of prostate glands for the real slides [the shipped one]")
    arguments = parser.parse_args()
    situations = [*GENERATED, *TRAININGS]
    if data := os.environ.get("WSI_MAGNET_TEST_DATA"):
        situations += real_situations(arguments.bundle, Path(data))
    rows, wrong = [], 0
    for number, situation in enumerate(situations, start=1):
        alarms = run(situation)
        right = as_it_should(situation, alarms)
        wrong += not right
        said = " · ".join(f"{one.kind}: {one.text}" for one in alarms) or "nothing"
        rows.append([str(number), situation.name, said, "yes" if right else f"NO: {', '.join(situation.expected)}"])
        print(f"{number} of {len(situations)}", file=sys.stderr)
    for row in [["", "situation", "alarms", "as it should"], ["---"] * 4, *rows]:
        print(f"| {' | '.join(row)} |")  # not padded: an alarm is a sentence
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

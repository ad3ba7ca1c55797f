"""What the bundle says of itself: its classes, its scales, and where it came from and must not go."""

from __future__ import annotations

from first_bundle.config import TrainingConfig
from first_bundle.crops import MEAN, STD
from first_bundle.fit import Thresholds
from first_bundle.progressive import HALO_PX, MEDIAN_PX
from wsi_magnet.config import CELL_PX
from wsi_magnet.nets.spec import BundleSpec, ClassInfo

CLASSES = (
    ClassInfo("background", 0, (255, 255, 255)),
    ClassInfo("stroma", 1, (150, 200, 150)),
    ClassInfo("benign gland", 2, (74, 144, 217)),
    ClassInfo("tumour gland", 7, (200, 30, 60)),
)
"""In the order of the network's channels. 3, 4 and 5 are left to Gleason patterns, which the tiles do not tell."""


def specify(config: TrainingConfig, temperatures: tuple[float, ...], thresholds: Thresholds) -> BundleSpec:
    """The bundle's description, its card without figures yet."""
    return BundleSpec(
        name=config.name,
        network="small",
        network_args={"width": config.backbone.width},
        refiner="magnet",
        classes=CLASSES,
        mpps=config.mpps,
        refiner_of=tuple(range(len(config.mpps) - 1)),
        channel_order="fine_first",
        mean=MEAN,
        std=STD,
        cell_px=CELL_PX,
        halo_px=HALO_PX,
        median_px=MEDIAN_PX,
        select_above=thresholds.select_above,
        refine_above=thresholds.refine_above,
        temperature=temperatures,
        card=describe("not judged yet"),
    )


def describe(figures: str) -> dict[str, str]:
    """The card, with held-out figures as `judge.table` prints them."""
    return {
        "data": "RINGS, M. Salvi et al., Mendeley Data, doi 10.17632/h8bdwrtnr5, CC BY 4.0; cropped and resampled",
        "licence": "CC BY 4.0, with that attribution",
        "intended use": "trying wsi-magnet out on H&E prostate slides",
        "not for": "diagnosis or any medical use; Gleason grading; other organs or stains. A few tiles of two or three "
        "patients, resolution unverified",
        "held-out figures": figures,
        "figures printed by": "python pipelines/evaluate_first_bundle.py --data DIR",
        "made by": "python pipelines/train_first_bundle.py --data DIR -o FILE",
    }

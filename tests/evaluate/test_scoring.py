"""The images that all rows are held against: each slide is opened once for its identity."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from wsi_magnet.dataset.sample import Sample
from wsi_magnet.evaluate.scoring import Scorer
from wsi_magnet.nets.spec import BundleSpec

SPEC = cast(BundleSpec, SimpleNamespace(name="one", classes=()))


def test_each_slide_is_opened_once_for_its_identity() -> None:
    opened: list[str] = []

    def open_truth(sample: Sample, classes: object) -> Any:
        opened.append(sample.name)
        return SimpleNamespace(reader=SimpleNamespace(info=SimpleNamespace(identity=sample.name)), close=lambda: None)

    samples = [Sample(i, Path(f"{name}.png"), (), None, "g", "test", "", "first") for i, name in enumerate("abc")]
    scorer = Scorer(samples, open_truth, [SPEC])
    assert scorer.identities == scorer.identities == [sample.name for sample in samples]
    scorer.keep_only({"row": dict.fromkeys(scorer.identities, cast(Any, None))}, print)
    assert opened == [sample.name for sample in samples]

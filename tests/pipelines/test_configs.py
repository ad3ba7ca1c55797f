"""The configurations that the documents and the Makefile name: each is read, and says what it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wsi_magnet.methods.registry import method_class, refining_methods
from wsi_magnet.nets.spec import DEFAULT_BUNDLE, read_spec
from wsi_magnet.train.config import TrainingConfig, read_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_read_and_stands_in_the_makefile(path: Path) -> None:
    config = read_config(path)
    assert config.card["not for"]
    makefile = (ROOT / "Makefile").read_text()
    assert path.name in makefile or config.name in makefile


def test_the_compared_recipes_differ_in_the_refiners_and_their_use_alone() -> None:
    base, *others = (config("prostate-glands"), config("prostate-glands-published"), config("prostate-glands-soft"))
    for other in others:
        assert (other.backbone, other.augment, other.mpps) == (base.backbone, base.augment, base.mpps)
    published, soft = others
    assert (published.refiners.input, published.refiners.loss, published.fit) == ("published", "ohem", base.fit)
    assert (soft.refiners, soft.fit.select) == (base.refiners, "soft")


def test_the_light_modules_differ_in_their_size_alone() -> None:
    base, light = config("prostate-glands"), config("prostate-glands-light")
    assert replace(light, name=base.name, refiners=replace(light.refiners, module="magnet")) == base
    assert light.refiners.module == "light"


@pytest.mark.parametrize(("name", "base"), [("poster-glas", "glas"), ("poster-rings", "prostate-glands")])
def test_the_poster_trains_every_method_on_the_same_backbone(name: str, base: str) -> None:
    poster, own = config(name), config(base)
    names = [one for one in refining_methods() if method_class(one).__module__.startswith("wsi_magnet.")]
    assert sorted(poster.methods) == sorted(names)
    assert replace(poster, name=own.name, methods=own.methods) == own


def test_the_shipped_bundle_is_what_its_configuration_says() -> None:
    spec, own = read_spec(None)[0], config(DEFAULT_BUNDLE)
    assert (spec.name, spec.network, dict(spec.network_args)) == (own.name, own.backbone.network, {"width": 16})
    assert (spec.mpps, spec.classes, spec.halo_px) == (own.mpps, own.class_infos(), own.halo_px)
    assert {key: spec.card[key] for key in own.card} == own.card


def config(name: str) -> TrainingConfig:
    return read_config(ROOT / "pipelines" / "configs" / f"{name}.yaml")

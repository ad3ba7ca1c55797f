"""Public values check themselves when they are made, and help() describes each of their fields."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import wsi_magnet
from wsi_magnet import CohortOptions, Execution, RunConfig, find_slides, open_result, open_slide, segment_slide
from wsi_magnet.cohort.batch import segment_cohort
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.results.events import Event
from wsi_magnet.runtime.clusters.spec import Adapt, ClusterSpec
from wsi_magnet.schema import Bounds
from wsi_magnet.train.config import AugmentConfig, ClassConfig, RefinerConfig, TrainingConfig
from wsi_magnet.values import check, check_fields, describe, documented


@documented
@dataclass(frozen=True, slots=True)
class Base:
    """A value
    of two lines.
    """

    size: Annotated[int, Bounds(1)]
    """Side, in pixels; a text
    of two lines."""
    names: tuple[str, ...] = ()
    word: Literal["one", "two"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@documented
@dataclass(frozen=True, slots=True)
class Derived(Base):
    """A value with more."""

    share: Annotated[float, Bounds(0, 1)] = 0.5
    """Share of the base."""


def test_help_shows_every_field_with_its_description() -> None:
    assert Derived.__doc__ == "\n".join(
        (
            "A value with more.",
            "",
            "Fields:",
            "    size: a whole number of at least 1",
            "        Side, in pixels; a text",
            "        of two lines.",
            "    names: tuple[str, ...]; default ()",
            "    word: 'one', 'two' or None; default None",
            "    share: a number between 0 and 1; default 0.5",
            "        Share of the base.",
        )
    )
    assert inspect.getdoc(Base(1)) == Base.__doc__


def dataclasses_of(kind: Any, found: dict[type, None]) -> None:
    """Add the dataclasses of this package that a value of a type consists of, and that its methods return."""
    for argument in get_args(kind):
        dataclasses_of(argument, found)
    if not isinstance(kind, type) or get_origin(kind) or not kind.__module__.startswith("wsi_magnet") or kind in found:
        return
    found[kind] = None
    members = [member.fget if isinstance(member, property) else member for member in vars(kind).values()]
    for one in (kind, *(member for member in members if inspect.isfunction(member) and member.__name__[0] != "_")):
        for hint in hints_of(one).values():
            dataclasses_of(hint, found)


def hints_of(one: Any) -> dict[str, Any]:
    try:
        return get_type_hints(one, include_extras=True)
    except NameError:  # a name that only type checkers import
        return {}


def public_dataclasses() -> Iterator[type]:
    """Dataclasses that a user makes, or gets from a public function."""
    found: dict[type, None] = {}
    for name in wsi_magnet.__all__:
        public = getattr(wsi_magnet, name)
        dataclasses_of(public, found) if isinstance(public, type) else None
        for hint in hints_of(public).values() if inspect.isfunction(public) else ():
            dataclasses_of(hint, found)
    for kind in (TrainingConfig, ClusterSpec, BundleSpec, Event):
        dataclasses_of(kind, found)
    return (kind for kind in found if is_dataclass(kind))


def test_every_public_dataclass_names_its_fields_in_its_docstring() -> None:
    seen = list(public_dataclasses())
    assert {RunConfig, Execution, ClassInfo, RefinerConfig, ClusterSpec, CohortSlide} < {*seen}
    lacking = {
        kind.__name__: missing
        for kind in seen
        if (missing := [one.name for one in fields(kind) if one.init and one.name not in (kind.__doc__ or "")])
    }
    assert lacking == {}


def test_every_field_of_a_public_dataclass_is_described() -> None:
    bare = []
    for kind in public_dataclasses():
        lines = (kind.__doc__ or "").partition("Fields:\n")[2].splitlines()
        bare += [
            f"{kind.__name__}.{line.strip()}"
            for line, after in pairwise([*lines, ""])
            if not line.startswith("        ") and not after.startswith("        ")
        ]
    assert bare == []


@pytest.mark.parametrize(
    ("kind", "given", "held"),
    [
        (float, 1, 1.0),
        (float, np.float32(0.5), 0.5),
        (int, np.int64(3), 3),
        (bool, np.bool_(True), True),
        (tuple[float, ...], [1, 2], (1.0, 2.0)),
        (tuple[int, int] | None, None, None),
        (Literal["a"] | float, 1, 1.0),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Path, "a", Path("a")),
    ],
)
def test_a_value_is_held_as_its_type_has_it(kind: Any, given: Any, held: Any) -> None:
    found = check(kind, given, "it")
    assert found == held
    assert type(found) is type(held)


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (float, True, "it is True, not a number"),
        (float, float("nan"), "it is nan, not a number"),
        (int, 1.0, "it is 1.0, not a whole number"),
        (int, 10**400, f"it is {'1' + '0' * 56}..., not a whole number"),
        (bool, 1, "it is 1, not True or False"),
        (tuple[int, int], [1], "it has 1 values, not 2"),
        (tuple[int, ...], 1, "it is 1, not a tuple"),
        (tuple[int, ...] | None, [1, "2"], "it[1] is '2', not a whole number"),
        (Mapping[str, int], {"a": "1"}, "it['a'] is '1', not a whole number"),
        (Mapping[str, int], [], "it is [], not a dict with names"),
        (RunConfig, {"refine": 0.2}, "it is {'refine': 0.2}, not a RunConfig; write RunConfig(...)"),
        (Annotated[float, Bounds(0, open_below=True)] | None, 0, "it is 0, not a number above 0 or None"),
    ],
)
def test_what_a_type_does_not_allow_is_named(kind: Any, given: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(kind, given, "it")
    assert str(caught.value) == text
    assert caught.value.arguments == ("it",)


def test_types_are_described_in_words() -> None:
    assert describe(Literal["all"] | Annotated[float, Bounds(0, 1)] | None) == "'all', a number between 0 and 1 or None"
    assert describe(tuple[int, ...]) == "a tuple, each a whole number"
    assert describe(ClusterSpec) == "a ClusterSpec"


def of(make: Any, *arguments: Any, **named: Any) -> Callable[[], object]:
    return partial(make, *arguments, **named)


CLASSES = (ClassInfo("stroma", 1, (1, 2, 3)), ClassInfo("gland", 2, (4, 5, 6)))


def bundle_spec(**changes: Any) -> BundleSpec:
    values: dict[str, Any] = {
        **{"name": "made", "network": "identity", "classes": CLASSES, "mpps": (2, 1), "refiner_of": (0,)},
        **{"select_above": (0.1,), "refine_above": (0.1,), "temperature": (1, 1)},
    }
    return BundleSpec(**{**values, **changes})


def test_numbers_become_those_of_the_type() -> None:
    config = RunConfig(mpp=np.float32(0.5), refine=1, batch_size=np.int64(2))  # type: ignore[arg-type]
    assert config.to_json() == RunConfig(mpp=0.5, refine=1.0, batch_size=2).to_json()
    assert bundle_spec(mpps=[2, 1]) == bundle_spec(mpps=(2.0, 1.0))
    assert Execution(cluster=Path("a.yaml")).cluster == "a.yaml"  # type: ignore[arg-type]
    assert CohortOptions("results").out == Path("results").absolute()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (of(RunConfig, refine="most"), "refine is 'most', not 'all', 'auto' or a number between 0 and 1"),
        (of(RunConfig, refine=3), "refine is 3, not 'all', 'auto' or a number between 0 and 1"),
        (of(RunConfig, ngff="0.6"), "ngff is '0.6', not '0.4' or '0.5'"),
        (of(RunConfig, keep_probabilities="yes"), "keep_probabilities is 'yes', not True or False"),
        (of(RunConfig, precision="int8"), "precision is 'int8', not 'auto', 'fp32', 'mixed', 'bf16' or 'fp16'"),
        (of(RunConfig, tile_px=300), "tile_px is 300, not 512, 1024, 2048 or 4096"),
        (of(RunConfig, tile_px="1024"), "tile_px is '1024', not a whole number"),
        (of(RunConfig, mpp=0), "mpp is 0, not a number between 0.01 and 100 or None"),
        (of(RunConfig, tissue=None), "tissue is None, not True or False"),
        (of(RunConfig, batch_size=0), "batch_size is 0, not a whole number of at least 1 or None"),
        (of(Execution, device="gpu"), "device is 'gpu', not auto, cpu, cuda or cuda:N"),
        (of(Execution, device=0), "device is 0, not text"),
        (of(Execution, workers=0), "workers is 0, not a whole number of at least 1 or None"),
        (of(Execution, scheduler="here"), "scheduler is 'here', not an address such as tcp://HOST:8786"),
        (
            lambda: Execution(workers=1, cluster="a"),
            "workers, scheduler and cluster exclude each other",
        ),
        (of(CohortOptions, 3), "out is 3, not text, a path or a Url"),
        (of(CohortOptions, "out", config={}), "config is {}, not a RunConfig; write RunConfig(...)"),
        (of(CohortOptions, "out", in_flight=0), "in_flight is 0, not a whole number of at least 1 or None"),
        (of(CohortOptions, "out", existing="again"), "existing is 'again', not 'resume', 'restart' or 'overwrite'"),
        (of(ClassInfo, "", 1, (1, 2, 3)), "class '' has no name"),
        (of(ClassInfo, "a", "1", (1, 2, 3)), "class 'a': value is '1', not a whole number"),
        (of(ClassInfo, "a", 1, (1, 2)), "class 'a': color has 2 values, not 3"),
        (of(bundle_spec, mpps=2), "bundle 'made': mpps is 2, not a tuple"),
        (of(bundle_spec, classes=("a", "b")), "bundle 'made': classes[0] is 'a', not a ClassInfo"),
        (of(bundle_spec, halo_px="32"), "bundle 'made': halo_px is '32', not a whole number"),
        (of(AugmentConfig, blur=7), "blur 7 is not between 0 and 1"),
        (of(AugmentConfig, flips=1), "flips is 1, not True or False"),
        (of(ClassConfig, "a", value="1"), "value is '1', not a whole number or None"),
        (of(RefinerConfig, steps=0, batch=1, learning_rate=1), "steps 0 is not at least 1"),
        (of(Adapt, maximum=0), "maximum is 0, not a whole number between 1 and 1000000"),
        (of(ClusterSpec, Path("a"), "local"), "a: give either workers: N or adapt: {minimum: N, maximum: N}"),
        (of(ClusterSpec, Path("a"), "cloud", 1), "kind is 'cloud', not 'local', 'slurm'"),
        (of(open_slide, 3), "path is 3, not text or a path"),
        (of(open_slide, "a.svs", mpp="1"), "mpp is '1', not a number"),
        (of(open_result, None), "path is None, not text, a path or a Url"),
        (of(load_bundle, 3), "bundle is 3, not text, a path or None"),
        (of(find_slides, 3, "out"), "sources is 3, not a tuple"),
        (of(segment_cohort, ["a.svs"], CohortOptions(Path("out"))), "slides are not those that"),
        (of(segment_cohort, [], {}), "options is {}, not a CohortOptions; write CohortOptions(...)"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_when_it_is_made(make: Callable[[], object], text: str) -> None:
    with pytest.raises((ConfigError, BundleError)) as caught:
        make()
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"slide": 3}, "slide is 3, not text or a path"),
        ({"output": 3}, "output is 3, not text, a path or a Url"),
        ({"name": "a/b"}, "name is 'a/b', not the name of a folder"),
        ({"name": 3}, "name is 3, not text or None"),
        ({"bundle": 3}, "bundle is 3, not text, a path or None"),
        ({"config": {"refine": 0.2}}, "config is {'refine': 0.2}, not a RunConfig or None"),
        ({"execution": {"workers": 2}}, "execution is {'workers': 2}, not an Execution or None"),
        ({"existing": "again"}, "existing is 'again', not 'resume', 'restart' or 'overwrite'"),
        ({"observe": "yes"}, "observe is 'yes', not a function of one event"),
    ],
)
def test_a_wrong_argument_of_a_run_is_refused_before_a_folder_is_made(
    arguments: dict[str, Any], text: str, demo_slide: Path, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, BundleError)) as caught:
        segment_slide(**{"slide": demo_slide, "output": tmp_path, **arguments})
    assert str(caught.value).startswith(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"config": RunConfig(mpp=0.93, precision="fp16"), "execution": Execution(device="cpu")},
            "precision fp16 needs",
        ),
        ({"config": RunConfig(mpp=0.93), "execution": Execution(device="cuda:99")}, "device cuda:99: torch"),
        ({"config": RunConfig(mpp=50)}, "the slide's pixels are 50 µm"),
    ],
)
def test_a_run_that_this_machine_cannot_do_leaves_no_folder(
    options: dict[str, Any], text: str, demo_slide: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        segment_slide(demo_slide, tmp_path, **options)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_source_of_slides_needs_no_list(demo_slide: Path, tmp_path: Path) -> None:
    assert find_slides(demo_slide, "out").slides == find_slides([str(demo_slide)], tmp_path).slides


def test_importing_a_documented_value_reads_no_source() -> None:
    code = "import sys, wsi_magnet.config, linecache; print(bool(linecache.cache)); wsi_magnet.RunConfig.__doc__"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "False"

"""Labels and colours from names."""

from __future__ import annotations

import pytest

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.labels import LabelClass
from wsi_magnet.nets.classes import ClassChanges, named_classes, palette_color, parse_color, unnamed_classes
from wsi_magnet.nets.spec import ClassInfo


def test_canonical_names_have_canonical_labels() -> None:
    names = ["Background", "stroma", "benign  epithelium", "Gleason 3", "gleason 4", "GLEASON 5"]
    assert [c.value for c in named_classes(names)] == [0, 1, 2, 3, 4, 5]
    assert [c.name for c in named_classes(names)] == names


def test_other_names_do_not_get_labels_that_mean_something() -> None:
    assert [c.value for c in named_classes(["nerve", "stroma", "vessel"])] == [6, 1, 7]


def test_names_of_another_field_count_from_1() -> None:
    assert [c.value for c in named_classes(["background", "road", "water"])] == [0, 1, 2]
    assert [c.value for c in named_classes(["road", "water"])] == [1, 2]


def test_colours_differ() -> None:
    assert len({c.color for c in unnamed_classes(30)}) == 30
    assert palette_color(12) != palette_color(0)
    names = ["background", "stroma", "benign gland", "gleason 3", "gleason 4", "gleason 5", "nerve"]
    assert len({c.color for c in named_classes(names)}) == len(names)


CLASSES = (LabelClass(1, "stroma", (1, 2, 3)), LabelClass(6, "gland", (4, 5, 6)))


def test_names_and_colours_change_and_values_stay() -> None:
    changes = ClassChanges({"stroma": "Stroma"}, {"stroma": (9, 9, 9), "gland": (7, 7, 7)})
    changed = changes.of(CLASSES)
    assert changed == (LabelClass(1, "Stroma", (9, 9, 9)), LabelClass(6, "gland", (7, 7, 7)))
    assert changes.of(changed, {"stroma": "Stroma"}) == changed, "a change that was interrupted can be repeated"
    assert ClassChanges({"stroma": "Stroma"}, {"Stroma": (9, 9, 9)}).of(CLASSES)[0] == changed[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (ClassChanges({"lumen": "Lumen"}), "no class 'lumen'; the classes are gland, stroma"),
        (ClassChanges({}, {"lumen": (0, 0, 0)}), "no class 'lumen'"),
        (ClassChanges({"typo": "gland"}), "no class 'typo'; the classes are gland, stroma"),
        (ClassChanges({"stroma": "gland"}), "'gland' is empty or used twice"),
        (ClassChanges({"stroma": " "}), "is empty or used twice"),
        (ClassChanges({"stroma": "GLAND"}), "'GLAND' is empty or used twice"),
        (ClassChanges({"stroma": "a\nb"}), "'a\\\\nb' has control characters"),
        (ClassChanges({"stroma": "\x1b[31mred"}), "has control characters"),
        (ClassChanges({"stroma": "Not  analysed"}), "stands for pixels that could not be read"),
        (ClassChanges({"stroma": "Background"}), "stands for the value 0, not 1"),
        (ClassChanges({"stroma": "gland", "gland": "stroma"}), "rename in two steps"),
    ],
)
def test_what_cannot_be_is_refused(changes: ClassChanges, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        changes.of(CLASSES)


@pytest.mark.parametrize(
    "renamed", [{}, {"typo": "stroma"}, {"other": "gland"}, {"typo": "Gland"}], ids=["none", "else", "other", "gone"]
)
def test_only_the_same_change_counts_as_made_already(renamed: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no class 'typo'"):
        ClassChanges({"typo": "gland"}).of(CLASSES, renamed)
    assert ClassChanges({"typo": "gland"}).of(CLASSES, {"typo": "gland"}) == CLASSES


def test_names_that_exist_may_stay() -> None:
    old = (LabelClass(1, "GLAND", (1, 2, 3)), LabelClass(2, "gland", (4, 5, 6)), LabelClass(3, "a\nb", (7, 8, 9)))
    assert ClassChanges({}, {"gland": (0, 0, 0)}).of(old)[1].color == (0, 0, 0)
    assert ClassChanges({"GLAND": "Drüse \u200d腫瘍"}).of(old)[0].name == "Drüse \u200d腫瘍"
    assert ClassInfo("a\nb", 1, (0, 0, 0)).name == "a\nb"


@pytest.mark.parametrize("name", ["not analysed", "a\tb", "\x00"])
def test_new_classes_have_proper_names(name: str) -> None:
    with pytest.raises(BundleError, match="class name"):
        named_classes(["stroma", name])


def test_colours() -> None:
    assert parse_color("#4a90D9") == parse_color("4a90d9") == (74, 144, 217)
    for text in ("blue", "#4a9", "#4a90d9ff", ""):
        with pytest.raises(ConfigError, match="six hexadecimal digits"):
            parse_color(text)

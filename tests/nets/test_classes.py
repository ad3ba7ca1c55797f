"""Labels and colours from names."""

from __future__ import annotations

from wsi_magnet.nets.classes import named_classes, palette_color, unnamed_classes


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

"""A coding: labels to the classes that they may mean, and a refusal for those that nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.annotations.made import ALL, BACKGROUND, CLASSES, GLAND, GLEASON_3, STROMA
from wsi_magnet.annotations.coding import Coding
from wsi_magnet.errors import AnnotationError
from wsi_magnet.nets.classes import unnamed_classes
from wsi_magnet.nets.spec import ClassInfo


def meant(coding: str, label: int | str) -> int:
    return Coding.parse(coding, CLASSES).set_of(label)


@pytest.mark.parametrize(
    ("coding", "label", "expected"),
    [
        ("", 0, BACKGROUND),
        ("", 2, GLAND),
        ("", "stroma", STROMA),
        ("", "Benign  Gland", GLAND),
        ("", "Tumor: Gleason 3", GLEASON_3),
        ("1=2", 1, GLAND),
        ("1=2|3", 1, GLAND | GLEASON_3),
        ("1 = benign gland | Gleason 3 ", 1, GLAND | GLEASON_3),
        ("0=0|1; 1=2;", 0, BACKGROUND | STROMA),
        ("Tumour=3", "tumour", GLEASON_3),
        ("a=b=3", "a=b", GLEASON_3),
        ("#FF0000=3", "#ff0000", GLEASON_3),
        ("7=ignore", 7, ALL),
        ("*=ignore", 7, ALL),
        ("*=ignore; 7=1", 7, STROMA),
        ("*=1", 2, STROMA),
        ("1=2", 2, GLAND),
        ("1=2|6|9", 1, GLAND),
    ],
)
def test_a_label_means_what_the_coding_says_and_otherwise_itself(coding: str, label: int | str, expected: int) -> None:
    assert meant(coding, label) == expected


@pytest.mark.parametrize("label", [255, "Not analysed*"])
def test_what_was_not_analysed_is_not_labelled(label: int | str) -> None:
    assert meant("", label) == ALL
    assert meant("*=1", label) == ALL
    assert meant(f"{label}=1", label) == STROMA


def test_the_later_of_two_entries_counts() -> None:
    assert meant("1=2; 1=3", 1) == GLEASON_3


@pytest.mark.parametrize("label", [9, -1, "fat"])
def test_a_label_that_nobody_knows_is_refused_with_the_cure(label: int | str) -> None:
    with pytest.raises(AnnotationError) as caught:
        meant("1=2", label)
    assert str(caught.value) == (
        f"unknown label {label!r}; the classes are 0 background, 1 stroma, 2 benign gland, 3 Gleason 3. "
        f"Give its meaning, or {label}=ignore, in the labels column"
    )


def test_a_label_whose_classes_are_none_of_the_list_is_refused_where_it_occurs() -> None:
    coding = Coding.parse("1=5", CLASSES)
    assert coding.set_of(2) == GLAND
    with pytest.raises(AnnotationError, match="no class in use has the label 1"):
        coding.set_of(1)


@pytest.mark.parametrize("coding", ["1", "=2", "1=", "1=2; 3", "1=2||3", "1=|2", "1=ignore|2|"])
def test_a_coding_that_is_none_is_refused(coding: str) -> None:
    with pytest.raises(AnnotationError, match="coding"):
        Coding.parse(coding, CLASSES)


@given(st.integers(2, 31), st.data())
def test_the_bits_of_a_set_are_the_places_of_its_classes(n_classes: int, data: st.DataObject) -> None:
    classes = unnamed_classes(n_classes)
    members = data.draw(st.sets(st.integers(0, n_classes - 1), min_size=1))
    coding = Coding.parse(f"x={'|'.join(str(classes[i].value) for i in sorted(members))}", classes)
    assert coding.set_of("x") == sum(1 << i for i in members)


def test_what_is_not_labelled_may_be_any_class() -> None:
    assert Coding.parse("", CLASSES).ignored == ALL


def test_more_classes_than_bits_are_refused() -> None:
    with pytest.raises(AnnotationError, match="32 classes are too many; a label set holds 31"):
        Coding.parse("", unnamed_classes(32))


def test_a_name_that_no_class_has_is_refused_and_a_value_is_passed_over() -> None:
    with pytest.raises(AnnotationError, match="no class is called 'Gleeson 4'"):
        Coding.parse("Tumor=gland|Gleeson 4", GLANDS)
    assert Coding.parse("Tumor=6|4", GLANDS).set_of("Tumor") == 0b10


GLANDS = (ClassInfo("stroma", 1, (0, 0, 0)), ClassInfo("gland", 6, (0, 0, 0)))

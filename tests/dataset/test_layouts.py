"""Layouts: each data set in miniature becomes rows with the right files, group, split, resolution and coding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dataset import made_layouts as made
from wsi_magnet.annotations.coding import Coding
from wsi_magnet.dataset.build_manifest import ManifestOptions, make_manifest
from wsi_magnet.dataset.layouts.base import LayoutOptions
from wsi_magnet.dataset.layouts.cityscapes import LABELS as CITYSCAPES_LABELS
from wsi_magnet.dataset.layouts.deepglobe import LABELS as DEEPGLOBE_LABELS
from wsi_magnet.dataset.layouts.registry import LAYOUTS
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import AnnotationError, ConfigError, ManifestError
from wsi_magnet.nets.spec import ClassInfo

CLASSES = [
    ClassInfo(name, value, (value, 0, 0))
    for value, name in enumerate(["background", "stroma", "benign epithelium", "Gleason 3", "Gleason 4", "Gleason 5"])
]
ANY = {0, 1, 2, 3, 4, 5}


def samples(dataset: str, root: Path, options: ManifestOptions | None = None) -> Sequence[Sample]:
    """The rows as they are read back."""
    make_manifest(dataset, root, root / "made" / "m.csv", options or ManifestOptions())
    return read_manifest(root / "made" / "m.csv").samples


def notes(dataset: str, root: Path, options: ManifestOptions | None = None) -> str:
    return "; ".join(make_manifest(dataset, root, root / "made" / "m.csv", options or ManifestOptions())[1])


def meaning(labels: str, label: int | str) -> set[int]:
    """Values of the classes that a label may be."""
    found = Coding.parse(labels, CLASSES).set_of(label)
    return {info.value for i, info in enumerate(CLASSES) if found >> i & 1}


def test_gleason2019(tmp_path: Path) -> None:
    made.gleason2019(tmp_path)
    rows = samples("gleason2019", tmp_path)
    assert [row.name for row in rows] == [
        "slide001_core003",
        "slide001_core004",
        "slide002_core003",
        "slide002_core004",
        "slide003_core003",
    ]
    assert [path.parent.name for path in rows[0].annotations] == ["Maps1_T", "Maps3_T", "Maps6_T"]
    assert [row.consensus for row in rows] == ["majority", "first", "first", "first", "first"]
    assert [row.group for row in rows] == ["slide001", "slide001", "slide002", "slide002", "slide003"]
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert rows[0].mpp == 0.25
    meanings = [meaning(rows[0].labels, value) for value in (0, 1, 6, 3, 4, 5)]
    assert meanings == [ANY, {0, 1, 2}, {0, 1, 2}, {3}, {4}, {5}]
    text = notes("gleason2019", tmp_path)
    assert "is assumed" in text
    assert "2 images without a map left out" in text


def test_gleason2019_without_the_maps_of_the_list(tmp_path: Path) -> None:
    made.gleason2019(tmp_path)
    options = ManifestOptions(layout=LayoutOptions(remove=tmp_path / "final_list_to_remove.json"))
    rows = samples("gleason2019", tmp_path, options)
    assert [path.parent.name for path in rows[0].annotations] == ["Maps1_T", "Maps6_T"]
    assert "1 maps of the list" in notes("gleason2019", tmp_path, options)


def test_gleason2019_joined_by_staple(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    made.gleason2019(tmp_path)
    rows = samples("gleason2019", tmp_path, ManifestOptions(joining="staple"))
    joined = tmp_path / "made" / "m_staple" / "slide001_core003.png"
    assert rows[0].annotations == (joined,)
    assert rows[1].annotations[0].parent.name == "Maps1_T"
    assert np.array_equal(np.asarray(Image.open(joined)), np.full((4, 4), 3))


@pytest.mark.parametrize("text", ["[", "[]", '{"a": 1}', '{"slide001_core003": ["Maps_T"]}'])
def test_gleason2019_refuses_what_is_no_list(tmp_path: Path, text: str) -> None:
    made.gleason2019(tmp_path)
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ManifestError, match=r"list\.json"):
        samples("gleason2019", tmp_path, ManifestOptions(layout=LayoutOptions(remove=tmp_path / "list.json")))


def test_gleason2019_unpacked_twice_is_refused(tmp_path: Path) -> None:
    made.gleason2019(tmp_path)
    made.image(tmp_path / "copy" / "slide001_core003.jpg")
    with pytest.raises(ManifestError, match="are both slide001_core003"):
        samples("gleason2019", tmp_path)


def test_panda_of_radboud(tmp_path: Path) -> None:
    made.panda(tmp_path)
    rows = samples("panda-radboud", tmp_path)
    assert [(row.name, row.group, row.mpp) for row in rows] == [("0a1", "0a1", None), ("0c3", "0c3", None)]
    assert [meaning(rows[0].labels, value) for value in range(6)] == [ANY, {1}, {2}, {3}, {4}, {5}]
    assert "no patients are published" in notes("panda-radboud", tmp_path)


def test_panda_of_karolinska(tmp_path: Path) -> None:
    made.panda(tmp_path)
    rows = samples("panda-karolinska", tmp_path)
    assert [row.name for row in rows] == ["0b2"]
    assert [meaning(rows[0].labels, value) for value in range(3)] == [ANY, {1, 2}, {3, 4, 5}]
    assert "1 images without a mask left out (0d4)" in notes("panda-karolinska", tmp_path)


def test_zurich_tma(tmp_path: Path) -> None:
    made.zurich_tma(tmp_path)
    rows = samples("zurich-tma", tmp_path)
    assert [(row.group, row.split) for row in rows] == [("ZT111", "train"), ("ZT76", "validation"), ("ZT80", "test")]
    assert [path.name for path in rows[2].annotations] == ["mask1_ZT80_38_A_7_10.png", "mask2_ZT80_38_A_7_10.png"]
    assert [row.consensus for row in rows] == ["first", "first", "majority"]
    assert [meaning(rows[0].labels, value) for value in range(5)] == [{0, 1, 2}, {3}, {4}, {5}, ANY]
    assert rows[0].mpp == 0.23


def test_sicapv2_by_slide(tmp_path: Path) -> None:
    made.sicapv2(tmp_path)
    rows = samples("sicapv2", tmp_path)
    assert [row.group for row in rows[::2]] == ["16B0001851", "17B0023379", "18B0006623D"]
    assert [len({row.split for row in rows if row.group == group}) for group in {r.group for r in rows}] == [1, 1, 1]
    assert [meaning(rows[0].labels, value) for value in range(4)] == [{0, 1, 2}, {3}, {4}, {5}]
    assert rows[0].mpp == 1.0
    assert "split by slide" in notes("sicapv2", tmp_path)


def test_sicapv2_as_published(tmp_path: Path) -> None:
    made.sicapv2(tmp_path)
    made.sicapv2_lists(tmp_path)
    splits = {row.group: row.split for row in samples("sicapv2", tmp_path)}
    assert splits == {"16B0001851": "train", "17B0023379": "test", "18B0006623D": "validation"}


def test_aggc(tmp_path: Path) -> None:
    made.aggc(tmp_path)
    rows = samples("aggc", tmp_path)
    assert [path.name for path in rows[0].annotations] == ["G5_Mask.tif", "G3_Mask.tif", "Stroma_Mask.tif"]
    codings = rows[0].labels.split("//")
    assert [meaning(coding, 1) for coding in codings] == [{5}, {3}, {1}]
    assert [meaning(coding, 0) for coding in codings] == [ANY] * 3
    assert [row.group for row in rows] == ["Subset1_Train_1", "Subset3_Train_5", "Subset3_Train_5"]
    assert {row.consensus for row in rows} == {"first"}


def test_rings_glands(tmp_path: Path) -> None:
    made.rings(tmp_path, ["P1_D5_3_12_4", "P1_D5_3_12_5", "P1_D5_3_14_3"])
    rows = samples("rings-glands", tmp_path)
    assert [row.group for row in rows] == ["P1_D5_3_12", "P1_D5_3_12", "P1_D5_3_14"]
    assert [meaning(rows[0].labels, value) for value in range(2)] == [{0, 1}, {2, 3, 4, 5}]
    assert rows[0].mpp == 0.93


def test_rings_tumour(tmp_path: Path) -> None:
    made.rings(tmp_path, ["P3_C10_3_5_1", "P3_C10_7_3_9", "P3_A8_7_11_1"])
    rows = samples("rings-tumour", tmp_path)
    assert [row.group for row in rows] == ["P3_A8", "P3_C10", "P3_C10"]
    colours = ("#ff0000", "#00ff00", "#000000")
    assert [meaning(rows[0].labels, colour) for colour in colours] == [{3, 4, 5}, {2}, ANY]
    assert rows[0].mpp == 1.86


def test_deepglobe(tmp_path: Path) -> None:
    made.deepglobe(tmp_path)
    rows = samples("deepglobe", tmp_path)
    assert sorted(row.group for row in rows) == ["119", "2334", "855"]
    classes = [ClassInfo(f"class {i}", i, (i, 0, 0)) for i in range(1, 8)]
    coding = Coding.parse(rows[0].labels, classes)
    sets = [coding.set_of(colour) for colour in ("#00ffff", "#0000ff", "#000000", "#0101fe")]
    assert sets == [1 << 0, 1 << 4, 1 << 6, coding.ignored]
    assert rows[0].mpp == 1.0


def test_deepglobe_names_the_cure_for_classes_without_unknown() -> None:
    with pytest.raises(AnnotationError, match="#000000=ignore"):
        Coding.parse(DEEPGLOBE_LABELS, [ClassInfo(f"class {i}", i, (i, 0, 0)) for i in range(1, 7)]).set_of("#000000")


def test_cityscapes(tmp_path: Path) -> None:
    made.cityscapes(tmp_path)
    rows = samples("cityscapes", tmp_path)
    assert [(row.group, row.split) for row in rows] == [
        ("aachen", "train"),
        ("frankfurt", "validation"),
        ("ulm", "train"),
    ]
    assert rows[0].annotations[0].name.endswith("labelIds.png")


def test_cityscapes_label_ids_become_train_ids_and_one() -> None:
    classes = [ClassInfo(f"class {i}", i, (i, 0, 0)) for i in range(1, 20)]
    coding = Coding.parse(CITYSCAPES_LABELS, classes)
    sets = [coding.set_of(label) for label in range(34)]
    labelled = {label: one.bit_length() - 1 for label, one in enumerate(sets) if one != coding.ignored}
    assert list(labelled.values()) == list(range(19))
    assert (labelled[7], labelled[22], labelled[33]) == (0, 9, 18)


def test_folders(tmp_path: Path) -> None:
    for name, masked in (("P1_a.jpg", "P1_a.png"), ("P1_b.tif", "P1_b_mask.png"), ("P2_c.png", "P2_c.geojson")):
        made.image(tmp_path / "images" / name)
        made.mask(tmp_path / "masks" / (Path(masked).stem + ".png")).rename(tmp_path / "masks" / masked)
    made.image(tmp_path / "images" / "P3_d.png")
    made.mask(tmp_path / "masks" / "P4_e_label.png")
    options = ManifestOptions(mpp=0.5, labels="0=ignore; 1=stroma", layout=LayoutOptions(group_pattern="^(P[0-9]+)_"))
    rows = samples("folders", tmp_path, options)
    assert [(row.name, row.annotations[0].name, row.group) for row in rows] == [
        ("P1_a", "P1_a.png", "P1"),
        ("P1_b", "P1_b_mask.png", "P1"),
        ("P2_c", "P2_c.geojson", "P2"),
    ]
    assert {(row.mpp, row.labels) for row in rows} == {(0.5, "0=ignore; 1=stroma")}
    text = notes("folders", tmp_path, options)
    assert "1 images without an annotation left out (P3_d)" in text
    assert "1 annotations without an image left out (P4_e_label.png)" in text


def test_folders_in_folders_of_patients_are_matched_by_both_names(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        made.image(tmp_path / "in" / patient / "a.png")
        made.mask(tmp_path / "truth" / patient / "a.png")
    layout = LayoutOptions(images="in", masks="truth", group_pattern="^(.+)/")
    rows = samples("folders", tmp_path, ManifestOptions(layout=layout))
    assert [(row.group, row.annotations[0].parent.name) for row in rows] == [("P1", "P1"), ("P2", "P2")]


def groups_by_list(tmp_path: Path, images: list[str], *listed: str) -> list[str]:
    """Groups of images in the folder "in" by a list with these rows."""
    for name in images:
        made.image(tmp_path / "in" / name)
        made.mask(tmp_path / "truth" / f"{name[:-4]}.png")
    path = tmp_path / "groups.csv"
    path.write_text("\n".join(("image,group", *listed)))
    layout = LayoutOptions(images="in", masks="truth", groups=path)
    return [row.group for row in samples("folders", tmp_path, ManifestOptions(layout=layout))]


@pytest.mark.parametrize(
    "listed",
    [
        ("P1/a.png,X", "P2/a.png,Y"),
        ("in/P1/a.png,X", "./P2/a,Y"),
        ("/elsewhere/P1/a.svs,X", "P2/a.png,Y", "P3/a.png,Z", "b,Z"),
    ],
)
def test_images_of_one_name_are_listed_by_their_paths(tmp_path: Path, listed: tuple[str, ...]) -> None:
    assert groups_by_list(tmp_path, ["P1/a.png", "P2/a.png"], *listed) == ["X", "Y"]


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        (("P1/a.png,X",), "has no row for P2/a.png, and 2 images have its name; give the path of each below .*in$"),
        (("a.png,X",), "has no row for P1/a.png, and 2 images have its name"),
        (("P1/a.png,X", "P2/a.png,Y", "P2/a.png,Z"), "row 4: 'P2/a.png' is in two groups"),
        (("P1/a.png,X", "P2/a.png,Y", "P2/a,Z"), "rows 3 and 4: 'P2/a.png' is in two groups, 'Y' and 'Z'; correct one"),
        (("P1/a.png,X", "P2/a.png,Y", "a.png,Z"), "rows 2 and 4: 'P1/a.png' is in two groups, 'X' and 'Z'"),
        (("P1/a.png,X", "P2/a.png,Y", "in/P2/a.png,Z"), "rows 3 and 4: 'P2/a.png' is in two groups, 'Y' and 'Z'"),
        (("P2/a,Y", "/data/P1/a.svs,Z", "P1/a.png,X"), "rows 3 and 4: 'P1/a.png' is in two groups, 'Z' and 'X'"),
        (("P1/b.png,X",), "has no row for P1/a.png; add one"),
    ],
)
def test_a_list_that_leaves_an_image_open_is_refused(tmp_path: Path, listed: tuple[str, ...], why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        groups_by_list(tmp_path, ["P1/a.png", "P2/a.png"], *listed)


def test_an_image_is_listed_by_its_path_although_another_ends_alike(tmp_path: Path) -> None:
    images = ["P1/a.png", "a.png", "s/P1/a.png"]
    assert groups_by_list(tmp_path, images, "P1/a.png,X", "s/P1/a.png,Y", "a.png,Z") == ["X", "Z", "Y"]
    with pytest.raises(ManifestError, match=r"has no row for s/P1/a\.png"):
        groups_by_list(tmp_path, images, "P1/a.png,X", "a.png,Z")


def test_rows_that_name_one_image_by_paths_of_different_length_may_agree(tmp_path: Path) -> None:
    images = ["P1/a.png", "P2/a.png", "b.png"]
    listed = ["P1/a.png,X", "/data/in/P1/a.png,X", "P2/a,Y", "b,Z", "in/b.png,Z", "P3/a.png,W"]
    assert groups_by_list(tmp_path, images, *listed) == ["X", "Y", "Z"]
    with pytest.raises(ManifestError, match=r"rows 5 and 6: 'b\.png' is in two groups, 'Z' and 'W'; correct"):
        groups_by_list(tmp_path, images, *listed[:4], "in/b.png,W")


def test_only_suffixes_of_images_are_left_out_of_listed_names(tmp_path: Path) -> None:
    images = ["case.1.png", "case.2.png", "w.jpg"]
    assert groups_by_list(tmp_path, images, "case.1,X", "case.2.PNG,Y", "else/w.ome.tiff,Z") == ["X", "Y", "Z"]


def test_a_zarr_folder_is_an_annotation_as_a_file_is(tmp_path: Path) -> None:
    for name in ("a.ome.zarr", "b_mask.zarr"):
        made.image(tmp_path / "img" / f"{name[0]}.png")
        (tmp_path / "mask" / name).mkdir(parents=True)
        (tmp_path / "mask" / name / "zarr.json").write_text("{}")
    assert [row.annotations[0].name for row in samples("folders", tmp_path)] == ["a.ome.zarr", "b_mask.zarr"]


def test_an_image_may_be_called_mask_itself(tmp_path: Path) -> None:
    made.image(tmp_path / "img" / "a_mask.jpg")
    made.mask(tmp_path / "mask" / "a_mask.png")
    assert [row.name for row in samples("folders", tmp_path)] == ["a_mask"]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "not a regular expression"),
        ("a", "has 0 groups"),
        ("(a)(b)", "has 2 groups"),
        ("(x)", "finds no group in 'ab'"),
    ],
)
def test_group_patterns_that_cannot_be_meant_are_refused(tmp_path: Path, pattern: str, why: str) -> None:
    made.image(tmp_path / "img" / "ab.jpg")
    made.mask(tmp_path / "mask" / "ab.png")
    with pytest.raises(ManifestError, match=why):
        samples("folders", tmp_path, ManifestOptions(layout=LayoutOptions(group_pattern=pattern)))


@pytest.mark.parametrize("dataset", list(LAYOUTS))
def test_nothing_found_says_what_was_looked_for_and_where(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "mask").mkdir()
    with pytest.raises(ManifestError, match=rf"{tmp_path}.*(holds no|has no) .*(\.|image)"):
        samples(dataset, tmp_path)
    with pytest.raises(ManifestError, match="none"):
        samples(dataset, tmp_path / "none")


def test_images_of_the_same_content_come_into_one_group(tmp_path: Path) -> None:
    made.rings(tmp_path, [f"P1_D5_{i}_1_1" for i in range(6)])
    twin = (tmp_path / "img" / "P1_D5_0_1_1.png").read_bytes()
    (tmp_path / "img" / "P1_D5_5_1_1.png").write_bytes(twin)
    groups = {row.name: row.group for row in samples("rings-glands", tmp_path)}
    assert groups["P1_D5_0_1_1"] == groups["P1_D5_5_1_1"]
    assert len(set(groups.values())) == 5


def test_a_copy_in_another_published_split_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    made.zurich_tma(tmp_path)
    copy = (tmp_path / "ZT111_4_A" / "ZT111_4_A_1_1.jpg").read_bytes()
    (tmp_path / "ZT80_38_A" / "ZT80_38_A_7_10.jpg").write_bytes(copy)
    with pytest.raises(ManifestError, match="has the same content"):
        samples("zurich-tma", tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_link_to_a_folder_is_followed_once(tmp_path: Path) -> None:
    made.rings(tmp_path / "elsewhere", ["P1_D5_3_12_4"])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "img" / "loop").symlink_to(tmp_path / "root")
    assert len(samples("rings-glands", tmp_path / "root")) == 1


def test_the_resolution_given_is_taken_for_all(tmp_path: Path) -> None:
    made.rings(tmp_path, ["P1_D5_3_12_4"])
    assert samples("rings-glands", tmp_path, ManifestOptions(mpp=0.65))[0].mpp == 0.65


@pytest.mark.parametrize(
    ("dataset", "options", "why"),
    [
        (
            "aggc",
            ManifestOptions(joining="staple"),
            "one annotator per image; --consensus is for gleason2019, zurich-tma",
        ),
        ("aggc", ManifestOptions(layout=LayoutOptions(images="img")), "--images is not for aggc"),
        ("folders", ManifestOptions(layout=LayoutOptions(remove=Path("x"))), "--remove is not for folders"),
        ("folders", ManifestOptions(mpp=0), "mpp 0 is no resolution"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, dataset: str, options: ManifestOptions, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        samples(dataset, tmp_path, options)


def real(test_data: Path, tmp_path: Path) -> Callable[[str, str], Sequence[Sample]]:
    return lambda dataset, name: (
        make_manifest(dataset, test_data / name, tmp_path / "m.csv", ManifestOptions())[0].samples
    )


def test_real_tiles_that_overlap_stay_together(test_data: Path, tmp_path: Path) -> None:
    rows = real(test_data, tmp_path)("rings-glands", "rings_glands")
    assert len(rows) == 9
    assert {row.name[-1]: row.group for row in rows if row.group == "P1_D5_3_12"}.keys() == {"4", "5", "6"}
    assert len({row.split for row in rows if row.group == "P1_D5_3_12"}) == 1


def test_real_colours_are_all_in_the_coding(test_data: Path, tmp_path: Path) -> None:
    rows = real(test_data, tmp_path)("rings-tumour", "rings_tumour")
    assert {row.group for row in rows} == {"P3_A8", "P3_C10", "P3_C11"}
    for row in rows:
        with Image.open(row.annotations[0]) as picture:
            packed = np.asarray(picture.convert("RGB")) @ np.array([1 << 16, 1 << 8, 1])
        assert all(meaning(row.labels, f"#{colour:06x}") for colour in np.unique(packed))

"""Resolution from metadata, and values that are ignored."""

from __future__ import annotations

import pytest

from wsi_magnet.errors import ConfigError
from wsi_magnet.slides.mpp import check_mpp, mpp_from_properties, mpp_from_tiff_tags


def openslide(x: str, y: str | None = None, vendor: str = "aperio", **more: str) -> dict[str, str]:
    values = {"openslide.vendor": vendor, "openslide.mpp-x": x, **more}
    return values if y is None else {**values, "openslide.mpp-y": y}


def test_mpp_of_openslide() -> None:
    assert mpp_from_properties(openslide("0.2528", "0.25")) == ((0.2528, 0.25), "openslide.mpp-x")
    assert mpp_from_properties(openslide("0.2528")) == ((0.2528, 0.2528), "openslide.mpp-x")
    assert mpp_from_properties(openslide("0,2528")) == ((0.2528, 0.2528), "openslide.mpp-x")


@pytest.mark.parametrize("text", ["0", "-0.25", "1000", "nan", "inf", "unknown", ""])
def test_an_implausible_mpp_is_ignored(text: str) -> None:
    mpp, source = mpp_from_properties(openslide(text))
    assert mpp is None
    assert source.startswith("none (openslide.mpp-x says ")


def test_the_number_that_was_refused_is_named() -> None:
    assert mpp_from_properties(openslide("1000"))[1] == "none (openslide.mpp-x says 1000)"


def test_no_mpp() -> None:
    assert mpp_from_properties({"openslide.vendor": "aperio", "openslide.objective-power": "40"}) == (None, "none")


def test_the_next_source_is_used_after_an_implausible_one() -> None:
    tags = {"tiff.XResolution": "40000", "tiff.ResolutionUnit": "centimeter"}
    assert mpp_from_properties(openslide("0", **{"aperio.MPP": "0.5"})) == ((0.5, 0.5), "aperio.MPP")
    assert mpp_from_properties(openslide("0", **tags)) == ((0.25, 0.25), "tiff tags")


@pytest.mark.parametrize("dots_an_inch", [72, 96, 150, 300, 600, 1200])
def test_a_printers_resolution_is_ignored(dots_an_inch: int) -> None:
    assert mpp_from_tiff_tags(dots_an_inch, dots_an_inch, "INCH")[0] is None
    assert mpp_from_tiff_tags(dots_an_inch / 2.54, dots_an_inch / 2.54, "CENTIMETER")[0] is None
    generic = openslide(f"{25400 / dots_an_inch}", vendor="generic-tiff")
    assert mpp_from_properties(generic)[0] is None


def test_an_overview_may_be_as_coarse_as_a_printer() -> None:
    assert mpp_from_properties(openslide("28.969", "28.968", vendor="dicom"))[0] == (28.969, 28.968)


def test_tiff_tags() -> None:
    assert mpp_from_tiff_tags(50800, 101600, "INCH") == ((0.5, 0.25), "tiff tags")
    assert mpp_from_tiff_tags(40000, 40000, "CENTIMETER") == ((0.25, 0.25), "tiff tags")
    assert mpp_from_tiff_tags(1, 1, "NONE") == (None, "none")
    assert mpp_from_tiff_tags(0, 0, "INCH")[0] is None


def test_a_given_mpp_is_checked_too() -> None:
    assert check_mpp(0.25) == (0.25, 0.25)
    for mpp in (0.0, -1.0, 1000.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"mpp .*(0.01 to 100|not a number)"):
            check_mpp(mpp)

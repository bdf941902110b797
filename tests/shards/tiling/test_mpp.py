import pytest

from shards.errors import InputError
from shards.tiling.mpp import header_mpp, level0_px, mpp_of_magnification


@pytest.mark.parametrize(
    ("properties", "mpp"),
    [
        ({"openslide.mpp-x": "0.499", "openslide.mpp-y": "0.499"}, 0.499),
        ({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.52"}, 0.51),
        ({"tiff.ResolutionUnit": "centimeter", "tiff.XResolution": "40000", "tiff.YResolution": "40000"}, 0.25),
        ({"tiff.ResolutionUnit": "inch", "tiff.XResolution": "50800", "tiff.YResolution": "50800"}, 0.5),
        ({"tiff.ResolutionUnit": "inch", "tiff.XResolution": "72", "tiff.YResolution": "72"}, None),
        ({"tiff.ResolutionUnit": "none", "tiff.XResolution": "40000", "tiff.YResolution": "40000"}, None),
        ({"openslide.mpp-x": "0", "openslide.mpp-y": "nan"}, None),
        ({"openslide.objective-power": "20"}, None),
    ],
)
def test_mpp_of_a_header(properties: dict[str, str], mpp: float | None) -> None:
    assert header_mpp(properties) == pytest.approx(mpp)


def test_pixels_that_are_not_square_by_more_than_five_percent_are_refused() -> None:
    assert header_mpp({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.525"}) == pytest.approx(0.5125)
    with pytest.raises(InputError, match=r"not square: 0\.5 um wide, 0\.526 um high\. .*column mpp"):
        header_mpp({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.526"})


def test_level0_px_by_hand() -> None:
    assert level0_px(224, None, None) == 224
    assert level0_px(224, 0.5, 0.25) == 448
    assert level0_px(256, 1.0, 0.2325) == 1101


def test_unknown_and_too_coarse_slides_are_refused_with_advice() -> None:
    with pytest.raises(InputError, match=r"column mpp, or --assume-mpp"):
        level0_px(224, 0.5, None)
    with pytest.raises(InputError, match=r"too coarse for mpp 0\.25"):
        level0_px(224, 0.25, 0.5)


def test_magnification_is_ten_microns_divided_by_it() -> None:
    assert mpp_of_magnification(20) == 0.5
    assert mpp_of_magnification(40) == 0.25
    with pytest.raises(InputError, match="above 0"):
        mpp_of_magnification(0)

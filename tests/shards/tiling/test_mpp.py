import pytest

from shards.errors import InputError
from shards.tiling.mpp import level0_px, mpp_of_magnification, told_mpp

OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="10" SizeY="10" PhysicalSizeX="8" PhysicalSizeY="8"/></Image>'
    '<Image ID="Image:1"><Pixels ID="Pixels:1" SizeX="1000" SizeY="800" {sizes}/></Image></OME>'
)
MICRO, MU = "\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}"


def told(properties: dict[str, str]) -> tuple[float | None, str]:
    return told_mpp(properties, 1000, 800)[:2]


def tags(unit: str, px_per_unit: float, openslide_4: bool) -> dict[str, str]:
    """Return the properties of a tiled TIFF as OpenSlide 3 (tags only) or 4 hands them on."""
    found = {"tiff.ResolutionUnit": unit, "tiff.XResolution": str(px_per_unit), "tiff.YResolution": str(px_per_unit)}
    if openslide_4:
        mpp = str({"inch": 25_400, "centimeter": 10_000}[unit] / px_per_unit)
        found |= {"openslide.mpp-x": mpp, "openslide.mpp-y": mpp}
    return found


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.499", "openslide.mpp-y": "0.499"}, 0.499, "header"),
        (
            {"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.52"},
            0.51,
            "header, mean of 0.5 wide and 0.52 high",
        ),
        (tags("centimeter", 40_000, False), 0.25, "tags"),
        (tags("inch", 50_800, False), 0.5, "tags"),
        (tags("inch", 50_800, True), 0.5, "header"),
        (tags("none", 40_000, False), None, ""),
        ({"openslide.mpp-x": "0", "openslide.mpp-y": "nan"}, None, ""),
        ({"openslide.mpp-x": "0.00025", "openslide.mpp-y": "0.00025"}, None, ""),
        ({"openslide.mpp-x": "250", "openslide.mpp-y": "250"}, None, ""),
        ({"openslide.mpp-x": "0.5"}, None, ""),
        ({"openslide.objective-power": "20"}, None, ""),
        ({"openslide.mpp-x": "353", "openslide.mpp-y": "353", **tags("centimeter", 40_000, False)}, 0.25, "tags"),
    ],
)
def test_mpp_of_a_header(properties: dict[str, str], mpp: float | None, source: str) -> None:
    assert told(properties) == (pytest.approx(mpp), source)


@pytest.mark.parametrize("openslide_4", [True, False])
@pytest.mark.parametrize(
    ("unit", "dots"),
    [("inch", dpi) for dpi in (1, 72, 96, 150, 300, 600, 1200, 2400)]
    + [("centimeter", dots) for dots in (1, 28.35, 37.8, 118.11, 236.2, 472.4)],
)
def test_dots_of_a_printer_are_no_microns(unit: str, dots: float, openslide_4: bool) -> None:
    mpp, source, disbelieved = told_mpp(tags(unit, dots, openslide_4), 1000, 800)
    assert (mpp, source) == (None, "")
    assert "um/px" in disbelieved


@pytest.mark.parametrize(
    ("sizes", "mpp"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
        (f'PhysicalSizeX="0.25" PhysicalSizeXUnit="{MICRO}m" PhysicalSizeY="0.25" PhysicalSizeYUnit="{MU}m"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="250" PhysicalSizeYUnit="nm"', 0.25),
        ('PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" PhysicalSizeY="0.00025" PhysicalSizeYUnit="mm"', 0.25),
        ('PhysicalSizeX="0.000025" PhysicalSizeXUnit="cm" PhysicalSizeY="2.5E-7" PhysicalSizeYUnit="m"', 0.25),
        ('PhysicalSizeX="2500" PhysicalSizeXUnit="\N{LATIN CAPITAL LETTER A WITH RING ABOVE}" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="pixel" PhysicalSizeY="0.25" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="reference frame" PhysicalSizeY="1"', None),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="mm" PhysicalSizeY="1" PhysicalSizeYUnit="mm"', None),
        ("", None),
    ],
)
def test_ome_xml_is_read_with_its_unit_and_comes_last(sizes: str, mpp: float | None) -> None:
    comment = {"tiff.ImageDescription": OME.format(sizes=sizes)}
    assert told(comment) == (pytest.approx(mpp), "ome-xml" if mpp else "")
    assert told(comment | tags("inch", 72, True)) == (pytest.approx(mpp), "ome-xml" if mpp else "")
    assert told(comment | tags("centimeter", 20_000, True)) == (0.5, "header")


def test_pixels_that_are_not_square_by_more_than_five_percent_are_refused() -> None:
    assert told({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.525"})[0] == pytest.approx(0.5125)
    assert told({"openslide.mpp-x": "0.2522", "openslide.mpp-y": "0.2521"})[1] == "header"
    with pytest.raises(InputError, match=r"not square: 0\.5 um wide, 0\.526 um high\. .*column mpp"):
        told({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.526"})


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

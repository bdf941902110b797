"""A drawn Leica SCN whose scan begins inside its slide, as openslide.bounds tells."""

from pathlib import Path

import numpy as np
import tifffile

UM_PER_PX, MACRO_UM_PER_PX = 0.5, 4.0
SCN = (
    '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    '<collection name="drawn" sizeX="{side_nm}" sizeY="{side_nm}">{images}</collection></scn>'
)
IMAGE = (
    '<image name="{name}"><creationDate>2012-01-01</creationDate><device model="Leica SCN400" version="1"/>'
    '<pixels sizeX="{px}" sizeY="{px}"><dimension sizeX="{px}" sizeY="{px}" r="0" ifd="{page}"/></pixels>'
    '<view sizeX="{nm}" sizeY="{nm}" offsetX="{left_nm}" offsetY="{top_nm}" spacingZ="0"/><scanSettings>'
    "<objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>"
    "<numericalAperture>0.4</numericalAperture><illuminationSource>{light}</illuminationSource>"
    "</illuminationSettings></scanSettings></image>"
)


def write_scn(path: Path, scan: np.ndarray, corner: tuple[int, int], side: int = 2048, light: str = "brightfield") -> Path:
    """Write a slide of `side` px squared at 0.5 um/px whose scan (n, n, 3) uint8 begins at `corner` (x, y); return it."""
    macro = np.full((side // 8, side // 8, 3), 230, np.uint8)
    nm = round(1000 * UM_PER_PX)
    whole = {"name": "macro", "px": len(macro), "page": 0, "nm": nm * side, "left_nm": 0, "top_nm": 0, "power": 1}
    main = {"name": "main", "px": len(scan), "page": 1, "nm": nm * len(scan), "power": 20}
    main |= {"left_nm": nm * corner[0], "top_nm": nm * corner[1]}
    images = IMAGE.format(**whole, light="brightfield") + IMAGE.format(**main, light=light)
    description = SCN.format(side_nm=nm * side, images=images)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for pixels, text, mpp in ((macro, description, MACRO_UM_PER_PX), (scan, None, UM_PER_PX)):
            tiff.write(
                pixels, photometric="rgb", tile=(128, 128), compression="jpeg", description=text, metadata=None,
                resolution=(10_000 / mpp, 10_000 / mpp), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path

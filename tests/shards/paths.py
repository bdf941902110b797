"""Where the real data lies that tests use; a test skips, with the reason, where it is absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
GOLDEN = Path(__file__).parents[1] / "golden"
CMU = SHARED / "slides" / "CMU-1-Small-Region.svs"
FROZEN = SHARED / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"

needs_slides = pytest.mark.skipif(not CMU.is_file(), reason=f"the slides are not at {CMU.parent}")
needs_camelyon16 = pytest.mark.skipif(
    not (SHARED / "camelyon16").is_dir(), reason=f"the outlines are not at {SHARED / 'camelyon16'}"
)
needs_tcga = pytest.mark.skipif(
    not (SHARED / "tcga_luad").is_dir(), reason=f"the tables are not at {SHARED / 'tcga_luad'}"
)

"""Where tests find what they compare with; a test of shared data skips, with the reason, where it is absent."""

from pathlib import Path

import pytest

from tests.skips import NEEDS_DATA

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases"
CMU = SHARED / "slides" / "CMU-1-Small-Region.svs"
FROZEN = SHARED / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"


def _needs(path: Path, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"{NEEDS_DATA}: {what} are not at {path}")


needs_slides = _needs(CMU, "the slides")
needs_camelyon16 = _needs(SHARED / "camelyon16", "the outlines")
needs_cases = _needs(CASES, "small files that showed a fault")
needs_tcga = _needs(SHARED / "tcga_luad", "the tables")
needs_colon = _needs(SHARED / "colon", "the images")

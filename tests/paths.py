"""Where tests find what they compare with."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

needs_colon = pytest.mark.skipif(
    not (SHARED_DATA / "colon").is_dir(), reason="needs ../shared/data/colon, real histology that is not in the project"
)

"""What 1, 2 and 3 ranks make of the same small study; the ranks are started once for all tests of tests/hnm."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.hnm.worlds import all_phases
from tests.ranks import on_ranks

OnRanks = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def phases_on_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> OnRanks:
    """A function (number of ranks) -> what `all_phases` returned on each."""

    @cache
    def run(size: int) -> list[dict[str, Any]]:
        return on_ranks(size, all_phases, str(tiny_cohort), str(tmp_path_factory.mktemp(f"ranks-{size}")))

    return run

"""One cluster for all tests of this folder; they are skipped, with the reason, where none can be started."""

from collections.abc import Iterator

import pytest

from tests.cluster.lab import lab, why_not


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> Iterator[None]:
    if reason := why_not():
        pytest.skip(reason)
    with lab():
        yield

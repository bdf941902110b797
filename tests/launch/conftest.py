"""What tests of real ranks share: one undisturbed run."""

from pathlib import Path

import pytest

from tests.tiny import TINY


@pytest.fixture(scope="session")
def run_on_2_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """A run of two rounds by `hnm train --ranks 2`. Copy it before you change it."""
    from tests.launch.process.test_local import hnm

    folder = tmp_path_factory.mktemp("two-ranks")
    done = hnm("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done. Next: hnm evaluate run") == 1  # rank 0 speaks for both
    return folder / "run"

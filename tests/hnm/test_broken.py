"""Broken patches are told together: counted over ranks and restarts, in mining.json, events and a last line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnm.broken import count_broken
from launch import verbs
from shards.cohort import Cohort
from shards.errors import UnreadablePatchError
from tests.hnm.worlds import mine_round_of, tables_only_study
from tests.ranks import on_ranks
from tests.tiny import TINY

SKIP = ["reader.broken=skip", "reader.max_broken_share=0.1"]
NUM_DAMAGED = 5


@pytest.fixture(scope="module")
def damaged(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A copy of the cohort with damaged JPEGs in training slides, and their ids; slide-003 lost its first two patches."""
    cohort = tmp_path_factory.mktemp("damaged") / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    opened = Cohort.open(cohort)
    training = np.flatnonzero(opened.splits()[opened.patches.slide] == "train")
    ids = sorted({int(training[0]), int(training[1]), *training[:: len(training) // 3].tolist()})[:NUM_DAMAGED]
    for patch in ids:
        with open(opened.shard_path(opened.patches.shard[patch]), "rb+") as file:
            file.seek(int(opened.patches.offset[patch]))
            file.write(b"\0" * int(opened.patches.nbytes[patch]))
    return cohort, ids


def test_counts_by_hand() -> None:
    study = tables_only_study()
    first, second = study.cohort.patch_bounds[:2] + 1
    counts = count_broken(np.array([first, first + 1, second]), study)
    share = 3 / study.cohort.num_patches
    assert counts == {"num": 3, "share": share, "by_slide": {"slide-0": 2, "slide-1": 1}}


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_stay_in_step_and_report_all(damaged: tuple[Path, list[int]], tmp_path: Path, size: int) -> None:
    cohort, ids = damaged
    results = on_ranks(size, mine_round_of, str(cohort), str(tmp_path), SKIP)
    assert len({result["steps"] for result in results}) == 1  # as many steps on every rank
    mining = json.loads((tmp_path / "round-000" / "mining.json").read_text())
    assert mining["broken_patches"]["num"] == len(ids)
    assert sum(mining["broken_patches"]["by_slide"].values()) == len(ids)
    np.testing.assert_array_equal(np.load(tmp_path / "broken_patches.npy"), ids)
    events: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {event["num"] for event in events if event["event"] == "broken_patches"} == {len(ids)}


def test_a_command_ends_with_a_warning(
    damaged: tuple[Path, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, ids = damaged
    overrides = [text for text in TINY if not text.startswith("rounds.num")] + ["rounds.num_rounds=0", *SKIP]
    assert verbs.train(cohort, tmp_path / "run", None, None, "dsmil", overrides, ranks=1) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"warning: {len(ids)} patches")
    assert f"hnm check {cohort} --deep" in last


def test_without_skip_the_first_broken_patch_ends_the_command(damaged: tuple[Path, list[int]], tmp_path: Path) -> None:
    with pytest.raises(UnreadablePatchError, match=r"cannot be read.*reader\.broken=skip"):
        verbs.train(damaged[0], tmp_path / "run", None, None, "hnm", TINY, ranks=1)

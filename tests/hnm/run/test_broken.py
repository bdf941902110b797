"""Broken patches are told together: counted over ranks and restarts, in mining.json, events and a last line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnm.evidence.evaluate import read_metrics
from hnm.model.card import write_card
from hnm.model.model import describe_run
from hnm.report.record import read_record
from hnm.report.run_warnings import warnings_of
from hnm.run.broken import count_broken, explain_broken
from hnm.run.study import open_study
from launch.verbs import train as verbs
from launch.verbs.report import numbers_of
from shards.cohort.cohort import Cohort
from shards.errors import UnreadablePatchError
from tests.hnm.worlds import evaluate_in, mine_round_of, tables_only_study
from tests.ranks import on_ranks
from tests.tiny import TINY, tiny_config

SKIP = ["reader.broken=skip", "reader.max_broken_share=0.1"]
NUM_DAMAGED = 5


def damage(cohort: Path, ids: list[int]) -> None:
    """Overwrite JPEGs in the shards of a cohort with zeros."""
    opened = Cohort.open(cohort)
    for patch in ids:
        with open(opened.shard_path(opened.patches.shard[patch]), "rb+") as file:
            file.seek(int(opened.patches.offset[patch]))
            file.write(b"\0" * int(opened.patches.nbytes[patch]))


@pytest.fixture(scope="module")
def damaged(tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A copy of the cohort with damaged JPEGs in training slides, and their ids; slide-003 lost its first two patches."""
    cohort = tmp_path_factory.mktemp("damaged") / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    opened = Cohort.open(cohort)
    training = np.flatnonzero(opened.splits()[opened.patches.slide] == "train")
    ids = sorted({int(training[0]), int(training[1]), *training[:: len(training) // 3].tolist()})[:NUM_DAMAGED]
    damage(cohort, ids)
    return cohort, ids


def test_counts_by_hand() -> None:
    study = tables_only_study()
    first, second = study.cohort.patch_bounds[:2] + 1
    counts = count_broken(np.array([first, first + 1, second]), study)
    share = 3 / study.cohort.num_patches
    assert counts == {"num": 3, "share": share, "by_slide": {"slide-0": 2, "slide-1": 1}}
    sizes = study.cohort.patches_per_slide
    some = count_broken(np.array([first, first + 1, second]), study, np.array([1, 2]))
    assert some == {"num": 1, "share": 1 / (sizes[1] + sizes[2]), "by_slide": {"slide-1": 1}}


def test_slides_are_named_worst_first_and_those_of_which_nothing_is_left_before_all() -> None:
    study = tables_only_study()
    bounds, sizes = study.cohort.patch_bounds, study.cohort.patches_per_slide
    whole, part = study.test[1], study.test[2]
    ids = np.array([bounds[0], *range(bounds[whole], bounds[whole + 1]), bounds[part]])
    lost, told = explain_broken(ids, study, study.test, "test")
    assert "Nothing of 1 test slide(s) could be read; a patch of another test slide" in lost
    assert lost.endswith(f"say nothing: slide-{whole}.")
    share = (sizes[whole] + 1) / sizes[study.test].sum()
    assert told.startswith(f"Of the test patches {sizes[whole] + 1} ({share:.2%}) could not be read; others stood in")
    assert told.endswith(f": slide-{whole} ({sizes[whole]} of {sizes[whole]}), slide-{part} (1 of {sizes[part]}).")
    assert len(explain_broken(ids, study, study.train, "training")) == 1
    assert explain_broken(ids, study, study.validation, "validation") == []


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


def test_what_evaluation_cannot_read_is_told_with_its_figures(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    cohort, of_slide_1 = tmp_path / "cohort", [16, 18, 31]
    shutil.copytree(tiny_cohort, cohort)
    damage(cohort, of_slide_1)
    expected = {"num": 3, "share": 3 / 32, "by_slide": {"slide-001": 3}}
    for size in (1, 2):  # a second rank embeds the patches of slide-004
        run = tmp_path / f"run-{size}"
        shutil.copytree(finished_run, run)
        on_ranks(size, evaluate_in, str(cohort), str(run), SKIP)
        metrics = read_metrics(run)
        assert metrics["broken_patches"] == expected
        assert "slide-001 (3 of 16)" in metrics["warnings"][-1]
    assert {name: value for name, value in numbers_of(metrics).items() if "broken" in name} == {
        "broken_patches_num": 3, "broken_patches_share": 3 / 32,
    }  # fmt: skip
    config = tiny_config()
    record = read_record(run, config, open_study(Cohort.open(cohort), config.data, config.seed))
    told = warnings_of(record)
    assert told[: len(metrics["warnings"])] == [text[:1].upper() + text[1:] for text in metrics["warnings"]]
    assert sum("could not be read" in text for text in told) == 1
    about = describe_run(record)
    write_card(tmp_path / "MODEL.md", about, config, "")
    card = (tmp_path / "MODEL.md").read_text()
    assert "Some patches could not be read, and others stood in for them: 3 of 32 test patches" in card
    assert "slide-001" not in card  # goes to strangers


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

"""The loop: resuming anywhere gives the undisturbed run, choices are made on validation, mistakes are said early."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hnm.engine.ranks import single_world
from hnm.rounds import train
from hnm.run.journal import Journal
from hnm.run.phase import phase, read_state
from hnm.run.seen import SEEN_FILE
from hnm.run_rounds import START_ENCODER, choose_round, encoder_of_round, last_round, round_folder
from shards.errors import InputError
from shards.files import write_json
from tests.tiny import results_of, tiny_config, tiny_session

WORLD = single_world()


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class CutJournal(Journal):
    """A journal at which the power fails: when a phase begins, or after some items of a long piece of work.

    Args:
        folder: the run directory.
        before: (phase, round) that does not begin any more.
        within: (start of a progress description, items that are still done).
    """

    def __init__(self, folder: Path, before: tuple[str, int] = ("", 0), within: tuple[str, int] = ("none", 0)) -> None:
        super().__init__(folder, WORLD)
        self.before, self.within = before, within

    def event(self, kind: str, **values: Any) -> None:
        if (values.get("name"), values.get("round")) == self.before:
            raise PowerCut
        super().event(kind, **values)

    def progress(
        self, items: Iterable[Any], description: str, total: int, done: int = 0, num_more: int = 0
    ) -> Iterator[Any]:
        for number, item in enumerate(items, start=done):
            if description.startswith(self.within[0]) and number == self.within[1]:
                raise PowerCut
            yield item


def started(finished_run: Path, run: Path) -> Path:
    """Make `run` as it is before round 0."""
    for name in ("config.yaml", SEEN_FILE, START_ENCODER):
        run.mkdir(exist_ok=True)
        shutil.copy(finished_run / name, run / name)
    write_json(run / "state.json", {**read_state(finished_run), "phases": []})
    return run


def go_on(run: Path, cohort: Path, journal: Journal | None = None, overrides: tuple[str, ...] = ()) -> None:
    config = tiny_config(*overrides)
    with tiny_session(WORLD, cohort, config, journal) as session:
        train(config, run / START_ENCODER, run, session)


def phases_of(run: Path) -> list[tuple[str, int]]:
    return [(record["phase"], record["round"]) for record in read_state(run)["phases"]]


PHASES = [(name, round_) for round_ in (0, 1) for name in ("embed", "aggregate", "mine", "finetune")]
PHASES += [(name, 2) for name in ("embed", "aggregate", "mine")]


def test_the_phases_come_in_their_order(finished_run: Path) -> None:
    assert phases_of(finished_run) == [("pretrain", 0), *PHASES]


def test_stopped_before_each_phase_and_continued_equals_undisturbed(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = started(finished_run, tmp_path / "run")
    for number, stop in enumerate(PHASES):
        with pytest.raises(PowerCut):
            go_on(run, tiny_cohort, CutJournal(run, before=stop))
        assert phases_of(run) == PHASES[:number]  # nothing was done twice, nothing too much
    go_on(run, tiny_cohort)
    assert phases_of(run) == PHASES
    assert results_of(run) == results_of(finished_run)


@pytest.mark.parametrize(
    "within", [("embed", 3), ("round 1: aggregate", 2), ("round 0: fine-tune", 1), ("round 1: fine-tune", 1)]
)
def test_stopped_in_the_middle_and_continued_equals_undisturbed(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path, within: tuple[str, int]
) -> None:
    run = started(finished_run, tmp_path / "run")
    with pytest.raises(PowerCut):
        go_on(run, tiny_cohort, CutJournal(run, within=within))
    assert not list(run.rglob("*.tmp"))
    go_on(run, tiny_cohort)
    assert results_of(run) == results_of(finished_run)


def test_a_mining_whose_last_file_is_missing_is_done_again(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "round-002" / "mining.json").unlink()
    (run / "round-002" / "weights.npy").write_bytes(b"half of")
    go_on(run, tiny_cohort)
    assert results_of(run) == results_of(finished_run)


def test_a_finished_run_does_nothing(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    go_on(run, tiny_cohort)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times


def test_training_never_reads_a_test_slide(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    cohort, run = tmp_path / "cohort", started(finished_run, tmp_path / "run")
    shutil.copytree(tiny_cohort, cohort)
    for name in ("slide-001", "slide-004"):
        (cohort / "shards" / f"{name}-0000.tar").unlink()
    go_on(run, cohort)
    assert results_of(run) == results_of(finished_run)


def test_no_rounds_is_one_aggregator_on_the_frozen_encoder(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = started(finished_run, tmp_path / "run")
    config = tiny_config("rounds.num_rounds=0", "rounds.keep_features=true")
    with tiny_session(WORLD, tiny_cohort, config) as session:
        train(config, run / START_ENCODER, run, session)
        assert choose_round(config, run) == 0
    assert [path.name for path in run.glob("round-*")] == ["round-000"]
    assert not (run / "round-000" / "encoder.safetensors").exists()
    assert (run / "round-000" / "features" / "index.json").is_file()


def test_a_batch_that_the_negatives_cannot_fill_is_refused_at_once(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    run = started(finished_run, tmp_path / "run")
    config = tiny_config("mining.neg_ratio=0.25")
    message = (
        r"finetune\.batch_size is 16, but there are only 12 hard negatives \(mining\.neg_ratio 0\.25 of 48 .*at most 12"
    )
    with tiny_session(WORLD, tiny_cohort, config) as session, pytest.raises(InputError, match=message):
        train(config, run / START_ENCODER, run, session)
    assert not list(run.glob("round-*"))


@pytest.mark.parametrize(
    ("aucs", "losses", "choose", "chosen"),
    [
        ((0.7, 0.9, 0.8), (0.5, 0.5, 0.5), "validation", 1),
        ((0.9, 0.9, 0.8), (0.5, 0.4, 0.1), "validation", 1),  # equal AUC: the lower loss
        ((0.9, 0.9, 0.9), (0.5, 0.5, 0.5), "validation", 0),  # all equal: the first
        ((0.9, 0.8, 0.7), (0.1, 0.2, 0.3), "last", 2),
    ],
)
def test_choosing_a_round_by_hand(
    tmp_path: Path, aucs: tuple[float, ...], losses: tuple[float, ...], choose: str, chosen: int
) -> None:
    for round_, (auc, loss) in enumerate(zip(aucs, losses, strict=True)):
        write_json(round_folder(tmp_path, round_) / "mining.json", {"validation": {"auc": auc, "loss": loss}})
    assert choose_round(tiny_config(f"rounds.choose={choose}"), tmp_path) == chosen


@pytest.mark.parametrize(
    ("aucs", "patience", "last"),
    [
        ((0.7, 0.9, 0.8), 0, 2),
        ((0.7, 0.6, 0.8), 1, 1),  # the first that is no better ends it
        ((0.7, 0.7, 0.8), 1, 1),  # an equal one is no better
        ((0.7, 0.6, 0.8), 2, 2),
        ((0.7, 0.6, 0.6), 2, 2),
    ],
)
def test_patience_ends_the_rounds_by_hand(tmp_path: Path, aucs: tuple[float, ...], patience: int, last: int) -> None:
    config = tiny_config(f"rounds.patience={patience}", "rounds.choose=last")
    for round_, auc in enumerate(aucs):
        assert last_round(config, tmp_path) is None
        write_json(round_folder(tmp_path, round_) / "mining.json", {"validation": {"auc": auc, "loss": 0.5}})
        if round_ == last:
            break
    assert last_round(config, tmp_path) == last
    assert choose_round(config, tmp_path) == last
    if last < 2:  # a decision of a round after it would be of other settings: it is not looked at
        write_json(round_folder(tmp_path, last + 1) / "mining.json", {"validation": {"auc": 1.0, "loss": 0.1}})
        assert choose_round(config, tmp_path) == last


def test_a_run_out_of_patience_ends_where_it_says_and_again(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", tiny_config("rounds.patience=1")
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "round-002")
    for round_, auc in ((0, 0.9), (1, 0.8)):
        path = round_folder(run, round_) / "mining.json"
        decision = json.loads(path.read_text())
        write_json(path, {**decision, "validation": {**decision["validation"], "auc": auc}})
    (run / "round-001" / "encoder.safetensors").unlink()
    write_json(run / "state.json", {**read_state(run), "files": {}})  # the checksums are those of the files as they were
    for _ in range(2):
        with tiny_session(WORLD, tiny_cohort, config) as session:
            train(config, run / START_ENCODER, run, session)
        assert "round 1 of 2 is the last: no better one on validation for 1 (rounds.patience)" in capsys.readouterr().out
    assert not (run / "round-001" / "encoder.safetensors").exists()
    assert not (run / "round-002").exists()
    assert choose_round(config, run) == 0


def test_a_round_embeds_with_the_encoder_of_the_round_before() -> None:
    run = Path("run")
    assert encoder_of_round(run, 0) == run / "encoder-start.safetensors"
    assert encoder_of_round(run, 2) == run / "round-001" / "encoder.safetensors"


def test_only_a_phase_that_ends_well_is_recorded(tiny_cohort: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "state.json", {"cohort": "x", "phases": []})
    with tiny_session(WORLD, tiny_cohort, tiny_config()) as session:
        with pytest.raises(RuntimeError), phase("embed", 0, tmp_path, session):
            raise RuntimeError
        assert read_state(tmp_path)["phases"] == []
        with phase("embed", 0, tmp_path, session) as record:
            record.keep(steps=3)
    (recorded,) = json.loads((tmp_path / "state.json").read_text())["phases"]
    assert (recorded["phase"], recorded["round"], recorded["steps"]) == ("embed", 0, 3)
    assert recorded["seconds"] >= 0

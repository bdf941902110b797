"""Budgets of the rounds: what counts, when a run ends early, and that a stopped run ends where the undisturbed one does."""

import time
from pathlib import Path
from typing import Any

import pytest

from hnm.config import Config, ConfigError, load_config
from hnm.engine.ranks import single_world
from hnm.evidence.evaluate import evaluate
from hnm.rounds import train
from hnm.run.budget import Spent, is_spent, spent_before_finetune, spent_in_all
from hnm.run.journal import Journal
from hnm.run.phase import Record, read_state
from hnm.run_rounds import START_ENCODER, last_round
from launch.process.status import what_is_done
from tests.hnm.test_rounds import CutJournal, PowerCut, started
from tests.tiny import results_of, tiny_config, tiny_session

WORLD = single_world()


def known(phase: str, round_: int, seconds: float, **more: int) -> dict[str, Any]:
    return {"phase": phase, "round": round_, "seconds": seconds, **more}


PHASES = [
    known("pretrain", 0, 1000), known("embed", 0, 100), known("aggregate", 0, 10), known("mine", 0, 1),
    known("finetune", 0, 40, steps=8, epochs=2), known("embed", 1, 5), known("aggregate", 1, 10), known("mine", 1, 1),
    known("finetune", 1, 30, steps=6), known("evaluate", 1, 500),
]  # fmt: skip


def test_what_counts() -> None:
    assert spent_before_finetune(PHASES, 0) == Spent(11, 0, 0)
    assert spent_before_finetune(PHASES, 1) == Spent(67, 8, 2)  # its own fine-tuning, begun by a killed process, is left out
    assert spent_in_all(PHASES) == Spent(97, 14, 2)
    assert [is_spent(budget, Spent(67, 8, 2)) for budget in ("seconds=67", "seconds=68", "steps=8", "epochs=3", None)] == [
        True, False, True, False, False,
    ]  # fmt: skip


def test_what_is_done_beside_a_phase_is_not_counted(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    run = started(finished_run, tmp_path / "run")
    with tiny_session(WORLD, tiny_cohort, tiny_config()) as session:
        record = Record("mine", 0, run, session)
        before = record.begin
        with record.not_counted():
            time.sleep(0.05)
        assert record.begin - before >= 0.05


@pytest.mark.parametrize("budget", ["600", "minutes=3", "steps=0", "epochs=1.5"])
def test_a_budget_that_cannot_be_read(budget: str) -> None:
    with pytest.raises(ConfigError, match=r"rounds\.budget = .*write one of seconds=N, steps=N, epochs=N"):
        load_config(None, None, [f"rounds.budget={budget}"])


def go_on(run: Path, cohort: Path, config: Config, journal: Journal | None = None) -> None:
    with tiny_session(WORLD, cohort, config, journal) as session:
        train(config, run / START_ENCODER, run, session)


def test_a_run_ends_with_its_budget_wherever_it_was_stopped(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    config = tiny_config("finetune.epochs_per_round=2", "rounds.num_rounds=2", "rounds.budget=epochs=1")
    whole = started(finished_run, tmp_path / "whole")
    go_on(whole, tiny_cohort, config)
    assert last_round(config, whole) == 1  # after one epoch of two
    assert [known["epochs"] for known in read_state(whole)["phases"] if known["phase"] == "finetune"] == [1]
    assert "round 1 is the last: the budget epochs=1 is spent" in str(what_is_done(whole, config))
    stopped = started(finished_run, tmp_path / "stopped")
    for where in ({"within": ("round 0: fine-tune", 1)}, {"before": ("embed", 1)}):
        with pytest.raises(PowerCut):
            go_on(stopped, tiny_cohort, config, CutJournal(stopped, **where))
        assert last_round(config, stopped) is None
    go_on(stopped, tiny_cohort, config)
    go_on(stopped, tiny_cohort, config)  # nothing is left to do
    assert results_of(stopped) == results_of(whole)
    with tiny_session(WORLD, tiny_cohort, config) as session:
        metrics = evaluate(config, whole, session)
    assert metrics is not None
    assert len(metrics["rounds"]) == 2


def test_a_slide_loss_ends_with_its_budget(
    finished_run: Path, tiny_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, slide = started(finished_run, tmp_path / "run"), ["finetune.objective=slide", "finetune.slide.patches_per_slide=4"]
    config = tiny_config(*slide, "finetune.epochs_per_round=9", "rounds.budget=steps=2")
    go_on(run, tiny_cohort, config, Journal(run, WORLD))
    spent = spent_in_all(read_state(run)["phases"])
    assert (last_round(config, run), spent.steps, spent.epochs) == (1, 2, 2)
    said = capsys.readouterr().out
    assert "round 0: the budget steps=2 is spent (" in said
    assert "fine-tuning ends after its epoch 2; round 1 is the last" in said

"""Several targets in one run: each is what it would be alone, their patches are joined, resuming and ranks change nothing."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from hnm.evidence.evaluate import read_metrics
from hnm.evidence.evaluate_targets import config_of_target, evaluate_targets
from hnm.mining.joined import even_draw
from hnm.report.record import read_record
from hnm.rounds import check_batches
from hnm.run.journal import Journal
from hnm.run.phase import read_state
from hnm.run_rounds import START_ENCODER, choose_round
from shards.errors import InputError
from shards.files import write_json
from tests.hnm.test_rounds import WORLD, CutJournal, PowerCut, go_on
from tests.tiny import results_of, tiny_config, tiny_session

TWO = ("data.targets=[label, label_b]", "rounds.num_rounds=1")


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path) -> Path:
    """The tiny cohort with a second label column, empty for two training slides."""
    cohort = tmp_path_factory.mktemp("targets") / "cohort"
    shutil.copytree(tiny_cohort, cohort)
    table = pq.read_table(cohort / "slides.parquet")
    seen: dict[str, int] = {}
    values: list[int | None] = []
    for split in table["split"].to_pylist():
        place = seen[split] = seen.get(split, -1) + 1
        values.append([0, 0, None, None, 1, 1][place] if split == "train" else place)
    pq.write_table(table.append_column("label_b", pa.array(values, pa.int8())), cohort / "slides.parquet")
    return cohort


def begun(finished_run: Path, run: Path) -> Path:
    run.mkdir()
    shutil.copy(finished_run / START_ENCODER, run / START_ENCODER)
    write_json(run / "state.json", {**read_state(finished_run), "phases": []})
    return run


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, two_labels: Path) -> Path:
    """A run of one round with both targets."""
    run = begun(finished_run, tmp_path_factory.mktemp("joint") / "run")
    go_on(run, two_labels, overrides=TWO)
    return run


def test_in_round_0_a_target_is_what_it_is_alone_and_later_rounds_share_an_encoder(
    joint: Path, finished_run: Path, two_labels: Path
) -> None:
    alone, its = finished_run / "round-000", joint / "targets" / "label" / "round-000"
    for name in ("aggregator.safetensors", "scores.npy", "slide_scores.npy", "weights.npy", "candidates.npy", "negatives.npy"):
        assert (its / name).read_bytes() == (alone / name).read_bytes(), name
    with tiny_session(WORLD, two_labels, tiny_config(*TWO)) as session:
        part = session.study.of_target(1)
    assert len(part.train) == 4
    assert len(session.study.train) == 6
    other = joint / "targets" / "label_b" / "round-000"
    scores = np.load(other / "scores.npy")
    np.testing.assert_array_equal(np.isfinite(scores), part.mask_of(part.embedded_slides))  # no label: no part
    weights = np.load(joint / "round-000" / "weights.npy")
    both = [np.where(np.load(f / "pseudo_labels.npy") == 0, np.load(f / "weights.npy"), 0) for f in (its, other)]
    np.testing.assert_array_equal(weights, np.maximum(*both))
    assert not list(joint.glob("targets/*/round-*/encoder.safetensors"))
    assert (joint / "round-000" / "encoder.safetensors").is_file()


@pytest.mark.parametrize("stop", [{"before": ("aggregate", 1)}, {"within": ("round 0: fine-tune", 1)}])
def test_stopped_and_continued_equals_undisturbed(
    joint: Path, finished_run: Path, two_labels: Path, tmp_path: Path, stop: dict[str, tuple[str, int]]
) -> None:
    run = begun(finished_run, tmp_path / "run")
    with pytest.raises(PowerCut):
        go_on(run, two_labels, CutJournal(run, **stop), TWO)
    go_on(run, two_labels, overrides=TWO)
    assert results_of(run) == {name: data for name, data in results_of(joint).items() if not name.endswith("state.json")} | {
        name: data for name, data in results_of(run).items() if name.endswith("state.json")
    }


def test_the_evaluation_judges_each_target_as_a_run_of_one_and_joins_them(
    joint: Path, two_labels: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", tiny_config(*TWO)
    shutil.copytree(joint, run)
    with tiny_session(WORLD, two_labels, config, Journal(run, WORLD)) as session:
        metrics = evaluate_targets(config, run, session)
        part = session.study.of_target(1)
        its_config = config_of_target(config, session.study.targets, 1)  # type: ignore[arg-type]
        session.journal.close()
    assert metrics is not None
    folder = run / "targets" / "label_b"
    its = read_metrics(folder)
    assert metrics["targets"]["label_b"]["slide"] == its["slide"]
    assert its["chosen_round"] == metrics["chosen_round"] == choose_round(config, run)
    assert its["num_test_slides"] == len(part.test)
    assert its["instance"] is None  # whose patch truth it is, nobody says
    joined, alone = pq.read_table(run / "predictions.parquet"), pq.read_table(folder / "predictions.parquet")
    assert joined.column_names[:6] == ["slide_id", "patient_id", "split", "label_label", "score_label", "predicted_label"]
    known = joined.filter(pa.compute.is_valid(joined["label_b"]))
    for ours, theirs in (("score_b", "score"), ("predicted_b", "predicted"), ("slide_id", "slide_id")):
        assert known[ours].to_pylist() == alone[theirs].to_pylist()
    assert joined["label_b"].null_count == joined["score_b"].null_count == 2
    record = read_record(folder, its_config, part)
    assert record.home == run
    assert record.chosen == metrics["chosen_round"]
    assert not list(run.glob("test-features-*"))


@pytest.mark.parametrize(
    ("override", "word"),
    [("finetune.objective=both", "finetune.objective=both"), ("rounds.rescore=adaptive", "rounds.rescore=adaptive")],
)
def test_what_carries_one_target_is_refused(two_labels: Path, override: str, word: str) -> None:
    config = tiny_config(*TWO, override)
    with tiny_session(WORLD, two_labels, config) as session, pytest.raises(InputError, match=word):
        check_batches(config, session.study, WORLD)


def test_a_rare_target_is_drawn_as_often_as_a_frequent_one() -> None:
    generator = np.random.default_rng(0)
    many, few = np.arange(1000), np.arange(2000, 2010)
    drawn = even_draw([many, few, few[:0]], 30, generator)
    assert (drawn < 1000).sum() == 10
    assert (drawn >= 2000).sum() == 10

"""Two runs on the same test slides, from files as `hnm evaluate` writes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.evidence.compare import compare, delong_warning, read_test_scores, width_warning
from hnm.statistics.delong import delong
from hnm.statistics.metrics import auc
from shards.errors import InputError
from shards.files import write_json
from tests.hnm.statistics.test_bootstrap import interval_of_metric

NUM = 30
LABELS = np.arange(NUM) % 2


def write_run(folder: Path, scores: np.ndarray, labels: np.ndarray = LABELS, first: int = 0, threshold: float = 0.5) -> Path:
    """Write what `hnm evaluate` leaves, with two training slides, in the reverse order of the names."""
    folder.mkdir()
    numbers = np.arange(len(scores))[::-1]
    table = {
        "slide_id": ["train-0", "train-1", *(f"s{first + i:02d}" for i in numbers)],
        "patient_id": ["x", "y", *(f"p{i // 2}" for i in numbers)],
        "split": ["train", "train", *["test"] * len(scores)],
        "label": np.array([0, 1, *labels[numbers]], np.int8),
        "score": np.array([0, 1, *scores[numbers]]),
        "predicted": np.array([0, 1, *(scores[numbers] >= threshold)], np.int8),
    }
    pq.write_table(pa.table(table), folder / "predictions.parquet")
    write_json(folder / "metrics.json", {"threshold": threshold, "instance": {"auc": float(np.nanmean(scores))}, "froc": None})
    return folder


def drawn(seed: int, signal: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.random.default_rng(seed).normal(signal * LABELS)))


def test_figures_intervals_and_p_are_those_of_the_scores(tmp_path: Path) -> None:
    weak, strong = drawn(0, 0.3), drawn(1, 3)
    a = read_test_scores(write_run(tmp_path / "a", weak))
    b = read_test_scores(write_run(tmp_path / "b", strong, threshold=0.7))
    result = compare(a, b, seed=4)
    assert a.slides.slide_ids[0] == "s00"
    assert (result["num_slides"], result["num_patients"]) == (NUM, NUM // 2)
    assert result["delong_p"] == pytest.approx(delong(LABELS, weak, strong).p)
    figure = result["figures"]["auc"]
    assert figure["difference"] == pytest.approx(auc(LABELS, strong) - auc(LABELS, weak))  # type: ignore[operator]
    groups = np.array([f"p{i // 2}" for i in range(NUM)])
    assert figure["a_interval"] == interval_of_metric(auc, LABELS, weak, groups, seed=4)._asdict()
    assert 0 < figure["difference_interval"]["low"] < figure["difference"] < figure["difference_interval"]["high"]
    assert result["figures"]["accuracy"]["b"] == np.mean((strong >= 0.7) == LABELS)  # each at its own threshold


def test_a_run_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    a = read_test_scores(write_run(tmp_path / "a", drawn(0, 1)))
    result = compare(a, a)
    assert result["delong_p"] == 1
    assert all(figure["difference_interval"]["high"] == 0 for figure in result["figures"].values())


def test_p_of_slides_that_share_patients_is_told_too_small() -> None:
    (warning,) = delong_warning({"num_slides": 30, "num_patients": 15, "delong_p": 0.03})
    assert "the 30 test slides as independent, but they are of 15 patients: its p is too small" in warning
    assert delong_warning({"num_slides": 30, "num_patients": 30, "delong_p": 0.03}) == []
    assert delong_warning({"num_slides": 30, "num_patients": 15, "delong_p": None}) == []


def test_delong_of_twins_is_significant_too_often() -> None:
    """What the warning says: every slide twice, one patient each, and two models that do not differ."""
    random, labels = np.random.default_rng(0), np.arange(40) % 2
    once, twice = [], []
    for _ in range(200):
        a, b = random.normal(labels, 1), random.normal(labels, 1)
        once.append(delong(labels, a, b).p)
        twice.append(delong(*(np.repeat(its, 2) for its in (labels, a, b))).p)
    assert np.mean(np.array(once) < 0.05) < 0.1 < np.mean(np.array(twice) < 0.05)  # 0.07 and 0.215


def test_intervals_without_width_are_named_by_figure_and_column(tmp_path: Path) -> None:
    weak, separate = drawn(0, 0.3), 0.6 * LABELS + 0.3 * drawn(1, 0)
    a = read_test_scores(write_run(tmp_path / "a", weak))
    b = read_test_scores(write_run(tmp_path / "b", separate))
    figures = compare(a, b)["figures"]
    (warning,) = width_warning({name: figures[name] for name in ("auc", "balanced_accuracy", "brier")}, "so")
    assert warning == "an interval without width is no certainty, only so: auc (B), balanced accuracy (B)."
    equal = {"auc": figures["auc"] | {"difference_interval": {"low": 0.1 + 0.2, "high": 0.3}}}
    assert width_warning(equal, "so")[0].endswith("only so: auc (B, B - A).")
    assert width_warning({"brier": figures["brier"]}, "so") == []
    unknown = {f"{which}_interval": {"low": None, "high": None} for which in ("a", "b", "difference")}
    assert width_warning({"auc": unknown}, "so") == []


def test_other_slides_labels_or_nothing_to_compare_are_refused(tmp_path: Path) -> None:
    a = read_test_scores(write_run(tmp_path / "a", drawn(0, 1)))
    shifted = read_test_scores(write_run(tmp_path / "shifted", drawn(0, 1), first=2))
    with pytest.raises(InputError, match=r"2 are in .*/a only, such as 's00', 's01'"):
        compare(a, shifted)
    turned = read_test_scores(write_run(tmp_path / "turned", drawn(0, 1), labels=np.where(np.arange(NUM) == 3, 0, LABELS)))
    with pytest.raises(InputError, match=r"1 test slides have other labels .* 's03'"):
        compare(a, turned)
    with pytest.raises(InputError, match=r"hnm evaluate .*/none"):
        read_test_scores(tmp_path / "none")
    with pytest.raises(InputError, match="no test slide with a label"):
        read_test_scores(write_run(tmp_path / "unlabelled", drawn(0, 1), labels=np.full(NUM, -1)))
    broken = read_test_scores(write_run(tmp_path / "broken", np.where(np.arange(NUM) == 3, np.nan, drawn(0, 1))))
    with pytest.raises(InputError, match="1 of 30 scores are NaN"):
        compare(a, broken)

"""Two cross-validations from files as `hnm crossval` writes them: by hand, and what cannot be compared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.evidence.compare_crossval import CrossValidated, compare_crossvals, mean_differences, read_crossval
from hnm.evidence.crossval import summarise, write_predictions
from hnm.evidence.folds import over_folds
from hnm.evidence.measure import slide_figures
from hnm.statistics.metrics import auc
from shards.errors import InputError
from shards.files import write_json
from tests.hnm.statistics.test_bootstrap import interval_of_metric

NUM, NUM_FOLDS, NUM_REPEATS = 24, 3, 2
LABELS = np.arange(NUM) % 2
SLIDE_IDS = np.array([f"s{number:02d}" for number in range(NUM)])
PATIENTS = np.array([f"p{number // 2}" for number in range(NUM)])
FOLDS = np.stack([(np.arange(NUM) // 2) % 3, (np.arange(NUM) // 2) // 4])  # (repeats, slides), by patient


def drawn(seed: int, signal: float) -> np.ndarray:
    """Return (repeats, slides) scores in [0, 1]."""
    return 1 / (1 + np.exp(-np.random.default_rng(seed).normal(signal * LABELS, size=(NUM_REPEATS, NUM))))


def write_crossval(folder: Path, scores: np.ndarray) -> Path:
    """Write what `hnm crossval` leaves: runs with slide figures, and patch figures in the first repeat only."""
    runs: dict[tuple[int, int], Path] = {}
    for repeat, fold in np.ndindex(NUM_REPEATS, NUM_FOLDS):
        run = runs[repeat, fold] = folder / f"repeat-{repeat}" / f"fold-{fold}"
        run.mkdir(parents=True)
        own = np.flatnonzero(FOLDS[repeat] == fold)
        table = {"slide_id": SLIDE_IDS[own], "patient_id": PATIENTS[own], "split": ["test"] * len(own), "label": LABELS[own]}
        table |= {"score": scores[repeat][own], "predicted": (scores[repeat][own] >= 0.5).astype(np.int8)}
        pq.write_table(pa.table(table), run / "predictions.parquet")
        metrics: dict[str, Any] = {"threshold": 0.5, "chosen_round": 0, "num_test_slides": len(own)}
        metrics |= {"encoder_steps": 1, "seconds": 1.0, "slide": slide_figures(LABELS[own], scores[repeat][own], 0.5)}
        instance = {"threshold": 0.5, "auc": float(scores[repeat][own].mean()), "intervals": {}} if repeat == 0 else None
        write_json(run / "metrics.json", metrics | {"instance": instance})
    result, predictions = summarise(runs, NUM_FOLDS, seed=0)
    write_predictions(folder / "predictions.parquet", predictions)
    write_json(folder / "metrics.json", result)
    write_json(folder / "crossval.json", {"cohort": "cohort", "fingerprint": "f", "folds": NUM_FOLDS, "repeats": NUM_REPEATS})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A weak and a strong cross-validation with the same folds."""
    root = tmp_path_factory.mktemp("crossvals")
    return write_crossval(root / "weak", drawn(0, 0.5)), write_crossval(root / "strong", drawn(1, 2.5))


def opened(folder: Path, repeats: int = NUM_REPEATS) -> CrossValidated:
    return read_crossval(folder, NUM_FOLDS, repeats)


def test_differences_are_taken_fold_by_fold(folders: tuple[Path, Path]) -> None:
    result = compare_crossvals(*(opened(folder) for folder in folders), seed=4)
    weak, strong = drawn(0, 0.5), drawn(1, 2.5)

    def by_fold(scores: np.ndarray) -> np.ndarray:
        rows = [(repeat, FOLDS[repeat] == fold) for repeat in range(NUM_REPEATS) for fold in range(NUM_FOLDS)]
        return np.array([auc(LABELS[own], scores[repeat][own]) for repeat, own in rows])

    figure = result["figures"]["slide auc"]
    for which, values in {"a": by_fold(weak), "b": by_fold(strong), "difference": by_fold(strong) - by_fold(weak)}.items():
        expected = over_folds(values.tolist(), NUM_FOLDS)
        assert figure[which] == pytest.approx(expected.pop("mean"))
        assert figure[f"{which}_interval"] == pytest.approx(expected)
    assert figure["difference_interval"]["num"] == 6
    assert result["figures"]["instance auc"]["difference_interval"]["num"] == 3  # the second repeat knows none
    assert (result["num_folds"], result["num_repeats"], result["num_slides"]) == (3, 2, NUM)
    pooled = result["out_of_fold"]["auc"]
    assert pooled["b"] == pytest.approx(np.mean([auc(LABELS, its) for its in strong]))

    def difference(_: np.ndarray, rows: np.ndarray) -> float:
        drawn_rows = rows.astype(int)
        means = [np.mean([auc(LABELS[drawn_rows], its[drawn_rows]) for its in scores]) for scores in (weak, strong)]
        return float(means[1] - means[0])

    expected_interval = interval_of_metric(difference, LABELS, np.arange(NUM), PATIENTS, seed=4)
    assert pooled["difference_interval"] == pytest.approx(expected_interval._asdict())


def test_a_figure_counts_where_both_know_it() -> None:
    first, second = {"x": {"f": 1.0, "g": 1.0}, "y": {"f": 3.0}}, {"x": {"f": 0.5}, "z": {"f": 9.0, "g": 2.0}}
    found = mean_differences(first, second, ["f", "g"], 3)
    assert found == {"f": {"mean": 0.5, "low": None, "high": None, "num": 1}, "g": None}


def test_other_folds_slides_or_an_unfinished_one_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    a = opened(folders[0])
    short = replace(a, num_repeats=1)
    with pytest.raises(InputError, match=r"weak has 3 folds x 2, .*weak has 3 folds x 1\. .*same --folds and --repeats"):
        compare_crossvals(a, short)
    moved = FOLDS.copy()
    moved[1, :2] = 2
    other = replace(a, predictions=replace(a.predictions, folds=moved))
    with pytest.raises(InputError, match=r"2 of 24 slides are tested in other folds, such as 's00', 's01'.*same seed"):
        compare_crossvals(a, other)
    turned = replace(a, slides=replace(a.slides, labels=np.where(np.arange(NUM) == 3, 0, LABELS)))
    with pytest.raises(InputError, match=r"1 test slides have other labels .* 's03'"):
        compare_crossvals(a, turned)
    with pytest.raises(InputError, match=r"weak: this cross-validation is not finished \(6 of 9 folds are done"):
        opened(folders[0], 3)  # one more repeat was asked for since
    begun = tmp_path / "begun"
    (begun / "repeat-0" / "fold-1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"begun: .*is not finished \(0 of 6 .*Run the same hnm crossval again"):
        opened(begun)

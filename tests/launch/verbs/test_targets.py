"""A run of several targets by the verbs: trained, evaluated with its pages, exported, and what it says of new slides."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnm.config import load_config
from launch.verbs import predict as of_one
from launch.verbs import train as verbs
from launch.verbs.compare import run as compare
from launch.verbs.predict import PredictRequest
from launch.verbs.predict_targets import export, predict
from launch.verbs.report import has_results
from launch.verbs.view import view
from shards.drawn.synthetic import make_cohort_images
from shards.errors import InputError
from shards.tiling.tile import tile_cohort
from tests.tiny import TILE, TINY

CLASSES = [*TINY, "rounds.num_rounds=1", "data.label_column=subtype", "data.negative_class=normal"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 drawn slides; the positive ones of each split are of two classes in turn."""
    folder = tmp_path_factory.mktemp("classes")
    tile_cohort(make_cohort_images(folder, 16, 4, 16, seed=0), folder / "cohort", load_config(overrides=TILE).tile)
    table = pq.read_table(folder / "cohort" / "slides.parquet")
    seen: dict[str, int] = {}
    words = []
    for label, split in zip(table["label"].to_pylist(), table["split"].to_pylist(), strict=True):
        seen[split] = seen.get(split, 0) + label
        words.append(f"type {seen[split] % 2}" if label else "normal")
    pq.write_table(table.append_column("subtype", pa.array(words)), folder / "cohort" / "slides.parquet")
    return folder / "cohort"


def test_classes_from_training_to_prediction(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "predictions"
    assert verbs.train(cohort, run, None, None, "hnm", CLASSES, ranks=1) == 0
    assert "2 classes, each against the others" in capsys.readouterr().out
    assert verbs.evaluate(run, None, ranks=1) == 0
    assert "called normal" in capsys.readouterr().out
    assert has_results(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    keys = json.loads((run / "targets" / "targets.json").read_text(encoding="utf-8"))["keys"]
    assert all(f"targets/{key}/report.html" in page for key in keys)
    encoders = {(run / "targets" / key / "model" / "encoder.safetensors").stat().st_ino for key in keys}
    assert len(encoders) == 1  # one file
    slides = sorted((cohort.parent / "images").glob("*.png"))[:2]
    assert export(run, tmp_path / "model", None) == 0
    assert predict(PredictRequest(tmp_path / "model", slides, out)) == 0
    assert predict(PredictRequest(run, slides, tmp_path / "of-run")) == 0
    joined = pq.read_table(out / "predictions.parquet")
    assert joined.equals(pq.read_table(tmp_path / "of-run" / "predictions.parquet"))
    assert of_one.predict(PredictRequest(run / "targets" / keys[0] / "model", slides, tmp_path / "one")) == 0
    one = pq.read_table(tmp_path / "one" / "predictions.parquet")
    assert one["score"].equals(joined["score_type 0"])
    assert one["score"].equals(pq.read_table(out / keys[0] / "predictions.parquet")["score"])
    names = ("type 0", "type 1", "normal")
    for row in joined.to_pylist():
        assert sum(row[f"probability_{name}"] for name in names) == pytest.approx(1)
        assert row["called"] in names
    with pytest.raises(InputError, match="--threshold and --patch-threshold are of one model"):
        predict(PredictRequest(run, slides, out, threshold=0.5))
    with pytest.raises(InputError, match="a run of several targets"):
        compare(run, run, None)
    with pytest.raises(InputError, match=f"Name one: {run / 'targets' / keys[0]}, "):
        view(run, [], tmp_path / "view", 0, None)
    assert view(run / "targets" / keys[0], [], tmp_path / "view", 0, None) == 0
    assert (tmp_path / "view" / "index.html").is_file()
    assert compare(*(run / "targets" / key for key in (keys[0], keys[0])), None) == 0

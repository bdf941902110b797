"""A study of the tiny cohort: in parts, stopped, gone on with, joined; what its names, parts and folders mean."""

import csv
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer

from hnm.baselines.baselines import BASELINES
from hnm.config import ConfigError, load_config
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.networks import metadata_of
from hnm.engine.state import load_weights, save_weights
from launch.cli.main import app
from launch.cluster.submit_study import check_study, study_specs
from launch.process.preemption import Preempted
from launch.verbs import crossval, study
from launch.verbs.crossval_folder import Request
from launch.verbs.study_folder import StudyRequest, parse_methods, parse_part, share_of_unit
from launch.verbs.study_page import lines_of_study
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from tests.command_line import assert_refused, hnm
from tests.pages import require_self_contained
from tests.tiny import TILE, TINY, tiny_config

SMALL = [
    *(word for word in TINY if not word.startswith(("rounds.num", "aggregate.num", "finetune.batch", "aggregate.epochs"))),
    *("finetune.batch_size=8", "aggregate.epochs=2", "mining.neg_ratio=1.0"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that has seen nothing."""
    path, model = tmp_path_factory.mktemp("encoder") / "encoder.safetensors", fresh_model(tiny_config().encoder, seed=0)
    save_weights(path, model.state_dict(), {**metadata_of(model.encoder), "cohort": "of somebody else"})
    return path


def request(cohort: Path, out: Path, encoder: Path | None, **more: Any) -> StudyRequest:
    values = {"methods": "frozen", "num_folds": 3, "overrides": SMALL, "ranks": 1, **more}
    return StudyRequest(cohort, out, encoder=encoder, **values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_cohort: Path, encoder: Path) -> Path:
    """A study of the linear baselines: the first features, a fold, and then all that was missing."""
    out = tmp_path_factory.mktemp("study") / "out"
    asked = request(tiny_cohort, out, encoder, methods="mean")
    assert study.run(replace(asked, part="first")) == 0
    assert not (out / "methods").exists()
    assert study.run(replace(asked, part="1/3")) == 0
    assert sorted(path.parent.relative_to(out) for path in out.glob("methods/**/fold-*/metrics.json")) == [
        Path(f"methods/baseline/{name}/repeat-0/fold-0") for name in ("instance", "mean", "meanstd")
    ]
    assert "3 of 9 folds are done" in lines_of_study(out)[0][0]
    assert not (out / "study.json").exists()
    assert study.run(asked) == 0
    return out


NAMES = ["baseline/mean", "baseline/meanstd", "baseline/instance"]


def test_all_folds_become_one_page(finished: Path, tiny_cohort: Path) -> None:
    result = json.loads((finished / "study.json").read_text())
    assert [row["name"] for row in result["methods"]] == NAMES
    assert result["best_baseline"]["slide auc"] in NAMES
    tables = {name: pq.read_table(finished / "methods" / name / "predictions.parquet").to_pandas() for name in NAMES}
    for table in tables.values():
        assert sorted(table.slide_id) == sorted(Cohort.open(tiny_cohort).slide_ids)
        assert table.fold.tolist() == tables[NAMES[0]].fold.tolist()
    rows = list(csv.DictReader((finished / "study.csv").open()))
    assert [row["method"] for row in rows] == NAMES
    assert float(rows[2]["slide auc mean"]) == result["methods"][2]["mean"]["slide auc"]["mean"]
    assert all(row["seconds_per_1000_patches"] > 0 and row["parameters"] > 0 for row in result["methods"])
    require_self_contained(finished / "study.html")
    lines, is_bad = lines_of_study(finished)
    assert "9 of 9 folds are done; the page is" in lines[0]
    assert not is_bad
    assert_refused(hnm("evaluate", finished), 1, "a study: hnm study has evaluated the folds of its methods")


@pytest.mark.slow
def test_a_method_asked_for_later_is_its_cross_validation(
    finished: Path, tiny_cohort: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", os.replace
    shutil.copytree(finished, out, symlinks=True)
    asked, before = request(tiny_cohort, out, encoder), (out / "methods/baseline/mean/repeat-0/fold-0/metrics.json").stat()

    def asking(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target) == out / "methods/frozen/repeat-0/fold-2/round-000/mining.json":
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.2)  # the thread that reads it has its turn

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", asking)
        with pytest.raises(Preempted, match="No other fold is begun"):
            study.run(replace(asked, part="6/6"))  # fold 2 of the method
    assert study.run(asked) == 0
    assert (out / "methods/baseline/mean/repeat-0/fold-0/metrics.json").stat().st_mtime_ns == before.st_mtime_ns
    frozen = json.loads((out / "study.json").read_text())["methods"][-1]
    assert (frozen["name"], frozen["is_baseline"]) == ("frozen", False)
    assert frozen["spent"]["seconds"] > 0
    run = out / "methods/frozen/repeat-0/fold-2"
    assert (run / "round-000/features").resolve() == out / "first/shared/features"
    phases = json.loads((run / "state.json").read_text())["phases"]
    assert [known["phase"] for known in phases] == ["aggregate", "mine", "evaluate"]  # it has embedded nothing anew
    assert crossval.run(Request(tiny_cohort, tmp_path / "cv", 3, 1, "3/3", None, "frozen", SMALL, encoder, None, 1)) == 0
    ours, alone = (pq.read_table(path / "predictions.parquet") for path in (run, tmp_path / "cv/repeat-0/fold-2"))
    np.testing.assert_allclose(ours["score"], alone["score"], atol=1e-3)  # embedded in other batches
    with pytest.raises(InputError, match=r"started with other settings \(seeds: 1 -> 2; budget: None -> steps=3\)"):
        study.run(replace(asked, seeds=2, budget="steps=3"))


@pytest.mark.slow
def test_without_an_encoder_each_fold_pretrains_one_from_a_table_of_slides(tiny_slides: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, "pretrain.batch_size=8", "finetune.slide.patches_per_slide=4", *TILE]
    out = tmp_path / "out"
    asked = request(tiny_slides, out, None, overrides=overrides, methods="slide", null=True, budget="epochs=1")
    assert study.run(replace(asked, part="first:2/3")) == 0
    assert [path.name for path in out.glob("first/repeat-0/fold-*")] == ["fold-1"]
    assert study.run(replace(asked, part="5/6")) == 0
    starts = [load_weights(out / part / "repeat-0/fold-1/encoder-start.safetensors")[0] for part in ("first", "methods/slide")]
    assert all(tensor.equal(starts[1][name]) for name, tensor in starts[0].items())
    state = json.loads((out / "methods/slide/repeat-0/fold-1/state.json").read_text())
    assert [known["epochs"] for known in state["phases"] if known["phase"] == "finetune"] == [1]
    labels = [Cohort.open(out / name).labels() for name in ("tiled", "null", "methods/slide/cohort")]
    assert labels[1].tolist() == labels[2].tolist() != labels[0].tolist()
    assert labels[1].sum() == labels[0].sum()


def test_what_cannot_be_is_refused_before_anything_is_written(tiny_cohort: Path, encoder: Path, tmp_path: Path) -> None:
    asked = request(tiny_cohort, tmp_path / "out", encoder)
    for changes, words in (
        ({"methods": "hnn"}, r"unknown method 'hnn'\. Did you mean 'hnm'\? Known: baselines, "),
        ({"budget": "600"}, r"--budget 600: write one of seconds=N, steps=N, epochs=N"),
        ({"part": "7/6"}, r"--part 7/6: write first, first:I/N or I/N"),
        ({"num_folds": 6}, r"--folds 6: there are only 5 patients with a positive slide"),
    ):
        with pytest.raises(InputError, match=words):
            study.run(replace(asked, **changes))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(InputError, match="exists and is no study of hnm"):
        study.run(replace(asked, out=tmp_path / "full"))


def test_ranks_get_the_same_command(tiny_cohort: Path, encoder: Path, tmp_path: Path) -> None:
    asked = request(tiny_cohort, tmp_path, encoder, null=True, budget="steps=3", part="first", seeds=2, ranks=4, config="demo")
    command: Any = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    params = command.make_context("study", study.words_of(asked)[1:]).params
    names = ("source", "out", "methods", "encoder", "folds", "seeds", "budget", "null", "part", "config", "overrides", "ranks")
    assert StudyRequest(*(params[name] for name in names)) == asked


def test_names_of_methods(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("rounds: {num_rounds: 0}\n")
    methods = parse_methods(f"hnm,simlp,baseline/simlp,abmil,{own}")
    assert methods.presets == {"hnm": "hnm", "simlp": "simlp", "mine": str(own)}
    assert methods.baselines == ["mean", "meanstd", "instance", "simlp", "abmil"]
    assert methods.units == ["baselines", "hnm", "simlp", "mine"]
    assert parse_methods("baselines").names == [f"baseline/{name}" for name in BASELINES]
    with pytest.raises(ConfigError, match="hnm is there twice"):
        parse_methods("hnm,slide,hnm")


@pytest.mark.parametrize(("num_units", "num_folds", "count"), [(3, 10, 30), (3, 5, 4), (2, 3, 7), (1, 3, 1)])
def test_every_cell_is_in_one_part(num_units: int, num_folds: int, count: int) -> None:
    cells = []
    for number in range(1, count + 1):
        for unit in range(num_units):
            first, _, step = share_of_unit((number, count), unit, num_folds).partition("/")
            cells += [(unit, fold) for fold in range(num_folds)[int(first) - 1 :: int(step)]]
            if count == num_units * num_folds:
                assert len(cells) <= number  # a cell in each
    assert sorted(cells) == [(unit, fold) for unit in range(num_units) for fold in range(num_folds)]
    assert parse_part("first:2/3") == ("first", (2, 3))
    assert parse_part(None) == ("all", None)


def test_submitted_it_is_an_array_of_methods_and_folds(
    finished: Path, tiny_cohort: Path, encoder: Path, tmp_path: Path
) -> None:
    params = {
        "source": tiny_cohort, "out": finished, "methods": "frozen", "encoder": encoder, "folds": 3, "seeds": 1,
        "budget": None, "null": False, "part": None, "config": None, "overrides": SMALL, "ranks": 2,
    }  # fmt: skip
    config = load_config(None, None, SMALL)
    check_study(params, config)
    array, summary = study_specs(params, config, "slurm")
    assert array.elements == [[f"frozen, repeat 0, fold {fold}"] for fold in range(3)]
    assert [command[command.index("--part") + 1] for command in array.commands] == ["4/6", "5/6", "6/6"]
    assert (summary.after, array.after, array.starts_ranks, array.ranks_per_node) == ("study", None, True, 2)
    assert study_specs({**params, "methods": "mean"}, config, "slurm") == []
    new = {**params, "out": tmp_path / "out"}
    assert [spec.stage for spec in study_specs(new, config, "slurm")] == ["first", "study", "summary"]
    assert len(study_specs({**new, "encoder": None}, config, "slurm")[0].commands) == 3
    (one,) = study_specs(new, config, "local")
    assert "--part" not in one.commands[0]

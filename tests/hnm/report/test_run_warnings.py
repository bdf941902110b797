"""What a run's report warns of, each on data that has it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnm.encoder.spec import NETWORK_KEY, InputSpec, NetworkSpec
from hnm.engine.state import load_weights, save_weights
from hnm.report.record import RunRecord, read_events, read_record
from hnm.report.run_warnings import warnings_of
from hnm.run.study import open_study
from hnm.run_rounds import START_ENCODER
from launch.process.run_directory import read_run
from shards.cohort.cohort import Cohort
from shards.errors import InputError


@pytest.fixture
def record(evaluated_run: Path) -> RunRecord:
    config, cohort = read_run(evaluated_run)
    return read_record(evaluated_run, config, open_study(Cohort.open(cohort), config.data, config.seed))


def with_column(record: RunRecord, name: str, values: list[object]) -> RunRecord:
    """Return the record with another column of slides.parquet."""
    cohort, slides = record.study.cohort, record.study.cohort.slides
    table = slides.set_column(slides.column_names.index(name), name, pa.array(values))
    return replace(record, study=replace(record.study, cohort=replace(cohort, slides=table)))


def one(record: RunRecord, part: str) -> str:
    """Return the one warning that holds `part`."""
    (found,) = [text for text in warnings_of(record) if part in text]
    return found


def test_a_sound_run_is_warned_of_its_few_slides_only(record: RunRecord) -> None:
    assert "Only 1 positive and 1 negative test slides" in one(record, "Only")
    (told,) = (record.metrics or {})["interval_warnings"]
    assert one(record, "without width is no certainty") == told[:1].upper() + told[1:]
    assert not any("are wide" in text for text in warnings_of(record))  # beside that it would be wrong
    assert not any("could not be read" in text or "unusual" in text for text in warnings_of(record))


def test_dropped_slides_are_named(record: RunRecord) -> None:
    status = ["done"] * 8 + ["failed: damaged", "empty: no tissue"]
    dropped = with_column(record, "status", list(status))
    assert one(dropped, "could not be read when") == "1 of 10 slides could not be read when they were tiled: slide-008."
    assert one(dropped, "gave no patch") == "1 of 10 slides gave no patch: slide-009."
    labels = record.study.labels.copy()
    labels[:9] = -1
    unlabelled = replace(record, study=replace(record.study, labels=labels))
    assert "9 of 10 slides have no label" in one(unlabelled, "no label")
    assert "slide-007 and 1 more" in one(unlabelled, "no label")


def test_one_class_no_test_and_not_evaluated(record: RunRecord) -> None:
    study = record.study
    only_positive = replace(study, test=study.test[study.labels[study.test] == 1])
    positive = replace(record, study=only_positive, metrics={**(record.metrics or {}), "warnings": [], "interval_warnings": []})
    assert "All 1 test slides are positive" in one(positive, "not defined")
    no_test = replace(record, study=replace(study, test=study.test[:0]), metrics=None)
    assert "There is no test split with labels (column split)" in one(no_test, "test split")
    assert no_test.judged[0] == "validation"
    assert "hnm evaluate" in one(replace(record, metrics=None), "not been read")


def test_rounds_broken_patches_and_resolution(record: RunRecord) -> None:
    first, *others = (dict(decision) for decision in record.decisions)
    first["witness_rate_self_paced"], others[-1]["witness_rate_self_paced"] = 0.9, 0.3
    worse = replace(record, decisions=[first, *others], chosen=0)
    study, (first_slide, second_slide) = record.study, record.study.train[:2]
    bounds, names = study.cohort.patch_bounds, study.cohort.slide_ids
    ids = [bounds[first_slide], bounds[second_slide], bounds[second_slide] + 5]
    worse.__dict__["broken"] = np.array(ids)  # the cached property
    assert "fell from 90% to 30%" in one(worse, "fell")
    assert "round 0 was chosen" in one(worse, "start encoder")
    assert "Of the training patches 3 (3.12%)" in one(worse, "stood in")
    assert f": {names[second_slide]} (2 of 16), {names[first_slide]} (1 of 16)." in one(worse, "stood in")
    worse.__dict__["broken"] = np.array([bounds[study.test[0]]])
    assert "Of the test patches 1 (3.12%)" in one(worse, "stood in")
    mixed = with_column(record, "source_mpp", [0.25, 0.5, *[None] * 8])
    assert "0.25 to 0.5 microns per pixel" in one(mixed, "native pixels")
    assert "2 slides are assumed" in one(with_column(record, "mpp_from", ["assumed"] * 2 + [""] * 8), "assumed")


def test_a_slide_that_stands_out_is_named(record: RunRecord) -> None:
    bounds = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 5144])
    cohort = replace(record.study.cohort)
    cohort.__dict__["patch_bounds"] = bounds  # the cached property
    assert "slide-009: 5,000 patches, far more" in one(
        replace(record, study=replace(record.study, cohort=cohort)), "unusual"
    )


def test_a_run_is_read_as_far_as_it_has_come(record: RunRecord, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(record.run, run)
    (run / "metrics.json").unlink()
    (run / "round-002" / "mining.json").unlink()
    with open(run / "events.jsonl", "a", encoding="utf-8") as file:
        file.write('{"time": 1, "event": "met')  # a crash
    partial = read_record(run, record.config, record.study)
    assert (partial.num_rounds, partial.is_finished, partial.metrics) == (2, False, None)
    assert partial.chosen in (0, 1)
    assert "1 of 2 fine-tunings are done." in one(partial, "not finished")
    partial.state["attempts"][-1]["ended"] = None
    assert "are done; its last process had not ended when this page" in one(partial, "not finished")
    assert len(read_events(run / "events.jsonl")) == len(record.events)
    assert np.isnan(partial.by_slide[record.study.test]).all()
    (run / "round-000" / "mining.json").unlink()
    with pytest.raises(InputError, match="round 0 is not mined yet"):
        read_record(run, record.config, record.study)


def test_an_encoder_that_does_not_suit_the_cohort_is_told(record: RunRecord, tmp_path: Path) -> None:
    run, wanted = tmp_path / "run", InputSpec(side_px=32)
    shutil.copytree(record.run, run)
    state, metadata = load_weights(run / START_ENCODER)
    network = NetworkSpec(name="uni", source="timm", network="vit", input=wanted, mpp=(0.5,))
    save_weights(run / START_ENCODER, state, metadata | {NETWORK_KEY: network.model_dump_json()})
    cohort = replace(record.study.cohort, info=record.study.cohort.info | {"settings": {"patch_px": 16, "mpp": 0.5}})
    other = replace(record, run=run, study=replace(record.study, cohort=cohort))
    assert one(other, "Patches of 16 px are resized to the 32 px that the encoder takes.")
    assert one(other, "The encoder sees 0.25 microns per pixel and was trained at 0.5")
    assert not any("encoder takes" in text for text in warnings_of(replace(other, run=record.run)))

"""Finished files with a bit flipped, and JSON files cut short: the file is named, with what can be done about it."""

import json
import shutil
from pathlib import Path

import pytest

from hnm.engine.checkpoint import digest
from hnm.engine.ranks import single_world
from hnm.run.checksums import ENCODERS, MINED_FILES, read_state, require_whole
from launch.verbs import predict
from launch.verbs import train as verbs
from shards.errors import InputError
from shards.files import write_json
from tests.command_line import assert_refused, hnm
from tests.tiny import TINY


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def test_every_finished_file_has_its_checksum(finished_run: Path, evaluated_run: Path) -> None:
    files = read_state(finished_run)["files"]
    of_each = ["aggregator.safetensors", *(name for name in MINED_FILES if name not in ("score_ages.npy", "baselines.npz"))]
    of_rounds = {f"round-{r:03d}/{name}" for r in range(3) for name in of_each} | {"round-000/baselines.npz"}
    assert files.keys() == of_rounds | {ENCODERS[0]} | {f"round-{r:03d}/encoder.safetensors" for r in range(2)}
    assert files == {name: digest(finished_run / name) for name in files}
    more = read_state(evaluated_run)["files"].keys() - files.keys()
    assert more == {"patch_scores.npy", "predictions.parquet", "metrics.json"}


@pytest.mark.parametrize(
    ("name", "remove"),
    [
        ("round-000/encoder.safetensors", "it"),
        ("round-000/scores.npy", "it and RUN/round-000/mining.json"),
        ("round-001/aggregator.safetensors", "it and RUN/round-001/mining.json"),
    ],
)
def test_a_flipped_bit_is_found_when_the_file_is_read_and_the_remedy_mends_it(
    run: Path, finished_run: Path, tiny_cohort: Path, name: str, remove: str
) -> None:
    for again in (*run.glob("round-002/*"), *run.glob("round-001/mining.json")):
        again.unlink()  # so that all is read
    if name == "round-000/scores.npy":
        (run / "round-000" / "encoder.safetensors").unlink()
    flip_a_bit(run / name)
    with pytest.raises(InputError) as failure:
        verbs.train(tiny_cohort, run, None, None, "hnm", TINY, ranks=1)
    assert str(failure.value).startswith(f"{run / name}: damaged: its checksum")
    assert f"or remove {remove.replace('RUN', str(run))} and run the same command" in str(failure.value)
    (run / name).unlink()
    (run / name).with_name("mining.json").unlink(missing_ok=True)
    assert verbs.train(tiny_cohort, run, None, None, "hnm", TINY, ranks=1) == 0
    files = read_state(finished_run)["files"]
    assert {file: digest(run / file) for file in files} == files == read_state(run)["files"]


def test_what_a_run_is_read_for_is_checked_too(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    chosen = json.loads((run / "metrics.json").read_text())["chosen_round"]
    flip_a_bit(run / f"round-{chosen:03d}" / "aggregator.safetensors")
    with pytest.raises(InputError, match=r"aggregator\.safetensors: damaged"):
        predict.export(run, tmp_path / "model", None)
    flip_a_bit(run / "predictions.parquet")
    assert_refused(hnm("compare", run, evaluated_run), 1, f"{run / 'predictions.parquet'}: damaged")
    assert_refused(hnm("report", run), 1, f"{run / 'predictions.parquet'}: damaged", "remove it and metrics.json")


def test_a_file_without_a_checksum_and_one_of_elsewhere_are_taken_as_they_are(run: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in read_state(run).items() if name != "files"}
    flip_a_bit(run / "encoder-start.safetensors")
    require_whole([tmp_path / "other.safetensors"], run, single_world())
    write_json(run / "state.json", state)  # of a run of before
    require_whole([run / "encoder-start.safetensors"], run, single_world())


@pytest.mark.parametrize(
    ("name", "verb"), [("state.json", "status"), ("metrics.json", "report"), ("round-001/mining.json", "report")]
)
def test_a_json_file_that_was_cut_is_named(evaluated_run: Path, tmp_path: Path, name: str, verb: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    (run / name).write_bytes((run / name).read_bytes()[:40])
    assert_refused(hnm(verb, run), 1, f"error: {run / name}: damaged", "Put a whole copy there")


def test_a_run_whose_state_was_cut_begins_anew_when_it_is_asked_to(run: Path, tiny_cohort: Path) -> None:
    (run / "state.json").write_text('{"cohort": "/som')
    refused = hnm("train", tiny_cohort, run, "--ranks", "1", *TINY)
    assert_refused(refused, 1, f"{run / 'state.json'}: damaged (JSONDecodeError", "--restart --yes")
    verbs.train(tiny_cohort, run, None, None, "hnm", [*TINY, "rounds.num_rounds=0"], ranks=1, restart=True, yes=True)
    assert [attempt["how"] for attempt in read_state(run)["attempts"]] == ["finished"]

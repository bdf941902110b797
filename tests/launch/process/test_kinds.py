"""A folder that is no run directory is called what it is, with the command that suits it."""

from pathlib import Path

import pytest

from launch.process.kinds import refuse_other
from shards.errors import InputError
from tests.command_line import assert_refused, hnm

FILES = {
    "cohort": (["cohort.json", "slides.parquet"], "a cohort, no run directory. Train on it first: hnm train"),
    "pretrained": (["state.json", "encoder.safetensors"], "a pretrained encoder, by hnm pretrain"),
    "model": (["model.json"], "an exported model, which has no test split to read"),
    "predictions": (["predictions.parquet", "patches/a.parquet"], "predictions by hnm predict, no run directory"),
    "crossval": (["crossval.json", "metrics.json"], "a cross-validation: hnm crossval has evaluated its folds"),
    "demo": (["slides/slides.csv", "run/state.json"], "the folder of hnm demo. Its run directory is"),
    "gone": ([], "there is no such folder. A run directory is made with: hnm train COHORT"),
}


def made(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    names, says = FILES[kind]
    with pytest.raises(InputError) as refused:
        refuse_other(made(tmp_path / kind, names))
    assert str(refused.value).startswith(f"{tmp_path / kind}: {says}")


def test_every_verb_that_wants_a_run_says_so(tmp_path: Path) -> None:
    names, says = FILES["pretrained"]
    folder = made(tmp_path / "pretrained", names)
    for words in (("evaluate", folder), ("predict", folder, "a.svs"), ("report", folder), ("export", folder, tmp_path / "m")):
        assert_refused(hnm(*words), 1, f"{folder}: {says}")
    assert_refused(hnm("compare", folder, folder), 1, f"{folder}: {says}")


def test_a_table_and_a_run_and_what_is_none_of_ours(tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / "slides.csv").touch()
    with pytest.raises(InputError, match=r"a table, no run directory\. Cut its slides first: hnm tile"):
        refuse_other(tmp_path / "slides.csv")
    refuse_other(finished_run)
    refuse_other(tmp_path)
    assert_refused(hnm("evaluate", tmp_path), 1, "no run directory (state.json is missing)")
    pretrained = made(tmp_path / "pretrained", ["state.json", "encoder.safetensors"])
    assert_refused(hnm("train", tmp_path, pretrained, "--restart"), 1, "a pretrained encoder")
    assert (pretrained / "encoder.safetensors").exists()

"""The Python face: what it gives is what is on the disk, its names stay, and the page's code runs."""

import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import hnm
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.networks import build_encoder, metadata_of
from hnm.encoder.spec import InputSpec
from hnm.encoder.weights import load_encoder
from hnm.engine.state import save_weights
from hnm.face.encoder import section_of_file
from shards.cohort.cohort import Cohort
from tests.paths import ROOT

CELL = re.compile(r"<!-- python -->\n```python\n(.*?)\n```", re.DOTALL)
# What users write in scripts: a name or an argument that goes or changes its place breaks them.
FROZEN = {
    "open_run": "(path, cohort=None)",
    "open_cohort": "(path)",
    "load_encoder": "(path, **settings)",
    "embed": "(images, encoder, batch_size=64)",
    "OpenRun": "chosen_round cohort config encoder(round_=None) hardest_negatives(num=20, round_=None) metrics patch_threshold "
    "path predictions() record rounds scores(slide, round_=None) slide_threshold",
    "OpenCohort": "images(patch_ids) num_patches num_slides patches(slide) path slides tables",
    "PatchEncoder": "embed(images, batch_size=64) extra_repr() forward(images) input",
    "SlideScores": "patch_ids scores side_level0 slide_id slide_score truth x_level0 y_level0",
    "InputError": "",
}


def arguments(function: Any) -> str:
    signature = inspect.signature(function)
    own = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    return str(signature.replace(parameters=own, return_annotation=inspect.Signature.empty))


def members(kind: type) -> str:
    """Return the public members of a class, functions with their arguments."""
    names = {name for name in vars(kind) if not name.startswith("_")}
    names |= {field.name for field in fields(kind)} if hasattr(kind, "__dataclass_fields__") else set()
    functions = {name: arguments(vars(kind)[name]) for name in names if inspect.isfunction(vars(kind).get(name))}
    return " ".join(name + functions.get(name, "") for name in sorted(names))


def test_names_and_arguments_stay() -> None:
    found = {name: members(value) if inspect.isclass(value) else arguments(value) for name, value in of_face().items()}
    assert found == FROZEN
    stub = (ROOT / "hnm" / "__init__.pyi").read_text(encoding="utf-8")
    assert set(re.findall(r" as (\w+)", stub)) == set(FROZEN)
    assert set(re.findall(r"^from (\S+) import", stub, re.MULTILINE)) == set(hnm.PLACES.values())


def of_face() -> dict[str, Any]:
    return {name: getattr(hnm, name) for name in hnm.PLACES}


def test_the_import_takes_nothing_heavy_along() -> None:
    code = "import sys, hnm; dir(hnm); print([name for name in ('torch', 'numpy', 'pandas', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'open_runs'; it has open_cohort"):
        hnm.open_runs  # type: ignore[attr-defined]  # noqa: B018


def test_the_code_of_the_page_runs(
    evaluated_run: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").symlink_to(evaluated_run)
    (tmp_path / "cohort").symlink_to(tiny_cohort)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    cells = CELL.findall(page)
    assert len(cells) >= 6
    notebook = runpy.run_path(str(ROOT / "docs" / "notebook.py"))  # its code is what runs here
    assert notebook["NOTEBOOK"].read_text(encoding="utf-8") == notebook["text_of"](page), "run: python docs/notebook.py"
    code = ["".join(cell["source"]) for cell in notebook["notebook_of"](page)["cells"] if cell["cell_type"] == "code"]
    assert code == cells
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"docs/python.md, cell {number}", "exec"), names)  # the page's own code
    assert names["features"].shape == (8, names["network"].feature_dim)
    assert "accuracy on what it was fitted to" in capsys.readouterr().out


def test_a_run_says_what_its_files_say(evaluated_run: Path, tiny_cohort: Path) -> None:
    run, cohort = hnm.open_run(evaluated_run), Cohort.open(tiny_cohort)
    slides = run.predictions()
    assert list(slides) == ["slide_id", "patient_id", "split", "label", "score", "predicted", "status"]
    assert set(slides["split"]) == {"train", "validation", "test"}
    by_patch = np.load(evaluated_run / "patch_scores.npy")
    for number, name in enumerate(cohort.slide_ids):
        its = run.scores(name)
        own = slice(*cohort.patch_bounds[number : number + 2].tolist())
        np.testing.assert_array_equal(its.scores, by_patch[own])
        np.testing.assert_array_equal(its.x_level0, cohort.patches.x_level0[own])
        assert its.side_level0 == 16
        assert its.slide_score == slides.set_index("slide_id")["score"][name]
    folder = evaluated_run / "round-001"
    np.testing.assert_array_equal(run.scores(cohort.slide_ids[0], 1).scores, np.load(folder / "scores.npy")[:16])
    hardest = run.hardest_negatives(5, round_=1)
    scores, negatives = np.load(folder / "scores.npy"), np.load(folder / "negatives.npy")
    assert hardest["score"].tolist() == sorted(scores[negatives].tolist(), reverse=True)[:5]
    assert set(hardest.index) <= set(negatives.tolist())
    assert len(run.rounds) == 3
    for wrong in (lambda: run.scores("no slide"), lambda: run.scores(cohort.slide_ids[0], 7)):
        with pytest.raises(hnm.InputError, match=r"there is no (slide 'no slide'; its slides are|round 7; mined are 0 to 2)"):
            wrong()


def test_before_the_evaluation_the_same_columns_without_test_scores(finished_run: Path, evaluated_run: Path) -> None:
    before, after = hnm.open_run(finished_run).predictions(), hnm.open_run(evaluated_run).predictions()
    test = (before["split"] == "test").to_numpy()
    assert before.loc[test, "score"].isna().all()
    pd.testing.assert_frame_equal(before[~test], after[~test], check_dtype=False)


def test_another_cohort_is_refused(finished_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(hnm.InputError, match="no run directory"):
        hnm.open_run(tiny_cohort)
    for path in tiny_cohort.iterdir():
        if path.name != "table":
            (tmp_path / path.name).symlink_to(path)
    assert hnm.open_run(finished_run, cohort=tmp_path).cohort.path == tmp_path


def test_pictures_are_the_cohorts_patches(tiny_cohort: Path) -> None:
    cohort = hnm.open_cohort(tiny_cohort)
    name = cohort.slides["slide_id"].iloc[3]
    patches = cohort.patches(name)
    assert patches.index.tolist() == list(range(48, 64))
    there = cohort.images(patches.index[::-1])
    assert there.shape == (16, 16, 16, 3)
    np.testing.assert_array_equal(there[::-1], cohort.images(patches.index))
    with pytest.raises(hnm.InputError, match="no patch 160; the ids are 0 to 159"):
        cohort.images([0, 160])


def test_an_encoder_is_found_and_gives_the_features_of_the_run(evaluated_run: Path, tiny_cohort: Path) -> None:
    run = hnm.open_run(evaluated_run)
    file = evaluated_run / "model" / "encoder.safetensors"
    plain = load_encoder(file, run.config.encoder).eval()
    pictures = hnm.open_cohort(tiny_cohort).images(range(10))
    with torch.inference_mode():
        expected = plain(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255).numpy()
    for given in (evaluated_run, evaluated_run / "model", file, str(file)):
        encoder = hnm.load_encoder(given)
        np.testing.assert_allclose(encoder.embed(pictures, batch_size=3), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run.encoder().embed(pictures), encoder.embed(pictures))
    with pytest.raises(hnm.InputError, match="neither a run directory"):
        hnm.load_encoder(tiny_cohort)
    with pytest.raises(hnm.InputError, match="norm='group'"):
        hnm.load_encoder(file, norm="group")


def test_a_picture_is_the_same_in_every_form(evaluated_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    encoder = hnm.load_encoder(evaluated_run).train()
    pictures = hnm.open_cohort(tiny_cohort).images(range(5))
    expected, tensor = encoder.embed(pictures), torch.from_numpy(pictures).permute(0, 3, 1, 2)
    images = [Image.fromarray(picture) for picture in pictures]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for form in (tensor, tensor / 255, pictures / np.float64(255), list(pictures), images, paths, [images[0], *pictures[1:]]):
        np.testing.assert_allclose(encoder.embed(form, batch_size=2), expected, rtol=1e-4, atol=1e-6)
    assert encoder.training
    assert encoder.embed([]).shape == (0, encoder.feature_dim)
    mixed = [pictures[0], np.zeros((24, 20, 3), np.uint8), pictures[1]]
    np.testing.assert_allclose(encoder.embed(mixed)[[0, 2]], expected[:2], rtol=1e-4, atol=1e-6)
    wrong = {"Divide by 255": pictures.astype(np.float32), "Give a list": images[0], "RGB pictures": [pictures[0, :, :, :1]]}
    wrong |= {"Give uint8": pictures.astype(int), "of shape": pictures[0], "that can be read": [tmp_path / "none.png"]}
    for message, form in wrong.items():
        with pytest.raises(hnm.InputError, match=message):
            encoder.embed(form)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_the_shapes_of_a_file_tell_its_network(architecture: Any, norm: Any, stem: Any, tmp_path: Path) -> None:
    config = EncoderConfig(architecture=architecture, norm=norm, stem=stem, width=0.125)
    encoder = build_encoder(config, wanted=InputSpec(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)))
    named = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_weights(tmp_path / "e.safetensors", named, metadata_of(encoder))
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "e.pth")
    assert section_of_file(tmp_path / "e.safetensors") == section_of_file(tmp_path / "e.pth") == config
    assert hnm.load_encoder(tmp_path / "e.safetensors").input == encoder.input.spec


def test_a_file_of_no_resnet_asks_for_its_name(tmp_path: Path) -> None:
    save_weights(tmp_path / "e.safetensors", {"blocks.0.weight": torch.zeros(2)}, {})
    with pytest.raises(hnm.InputError, match="Name it: load_encoder"):
        hnm.load_encoder(tmp_path / "e.safetensors")

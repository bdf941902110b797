"""`hnm embed`: features of every slide as HDF5, resumable, the same bytes on any number of ranks, and only one encoder's."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hnm.encoder.augment import to_float
from hnm.encoder.contrastive_model import fresh_model, save_model
from hnm.encoder.embed_slides import share_slides
from hnm.encoder.weights import load_encoder
from hnm.engine.ranks import World, single_world
from launch.process.preemption import Preempted, StopSignals
from launch.verbs import embed as verbs
from shards.cohort.cohort import Cohort
from shards.reading.reader import PatchReader, ReaderConfig
from tests.command_line import assert_refused, hnm
from tests.ranks import on_ranks
from tests.tiny import TINY, tiny_config

SETTINGS = [*TINY, "rounds.embed_batch_size=7"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_model(path, fresh_model(tiny_config().encoder, seed=1), {})
    return path


def _embed_on(world: World, cohort: str, encoder: str, out: str) -> None:
    config = tiny_config("rounds.embed_batch_size=7")
    opened, cohort_ = load_encoder(Path(encoder), config.encoder), Cohort.open(Path(cohort))
    verbs.embed_missing(
        opened, verbs.chosen_slides(cohort_, None), cohort_, config, Path(out), {}, world, StopSignals()
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_a_slides_file_holds_its_features_and_places(tiny_cohort: Path, encoder: Path, tmp_path: Path) -> None:
    result = hnm("embed", tiny_cohort, "--encoder", encoder, "--out", tmp_path, *SETTINGS)
    assert result.exit_code == 0
    assert "160 patches in" in result.output
    assert "% of the time the encoder waited for pictures" in result.output
    cohort, network = Cohort.open(tiny_cohort), load_encoder(encoder, tiny_config().encoder).eval()
    ids = np.arange(*cohort.patch_bounds[3:5])
    with PatchReader(cohort, ReaderConfig()) as reader, torch.no_grad():
        expected = torch.cat([network(to_float(reader.read(ids[i : i + 7]))) for i in range(0, len(ids), 7)]).numpy()
    with h5py.File(tmp_path / f"{cohort.slide_ids[3]}.h5") as file:
        np.testing.assert_array_equal(file["features"][()], expected)
        np.testing.assert_array_equal(file["coords"][:, 1], cohort.patches.y_level0[ids])
        attributes = dict(file["coords"].attrs)
    assert attributes["patch_size"] == attributes["patch_size_level0"] == 16
    assert attributes["level0_width"] == 64
    assert len(list(tmp_path.glob("*.h5"))) == 10


def test_only_what_is_missing_is_embedded_and_another_encoder_is_refused(
    tiny_cohort: Path, encoder: Path, tmp_path: Path
) -> None:
    command = ["embed", tiny_cohort, "--encoder", encoder, "--out", tmp_path, *SETTINGS]
    assert hnm(*command, "--shard-of", "2/3").exit_code == 0
    share = _bytes(tmp_path)
    assert len(share) == 3
    assert "10 slides, 7 of them embedded now" in hnm(*command).output
    assert share.items() <= _bytes(tmp_path).items()
    other = tmp_path / "other.safetensors"
    save_model(other, fresh_model(tiny_config().encoder, seed=2), {})
    command[3] = other
    assert_refused(hnm(*command), 1, "holds the features of something else (source_sha256: ")


def test_two_ranks_write_the_bytes_of_one(tiny_cohort: Path, encoder: Path, tmp_path: Path) -> None:
    for size in (1, 2):
        on_ranks(size, _embed_on, str(tiny_cohort), str(encoder), str(tmp_path / str(size)))
    assert len(_bytes(tmp_path / "1")) == 10
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2")


def test_it_stops_when_asked_and_says_so(tiny_cohort: Path, encoder: Path, tmp_path: Path) -> None:
    signals, cohort, config = StopSignals(), Cohort.open(tiny_cohort), tiny_config()
    signals.requested = 15  # type: ignore[assignment]
    opened = load_encoder(encoder, config.encoder)
    with pytest.raises(Preempted, match="the slides that are done stay"):
        verbs.embed_missing(opened, np.arange(3), cohort, config, tmp_path, {}, single_world(), signals)


def test_slides_are_dealt_out_evenly_and_each_once() -> None:
    patches = np.array([5, 100, 7, 60, 50, 0, 3])
    shares = share_slides(np.array([0, 1, 2, 3, 4, 6]), patches, 2)
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4, 6]
    assert [int(patches[share].sum()) for share in shares] == [112, 113]

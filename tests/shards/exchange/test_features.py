"""Features of other tools: each layout comes back bit for bit, and what is none is refused."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import InputError
from shards.exchange.features import read_features
from tests.shards.exchange.foreign_files import atlaspatch_features, clam_features, trident_features

XY = np.array([[0, 0], [32, 0], [64, 96]])
FEATURES = np.random.default_rng(0).standard_normal((3, 5), np.float32)


@pytest.mark.parametrize(
    ("write", "name", "side"),
    [
        (trident_features, "a.h5", 32),
        (trident_features, "a.pt", None),
        (clam_features, "a.h5", None),
        (clam_features, "a.pt", None),
        (atlaspatch_features, "a.h5", 32),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_each_tools_features_come_back_bit_for_bit(
    write: Callable[..., Path], name: str, side: int | None, kind: type, tmp_path: Path
) -> None:
    path = write(tmp_path / name, FEATURES.astype(kind), XY, 32)
    found = read_features(path, "uni_v1" if write is atlaspatch_features else None)
    assert (found.features.dtype, found.patch_level0) == (kind, side)
    np.testing.assert_array_equal(found.features, FEATURES.astype(kind))
    assert (found.xy_level0 is None) == (path.suffix == ".pt")
    assert found.xy_level0 is None or found.xy_level0.tolist() == XY.tolist()


@pytest.mark.parametrize("shape", [(0, 5), (0,)])
@pytest.mark.parametrize("name", ["a.h5", "a.pt"])
def test_a_slide_without_patches_has_no_features(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    found = read_features(trident_features(tmp_path / name, np.empty(shape, np.float32), XY[:0], 32))
    assert len(found.features) == 0


def test_an_array_that_an_older_numpy_pickled(tmp_path: Path) -> None:
    path = trident_features(tmp_path / "new.pt", FEATURES, XY, 32)
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in (tmp_path / "old.pt").read_bytes()
    np.testing.assert_array_equal(read_features(tmp_path / "old.pt").features, FEATURES)


def test_which_of_several_matrices(tmp_path: Path) -> None:
    path = atlaspatch_features(tmp_path / "a.h5", FEATURES, XY, 32)
    with pytest.raises(InputError, match=r"features of several encoders: resnet18, uni_v1. Say which: --name resnet18"):
        read_features(path)
    with pytest.raises(InputError, match="no data set 'uni'; it has: resnet18, uni_v1"):
        read_features(path, "uni")


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("harm",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_Harm(), "refused, not a whole file of plain tensors (it would run print)"),
        ([1, 2], "holds a list, no tensor"),
        ({"labels": torch.zeros(2)}, "no tensor features or feats or embeddings; there is: labels"),
        (torch.zeros(4, dtype=torch.int64), "features are int64 of shape (4,)"),
        (torch.tensor([[0.0, float("nan")]]), "row 0 (the first of 1) is not finite"),
        ({"features": torch.zeros(3, 4), "coords": torch.zeros(2, 2)}, "3 features, but coords of shape (2, 2)"),
    ],
)
def test_files_without_features_are_refused(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=re.escape(words)):
        read_features(tmp_path / "a.pt")

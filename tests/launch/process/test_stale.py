"""A network file system that remembers for half a minute that a file was not there: ranks still find what others write."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch

from hnm.engine import ranks as of_ranks
from hnm.engine.ranks import World, seen, single_world
from shards.errors import InputError
from tests.launch.process.test_local import TIMEOUT_S, command
from tests.tiny import TINY, results_of

# run by every child at its start: a path whose look-up failed is "not there" for 30 s, on that process alone
FORGETFUL = """
import os, time
os_stat, failed = os.stat, {}

def stat(path, *args, **kwargs):
    key = os.path.abspath(os.fspath(path)) if isinstance(path, (str, os.PathLike)) else None
    if key is not None and time.monotonic() - failed.get(key, -99) < 30:
        raise FileNotFoundError(2, "No such file or directory (remembered)", str(path))
    try:
        return os_stat(path, *args, **kwargs)
    except FileNotFoundError:
        if key is not None and os.environ.get("RANK", "0") != "0":  # rank 0 writes: its own machine knows at once
            failed[key] = time.monotonic()
        raise

os.stat = stat
"""


def test_two_ranks_train_where_failed_look_ups_are_remembered(run_on_2_ranks: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(FORGETFUL, encoding="utf-8")
    python_path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    train = command("train", tiny_cohort, "run", "--preset", "hnm", "--ranks", "2", *TINY)
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "run") == results_of(run_on_2_ranks)


def test_what_does_not_become_visible_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_ranks, "SEEN_WITHIN_S", 0.3)
    other = World(1, 2, 1, torch.device("cpu"))
    begin = time.monotonic()
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'new'}: rank 1 on ") + ".* does not see a.npy"):
        seen(tmp_path / "new" / "a.npy", other)
    assert 0.3 <= time.monotonic() - begin < 5
    assert seen(tmp_path / "new" / "a.npy", single_world()) == tmp_path / "new" / "a.npy"  # alone, nobody else writes it

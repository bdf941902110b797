"""benchmarks.gpu without a GPU: it says so, and rehearses its parts."""

import json

import pytest
import torch

from benchmarks.gpu import main, run_part


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "rehearse it with --cpu" in told.err
    assert main(["--wheels"]) == 0
    assert " simplejpeg==" in capsys.readouterr().out


def test_a_part_that_fails_says_where_and_the_next_one_runs() -> None:
    found = run_part("check: x", lambda: json.loads("{"), torch.device("cpu"))
    assert not found["ok"]
    assert found["error"].startswith("JSONDecodeError")
    assert found["where"].startswith("decoder.py:")


@pytest.mark.slow
def test_parts_rehearse_on_a_cpu_and_tell_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cpu", "--only", "speed: s"]) == 0
    about, *parts, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert about["versions"]["torch"] == torch.__version__
    assert all(part["ok"] for part in parts)
    assert summary["ok"] == [part["part"] for part in parts]
    assert (summary["failed"], summary["no_time_left"]) == ([], [])

import json
import multiprocessing as mp
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from shards.claim import Owner, Waiting, claimed, owner_of, this_process


def hold(path: Path, ready: Path, seconds: float) -> None:
    with claimed(path) as claim:
        assert claim is not None
        ready.touch()
        time.sleep(seconds)


def in_another_process(path: Path, ready: Path, seconds: float):  # type: ignore[no-untyped-def]
    process = mp.get_context("fork").Process(target=hold, args=(path, ready, seconds), daemon=True)
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    return process


def test_a_claim_names_its_owner_and_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.json"
    with claimed(path) as claim:
        assert claim is not None
        assert owner_of(path) == this_process()
        assert json.loads(path.read_text()) == {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": this_process().started,
        }
    assert owner_of(path) is None
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_claim_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(tmp_path / "a.json"):
        raise KeyError
    assert owner_of(tmp_path / "a.json") is None


def test_a_living_process_keeps_its_claim_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    process = in_another_process(tmp_path / "a.json", tmp_path / "ready", 60)
    with claimed(tmp_path / "a.json") as claim:
        assert claim is None
        assert "process " in str(owner_of(tmp_path / "a.json"))
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now: nobody has taken its exit code
    with claimed(tmp_path / "a.json") as claim:
        assert claim is not None
        assert owner_of(tmp_path / "a.json") == this_process()
    process.join()


def test_a_link_whose_reply_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def ask_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # as an NFS client whose server's answer was lost: EEXIST

    monkeypatch.setattr(os, "link", ask_twice)
    path = tmp_path / "a.json"
    with claimed(path) as claim:
        assert claim is not None
        assert owner_of(path) == this_process()
        with claimed(path) as again:  # the same owner, and yet another link
            assert again is None
    assert [left.name for left in tmp_path.iterdir()] == [".takeover"]


def test_a_number_that_was_used_again_is_not_the_owner(tmp_path: Path) -> None:
    me = this_process()
    (tmp_path / "a.json").write_text(json.dumps({"host": me.host, "pid": me.pid, "started": "another boot 17"}))
    with claimed(tmp_path / "a.json") as claim:
        assert claim is not None


def test_another_machine_keeps_its_claim_until_it_gives_no_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"host": "node17", "pid": 1, "started": "x"}))
    with claimed(path) as claim:
        assert claim is None
    assert owner_of(path) == Owner("node17", 1, "x")
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))
    with claimed(path, remote_timeout_s=7200) as claim:
        assert claim is None
    with claimed(path) as claim:
        assert claim is not None


def test_a_beat_shows_that_the_owner_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.claim.BEAT_EVERY_S", 0.0)
    path = tmp_path / "a.json"
    with claimed(path) as claim:
        assert claim is not None
        os.utime(path, (1, 1))
        claim.beat()
        assert path.stat().st_mtime > 1


def test_who_waits_says_so_once_with_the_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, host in zip(paths[:2], ("node17", "node18"), strict=True):
        path.write_text(json.dumps({"host": host, "pid": 1, "started": "x"}))
    waiting = Waiting("run", " up to 75 s")
    for _ in range(2):
        waiting.tell(paths[0], paths[2])  # nobody holds the last
    assert capsys.readouterr().err == "run: process 1 on node17 is at work on that; waiting up to 75 s\n"
    Waiting("run").tell(*paths)
    assert capsys.readouterr().err == "run: process 1 on node17 and 1 other are at work on that; waiting\n"


def count_up(folder: Path, num_rounds: int) -> None:
    for _ in range(num_rounds):
        while True:
            with claimed(folder / "a.json") as claim:
                if claim is not None:
                    number = int((folder / "number").read_text())
                    time.sleep(0.001)
                    (folder / "number").write_text(str(number + 1))
                    break
            time.sleep(0.001)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [mp.get_context("fork").Process(target=count_up, args=(tmp_path, 20)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "80"

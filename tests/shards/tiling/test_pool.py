import os
import signal
import time

import pytest

from shards.tiling.pool import Died, run_jobs


def work(job: int) -> int:
    if job == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == 17:
        os._exit(5)
    if job == 99:
        raise ValueError("a mistake of the code")
    return job * job


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_jobs_are_done_once(num_workers: int) -> None:
    results = list(run_jobs([3, 1, 2, 5], work, num_workers))
    assert sorted(results) == [(1, 1), (2, 4), (3, 9), (5, 25)]


def test_a_killed_worker_costs_its_own_job_only() -> None:
    results = dict(run_jobs([1, 13, 2, 17, 3, 4], work, 2))
    assert results.keys() == {1, 2, 3, 4, 13, 17}
    assert isinstance(results[13], Died)
    assert isinstance(results[17], Died)
    assert results[13].how == "its process was killed by signal 9; out of memory?"
    assert results[17].how == "its process ended with code 5"
    assert [results[job] for job in (1, 2, 3, 4)] == [1, 4, 9, 16]


def test_an_error_of_the_code_is_raised_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError: a mistake of the code"):
        list(run_jobs([1, 99], work, 2))
    with pytest.raises(ValueError, match="a mistake"):
        list(run_jobs([99], work, 1))


def child_pid(job: int) -> int:
    return os.getpid()


def test_no_worker_is_left_when_the_caller_stops_early() -> None:
    results = run_jobs(list(range(8)), child_pid, 2)
    _, pid = next(results)
    assert isinstance(pid, int)
    results.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")

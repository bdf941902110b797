"""Worker processes that outlive each other: one that dies costs its own slide, not the run.

    jobs ──one at a time──▶ worker 1, worker 2, ...  ──results as they come──▶ caller

concurrent.futures gives up all work when a worker is killed (the kernel does so when memory runs out), and does not say
which slide it was. pebble 5.2.3 says it, but with workers killed from outside it gave up, too ("All workers expired").
"""

import ctypes
import multiprocessing as mp
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")
PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


@dataclass(frozen=True)
class Died:
    """The result of a job whose worker died; `how` says of what."""

    how: str


@dataclass
class _Worker(Generic[J]):
    process: Any
    pipe: Connection
    job: J | None = None


def run_jobs(jobs: Sequence[J], work: Callable[[J], R], num_workers: int) -> Iterator[tuple[J, R | Died]]:
    """Do all jobs, and yield (job, result) as they are done.

    Args:
        jobs: what is to be done; picklable if there are several workers.
        work: does one; picklable too, at the top level of a module.
        num_workers: processes; 1 = in this one.

    Raises:
        RuntimeError: `work` raised in a worker; the message has its traceback.
    """
    if num_workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, work(job)
        return
    queue = list(reversed(jobs))
    workers: list[_Worker[J]] = []
    try:
        workers += [_start(work) for _ in range(min(num_workers, len(jobs)))]
        for worker in workers:
            _give(worker, queue)
        while busy := [worker for worker in workers if worker.job is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in (worker for worker in busy if worker.pipe in ready):
                finished, result = worker.job, _result(worker)
                assert finished is not None
                worker.job = None
                if isinstance(result, Died) and queue:
                    replacement = _start(work)
                    workers[workers.index(worker)] = replacement
                    worker = replacement
                _give(worker, queue)
                yield finished, result
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _start(work: Callable[[Any], Any]) -> _Worker[Any]:
    context = mp.get_context("spawn")  # a fork would take over torch's and OpenCV's threads half-alive
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, os.getpid()), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _give(worker: _Worker[J], queue: list[J]) -> None:
    if queue:
        worker.job = queue.pop()
        worker.pipe.send(worker.job)


def _result(worker: _Worker[Any]) -> Any:
    try:
        is_done, result = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Died(f"its process {how}; out of memory?" if code == -signal.SIGKILL else f"its process {how}")
    if not is_done:
        raise RuntimeError(f"an error of the program in a worker:\n{result}")
    return result


def _serve(pipe: Connection, work: Callable[[Any], Any], parent: int) -> None:
    """Do the jobs that come through the pipe, until it closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends the workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # lets go of its claim and its temporary files
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # none goes on when the parent is killed
    while os.getppid() == parent:  # it may have died before that call
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, work(job))
        except Exception:  # sent to the parent, which raises it
            answer = (False, traceback.format_exc())
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return

"""What runs inside a submitted job: submitit starts a process per rank, and each runs the local command here.

    srun ──▶ submitit ──▶ Job.__call__ ──▶ RANK, MASTER_ADDR, ... ──▶ hnm train ... ──▶ done | failed | asked to stop: requeue

A job's pickle holds its command line and nothing else: all state is files, so it may be started again at any time, also
by SLURM itself, and goes on where it was.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from types import FrameType
from typing import Any

from launch.cluster import slurm
from launch.cluster.submissions import cancel_mark
from launch.process.distributed import meeting_port, num_restarts
from launch.process.preemption import TRY_AGAIN

START_RANKS = ("crossval", "study")  # commands that do so themselves: they are no rank

Handler = Callable[[int, FrameType | None], Any]


class Job:
    """A local command as a job; a submitit "checkpointable", which is to say that it may be requeued."""

    def __init__(self, app: str, arguments: list[str]) -> None:
        """Hold the command.

        Args:
            app: where the command line is, "module:name"; whoever submits knows it.
            arguments: the words after `hnm`.
        """
        self.app, self.arguments = app, arguments

    def __call__(self) -> int:
        """Run the command as one of the job's ranks."""
        import submitit

        environment = submitit.JobEnvironment()
        if environment.cluster != "debug":  # that is nobody else's process: not to be requeued, and not to be ended
            handler = stop_handler(environment, signal.getsignal(signal.SIGUSR2))
            for number in (signal.SIGUSR2, signal.SIGTERM):  # at once: submitit's own handler of TERM does nothing
                signal.signal(number, handler)
        if self.arguments[0] not in START_RANKS:
            os.environ.update(rank_variables(environment, os.environ))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
        print(
            f"rank {environment.global_rank} of {environment.num_tasks} on {environment.hostname}: device "
            f"{environment.local_rank} of CUDA_VISIBLE_DEVICES={devices}, attempt {num_restarts() + 1}",
            flush=True,
        )
        code = run_command(self.app, self.arguments)
        if environment.cluster == "debug":
            return code
        if code == TRY_AGAIN and environment.global_rank != 0:
            leave(0)  # rank 0 is putting the job back; srun would end it if this rank left with another code
        if code:
            leave(code)
        atexit.register(leave, 0)  # once submitit has noted the result; see launch.cli.main for why not the usual way
        return 0

    def checkpoint(self) -> Any:
        """Return what runs next time: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_command(app: str, arguments: list[str]) -> int:
    """Run the command line `app`, "module:name", with these arguments in this process and return its exit code."""
    try:
        resolve_name(app)(arguments)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


def rank_variables(environment: Any, known: Any) -> dict[str, str]:
    """Return what torch.distributed wants to know, from submitit's environment.

    Args:
        environment: submitit's JobEnvironment.
        known: the environment variables; a MASTER_PORT among them is kept.
    """
    one_node = environment.num_nodes == 1
    port = meeting_port(environment.job_id, num_restarts(known))
    return {
        "RANK": str(environment.global_rank),
        "WORLD_SIZE": str(environment.num_tasks),
        "LOCAL_RANK": str(environment.local_rank),
        "LOCAL_WORLD_SIZE": str(environment.num_tasks // environment.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if one_node else environment.hostnames[0],
        "MASTER_PORT": known.get("MASTER_PORT", str(port)),
    }


def stop_handler(environment: Any, requeue: Any) -> Handler:
    """Return the handler of USR2 and TERM for when nothing is to be saved, or all is saved: requeue, unless cancelled.

    Args:
        environment: submitit's JobEnvironment.
        requeue: submitit's own handler, which lets rank 0 put the job back into the queue.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if environment.global_rank != 0:
            if environment.cluster == "local":  # the other ranks wait for rank 0, and nobody ends them
                leave(128 + signal.SIGTERM)
            return  # rank 0 speaks for the job, and SLURM ends this process
        if is_unwanted(environment):
            leave(128 + signal.SIGTERM)
        requeue(number, frame)

    return handle


def is_unwanted(environment: Any) -> bool:
    """Is this job cancelled, at its limit, or put back by SLURM itself (COMPLETING)? Then it is not ours to requeue."""
    if environment.cluster != "slurm":
        return cancel_mark(environment.paths.folder, environment.job_id).is_file()
    state = slurm.states_of([environment.job_id]).get(environment.job_id)
    return state is None or state.state != "RUNNING"


def leave(code: int) -> None:
    """End this process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

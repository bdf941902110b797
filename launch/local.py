"""Start ranks on this machine, as torchrun would, and hand back their exit code."""

import logging
import os
import sys
import uuid


def run_ranks(num_ranks: int, arguments: list[str]) -> int:
    """Run `hnm` with `arguments` in `num_ranks` processes on this machine and wait for them.

    Args:
        num_ranks: processes to start.
        arguments: the command line after `hnm`.

    Returns:
        0 when all ranks ended well, else the exit code of the first rank that failed; 128 + the signal that stopped us.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the rank that failed has said why
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks)))
    os.environ["PYTHONSAFEPATH"] = "1"  # a user's own folder called `launch` or `configs` must not shadow ours
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "launch.cli", *arguments)
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    except SignalException as error:  # the ranks have been ended
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + int(error.sigval)
    return 0

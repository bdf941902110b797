"""What the cluster's nodes have: how many cores a rank gets that has a GPU, where nothing else is asked for."""

import re
from collections.abc import Sequence
from dataclasses import replace

from launch.cluster import slurm
from launch.cluster.job_spec import JobSpec

# a process for each GPU; the others are one process
WITH_RANKS = ("pretrain", "train", "evaluate", "crossval", "first", "study", "doctor")


def with_cores(specs: Sequence[JobSpec]) -> list[JobSpec]:
    """Return the jobs; where ranks have GPUs and `slurm.cpus` is not set, with the partition's cores for each GPU."""
    return [_with_cores(spec) if spec.stage in WITH_RANKS else spec for spec in specs]


def _with_cores(spec: JobSpec) -> JobSpec:
    gpus, cpus = spec.resources.gpus_per_node, spec.resources.cpus
    if not gpus or cpus is not None:
        return spec
    partitions = (spec.resources.partition or _default_partition()).split(",")
    share = cores_per_gpu(slurm.ask("scontrol", "--oneliner", "show", "node", check=False), partitions, gpus)
    if share is None:
        return spec  # sbatch knows better whether there are such nodes
    cpus = max(1, share * gpus // spec.ranks_per_node)
    said = f"slurm.cpus is not set: nodes of {', '.join(partitions)} have {share} cores for each GPU"
    return replace(spec, resources=spec.resources.model_copy(update={"cpus": cpus}), remark=said)


def _default_partition() -> str:
    """Return the partition that takes jobs which name none; "" where there is none."""
    names = slurm.ask("sinfo", "--noheader", "--format=%P").split()
    return next((name.rstrip("*") for name in names if name.endswith("*")), "")


def cores_per_gpu(nodes: str, partitions: Sequence[str], gpus: int) -> int | None:
    """Return the fewest cores for each GPU of the nodes that a job may get; None: no node has so many GPUs.

    Args:
        nodes: as by `scontrol --oneliner show node`.
        partitions: one of them is the job's.
        gpus: that it asks for on each node.
    """
    shares = []
    for line in nodes.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        # gpu:2 | gpu:a100:8(S:0-1) | gpu:a100:4,gpu:a30:2,shard:8
        num_gpus = sum(map(int, re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", facts.get("Gres", ""))))
        if num_gpus >= gpus and set(facts.get("Partitions", "").split(",")) & set(partitions):
            shares.append(int(facts.get("CPUEfctv") or facts["CPUTot"]) // num_gpus)
    return min(shares, default=None)

"""`hnm doctor --cluster`: what the ranks of a job have and how fast they exchange, write and read, and what to do about it.

    srun -n 16 hnm doctor --cluster  |  hnm submit doctor  |  hnm doctor --cluster --ranks 2 ──▶ a line a rank, findings in words
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hnm.config import load_config
from hnm.engine.ranks import World
from launch.process.distributed import join_world, leave_world
from launch.process.probe import (
    Facts,
    clock_offsets,
    facts_of_rank,
    gather_facts,
    network,
    read_rate,
    share_a_device,
    shared_folder,
)
from launch.verbs.doctor_findings import Finding, findings
from shards.cohort.cohort import Cohort

TIMEOUT_S = 300.0


def run(folder: Path, cohort: Path | None, config_name: str | None, overrides: list[str]) -> int:
    """Measure on all ranks and print on rank 0; the exit code is 1 where no run could work. Every rank must call it."""
    config = load_config(config_name, None, overrides)
    shards = [] if cohort is None else _shards_of(Cohort.open(cohort))
    world = join_world(config.device, TIMEOUT_S)
    try:
        ranks, networks = measure(world, folder, shards)
    finally:
        leave_world(world)
    if not world.is_main:
        return 0
    found = findings(ranks, networks, folder)
    for line in report_lines(ranks, networks, found):
        print(line)
    return int(any(finding.must for finding in found))


def measure(world: World, folder: Path, shards: Sequence[Path]) -> tuple[list[Facts], list[Facts]]:
    """Return every rank's facts and each backend's figures, on rank 0 ([] elsewhere). Every rank must call it."""
    own = facts_of_rank(world, folder)
    is_shared = share_a_device(gather_facts(own, world), world)
    networks = []
    if world.size > 1:
        networks.append(network(world, torch.device("cpu")))
        if world.device.type == "cuda" and not is_shared:
            networks.append(network(world, world.device))
    own |= shared_folder(folder, world) | {"read_bytes_per_s": read_rate(shards, world) if shards else None}
    offsets = clock_offsets(world)
    ranks = gather_facts(own, world)
    for facts, offset in zip(ranks, offsets, strict=True):
        facts["clock_s"] = offset
    return ranks, networks if world.is_main else []


def _shards_of(cohort: Cohort) -> list[Path]:
    return [cohort.shard_path(shard) for shard in range(len(cohort.info["shards"]))]


def report_lines(ranks: Sequence[Facts], networks: Sequence[Facts], found: Sequence[Finding]) -> Iterator[str]:
    """Yield what is printed: a line a rank, the disk, a line a backend, and the findings."""
    for facts in ranks:
        read = facts["read_bytes_per_s"]
        yield (
            f"rank {facts['rank']} of {len(ranks)}  {facts['host']}, {facts['device']} ({facts['device_name']}), "
            f"{facts['cores']} of {facts['machine_cores']} cores, {facts['threads']} threads, {facts['open_files']} open files "
            f"at most ({facts['open_files_hard']} if asked for), clock {facts['clock_s']:+.3f} s, 1 MiB written in "
            f"{facts['write_s'] * 1e3:.0f} ms, all files seen after {_seconds(facts['listed_s'])}, by name "
            f"{_seconds(facts['named_s'])}{'' if read is None else f', reads {read / 1e6:.0f} MB/s'}"
        )
    yield f"disk         {', '.join(sorted({facts['disk'] or 'unknown' for facts in ranks}))}"
    for figures in networks:
        yield (
            f"{figures['backend']:<12} all-reduce {figures['all_reduce_bytes_per_s'] / 1e9:.2f} GB/s, all-gather "
            f"{figures['all_gather_bytes_per_s'] / 1e9:.2f} GB/s, one number {figures['latency_s'] * 1e3:.2f} ms"
        )
    rates = [facts["read_bytes_per_s"] for facts in ranks if facts["read_bytes_per_s"] is not None]
    if rates:
        yield f"reading      {sum(rates) / 1e6:.0f} MB/s by {len(rates)} ranks at once"
    for finding in found:
        yield f"{'to mend' if finding.must else 'better':<12} {finding.text}"
    if not found:
        yield "nothing to mend"


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
